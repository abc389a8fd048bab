"""What differs between two runs, as text for a terminal; `diff.py` finds it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clora_exp.evaluation.paired import Difference
from clora_exp.reports.words import number, p_value, signed

if TYPE_CHECKING:
    from clora_exp.reports.diff import RunDifference

FEW = 10  # examples shown; --json has all
LONGEST = 40  # characters of an answer


def show(found: "RunDifference", console: Console) -> None:
    """Print everything, the most telling last."""
    first, second = found.runs
    for letter, run in (("A", first), ("B", second)):
        console.print(Text(f"{letter}  ", style="bold").append(f"{run.method}, seed {run.seed}  {run.path}", "default"))
    _pairs("settings", found.settings, console)
    _pairs("data and weights", found.data, console)
    _pairs("environment", found.environment, console)
    _metrics(found, console)
    _matrix(found, console)
    _answers(found, console)


def _heading(text: str, console: Console) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _pairs(title: str, pairs: dict[str, tuple[Any, Any]], console: Console) -> None:
    if not pairs:
        _heading(f"{title}: the same", console)
        return
    _heading(f"{title}, A → B", console)
    table = _table(2)
    for key, (old, new) in pairs.items():
        table.add_row(key, f"{_short(old)} → {_short(new)}")
    console.print(table)


def _metrics(found: "RunDifference", console: Console) -> None:
    _heading("metrics", console)
    table = _table(1, "A", "B", "B − A", "95 % interval")
    for name, d in found.metrics.items():
        words = f"{signed(d.low, 4)} to {signed(d.high, 4)}" if d.low is not None and d.high is not None else d.reason
        value = Text(signed(d.value, 4), style="bold" if _is_apart(d) else "")
        table.add_row(name, number(name, d.first), number(name, d.second), value, Text(words, style="dim"))
    console.print(table)
    n = f"{found.num_resamples} resamples"
    console.print(Text(f"{n} of the test examples within each task, the same for both; not of seeds", "dim"))


def _is_apart(d: Difference) -> bool:
    return d.low is not None and d.high is not None and (d.low > 0 or d.high < 0)


def _matrix(found: "RunDifference", console: Console) -> None:
    if found.matrix is None:
        _heading("accuracy matrices: not compared, the tasks were learned in another order", console)
        return
    _heading("accuracy, B − A in points; * where the 95 % interval leaves out 0", console)
    tasks = found.runs[0].matrix.tasks
    table = _table(1, *tasks)
    for i, row in enumerate(found.matrix):
        if np.isnan(row).all():
            continue
        name = "before" if i == 0 else f"after {tasks[i - 1]}"
        table.add_row(name, *(_cell(found, i, j) for j in range(len(tasks))))
    console.print(table)


def _cell(found: "RunDifference", i: int, j: int) -> Text:
    assert found.matrix is not None
    value = found.matrix[i, j]
    if np.isnan(value):
        return Text("· ", style="dim")
    is_apart = found.low is not None and found.high is not None and (found.low[i, j] > 0 or found.high[i, j] < 0)
    style = "dim" if i <= j else "red" if value < 0 else "green" if value > 0 else ""
    return Text(signed(100 * value, 1) + ("*" if is_apart else " "), style=style)


def _answers(found: "RunDifference", console: Console) -> None:
    _heading("answers in the end", console)
    table = _table(1, "newly wrong", "newly right", "McNemar's p")
    for task, changed in found.changed.items():
        counts = str(len(changed.newly_wrong)), str(len(changed.newly_right))
        table.add_row(task, *counts, p_value(changed.p_value))
    console.print(table)
    for title, name in (("newly wrong", "newly_wrong"), ("newly right", "newly_right")):
        rows = [(task, row) for task, changed in found.changed.items() for row in getattr(changed, name)]
        if not rows:
            continue
        more = f", the first {FEW} of {len(rows)}: --json has all" if len(rows) > FEW else ""
        _heading(f"{title}{more}", console)
        table = _table(5, heads=("task", "example", "label", "A", "B"))
        for task, row in rows[:FEW]:
            table.add_row(task, *(_short(row[key]) for key in ("example", "label", "first", "second")))
        console.print(table)


def _table(num_left: int, *right: str, heads: tuple[str, ...] = ()) -> Table:
    """Return a table without lines: columns on the left, then numbers under their names."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(right or heads), header_style="dim", pad_edge=False)
    for k in range(num_left):
        table.add_column(heads[k] if heads else "", overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _short(value: Any) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

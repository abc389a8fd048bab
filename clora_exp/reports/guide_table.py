"""The guide's comparison: forgetting, storage, inference speed, switching, complexity; measured figures or none."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from clora_exp.reports.comparison import ComparableSet
from clora_exp.reports.guide import GUIDE, MEASURES_SWITCHING, owns_parts
from clora_exp.reports.settings import Setting
from clora_exp.reports.tables import NONE, Cell, Table, shown

HEADS = [
    "approach",
    "method",
    "forgetting",
    "storage, all tasks",
    "kept to learn by",
    "inference, ms an example",
    "task switch, ms",
    "own code, lines",
    "own fields",
]


def guide_table(found: ComparableSet, looked_up: Mapping[str, Any]) -> Table:
    """Return the table with a row a method, and of methods that have no run here the command that makes one."""
    rows, missing = [], []
    for approach, methods in GUIDE.items():
        there = [s for method in methods for s in found.settings if s.method == method]
        rows += [_row(approach, setting, found, looked_up) for setting in there]
        if not there:
            rows.append([Cell(approach), Cell(methods[0], is_code=True), *(Cell(NONE) for _ in HEADS[2:])])
            missing.append(methods[0])
    return Table("The guide's comparison", HEADS, rows, _notes(found, looked_up, missing))


def _row(approach: str, setting: Setting, found: ComparableSet, looked_up: Mapping[str, Any]) -> list[Cell]:
    code = looked_up["code"][setting.method]
    fields = Cell(NONE) if code["fields"] is None else Cell(str(code["fields"]), code["fields"])
    return [
        Cell(approach),
        Cell(setting.label, is_code=True),
        shown("forgetting", setting, False),
        shown("answering_bytes", setting, False),
        shown("kept_bytes", setting, False),
        shown("evaluation_ms", setting, False),
        _switch(setting, looked_up["switching"]),
        Cell(str(code["lines"]), code["lines"]),
        fields,
    ]


def _switch(setting: Setting, measured: Mapping[str, Any] | None) -> Cell:
    if not owns_parts(setting):
        return Cell("none to do")
    if measured is None or measured["method"] != setting.method:
        return Cell(NONE)
    count, time_ms = max(measured["switch_p99_ms"].items(), key=lambda item: int(item[0]))
    return Cell(f"{time_ms:.2f} ({count} tasks)", time_ms)


def _notes(found: ComparableSet, looked_up: Mapping[str, Any], missing: list[str]) -> list[str]:
    measured = looked_up["switching"]
    batch = sorted({s.first.run.config["trainer"].get("eval_batch_size") for s in found.settings}, key=str)
    notes = [
        "Storage: bytes that answer all tasks in the end, a frozen backbone apart. Inference: the last evaluation of "
        f"each run, heads and, where tasks are not known, their identification included, in batches of "
        f"{', '.join(map(str, batch))}; where a task's answers cannot change only the last task is measured then.",
        "Task switch: the 99th percentile of what a call does to find another task's parts. None to do: one set of "
        "adapters answers every task, only heads differ. "
        + (
            f"Measured by `{measured['command']}` with {measured['method']} on {measured['model']}; a dash: not "
            "measured for that method."
            if measured
            else f"Not measured here; `{MEASURES_SWITCHING}` does, for clora_xs."
        ),
        "Own code: lines with code, counted when this was made, in the strategy's own file and in those files of the "
        "adapter family that only some settings need; loop, layer and heads are every method's. "
        + "; ".join(_files(name, code) for name, code in looked_up["code"].items() if _is_in_guide(name))
        + ". Own fields: what the method's preset sets beside what all methods have in common.",
    ]
    if missing:
        notes.append(f"No run here of {', '.join(missing)}. `{_command(found, missing)}` makes them.")
    return notes


def _is_in_guide(method: str) -> bool:
    return any(method in methods for methods in GUIDE.values())


def _files(method: str, code: Mapping[str, Any]) -> str:
    own = ", ".join(code["files"]) or "a preset alone"
    return f"{method}: {own}" + (f" (uses {', '.join(code['builds_on'])})" if code["builds_on"] else "")


def _command(found: ComparableSet, missing: list[str]) -> str:
    """Return the command of a run that is there, with other methods and all seeds."""
    first = found.reference or found.settings[0]
    seeds = ",".join(map(str, first.seeds))
    words = [word for word in shlex.split(first.first.run.command) if not re.match(r"(method|seed)[.=]|-m$", word)]
    at = words.index("run.py") + 1 if "run.py" in words else len(words)
    words[at:at] = ["-m", f"method={','.join(missing)}"]
    return shlex.join([*words, f"seed={seeds}"])

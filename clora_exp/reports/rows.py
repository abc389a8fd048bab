"""The accuracy matrix as text, row by row, at the width there is.

A cell is `[0.417]` when the task has just been learned and ` 0.414 −0.003` afterwards, with the change since the row
before. Where the columns do not fit they become percentages, `[41.7]` and ` 41.4 −0.3`; where those do not fit, a row
says the new accuracy, the mean over the tasks seen, and the largest drop.
"""

import numpy as np
from rich.text import Text

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.reports.words import signed

LONGEST_NAME = 20
GAP = 2
SUMMARY = "learned now   tasks seen          largest drop"


class Rows:
    """Prints the rows of one matrix in at most `width` columns where that is possible."""

    def __init__(self, matrix: AccuracyMatrix, width: int, protocol: str) -> None:
        self._values, self._tasks, self._rows = matrix.values, [_short(name) for name in matrix.tasks], matrix.rows
        self._all_at_once = protocol == "joint"
        longest = "all tasks" if self._all_at_once else max(self._tasks, key=len)
        self._label = max(len(f"after {longest}"), len("accuracy %"))
        self._in_percent, self._widths = False, self._columns(14)
        if self._label + sum(self._widths) > width:
            self._in_percent, self._widths = True, self._columns(11)
        self._is_summary = self._label + sum(self._widths) > width
        self._in_percent &= not self._is_summary

    def _columns(self, smallest: int) -> list[int]:
        return [max(len(name), smallest) + GAP for name in self._tasks]

    def heading(self) -> Text:
        """Return the line above the rows."""
        names = "".join(f"{'':{GAP}}{name:<{w - GAP}}" for name, w in zip(self._tasks, self._widths, strict=True))
        columns = f"{'':{GAP}}{SUMMARY}" if self._is_summary else names
        unit = "accuracy %" if self._in_percent else "accuracy"
        return Text(f"{unit:<{self._label}}{columns}".rstrip(), style="bold")

    def line(self, i: int) -> Text:
        """Return row i, 0 being before training."""
        name = "all tasks" if self._all_at_once else _short(self._rows[i])
        line = Text(f"{'after ' + name if i else 'before':<{self._label}}")
        if self._is_summary:
            line.append_text(self._summary(i))
        else:
            for j, width in enumerate(self._widths):
                cell = self._cell(i, j)
                line.append(" " * GAP).append_text(cell).append(" " * (width - GAP - len(cell)))
        line.rstrip()
        return line

    def _is_new(self, i: int, j: int) -> bool:
        return i > 0 and (i == j + 1 or self._all_at_once)

    def _change(self, i: int, j: int) -> float:
        """Return the change since the row before, 0 for a task not yet learned then."""
        if i <= j + 1 or self._all_at_once:
            return 0.0
        return float(np.nan_to_num(self._values[i, j] - self._values[i - 1, j]))

    def _number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self._in_percent else f"{value:.3f}"

    def _cell(self, i: int, j: int) -> Text:
        value, change = self._values[i, j], self._change(i, j)
        if np.isnan(value):
            return Text("   ·", style="dim")
        if self._is_new(i, j):
            return Text(f"[{self._number(value)}]", style="bold")
        cell = Text(f" {self._number(value)} ", style="dim" if i <= j else "")
        return cell.append_text(self._moved(change))

    def _moved(self, change: float) -> Text:
        text = signed(100 * change, 1) if self._in_percent else signed(change, 3)
        return Text() if not change or text[0] not in "+−" else Text(text, style="red" if change < 0 else "green")

    def _summary(self, i: int) -> Text:
        seen = [j for j in range(len(self._tasks)) if j < i or self._all_at_once or i == 0]
        seen = [j for j in seen if not np.isnan(self._values[i, j])]
        mean = f"{self._number(float(self._values[i, seen].mean()))} over {len(seen)}"
        if i == 0:
            return Text(f"{'':{GAP}}{'':14}{mean}", style="dim")
        line = Text(f"{'':{GAP}}").append(f"[{self._number(self._values[i, i - 1])}]".ljust(14), style="bold")
        worst = min(seen, key=lambda j: self._change(i, j))
        moved = self._moved(min(0.0, self._change(i, worst)))
        line.append(mean.ljust(22)).append_text(moved)
        return line.append(f" {self._tasks[worst]}" if moved else "none")


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"

"""The accuracy matrix: (T+1)×T, row 0 before training, row i after task i, NaN where not evaluated."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from clora_exp.files import csv_text

INIT = "init"


class AccuracyMatrix:
    """Accuracies in [0, 1]; `values[i, j]` is the accuracy on task j (0-based) after i tasks."""

    def __init__(self, tasks: list[str], values: np.ndarray | None = None) -> None:
        shape = (len(tasks) + 1, len(tasks))
        self.tasks = list(tasks)
        self.values = np.full(shape, np.nan) if values is None else np.array(values, dtype=np.float64)
        if self.values.shape != shape:
            raise ValueError(f"an accuracy matrix of {len(tasks)} tasks is {shape}, not {self.values.shape}")

    @property
    def rows(self) -> list[str]:
        """The row names: `init`, then the tasks."""
        return [INIT, *self.tasks]

    def to_csv(self) -> str:
        """Return CSV whose first column is `after`; numbers as short as they read back exactly."""
        frame = pd.DataFrame(self.values, columns=self.tasks)
        frame.insert(0, "after", self.rows)
        return csv_text(frame)

    @classmethod
    def from_csv(cls, text: str | Path) -> "AccuracyMatrix":
        """Read what `to_csv` wrote, from a string or a file."""
        source = text if isinstance(text, Path) else io.StringIO(text)
        frame = pd.read_csv(source, index_col="after", dtype=str, keep_default_na=False)
        if list(frame.index) != [INIT, *frame.columns]:
            raise ValueError(f"an accuracy matrix has the rows {INIT} and {', '.join(frame.columns)}")
        return cls(list(frame.columns), frame.map(_number).to_numpy(dtype=np.float64))


def _number(cell: str) -> float:
    """Return a cell, which Python's float() reads back exactly; an empty one was not measured."""
    return float(cell) if cell else float("nan")

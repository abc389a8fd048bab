"""`adapter_task.csv` of a run: how right each task's adapter answers every task's examples; as text and read back.

A row a cell: adapter, task, accuracy, n (the task's examples). `cross.py` measures it. Imports no torch.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.files import csv_text

NAME = "adapter_task.csv"
COLUMNS = ["adapter", "task", "accuracy", "n"]
TOLERANCE = 1e-9


def to_text(tasks: Sequence[str], num_right: np.ndarray, num_examples: Sequence[int]) -> str:
    """Return the file of counts, (T, T): row i how many of each task's examples adapter i answers right."""
    rows = [
        (adapter, task, num_right[i, j] / num_examples[j], num_examples[j])
        for i, adapter in enumerate(tasks)
        for j, task in enumerate(tasks)
    ]
    return csv_text(pd.DataFrame(rows, columns=COLUMNS))


def read_adapter_task(
    folder: Path, matrix: AccuracyMatrix, num_examples: np.ndarray
) -> tuple[np.ndarray | None, list[str]]:
    """Return a run's accuracies of adapters on tasks, (T, T), None where there are none; and what is wrong in the file.

    Wrong is what the run's answers contradict: other tasks, another number of examples (T,), and a diagonal other than
    each task's accuracy right after it was learned.
    """
    path, tasks = folder / NAME, matrix.tasks
    if not path.exists():
        return None, []
    try:
        table = pd.read_csv(path, dtype={"adapter": str, "task": str}, keep_default_na=False)
        if list(table) != COLUMNS:
            raise ValueError(f"it has the columns {', '.join(table)}, not {', '.join(COLUMNS)}")
        if list(zip(table["adapter"], table["task"], strict=True)) != [(i, j) for i in tasks for j in tasks]:
            raise ValueError(f"it is not of every pair of {', '.join(tasks)}")
        values = table["accuracy"].to_numpy(dtype=np.float64).reshape(len(tasks), len(tasks))
        counts = table["n"].to_numpy(dtype=np.int64).reshape(len(tasks), len(tasks))
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("it holds what is no accuracy, 0 to 1")
    except (OSError, ValueError) as error:
        return None, [f"{NAME}: cannot be read: {error}"]
    problems = [
        f"{NAME}: {task} has {counts[i, j]} examples, its answers are to {num_examples[j]}"
        for j, task in enumerate(tasks)
        for i in np.flatnonzero(counts[:, j] != num_examples[j])[:1]
    ]
    problems += [
        f"{NAME}: {task} through its own adapter is {values[j, j]:.6g}, its answers give {matrix.values[j + 1, j]:.6g}"
        for j, task in enumerate(tasks)
        if not math.isclose(values[j, j], matrix.values[j + 1, j], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ]
    return (None if problems else values), problems

"""Two runs on the same held-out examples: differences with intervals that keep the examples paired.

The paired bootstrap (Efron & Tibshirani 1993): examples are drawn anew with replacement within each task, the same
draw for both runs, both accuracy matrices are computed again, then the metric, then the difference; the interval is
between the 2.5th and the 97.5th percentile. It says what other test examples would change, not what another seed would.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clora_exp.evaluation.matrix import INIT
from clora_exp.evaluation.metrics import DEFINED_BY_MATRIX, incremental_accuracy

NUM_RESAMPLES = 2000
SEED = 0
AT_ONCE = 4_000_000  # numbers drawn at a time, 32 MB


@dataclass(frozen=True)
class Difference:
    """A value of two runs, what the second has more, and the 95 % interval of that; None where there is no interval."""

    first: float
    second: float
    low: float | None = None
    high: float | None = None
    reason: str = ""  # why there is no interval

    @property
    def value(self) -> float:
        """What the second has more."""
        return self.second - self.first


@dataclass(frozen=True)
class TaskAnswers:
    """The answers to one task's n examples after each row, None where it was not evaluated."""

    examples: tuple[str, ...]
    labels: tuple[str, ...]
    predicted: tuple[tuple[str, ...] | None, ...]  # T + 1 rows

    @property
    def right(self) -> np.ndarray:
        """Whether each was right, (T + 1, n) of 1 and 0, NaN where not evaluated."""
        rows = [np.full(len(self.labels), np.nan) if row is None else self._equal(row) for row in self.predicted]
        return np.array(rows, dtype=np.float64)

    @property
    def last(self) -> tuple[str, ...]:
        """The answers of the last evaluation."""
        return next(row for row in reversed(self.predicted) if row is not None)

    def _equal(self, row: tuple[str, ...]) -> list[bool]:
        return [label == answer for label, answer in zip(self.labels, row, strict=True)]


def answers_of(frame: pd.DataFrame, tasks: Sequence[str]) -> dict[str, TaskAnswers]:
    """Return the answers by task, from `predictions.csv.gz`.

    Raises:
        ValueError: an evaluation of a task has other examples than its first one.
    """
    found: dict[str, TaskAnswers] = {}
    for task, of_task in frame.groupby("task", sort=False):
        rows: list[tuple[str, ...] | None] = [None] * (len(tasks) + 1)
        examples: tuple[str, ...] = ()
        labels: tuple[str, ...] = ()
        for after, block in of_task.groupby("after", sort=False):
            new = tuple(block["example"]), tuple(block["label"])
            if examples and new != (examples, labels):
                raise ValueError(f"task {task!r} was not measured on the same examples throughout")
            examples, labels = new
            rows[[INIT, *tasks].index(str(after))] = tuple(block["predicted"])
        found[str(task)] = TaskAnswers(examples, labels, tuple(rows))
    return found


def matrix_of(answers: Mapping[str, TaskAnswers], tasks: Sequence[str]) -> np.ndarray:
    """Return the accuracy matrix (T + 1, T) that the answers give."""
    return np.stack([answers[task].right.mean(axis=1) for task in tasks], axis=1)


def resampled(
    rows_of_runs: Sequence[Mapping[str, np.ndarray]], num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> list[dict[str, np.ndarray]]:
    """Return, for every run and task, the means of its rows (k, n) over each resample of the examples, (resamples, k).

    Args:
        rows_of_runs: task → (k, n), the same tasks and n in every run.
    """
    random = np.random.default_rng(seed)
    means: list[dict[str, np.ndarray]] = [{} for _ in rows_of_runs]
    for task, rows in rows_of_runs[0].items():
        n = rows.shape[1]
        parts: list[list[np.ndarray]] = [[] for _ in rows_of_runs]
        for start in range(0, num_resamples, step := max(1, AT_ONCE // n)):
            size = min(step, num_resamples - start)
            drawn = random.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)  # how often each is drawn
            for part, run in zip(parts, rows_of_runs, strict=True):
                part.append(drawn @ run[task].T / n)
        for mean, part in zip(means, parts, strict=True):
            mean[task] = np.concatenate(part)
    return means


def interval(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5th and the 97.5th percentile along the first axis."""
    low, high = np.percentile(differences, [2.5, 97.5], axis=0)
    return low, high


class Bootstrap:
    """Resampled accuracy matrices of two runs, whose tasks may come in another order.

    Args:
        answers: of each run, see `answers_of`; the same tasks with the same examples.
        orders: the tasks of each run in its order.
    """

    def __init__(
        self,
        answers: Sequence[Mapping[str, TaskAnswers]],
        orders: Sequence[Sequence[str]],
        num_resamples: int = NUM_RESAMPLES,
        seed: int = SEED,
    ) -> None:
        self.sizes = [
            np.array([len(of[task].labels) for task in order]) for of, order in zip(answers, orders, strict=True)
        ]
        rows = [{task: self._rows(of, of[task], task) for task in orders[0]} for of in answers]
        means = resampled(rows, num_resamples, seed)
        stacked = [np.stack([m[t] for t in order], axis=2) for m, order in zip(means, orders, strict=True)]
        self._of_task = [s[:, -1] for s in stacked]  # (resamples, T)
        self.matrices = [s[:, :-1] for s in stacked]  # (resamples, T + 1, T)

    @staticmethod
    def _rows(of: Mapping[str, TaskAnswers], answers: TaskAnswers, task: str) -> np.ndarray:
        """Return right answers by row, and in the last row whether the last answer is a class of the task."""
        classes = set(answers.labels)
        return np.vstack([answers.right, [answer in classes for answer in answers.last]])

    def metric(self, name: str, is_weighted: bool = False) -> tuple[float, float] | None:
        """Return the interval of a metric's difference; None of one that the answers alone do not give.

        `is_weighted`: incremental accuracy over all examples of the tasks seen, as with new classes.
        """
        values = [self._values(name, run, is_weighted) for run in (0, 1)]
        if values[0] is None or values[1] is None:
            return None
        differences = values[1] - values[0]
        differences = differences[~np.isnan(differences)]  # e.g. of answers in a task that no resample has
        low, high = interval(differences) if len(differences) else (None, None)
        return None if low is None or high is None else (float(low), float(high))

    def _values(self, name: str, run: int, is_weighted: bool) -> np.ndarray | None:
        matrices, n = self.matrices[run], self.sizes[run]
        if name in ("task_identification", "within_task_accuracy"):
            of_task, right = self._of_task[run] @ n, matrices[:, -1] @ n
            with np.errstate(invalid="ignore"):
                return of_task / n.sum() if name == "task_identification" else right / of_task
        if name not in DEFINED_BY_MATRIX:
            return None
        function: Callable[[np.ndarray], float] = DEFINED_BY_MATRIX[name][0]
        if name == "incremental_accuracy" and is_weighted:
            return np.array([incremental_accuracy(a, n) for a in matrices])
        return np.array([function(a) for a in matrices])

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the interval of every cell's difference, (T + 1, T) each; of runs in one order."""
        return interval(self.matrices[1] - self.matrices[0])

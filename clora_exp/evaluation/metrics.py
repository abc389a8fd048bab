"""The metrics of one run, each a pure function of the accuracy matrix; undefined ones are None with the reason.

Notation: a[i, j] is the accuracy on task j = 1..T after task i, row 0 before training. Papers disagree on divisors and
on what the maximum runs over, so each function says its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clora_exp.evaluation.matrix import AccuracyMatrix


@dataclass(frozen=True)
class Metric:
    """A value, or None and why there is none."""

    value: float | None
    reason: str = ""


def average_accuracy(a: np.ndarray) -> float:
    """Return mean_j a[T, j] (ACC of Lopez-Paz & Ranzato 2017)."""
    return float(a[-1].mean())


def incremental_accuracy(a: np.ndarray) -> float:
    """Return mean_i of mean_{j ≤ i} a[i, j] over i = 1..T (iCaRL's average incremental accuracy)."""
    return float(np.mean([a[i, :i].mean() for i in range(1, len(a))]))


def learning_accuracy(a: np.ndarray) -> float:
    """Return mean_j a[j, j] (Riemer et al. 2019)."""
    return float(np.diagonal(a[1:]).mean())


def backward_transfer(a: np.ndarray) -> float:
    """Return mean_{j < T} (a[T, j] − a[j, j]) (Lopez-Paz & Ranzato 2017); divisor T − 1."""
    return float((a[-1] - np.diagonal(a[1:]))[:-1].mean())


def forgetting(a: np.ndarray) -> float:
    """Return mean_{j < T} (max_{1 ≤ i < T} a[i, j] − a[T, j]) (Chaudhry et al. 2018).

    The maximum leaves out the last row, so a task that ends best has a negative value, and takes in the rows before the
    task is learned, as printed there; divisor T − 1.
    """
    return float((a[1:-1].max(axis=0) - a[-1])[:-1].mean())


def mean_drop(a: np.ndarray) -> float:
    """Return the mean over all tasks j and rows i = 2..T of max(0, max over all rows of a[·, j] − a[i, j]).

    It counts tasks not yet learned too: their entries lie below their later maximum.
    """
    return float(np.maximum(0.0, a.max(axis=0) - a[2:]).mean())


def forward_transfer(a: np.ndarray) -> float:
    """Return mean_{j > 1} (a[j − 1, j] − a[0, j]) (Lopez-Paz & Ranzato 2017); row 0 is the untrained model."""
    T = a.shape[1]
    return float(np.mean([a[j - 1, j - 1] - a[0, j - 1] for j in range(2, T + 1)]))


def transfer_gain(a: np.ndarray, single: np.ndarray) -> float:
    """Return mean_{j > 1} (a[j, j] − single_j), single (T,) being the accuracies of each task learned alone."""
    return float((np.diagonal(a[1:]) - single)[1:].mean())


def intransigence(a: np.ndarray, joint: np.ndarray) -> float:
    """Return mean_j (joint_j − a[j, j]), joint (T,) being the accuracies when all tasks are learned at once.

    After Chaudhry et al. 2018. Differs: joint is trained on all T tasks, theirs for task k on tasks 1..k.
    """
    return float((joint - np.diagonal(a[1:])).mean())


DEFINED_BY_MATRIX: dict[str, tuple[Callable[[np.ndarray], float], int]] = {  # name → function, tasks it needs
    "average_accuracy": (average_accuracy, 1),
    "incremental_accuracy": (incremental_accuracy, 1),
    "learning_accuracy": (learning_accuracy, 1),
    "backward_transfer": (backward_transfer, 2),
    "forgetting": (forgetting, 2),
    "mean_drop": (mean_drop, 2),
    "forward_transfer": (forward_transfer, 2),
}


def metrics_of_run(matrix: AccuracyMatrix, *, head_per_task: bool, protocol: str = "sequence") -> dict[str, Metric]:
    """Return every metric of one run by name.

    Args:
        head_per_task: forward transfer is then undefined, since a head that has not been trained answers by chance.
        protocol: joint and single leave cells of the matrix empty; what needs them is undefined.
    """
    missing = {
        "joint": "all tasks are learned at once: there is no row between the first and the last",
        "single": "each task is learned alone: only the diagonal is there",
    }.get(protocol, "the accuracy matrix is not complete")
    found: dict[str, Metric] = {}
    for name, (function, num_tasks) in DEFINED_BY_MATRIX.items():
        if len(matrix.tasks) < num_tasks:
            found[name] = Metric(None, f"needs at least {num_tasks} tasks, the stream has {len(matrix.tasks)}")
        elif name == "forward_transfer" and head_per_task:
            found[name] = Metric(None, "before a task is learned its own head is untrained: its accuracy is chance")
        else:
            value = function(matrix.values)
            found[name] = Metric(None, missing) if np.isnan(value) else Metric(value)
    found["transfer_gain"] = Metric(None, "needs the `single` reference run of the same seed")
    found["intransigence"] = Metric(None, "needs the `joint` reference run of the same seed")
    return found

"""The metrics of one run, each a pure function of the accuracy matrix; undefined ones are None with the reason.

Notation: a[i, j] is the accuracy on task j = 1..T after task i, row 0 before training. Papers disagree on divisors and
on what the maximum runs over, so each function says its own.
"""

from collections.abc import Callable, Mapping
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


def incremental_accuracy(a: np.ndarray, num_examples: np.ndarray | None = None) -> float:
    """Return mean_i of the mean of a[i, j] over j ≤ i, over i = 1..T (iCaRL's average incremental accuracy).

    With the tasks' numbers of examples (T,) the inner mean is weighted by them: the accuracy over all classes seen.
    """
    n = np.ones(a.shape[1]) if num_examples is None else num_examples
    return float(np.mean([a[i, :i] @ n[:i] / n[:i].sum() for i in range(1, len(a))]))


def learning_accuracy(a: np.ndarray) -> float:
    """Return mean_j a[j, j] (Riemer et al. 2019)."""
    return float(np.diagonal(a[1:]).mean())


def backward_transfer(a: np.ndarray) -> float:
    """Return mean_{j < T} (a[T, j] − a[j, j]) (Lopez-Paz & Ranzato 2017); divisor T − 1."""
    return float((a[-1] - np.diagonal(a[1:]))[:-1].mean())


def forgetting(a: np.ndarray) -> float:
    """Return mean_{j < T} (max_{1 ≤ i < T} a[i, j] − a[T, j]) (Chaudhry et al. 2018).

    The maximum leaves out the last row, so a task that ends best has a negative value, and takes in the rows before the
    task is learned, as printed there, where they are measured; divisor T − 1.
    """
    if _lacks_a_learned_task(a):
        return float("nan")
    return float((np.fmax.reduce(a[1:-1]) - a[-1])[:-1].mean())


def mean_drop(a: np.ndarray) -> float:
    """Return the mean over all tasks j and rows i = 2..T of max(0, max over all rows of a[·, j] − a[i, j]).

    It counts tasks not yet learned too: their entries lie below their later maximum. In the class-incremental scenario
    they have none, and the mean is over what there is.
    """
    if _lacks_a_learned_task(a):
        return float("nan")
    return float(np.nanmean(np.maximum(0.0, np.fmax.reduce(a) - a[2:])))


def _lacks_a_learned_task(a: np.ndarray) -> bool:
    """Tell whether an a[i, j] with j ≤ i is missing."""
    return bool(np.isnan(a[np.tril(np.ones(a.shape, bool), k=-1)]).any())


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


@dataclass(frozen=True)
class Identified:
    """The factors of class-incremental accuracy over all examples after the last task (Kim et al. 2022, eq. 1).

    Their product is the accuracy over the examples. An example's task is taken for right when its answer is a class of
    its task, whether a method identifies tasks or not.
    """

    task: float
    within: float  # the task being right


DEFINED_BY_MATRIX: dict[str, tuple[Callable[[np.ndarray], float], int]] = {  # name → function, tasks it needs
    "average_accuracy": (average_accuracy, 1),
    "incremental_accuracy": (incremental_accuracy, 1),
    "learning_accuracy": (learning_accuracy, 1),
    "backward_transfer": (backward_transfer, 2),
    "forgetting": (forgetting, 2),
    "mean_drop": (mean_drop, 2),
    "forward_transfer": (forward_transfer, 2),
}

MISSING = {  # protocol → why cells that a metric needs are not there
    "joint": "all tasks are learned at once: there is no row between the first and the last",
    "single": "each task is learned alone: only the diagonal is there",
}
INCOMPLETE = "the accuracy matrix is not complete"


def metrics_of_run(
    matrix: AccuracyMatrix,
    *,
    scenario: str = "task_incremental",
    protocol: str = "sequence",
    num_examples: np.ndarray | None = None,
    identified: Identified | None = None,
    answers_untrained: bool = False,
    written: Mapping[str, float] | None = None,
) -> dict[str, Metric]:
    """Return every metric of one run by name.

    Args:
        scenario: forward transfer is undefined where a head, or a class, cannot answer before it has been trained.
        protocol: joint and single leave cells of the matrix empty; what needs them is undefined.
        num_examples: of each task, (T,), by which the class-incremental scenario weights incremental accuracy.
        identified: of a finished class-incremental run.
        answers_untrained: whether a task can be answered before it is learned: a language model knows what words mean.
        written: scores of free-form answers after the last task, by name, see `written.py`.
    """
    missing = MISSING.get(protocol, INCOMPLETE)
    no_forward = {
        "task_incremental": None if answers_untrained else "before a task is learned its own head is untrained: chance",
        "class_incremental": "before a task is learned its classes cannot be answered",
    }.get(scenario)
    found: dict[str, Metric] = {}
    for name, (function, num_tasks) in DEFINED_BY_MATRIX.items():
        if len(matrix.tasks) < num_tasks:
            found[name] = Metric(None, f"needs at least {num_tasks} tasks, the stream has {len(matrix.tasks)}")
        elif name == "forward_transfer" and no_forward:
            found[name] = Metric(None, no_forward)
        else:
            weighted = name == "incremental_accuracy" and scenario == "class_incremental"
            value = incremental_accuracy(matrix.values, num_examples) if weighted else function(matrix.values)
            found[name] = Metric(None, missing) if np.isnan(value) else Metric(value)
    found["transfer_gain"] = Metric(None, "needs the `single` reference run of the same seed")
    found["intransigence"] = Metric(None, "needs the `joint` reference run of the same seed")
    found |= {name: Metric(value) for name, value in (written or {}).items()}
    if scenario == "class_incremental":
        found["task_identification"] = Metric(identified.task) if identified else Metric(None, missing)
        never = identified is not None and np.isnan(identified.within)
        reason = "no example's task was identified" if never else missing
        found["within_task_accuracy"] = Metric(identified.within) if identified and not never else Metric(None, reason)
    return found

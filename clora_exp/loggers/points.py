"""A run as points: its training curves, what was measured after each task, what that cost, and in the end its metrics.

They are made from what the run itself keeps, so a logger can be told later what it missed.
"""

import dataclasses
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from clora_exp.evaluation.cost import TaskCost
from clora_exp.loggers.base import TASKS_LEARNED, Point
from clora_exp.progress import Progress
from clora_exp.runs import StoredRun

if TYPE_CHECKING:  # reading a run needs no Lightning
    from clora_exp.session import Step

ADDS_UP = ("seconds", "energy", "co2")  # costs of which a run's total means something


def points_of(progress: Progress) -> list[Point]:
    """Return every point of the sessions that are over.

    Keys are `loss/<task>` by `step/<task>`; `accuracy/<task>`, or a free-form score's name, and `cost/<column>` by
    `tasks_learned`.
    """
    found: list[Point] = []
    num_measured = 0
    for rows in _moments(progress.history):
        task, x = rows[0]["task"], rows[0]["step"]
        if rows[0]["metric"] == "train_loss":
            found.append(step_point(len(found), task, x, rows[0]["value"]))
            continue
        values = {f"{row['metric'].split(' after ')[0]}/{row['task']}": row["value"] for row in rows}
        if 0 < num_measured <= len(progress.costs):
            values |= _numbers(progress.costs[num_measured - 1])
        found.append(Point(len(found), TASKS_LEARNED, x, values, _learned(progress, x)))
        num_measured += 1
    return found


def step_point(number: int, task: str, step: int, loss: float) -> Point:
    """Return the point of one optimiser step."""
    return Point(number, f"step/{task}", step, {f"loss/{task}": loss})


def step_points(first: int, task: str, steps: "Sequence[Step]", since: int) -> list[Point]:
    """Return the points of a session at hand, numbered from `first` on; those from number `since` on."""
    return [step_point(first + s.step - 1, task, s.step, s.loss) for s in steps[max(0, since - first) :]]


def last_point(number: int, run: StoredRun) -> Point:
    """Return the metrics of a finished run, those that are defined, and what it cost in all."""
    values = {f"metrics/{name}": metric.value for name, metric in run.metrics.items() if metric.value is not None}
    for column in run.costs.select_dtypes("number"):
        if any(word in column for word in ADDS_UP):
            values[f"total/{column}"] = float(run.costs[column].sum())
    return Point(number, TASKS_LEARNED, len(run.matrix.tasks), values)


def _moments(history: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of metrics.csv, those of one moment together."""
    moments: list[list[dict[str, Any]]] = []
    for row in history:
        is_step = row["metric"] == "train_loss"
        before = moments[-1][0] if moments else None
        if is_step or before is None or before["metric"] == "train_loss" or before["step"] != row["step"]:
            moments.append([])
        moments[-1].append(row)
    return moments


def _learned(progress: Progress, row: int) -> tuple[str, ...]:
    if row == 0:
        return ()
    names = progress.stream.names
    return tuple(names) if progress.protocol == "joint" else (names[row - 1],)


def _numbers(cost: TaskCost) -> dict[str, float]:
    pairs = dataclasses.asdict(cost).items()
    return {f"cost/{n}": float(v) for n, v in pairs if isinstance(v, Real) and not isinstance(v, bool)}

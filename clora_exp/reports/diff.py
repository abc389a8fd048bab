"""What differs between two runs on the same test examples: settings, metrics, matrices, answers."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from clora_exp.errors import RunError
from clora_exp.evaluation.paired import NUM_RESAMPLES, SEED, Bootstrap, Difference, TaskAnswers, answers_of, matrix_of
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.evaluation.statistics import mcnemar
from clora_exp.reports.diff_text import show
from clora_exp.runs import StoredRun, read_run

NOT_THERE = "(not there)"


@dataclass(frozen=True)
class Changed:
    """The examples of a task that only one run answers right in the end, and McNemar's exact p-value."""

    newly_wrong: list[dict[str, str]]
    newly_right: list[dict[str, str]]
    p_value: float


@dataclass(frozen=True)
class RunDifference:
    """Everything that is printed of two runs. Differences are of the second less the first."""

    runs: tuple[StoredRun, StoredRun]
    settings: dict[str, tuple[Any, Any]]
    data: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]
    metrics: dict[str, Difference]
    matrix: np.ndarray | None  # (T + 1, T), of runs that learn the tasks in one order
    low: np.ndarray | None
    high: np.ndarray | None
    changed: dict[str, Changed]
    num_resamples: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("first", type=Path, metavar="RUN_A", help="a finished run (has config.yaml)")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="another on the same test examples")
    parser.add_argument("--json", action="store_true", help="everything as JSON, every example included")
    parser.add_argument(
        "--resamples", type=int, default=NUM_RESAMPLES, metavar="N", help=f"of the bootstrap (default {NUM_RESAMPLES})"
    )


def main(options: argparse.Namespace) -> int:
    """Print what differs; return the exit status.

    Raises:
        RunError: a run cannot be read, is not finished, or was measured on other examples.
    """
    if options.resamples < 100:
        raise RunError(f"--resamples {options.resamples}: percentiles need at least 100")
    found = compare(read_run(options.first), read_run(options.second), options.resamples)
    if options.json:
        print(json.dumps(as_json(found), indent=2, ensure_ascii=False))
        return 0
    show(found, Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 100))
    return 0


def compare(first: StoredRun, second: StoredRun, num_resamples: int = NUM_RESAMPLES) -> RunDifference:
    """Return what differs between two finished runs.

    Raises:
        RunError: one is not finished, or they were measured on other examples.
    """
    runs = (first, second)
    for run in runs:
        if run.status != "done":
            raise RunError(f"{run.path} is {run.status}, not done; finish it first: {run.command}")
    answers = [_answers(run) for run in runs]
    check_same_examples(runs, answers)
    orders = [run.matrix.tasks for run in runs]
    bootstrap = Bootstrap(answers, orders, num_resamples, SEED)
    is_one_order = orders[0] == orders[1]
    low, high = bootstrap.cells() if is_one_order and not _scored_otherwise(runs, answers) else (None, None)
    return RunDifference(
        runs,
        settings=differing(first.config, second.config),
        data=_data(runs),
        environment=differing(_environment(first), _environment(second)),
        metrics=_metrics(runs, answers, bootstrap),
        matrix=second.matrix.values - first.matrix.values if is_one_order else None,
        low=low,
        high=high,
        changed={task: _changed(answers[0][task], answers[1][task]) for task in orders[0]},
        num_resamples=num_resamples,
    )


def _answers(run: StoredRun) -> dict[str, TaskAnswers]:
    try:
        return answers_of(read_predictions(run.path / "predictions.csv.gz"), run.matrix.tasks)
    except (ValueError, KeyError) as error:
        raise RunError(f"{run.path / 'predictions.csv.gz'} cannot be read: {error}") from error


def check_same_examples(runs: tuple[StoredRun, StoredRun], answers: list[dict[str, TaskAnswers]]) -> None:
    """Raises RunError with the first task whose examples are not the same in both runs."""
    first, second = (run.path for run in runs)
    splits = [run.config["eval_split"] for run in runs]
    for task in sorted({*answers[0], *answers[1]}):
        for of, path, other in ((answers[1], first, second), (answers[0], second, first)):
            if task not in of:
                raise RunError(f"these runs cannot be compared: task {task!r} is in {path}, not in {other}")
        if splits[0] != splits[1]:
            what = f"{first} was measured on the {splits[0]} split of task {task!r}, {second} on {splits[1]}"
            raise RunError(f"these runs cannot be compared: {what}")
        pairs = [set(zip(of[task].examples, of[task].labels, strict=True)) for of in answers]
        if (answers[0][task].examples, answers[0][task].labels) != (answers[1][task].examples, answers[1][task].labels):
            sizes = f"{len(pairs[0])} and {len(pairs[1])}, {len(pairs[0] & pairs[1])} in common"
            what = f"task {task!r} was measured on other {splits[0]} examples ({sizes})"
            raise RunError(f"these runs cannot be compared: {what}: {first}, {second}")


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys, dotted, whose values differ, with both values."""
    old, new = flat(first), flat(second)
    return {
        key: (old.get(key, NOT_THERE), new.get(key, NOT_THERE))
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key, NOT_THERE) != new.get(key, NOT_THERE)
    }


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys; an empty section is {}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        is_section = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{key}.") if is_section else {f"{before}{key}": value}
    return found


def _environment(run: StoredRun) -> dict[str, Any]:
    return {
        key: value for key, value in run.environment.items() if key not in ("model_sha256", "data_sha256", "resumed")
    }


def _data(runs: tuple[StoredRun, StoredRun]) -> dict[str, tuple[Any, Any]]:
    """Return the fingerprints of data and weights that differ."""
    return differing(*({key: run.environment.get(key) for key in ("data_sha256", "model_sha256")} for run in runs))


def _scored_otherwise(runs: tuple[StoredRun, StoredRun], answers: list[dict[str, TaskAnswers]]) -> list[str]:
    """Return the tasks whose entries are no shares of right answers: free-form answers have a score."""
    found = []
    for run, of in zip(runs, answers, strict=True):
        again = matrix_of(of, run.matrix.tasks)
        same = np.isclose(again, run.matrix.values, rtol=0, atol=1e-12, equal_nan=True).all(axis=0)
        found += [task for task, is_same in zip(run.matrix.tasks, same, strict=True) if not is_same]
    return sorted(set(found))


def _metrics(
    runs: tuple[StoredRun, StoredRun], answers: list[dict[str, TaskAnswers]], bootstrap: Bootstrap
) -> dict[str, Difference]:
    scored = _scored_otherwise(runs, answers)
    weighted = all(run.config.get("scenario") == "class_incremental" for run in runs)
    found: dict[str, Difference] = {}
    for name, metric in runs[0].metrics.items():
        other = runs[1].metrics.get(name)
        if metric.value is None or other is None or other.value is None:
            continue
        limits = None if scored else bootstrap.metric(name, weighted)
        low, high = limits or (None, None)
        reason = f"the score of free-form answers, task {', '.join(scored)}, is no share" if scored else ""
        reason = reason or ("" if limits else "no function of right and wrong answers")
        found[name] = Difference(metric.value, other.value, low, high, reason)
    return found


def _changed(first: TaskAnswers, second: TaskAnswers) -> Changed:
    rows = zip(first.examples, first.labels, first.last, second.last, strict=True)
    table = [{"example": e, "label": label, "first": a, "second": b} for e, label, a, b in rows]
    right = [np.array([row["label"] == row[which] for row in table], dtype=bool) for which in ("first", "second")]
    wrong = [row for row, a, b in zip(table, *right, strict=True) if a and not b]
    now_right = [row for row, a, b in zip(table, *right, strict=True) if b and not a]
    return Changed(wrong, now_right, mcnemar(*right).p_value)


def as_json(found: RunDifference) -> dict[str, Any]:
    """Return everything as plain values."""
    cells = {"difference": found.matrix, "low": found.low, "high": found.high}
    return {
        "first": _which(found.runs[0]),
        "second": _which(found.runs[1]),
        "settings": {key: list(pair) for key, pair in found.settings.items()},
        "data": {key: list(pair) for key, pair in found.data.items()},
        "environment": {key: list(pair) for key, pair in found.environment.items()},
        "resamples": found.num_resamples,
        "bootstrap_seed": SEED,
        "metrics": {
            name: {"first": d.first, "second": d.second, "difference": d.value, "low": d.low, "high": d.high}
            | ({"reason": d.reason} if d.reason else {})
            for name, d in found.metrics.items()
        },
        "matrix": None if found.matrix is None else _axes(found) | {n: _plain(values) for n, values in cells.items()},
        "answers": {
            task: {"newly_wrong": c.newly_wrong, "newly_right": c.newly_right, "p_value": c.p_value}
            for task, c in found.changed.items()
        },
    }


def _which(run: StoredRun) -> dict[str, Any]:
    return {"path": str(run.path), "method": run.method, "protocol": run.protocol, "seed": run.seed}


def _axes(found: RunDifference) -> dict[str, Any]:
    return {"rows": found.runs[0].matrix.rows, "tasks": found.runs[0].matrix.tasks}


def _plain(values: np.ndarray | None) -> list[list[float | None]] | None:
    return None if values is None else [[None if np.isnan(value) else float(value) for value in row] for row in values]

"""Reading a run directory, with nothing but what lies in it. Imports no torch; `results.py` is what writes one."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from clora_exp.config import ExperimentConfig
from clora_exp.errors import RunError
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.received import parse_yaml
from clora_exp.sums import check_sums

FILES = {  # what a run leaves, in the order a reader wants it
    "report.md": "the run as a page",
    "figures": "accuracy matrix, accuracy over time, forgetting and transfer, training curves (PNG, SVG)",
    "accuracy_matrix.csv": "one row after each task, one column a task",
    "adapter_task.csv": "each task's adapter on every task's data, where `reports cross` has measured it",
    "metrics.json": "each metric's value, or null and why",
    "metrics.csv": "losses and accuracies, one a line",
    "predictions.csv.gz": "every answer of every evaluation, by example",
    "answers.jsonl": "ten answers, word for word",
    "cost.csv": "parameters, bytes, seconds and memory of each task",
    "adapters": "what answers each task; its folder peft/ loads with PEFT alone",
    "config.yaml": "every setting",
    "command.txt": "how to run it again",
    "environment.json": "versions, commit, hardware, fingerprints of data and model",
    "SHA256SUMS": "what each of these files was when it was written: sha256sum --check SHA256SUMS",
    "run.log": "what happened when",
    "STATUS": "running, interrupted, done or failed",
}


STATUSES = ("running", "interrupted", "done", "failed")
NEEDED = {  # of config.yaml, section by section: what is printed of a run
    "method": ("name", "protocol", "rank", "alpha", "trainable", "learning_rate", "head_learning_rate"),
    "tasks": ("name",),
    "model": ("name",),
    "trainer": ("epochs", "max_steps", "batch_size", "learning_rate", "head_learning_rate"),
}
OF_ENVIRONMENT = ("python", "packages", "commit", "device", "torch_threads", "model_sha256")
OF_HISTORY = ("task", "metric", "value", "step", "seconds")
OF_COSTS = ("trainable_parameters", "adapter_bytes", "train_seconds", "evaluation_seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class StoredRun:
    """What a run directory holds. `metrics` of an unfinished run are those its matrix gives so far."""

    path: Path
    status: str
    config: dict[str, Any]
    command: str
    environment: dict[str, Any]
    matrix: AccuracyMatrix
    metrics: dict[str, Metric]
    history: pd.DataFrame  # metrics.csv: task, metric, value, step, seconds
    costs: pd.DataFrame  # cost.csv, see evaluation/cost.py
    answers: list[dict[str, str]] = field(default_factory=list)  # answers.jsonl: task, prompt, right, written

    @property
    def method(self) -> str:
        """The method's name."""
        return self.config["method"]["name"]

    @property
    def protocol(self) -> str:
        """sequence, joint or single."""
        return self.config["method"]["protocol"]

    @property
    def seed(self) -> int:
        """The seed of model and training."""
        return self.config["seed"]


def read_run(path: Path) -> StoredRun:
    """Read a run directory.

    Raises:
        RunError: it is none, or a file of it cannot be read.
    """
    if not (path / "config.yaml").is_file():
        raise RunError(f"{path}: no run directory (no config.yaml in it)")
    is_done = status_of(path) == "done"
    check_sums(path, "overwrite=true runs it again" if is_done else "the run's own command goes on and writes it again")
    try:
        config = parse_yaml(_text(path, "config.yaml"))
        matrix = AccuracyMatrix.from_csv(path / "accuracy_matrix.csv")
        metrics = {name: Metric(**metric) for name, metric in json.loads(_text(path, "metrics.json")).items()}
        answers = _text(path, "answers.jsonl") if (path / "answers.jsonl").exists() else ""
        run = StoredRun(
            path=path,
            status=(_text(path, "STATUS").splitlines() or [""])[0],
            config=config,
            command=_text(path, "command.txt").strip(),
            environment=json.loads(_text(path, "environment.json")),
            matrix=matrix,
            metrics=metrics,
            history=_table(path, "metrics.csv", converters={"value": float}),  # exact, whatever the version of pandas
            costs=_table(path, "cost.csv", na_values={"energy_joules": [""]}),  # not counted
            answers=[json.loads(line) for line in answers.split("\n") if line],
        )
        _check(run)
        return run
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read ({error}); overwrite=true runs it again") from error


def _check(run: StoredRun) -> None:
    """Raises ValueError where a file lacks what is printed of it, or has what cannot be."""
    if run.status not in STATUSES:
        raise ValueError(f"STATUS says {run.status!r}, none of {', '.join(STATUSES)}")
    for section, keys in NEEDED.items():
        values = run.config.get(section) if isinstance(run.config, dict) else None
        for key in keys:
            if not isinstance(values, dict) or key not in values:
                raise ValueError(f"config.yaml has no {section}.{key}")
    for key in OF_ENVIRONMENT:
        if key not in run.environment:
            raise ValueError(f"environment.json has no {key}")
    for name, metric in run.metrics.items():
        if metric.value is not None and not isinstance(metric.value, int | float):
            raise ValueError(f"metrics.json: {name} is {metric.value!r}, no number")
    for table, name, columns in ((run.history, "metrics.csv", OF_HISTORY), (run.costs, "cost.csv", OF_COSTS)):
        for column in columns:
            if column not in table:
                raise ValueError(f"{name} has no column {column!r}")
            if column not in ("task", "metric") and len(table) and not pd.api.types.is_numeric_dtype(table[column]):
                raise ValueError(f"{name}: column {column!r} holds what is no number")
    values = run.matrix.values
    if ((values < 0) | (values > 1)).any() or len(set(run.matrix.tasks)) < len(run.matrix.tasks):
        raise ValueError("accuracy_matrix.csv holds what is no accuracy, 0 to 1, or a task twice")
    if run.status == "done" and np.isnan(values[-1]).all():
        raise ValueError("STATUS says done, and accuracy_matrix.csv has nothing after the last task")


def check_writable(config: ExperimentConfig) -> None:
    """Look whether a run can be written, before any work; makes nothing. What may be it, done, need not be.

    Raises:
        RunError: it cannot.
    """
    results_dir = config.results_dir
    path = Path(results_dir).expanduser().absolute()
    runs = path.glob(f"{config.tasks.name}/{config.method.name}/*-s{config.seed}")
    try:
        if not config.overwrite and any(status_of(run) == "done" for run in runs):
            return
    except OSError as error:  # e.g. a name too long
        raise unwritable(results_dir, error.strerror) from error
    there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not there.is_dir():
        raise unwritable(results_dir, f"{there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise unwritable(results_dir, f"no permission in {there}, or it is read-only")


def status_of(path: Path) -> str | None:
    """Return the first line of a run directory's STATUS, or None where no run has begun."""
    try:
        return _text(path, "STATUS").splitlines()[0]
    except (OSError, ValueError, IndexError):
        return None


def unwritable(results_dir: str, reason: str | None) -> RunError:
    """Return the error of a results folder that cannot be written."""
    return RunError(f"results_dir={results_dir}: cannot be written: {reason}")


def _table(path: Path, name: str, **how: Any) -> pd.DataFrame:
    return pd.read_csv(path / name, dtype={"task": str}, keep_default_na=False, **how)


def _text(path: Path, name: str) -> str:
    return (path / name).read_text(encoding="utf-8")

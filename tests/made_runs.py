"""Run directories written by hand, with known answers: two tasks of ten examples, seconds and bytes as given."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from clora_exp.compose import compose_experiment
from clora_exp.evaluation import predictions
from clora_exp.evaluation.metrics import metrics_of_run
from clora_exp.files import csv_text
from clora_exp.identity import plain_config
from clora_exp.sums import keep_sums

TASKS = ["a", "b"]
BEFORE = {"init": ("1111100000", "1111100000")}
Right = Mapping[
    str, tuple[str, str]
]  # after → for each task, "1" for each example that is answered right, "" if none is


def learned(first: str, after_first: str, second: str) -> Right:
    """Return the answers of a run: to task a when it is learned and in the end, to task b in the end."""
    return {**BEFORE, "a": (first, BEFORE["init"][1]), "b": (after_first, second)}


def ones(count: int) -> str:
    """Return ten answers of which the first so many are right."""
    return "1" * count + "0" * (10 - count)


@cache
def _config(method: str) -> str:
    overrides = [f"method={method}", "model=vit_digits", "tasks=split_digits"]
    return json.dumps(plain_config(compose_experiment(overrides)))


def _changed(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[name] = value
    return config


def made_run(
    root: Path,
    method: str,
    seed: int,
    right: Right,
    *,
    digest: str = "00000000",
    changes: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    bytes_in_all: int = 1000,
    joules: Sequence[float] = (),
    energy_source: str = "off",
    status: str = "done\n",
) -> Path:
    """Write a run directory; `changes` are keys of its configuration, `environment` entries of environment.json.

    `joules` are what each task took, nothing where it was not counted.
    """
    folder = root / method / f"{digest}-s{seed}"
    folder.mkdir(parents=True)
    config = _changed(json.loads(_config(method)) | {"seed": seed, "results_dir": str(root)}, changes or {})
    frame = _answers(right)
    matrix = predictions.accuracy_matrix(frame, TASKS)
    metrics = metrics_of_run(matrix, protocol=config["method"]["protocol"], scenario=config["scenario"])
    there: dict[str, Any] = {
        "python": "3.11", "packages": {}, "commit": None, "device": "cpu", "torch_threads": 1, "cpu_cores": 2,
        "model_sha256": "e" * 64, "data_sha256": {task: {"test": task * 64} for task in TASKS},
    }  # fmt: skip
    costs = pd.DataFrame(
        {
            "task": TASKS,
            "trainable_parameters": [7, 7],
            "adapter_bytes": [400, 400],
            "train_seconds": [1.0 + seed, 2.0],
            "evaluation_seconds": [0.1, 0.2],
            "peak_memory_bytes": [10**6, 2 * 10**6],
            "answering_bytes": [bytes_in_all // 2, bytes_in_all],
            "kept_bytes": [0, 30],
            "energy_joules": joules or [np.nan, np.nan],
            "energy_source": [energy_source, energy_source],
            "evaluated_examples": [20, 20],
        }
    )
    history = pd.DataFrame({"task": ["a"], "metric": ["train_loss"], "value": [0.5], "step": [1], "seconds": [0.1]})
    files = {
        "config.yaml": yaml.safe_dump(config, sort_keys=False),
        "command.txt": f"python run.py method={method} tasks=split_digits seed={seed} trainer.epochs=3\n",
        "environment.json": json.dumps(there | dict(environment or {})),
        "accuracy_matrix.csv": matrix.to_csv(),
        "metrics.json": json.dumps({name: dataclasses.asdict(metric) for name, metric in metrics.items()}),
        "metrics.csv": csv_text(history),
        "cost.csv": csv_text(costs),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "predictions.csv.gz").write_bytes(predictions.to_bytes(frame))
    keep_sums(folder, [folder / name for name in (*files, "predictions.csv.gz")])
    (folder / "STATUS").write_text(status)
    return folder


def _answers(right: Right) -> pd.DataFrame:
    rows = []
    for after, by_task in right.items():
        for task, each in zip(TASKS, by_task, strict=True):
            for i, is_right in enumerate(each):
                label = f"{task}{i % 2}"
                rows.append((after, task, f"{task}-{i}", label, label if is_right == "1" else f"{task}{1 - i % 2}"))
    return pd.DataFrame(rows, columns=predictions.COLUMNS)


def crossed(run: Path, cells: str, n: int = 10) -> Path:
    """Write a run's adapter_task.csv: accuracies of a on a and b, then of b, as words; return the run."""
    pairs = itertools.product(TASKS, TASKS)
    rows = [f"{adapter},{task},{cell},{n}\n" for (adapter, task), cell in zip(pairs, cells.split(), strict=True)]
    (run / "adapter_task.csv").write_text("adapter,task,accuracy,n\n" + "".join(rows))
    keep_sums(run, [run / "adapter_task.csv"])
    return run


def change_file(path: Path, old: str, new: str) -> None:
    """Replace text that occurs in a file of a run, whose SHA256SUMS then says that nothing has changed."""
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new, 1))
    if (path.parent / "SHA256SUMS").exists():
        keep_sums(path.parent, [path])


def known_runs(root: Path) -> Path:
    """Write three seeds of `lora` and of `clora`, two of `ewc`, and one of `joint`; return the folder.

    lora ends at 0.7, 0.75, 0.65 and has forgotten 0.4, 0.3, 0.5; clora ends at 0.9 and has forgotten nothing.
    """
    for seed, kept in enumerate((5, 6, 4)):
        made_run(root, "lora", seed, learned(ones(9), ones(kept), ones(9)), bytes_in_all=2000)
        made_run(root, "clora", seed, learned(ones(9), ones(9), ones(9)), bytes_in_all=1000)
    for seed in (0, 2):
        made_run(root, "ewc", seed, learned(ones(9), ones(7 + seed), ones(8)), bytes_in_all=2000)
    made_run(root, "joint", 0, {**BEFORE, "b": (ones(10), ones(10))}, bytes_in_all=3000)
    return root


def mean(values: list[float]) -> float:
    """Return the mean, as numpy has it."""
    return float(np.mean(values))

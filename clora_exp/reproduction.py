"""A stored run once more, from what it recorded: equal to the byte, or the first step that differs.

It runs in `.reproduced/` beside the runs, resumes there where it is interrupted, and goes when it is found equal.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as lightning
import torch

from clora_exp import loop
from clora_exp.compose import SECTIONS
from clora_exp.config import ExperimentConfig
from clora_exp.environment import describe_environment
from clora_exp.errors import Differs, RunError
from clora_exp.evaluation.predictions import read_predictions
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory
from clora_exp.runs import StoredRun, read_run
from clora_exp.session import device_of
from clora_exp.structuring import structure

FOLDER = ".reproduced"


class Comparison(lightning.Callback):
    """Compares every optimiser step's loss with the recorded one, as it is taken."""

    def __init__(self, recorded: StoredRun) -> None:
        losses = recorded.history[recorded.history.metric == "train_loss"]
        self._losses = {(row.task, row.step): row.value for row in losses.itertuples()}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Look at the step that was just taken.

        Raises:
            Differs: its loss is another one.
        """
        if pl_module.is_between_steps:
            step = pl_module.steps[-1]
            self.look(pl_module.task_name, step.step, step.loss)

    def look(self, task: str, step: int, loss: float) -> None:
        """Compare one loss."""
        recorded = self._losses.get((task, step))
        if recorded is None:
            raise Differs(f"step {step} of task {task!r}: the recorded run has no such step")
        if recorded != loss:
            raise Differs(f"step {step} of task {task!r}: loss {recorded!r} recorded, {loss!r} now")


def reproduce(path: Path, terminal: Terminal) -> str:
    """Run a finished run again and return in one line what was compared.

    Raises:
        RunError: it is not finished, or its data, model or settings are not what they were.
        Differs: with the first step, or the file, that differs.
    """
    recorded = read_run(path)
    if recorded.status != "done":
        raise RunError(f"{path} is {recorded.status}, not done; finish it first: {recorded.command}")
    root = path.resolve().parents[2] / FOLDER
    raw = recorded.config | {"results_dir": str(root), "overwrite": False, "report": False, "logger": {}}
    raw["trainer"] = raw["trainer"] | {"energy": False}  # no result, and not to be had on every machine
    config = structure(raw, SECTIONS)
    torch.set_num_threads(recorded.environment["torch_threads"])  # sums in another order would differ
    for line in _changes(recorded, config, terminal, path):
        terminal.console.print(line, markup=False, highlight=False)
    comparison = Comparison(recorded)
    folder = loop.run(config, recorded.command, terminal, [comparison], is_stored=False)
    again = folder.read()
    for row in again.history[again.history.metric == "train_loss"].itertuples():
        comparison.look(str(row.task), int(row.step), float(row.value))
    found = _compare(path, folder.path, len(comparison._losses))
    shutil.rmtree(folder.path)
    with suppress(OSError):  # another run is reproduced there
        os.removedirs(folder.path.parent)
    return found


def _changes(recorded: StoredRun, config: ExperimentConfig, terminal: Terminal, path: Path) -> list[str]:
    """Return what is another version now.

    Raises:
        RunError: what decides the numbers is not what it was.
    """
    stream, model_sha256 = loop.ingredients(config, terminal)
    now, then = describe_environment(stream, model_sha256, device_of(config.trainer)), recorded.environment
    if now["model_sha256"] != then["model_sha256"]:
        raise RunError(f"{path} cannot be reproduced: the weights of {config.model.name} are not those it ran on")
    for task, splits in now["data_sha256"].items():
        if then["data_sha256"].get(task) != splits:
            raise RunError(f"{path} cannot be reproduced: the data of task {task!r} are not what they were")
    hashed = RunDirectory(config, stream, model_sha256).path.name
    if hashed != path.resolve().name:
        raise RunError(f"{path} cannot be reproduced: its config.yaml gives {hashed}; it was changed, or moved")
    pairs = [(name, then["packages"].get(name), version) for name, version in now["packages"].items()]
    pairs += [(name, then[name], now[name]) for name in ("python", "device", "platform", "commit")]
    return [f"{name}: {before} recorded, {after} now" for name, before, after in pairs if before != after]


def _compare(path: Path, again: Path, num_steps: int) -> str:
    """Return what two runs have in common.

    Raises:
        Differs: an answer, or another file, is not the same.
    """
    then, now = (read_predictions(folder / "predictions.csv.gz") for folder in (path, again))
    if not then.equals(now):
        where = pd.concat([then, now]).drop_duplicates(keep=False).iloc[0] if len(then) == len(now) else then.iloc[-1]
        raise Differs(f"the answers: first to {where['example']!r} of task {where['task']!r} after {where['after']!r}")
    names = ["accuracy_matrix.csv", "metrics.json", "predictions.csv.gz"]
    names += [str(file.relative_to(path)) for file in sorted((path / "adapters").rglob("*")) if file.is_file()]
    for name in names:
        if not (again / name).is_file() or (again / name).read_bytes() != (path / name).read_bytes():
            raise Differs(f"{name}: not the same bytes; what was run now is kept in {again}")
    return f"equal: {num_steps} training losses, {len(then)} answers, the matrix and {len(names) - 3} adapter files"

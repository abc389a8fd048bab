"""Measure each task's adapter on every task's examples, and keep it in the run's folder as adapter_task.csv.

Row i is the adapter as it was when task i had been learned, column j the examples that the run measured of task j, in
the run's own batches, answered with task j's own head (as it was when j had been learned), prompt and labels. So the
diagonal is the run's accuracy right after learning. Not one example may differ, else nothing is written: the same
batches in the same precision on the same device are answered alike, whatever the method (tests/reports/test_cross.py).

The file is entered in SHA256SUMS, as all that reports are made from: `page`, `compare` and `verify` then find damage in
it. A comparison made before it was there is of other runs, and `verify` says so: it would have another figure now.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from clora_exp.adapters.active import answering
from clora_exp.adapters.family import owned_parts
from clora_exp.compose import SECTIONS
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, RunError
from clora_exp.files import place_of, write_atomically
from clora_exp.models.batches import EncodedSplit
from clora_exp.models.language import LanguageModel
from clora_exp.models.prompts import Told, same_words
from clora_exp.reports.adapter_task import NAME, to_text
from clora_exp.reports.found import Found, find_runs
from clora_exp.reports.time_left import TimeLeft
from clora_exp.runs import StoredRun, read_run
from clora_exp.saved import SavedHead, SavedTask, load_head, load_task
from clora_exp.structuring import structure
from clora_exp.sums import NAME as SUMS
from clora_exp.sums import keep_sums
from clora_exp.tasks.stream import Task, TaskStream, load_stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cross`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, or folders with runs below")
    parser.add_argument("--again", action="store_true", help="also where it has been measured")


def main(options: argparse.Namespace) -> int:
    """Measure every run; a line for each, what was found or why not. Return 2 where none could be measured."""
    found, refused = _found(options.runs)
    num_good = 0
    for run in found:
        try:
            print(_crossed(run, options.again))
            num_good += 1
        except CloraError as error:
            refused.append("; ".join(str(error).splitlines()))
            print(f"error: {refused[-1]}", file=sys.stderr)
    return 0 if num_good else 2


def _found(places: Iterable[Path]) -> tuple[list[Found], list[str]]:
    """Return the runs at or below the places, each once, and what is wrong with the others, which is printed."""
    found: dict[Path, Found] = {}
    refused = []
    for place in places:
        try:
            for run in find_runs([place]):
                found.setdefault(run.path.resolve(), run)
        except RunError as error:
            refused.append(str(error))
            print(f"error: {error}", file=sys.stderr)
    return list(found.values()), refused


def _crossed(found: Found, is_again: bool) -> str:
    """Measure a run and write the file; return the line that says so."""
    path, file = found.path, found.path / NAME
    if found.status != "done":
        raise RunError(f"{path}: {found.status}{f', {found.message}' if found.message else ''}; only a finished run")
    if file.exists() and not is_again:
        return f"{file}: is there already; --again measures it again"
    run = read_run(path)
    with TimeLeft(f"measuring {path.parent.name}/{path.name}") as time_left:
        num_right, num_examples = measured(run, time_left)
    try:
        write_atomically(file, to_text(run.matrix.tasks, num_right, num_examples).encode())
        if (path / SUMS).exists():  # a run that is older than them has none, and goes on without
            keep_sums(path, [file])
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {place_of(error, path)}") from error
    accuracies = num_right / num_examples
    others = accuracies[~np.eye(len(accuracies), dtype=bool)]
    beside = f", through the others {others.mean():.3f}" if len(others) else ""
    return f"{file}: through its own adapter a task has {np.diagonal(accuracies).mean():.3f} on average{beside}"


def measured(run: StoredRun, time_left: TimeLeft | None = None) -> tuple[np.ndarray, list[int]]:
    """Return how many of each task's examples each adapter answers right, (T, T), and how many there are, (T,).

    Raises:
        RunError: it cannot be measured, the data is other data here, or the diagonal is not the run's.
        ConfigError, ModelError: see `load_task`.
    """
    config = structure(run.config, SECTIONS)
    check(run.path, config)
    heads = [load_head(run.path, name) for name in run.matrix.tasks]
    stream = _stream(run, config)
    device = torch.device("cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    num_examples = [len(task.split(config.eval_split)) for task in stream]
    if time_left is not None:
        time_left.expect(sum(num_examples) * len(stream))
    num_right = np.zeros((len(stream), len(stream)), dtype=np.int64)
    splits: list[EncodedSplit] = []
    for i, name in enumerate(stream.names):
        saved = load_task(run.path, name, as_it_ran=True)
        splits = splits or [saved.model.encode(j, task, config.eval_split) for j, task in enumerate(stream)]
        for j in np.roll(range(len(stream)), -i).tolist():  # its own first: what does not hold is found early
            heads[j].answer_in(saved.model)
            saved.model.requires_grad_(False).to(device)
            answers = _answers(saved, stream.tasks[j], heads[j], splits[j], device, time_left)
            right = [example.label for example in stream.tasks[j].split(config.eval_split)]
            num_right[i, j] = sum(map(str.__eq__, answers, right))
            if i == j:
                _check_own(run, j, num_right[j, j], num_examples[j], device)
    return num_right, num_examples


def check(path: Path, config: ExperimentConfig) -> None:
    """Look whether the adapters of a run can be measured on every task's data; `load_task` looks at the method.

    Raises:
        RunError: they cannot, with the reason.
    """
    method = config.method
    if config.scenario == "class_incremental":
        raise RunError(f"{path}: scenario=class_incremental: one head grows with the classes, no task has its own")
    if method.protocol == "joint":
        raise RunError(f"{path}: method.protocol=joint: all tasks were learned at once, by one adapter")
    if not any(path.glob("adapters/*/adapter.json")):
        raise RunError(f"{path}: no adapters in it; a copy that `strip` made has none, measure the run itself")
    owns = method.trainable == "adapters" and bool(owned_parts(method)) and method.composition != "sum"
    if config.scenario == "domain_incremental" and owns and method.protocol == "sequence":
        raise RunError(
            f"{path}: scenario=domain_incremental: the run looked for the task of each example, and what answered was "
            "not always its own adapter"
        )


def _stream(run: StoredRun, config: ExperimentConfig) -> TaskStream:
    """Return the tasks with the examples that the run measured.

    Raises:
        RunError: they are other examples here, or responses without labels.
    """
    stream = load_stream(config.tasks, config.data_seed).thinned(config.eval_split, config.trainer.max_eval_examples)
    if stream.names != run.matrix.tasks:
        raise RunError(f"{run.path}: tasks={config.tasks.name} gives other tasks here: {', '.join(stream.names)}")
    before = run.environment.get("data_sha256") or {}
    for task in stream:
        if task.is_free_form:
            raise RunError(f"{run.path}: task {task.name!r} is free-form: a response is right by degrees")
        if task.name in before and before[task.name][config.eval_split] != task.sha256[config.eval_split]:
            raise RunError(f"{run.path}: the {config.eval_split} examples of task {task.name!r} are others here")
    return stream


def _answers(
    saved: SavedTask,
    task: Task,
    head: SavedHead,
    split: EncodedSplit,
    device: torch.device,
    time_left: Callable[[int], None] | None,
) -> list[str]:
    """Return the label that each example of a split is answered with, (n,), by the head that the model has now."""
    trainer, model = saved.config.trainer, saved.model
    told = Told(task.name, task.description, head.labels, model.knows_task)
    names = {same_words(label): label for label in head.labels}
    answers = [""] * len(split)
    for batch in split.evaluation_batches(trainer.eval_batch_size):
        inputs = {name: value.to(device) for name, value in batch.inputs.items()}
        is_mixed = trainer.precision == "bf16-mixed"
        with torch.inference_mode(), answering(0), torch.autocast(device.type, torch.bfloat16, enabled=is_mixed):
            if isinstance(model, LanguageModel) and model.writes(told):
                found = [names.get(same_words(text), text) for text in model.write(inputs)]
            else:
                found = [head.labels[k] for k in model.answers_alone(inputs, told).argmax(-1).tolist()]
        for row, answer in zip(batch.rows.tolist(), found, strict=True):
            answers[row] = answer
        if time_left is not None:
            time_left(len(found))
    return answers


def _check_own(run: StoredRun, j: int, num_right: int, num_examples: int, device: torch.device) -> None:
    """Raises RunError where a task through its own adapter is not what the run measured right after learning it."""
    before = run.matrix.values[j + 1, j]
    if np.isnan(before) or round(before * num_examples) != num_right:
        where = f"on {run.environment['device']}, here on {device.type}"
        raise RunError(
            f"{run.path}: through its own adapter {run.matrix.tasks[j]!r} is answered right {num_right} of "
            f"{num_examples} times, right after learning it was {before * num_examples:.0f} ({where}); nothing written"
        )

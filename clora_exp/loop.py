"""The continual loop: one page, top to bottom. READ THIS FIRST.

    config → stream → method (backbone + adapters + heads)
           → for each task: before_task → a new Trainer fits a Session → after_task → evaluate all → save
           → accuracy matrix → metrics

The optimiser step is in `session.py`, what a method adds is in `methods/`, what is written is in `results.py`.
"""

import logging
import time
from collections.abc import Sequence

from pytorch_lightning import Callback

from clora_exp import discovery
from clora_exp.config import ExperimentConfig
from clora_exp.environment import describe_environment
from clora_exp.evaluation.metrics import metrics_of_run
from clora_exp.interrupts import StopOnSignal
from clora_exp.methods.base import Method
from clora_exp.models.batches import EncodedSplit
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory
from clora_exp.session import device_of, fit, predict, seed_everything
from clora_exp.tasks.stream import load_stream

log = logging.getLogger("clora_exp")

Answers = dict[int, tuple[str, float]]  # task index → fingerprint of what answered it, accuracy


def run(config: ExperimentConfig, command: str, terminal: Terminal) -> RunDirectory:
    """Train the method on every task in turn, measure every task after each, and keep it all in the run directory.

    A finished run is printed, not repeated; an unfinished one goes on after its last finished task.
    """
    stream = load_stream(config.tasks, config.data_seed)
    model_sha256 = discovery.model_kinds.load(config.model.kind).identity(config.model)
    folder = RunDirectory(config, stream, model_sha256)
    if folder.status == "done" and not config.overwrite:
        terminal.finished(folder, *folder.read_result())
        return folder
    device = device_of(config.trainer)
    folder.prepare(command, describe_environment(stream, model_sha256))
    with folder.running(), StopOnSignal() as stop:
        terminal.header(config, stream, folder, device)
        seed_everything(config.seed)
        method = Method(config, stream, device)
        train = [method.model.encode(t, task, "train") for t, task in enumerate(stream)]
        held_out = [method.model.encode(t, task, config.eval_split) for t, task in enumerate(stream)]
        answers: Answers = {}

        progress, state = folder.load_progress()
        if state is not None:
            method.load_state_dict(state)
            terminal.resumed(progress.matrix, progress.num_tasks_done)
        else:
            terminal.method(method)
            started = time.perf_counter()
            accuracies = evaluate_all(method, held_out, config, answers, [stop])
            progress.add_row("init", 0, accuracies, time.perf_counter() - started)
            terminal.row(progress.matrix, 0)
            folder.save_progress(progress, method.state_dict())

        for t, task in enumerate(stream):
            if t < progress.num_tasks_done:
                continue
            seed = seed_everything(config.seed, t + 1)
            log.info("task %s begins", task.name)
            method.before_task(t, task)
            steps = fit(method, train[t], task.name, config.trainer, seed, [stop, terminal.task_progress(task.name)])
            method.after_task(t, task)

            started = time.perf_counter()
            accuracies = evaluate_all(method, held_out, config, answers, [stop])
            progress.add_steps(task.name, steps)
            progress.add_row(task.name, t + 1, accuracies, time.perf_counter() - started)
            progress.num_tasks_done = t + 1
            log.info("task %s done, accuracies %s", task.name, [round(a, 4) for a in accuracies])
            terminal.row(progress.matrix, t + 1)
            folder.save_adapter(t, task, method.state_of(t), method.adapters.basis() if method.adapters else {})
            folder.save_progress(progress, method.state_dict())
            stop.check()

        folder.finish(metrics_of_run(progress.matrix, head_per_task=True))
    terminal.finished(folder, *folder.read_result())
    return folder


def evaluate_all(
    method: Method,
    splits: list[EncodedSplit],
    config: ExperimentConfig,
    answers: Answers,
    callbacks: Sequence[Callback] = (),
) -> list[float]:
    """Return the accuracy on every task; one whose deciding parameters have not changed keeps its entry."""
    for t, split in enumerate(splits):
        fingerprint = method.fingerprint(t)
        if t not in answers or answers[t][0] != fingerprint:
            correct = predict(method, split, config.trainer, callbacks) == split.labels
            answers[t] = (fingerprint, float(correct.mean()))
    return [answers[t][1] for t in range(len(splits))]

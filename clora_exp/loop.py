"""The continual loop: one page, top to bottom. READ THIS FIRST.

    config → stream → method (backbone + adapters + heads)
           → for each task: before_task → a new Trainer fits a Session → after_task → evaluate all → save
           → accuracy matrix → metrics → report

The optimiser step is in `session.py`, what a method adds is in `methods/`, what is written is in `results.py`.
"""

import copy
import logging
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback

from clora_exp import discovery, processes
from clora_exp.checkpoints import SessionCheckpoints, num_steps_of, seconds_of
from clora_exp.config import ExperimentConfig
from clora_exp.environment import describe_environment
from clora_exp.errors import ConfigError
from clora_exp.evaluation.cost import CostMeter
from clora_exp.evaluation.energy import EnergyMeter, check_energy
from clora_exp.evaluation.written import Predicted
from clora_exp.following import Following
from clora_exp.interrupts import StopOnSignal
from clora_exp.loggers.logs import Logs
from clora_exp.methods.base import Method
from clora_exp.methods.suitable import check_strategies, not_exportable
from clora_exp.models.batches import EncodedSplit, JointSplit
from clora_exp.models.weights import make_weights
from clora_exp.progress import Progress
from clora_exp.randomness import seed_everything
from clora_exp.reports.progress import Watch
from clora_exp.reports.run import write_report
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory
from clora_exp.session import device_of, fit, predict
from clora_exp.store.folder import Store
from clora_exp.store.parents import configured_parent
from clora_exp.store.saving import import_run
from clora_exp.store.starts import configured_starts
from clora_exp.tasks.scenario import Scenario
from clora_exp.tasks.stream import TaskStream, load_stream

log = logging.getLogger("clora_exp")


def run(
    config: ExperimentConfig,
    command: str,
    terminal: Terminal,
    callbacks: Sequence[Callback] = (),
    *,
    is_stored: bool = True,
) -> RunDirectory:
    """Train the method on every task in turn, measure every task after each, and keep it all in the run directory.

    A finished run is printed, not repeated; an unfinished one goes on where it was, in the middle of a task too.
    `callbacks` are Lightning's, of every session and evaluation; with `is_stored` false `store.path` is only read.
    """
    stream, model_sha256 = ingredients(config, terminal)
    folder = (Following if processes.rank() else RunDirectory)(config, stream, model_sha256)
    path = config.store.path if is_stored and folder.writes else None
    store = Store(Path(path), is_new=True) if path else None  # one that cannot be is found before anything is learned
    if folder.status == "done" and not config.overwrite and not folder.was_killed:
        return conclude(folder, terminal, store)
    device = device_of(config.trainer)
    with folder.held(command), Logs(folder, terminal) as logs:
        if folder.status != "done" or config.overwrite:  # another process may have ended it just now
            learn(folder, device, command, terminal, logs, callbacks)
        else:
            folder.tidy()
        return conclude(folder, terminal, store)


def learn(
    folder: RunDirectory,
    device: torch.device,
    command: str,
    terminal: Terminal,
    logs: Logs,
    callbacks: Sequence[Callback],
) -> None:
    """Do what is left of a run, in its folder."""
    config, stream = folder.config, folder.stream
    method, train, held_out = encoded(folder, device, terminal)
    folder.prepare(command, describe_environment(stream, folder.model_sha256, device))
    processes.wait()
    progress, state = folder.load_progress()
    begun = folder.load_session(progress)
    scenario = method.scenario
    plan = [s for s in sessions(config.method.protocol, scenario) if s.t >= progress.num_tasks_done]
    first = [j for j in range(len(stream)) if scenario.can_answer(j, 0)] if state is None else []
    start = copy.deepcopy(method.state_dict()) if config.method.protocol == "single" else None
    logs.begin(progress, is_new=state is None)
    stop = StopOnSignal()
    keep = SessionCheckpoints(partial(folder.save_session, progress), config.trainer.checkpoint_every, stop)
    watching = terminal.watching(config.trainer, [keep, stop, logs, *callbacks])
    with folder.running(), stop, EnergyMeter(config.trainer.energy, device) as energy, watching as watch:
        splits = [s.split(train, scenario) for s in plan]
        watch.expect(splits, [held_out[t] for t in chain(first, *(s.measured for s in plan))])
        if state is not None:
            restore(method, state, folder)
            terminal.resumed(progress.matrix, progress.num_tasks_done, num_steps_of(begun))
        else:
            progress.add_row("init", 0, *evaluate(method, held_out, first, config, progress, watch))
            terminal.row(progress.matrix, 0)
            folder.save_progress(progress, method.state_dict())
            logs.follow(progress)

        for (t, learned, measured), split in zip(plan, splits, strict=True):
            task, what = stream.tasks[t], stream.names[t] if learned == [t] else "all tasks"
            seed = seed_everything(config.seed, t + 1)
            if start is not None:
                method.load_state_dict(copy.deepcopy(start))
            log.info("learning %s", what)
            cost = CostMeter(device, seconds_of(begun), energy)
            method.before_task(t, task)
            steps = fit(method, split, what, config.trainer, seed, watch.learning(what, split), begun)
            begun = None
            cost.has_trained(method.num_trainable())
            method.after_task(t, task)
            predicted, seconds = evaluate(method, held_out, measured, config, progress, watch)
            progress.end_session(t, what, steps, predicted, seconds)
            log.info("learned %s, accuracies %s", what, progress.matrix.values[t + 1].round(4).tolist())
            terminal.row(progress.matrix, t + 1)
            stored = [folder.save_adapter(j, method) for j in learned][-1]
            sizes = (stored, method.answering_bytes(), method.kept_bytes())
            progress.costs.append(cost.of(what, *sizes, seconds, progress.num_measured))
            folder.save_progress(progress, method.state_dict())
            logs.follow(progress)
            stop.check_together()

        folder.save_samples(method.samples(held_out))
        folder.finish(progress)
    stop.check()  # a signal that came in the very end ends a sweep


def encoded(
    folder: RunDirectory, device: torch.device, terminal: Terminal
) -> tuple[Method, list[EncodedSplit], list[EncodedSplit]]:
    """Return the method, and of every task what it learns from and what it is measured on as the model reads them."""
    config, stream = folder.config, folder.stream
    terminal.header(config, stream, folder, device)
    seed_everything(config.seed)
    parent = configured_parent(config)
    starts = configured_starts(config, folder.model_sha256)
    method = Method(config, stream, device, parent and parent[1], starts)
    terminal.method(method)
    train = [method.encode(t, task, "train") for t, task in enumerate(stream)]
    held_out = [method.encode(t, task, config.eval_split) for t, task in enumerate(stream)]
    return method, train, held_out


def restore(method: Method, state: dict[str, Any], folder: RunDirectory) -> None:
    """Take the method's state back from the folder's checkpoint.

    Raises:
        RunError: it does not fit the method.
    """
    try:
        method.load_state_dict(state)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise folder.damaged(error) from error


def ingredients(config: ExperimentConfig, terminal: Terminal) -> tuple[TaskStream, str]:
    """Return the tasks and the SHA-256 of the model; what does not fit together is refused before weights are made."""
    check_strategies(config)
    check_energy(config.trainer.energy)
    if config.store.path and (reason := not_exportable(config.method)):
        raise ConfigError(f"store.path={config.store.path}: {reason}")
    stream = load_stream(config.tasks, config.data_seed, terminal.preparing)
    Scenario(config.scenario, stream)
    make_weights(config.model, terminal.making)
    model_sha256 = discovery.model_kinds.load(config.model.kind).identity(config.model)
    return stream.thinned(config.eval_split, config.trainer.max_eval_examples), model_sha256


class Plan(NamedTuple):
    """One session: its index t, the tasks learned in it together, the tasks measured after it."""

    t: int
    learned: list[int]
    measured: list[int]

    def split(self, train: list[EncodedSplit], scenario: Scenario) -> EncodedSplit | JointSplit:
        """Return the training examples of the session, from those of every task."""
        return train[self.t] if len(self.learned) == 1 else JointSplit(train, is_mixed=not scenario.knows_task)


def sessions(protocol: str, scenario: Scenario) -> list[Plan]:
    """Return the sessions of a run: a task each, or with joint one for all; measured is what can be answered then."""
    every = list(range(len(scenario.stream)))
    if protocol == "joint":
        return [Plan(every[-1], every, every)]
    own = protocol == "single"
    return [Plan(t, [t], [t] if own else [j for j in every if scenario.can_answer(j, t + 1)]) for t in every]


def conclude(folder: RunDirectory, terminal: Terminal, store: Store | None) -> RunDirectory:
    """Write the report of a finished run where it is wanted and not there yet, print the result, fill the store."""
    folder.drop_checkpoint()
    processes.wait()
    if folder.writes and folder.config.report and not (folder.path / "report.md").exists():
        if os.access(folder.path, os.W_OK):
            write_report(folder.path)
        else:
            terminal.unreported(folder)
    terminal.finished(folder)
    if store:
        terminal.stored(store.path, import_run(store, folder.path))
    return folder


def evaluate(
    method: Method,
    splits: list[EncodedSplit],
    tasks: Iterable[int],
    config: ExperimentConfig,
    progress: Progress,
    watch: Watch,
) -> tuple[dict[int, Predicted], float]:
    """Return the answers to every task asked for, and the seconds it took.

    A task whose deciding parameters have not changed since its last evaluation keeps its answers.
    """
    started, progress.num_measured = time.perf_counter(), 0
    answers: dict[int, Predicted] = {}
    for t in tasks:
        fingerprint = method.fingerprint(t)
        if progress.answered_by.get(t) == fingerprint:
            watch.skip(splits[t])
            answers[t] = progress.last_answers(t)
        else:
            answers[t] = predict(method, splits[t], config.trainer, watch.measuring(method.task_names[t], splits[t]))
            progress.answered_by[t] = fingerprint
            progress.num_measured += len(splits[t])
    return answers, time.perf_counter() - started

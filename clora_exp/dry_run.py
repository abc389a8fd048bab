"""What a run would do, and what it would cost, from three steps and two batches of it: `dry_run=true`. Writes no run.

The steps are the first task's, on the real model and data; what is said of all tasks is in proportion to their tokens.
"""

import dataclasses
import time
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import save as save_tensors

from clora_exp.config import ExperimentConfig
from clora_exp.evaluation.cost import peak_memory_bytes, restart_peak_memory
from clora_exp.help import yaml_text
from clora_exp.identity import plain_config
from clora_exp.interrupts import StopOnSignal
from clora_exp.loop import ingredients, sessions
from clora_exp.methods.base import Method
from clora_exp.methods.strategy import Strategy
from clora_exp.methods.suitable import strategy_class
from clora_exp.models.batches import Batch, EncodedSplit, JointSplit
from clora_exp.randomness import seed_everything
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import duration, size
from clora_exp.results import RunDirectory, packed
from clora_exp.session import device_of, fit, num_steps_of
from clora_exp.states import num_bytes
from clora_exp.store.parents import configured_parent
from clora_exp.tasks.stream import TaskStream

STEPS = 3  # of the probe; the first one warms up


def show(config: ExperimentConfig, terminal: Terminal) -> None:
    """Print configuration, tasks, parameters, bytes, steps, an estimate of time and memory, and the folder.

    Raises:
        CloraError: what would keep the run from beginning.
    """
    stream, model_sha256 = ingredients(config, terminal)
    folder = RunDirectory(config, stream, model_sha256)
    device = device_of(config.trainer)
    terminal.console.print(Text("dry run: nothing is written\n", style="bold"))
    terminal.console.print(Text(yaml_text(plain_config(config)) + "\n"), soft_wrap=True)
    terminal.header(config, stream, folder, device)
    states = {None: "has not begun", "done": "is done: the same command prints its result"}
    state = states.get(folder.status, f"{folder.status}: the same command goes on")
    _line(terminal, "run", f"{state}{'; overwrite=true would start again' if config.overwrite else ''}")
    seed_everything(config.seed)
    parent = configured_parent(config)
    method = Method(config, stream, device, parent and parent[1])
    terminal.method(method)
    rehearsal = Rehearsal(config, stream, method)
    speed = rehearsal.probe(device)
    terminal.console.print()
    terminal.console.print(rehearsal.table(speed))
    terminal.console.print()
    for name, value in rehearsal.summary(speed):
        _line(terminal, name, value)


class Speed(NamedTuple):
    """What the probe measured: seconds a token in training and in measuring, bytes of memory at the peak."""

    training_s: float
    measuring_s: float
    peak_bytes: int


class Rehearsal:
    """The sessions of a run, of which the first is begun."""

    def __init__(self, config: ExperimentConfig, stream: TaskStream, method: Method) -> None:
        self.config, self.trainer, self.stream, self.method = config, config.trainer, stream, method
        self.train = [method.encode(t, task, "train") for t, task in enumerate(stream)]
        self.held_out = [method.encode(t, task, config.eval_split) for t, task in enumerate(stream)]
        self.plan = sessions(config.method.protocol, method.scenario)
        self.splits = [session.split(self.train, method.scenario) for session in self.plan]

    def probe(self, device: torch.device) -> Speed:
        """Begin the first session, take three steps and measure two batches; the method is left as it is then."""
        restart_peak_memory(device)
        first, split = self.plan[0], self.splits[0]
        clock = _Clock(self.train, isinstance(split, JointSplit) and split.is_mixed)
        with StopOnSignal() as stop:
            self.method.before_task(first.t, self.stream.tasks[first.t])
            short = dataclasses.replace(self.trainer, max_steps=min(STEPS, num_steps_of(split, self.trainer)))
            fit(self.method, split, "", short, self.config.seed, [stop, clock])
        measuring_s = self._measuring_s(self.held_out[first.measured[0]])
        return Speed(clock.seconds_a_token(), measuring_s, peak_memory_bytes(device))

    def _measuring_s(self, split: EncodedSplit) -> float:
        """Return the seconds a token of a split's second batch; the first one warms up."""
        found = 0.0
        self.method.model.eval()
        for _, batch in zip(range(2), split.evaluation_batches(self.trainer.eval_batch_size), strict=False):
            started = time.perf_counter()
            with torch.inference_mode(), self.method.autocast():
                self.method.predicted(self.method.on_device(batch))
            found = (time.perf_counter() - started) / int(split.lengths[batch.rows.numpy()].sum())
        return found

    def _training_tokens(self, split: EncodedSplit | JointSplit) -> float:
        trainer = self.trainer
        every = -(-split.num_batches(trainer.batch_size) * trainer.epochs // trainer.accumulate)
        return split.num_tokens * trainer.epochs * num_steps_of(split, trainer) / every

    def _measured_tokens(self) -> float:
        """Return the tokens of all evaluations; where nothing that answers earlier tasks changes each is done once."""
        scenario = self.method.scenario
        first = sum(split.num_tokens for j, split in enumerate(self.held_out) if scenario.can_answer(j, 0))
        routed = any(type(strategy).route is not Strategy.route for strategy in self.method.strategies)
        again = self.method.config.forgets or not scenario.knows_task or routed
        return first + sum(self.held_out[j].num_tokens for s in self.plan for j in (s.measured if again else s.learned))

    def adapter_bytes(self, t: int) -> int:
        """Return the bytes of task t's adapter.safetensors: the parts of the task that has begun, with its own head."""
        begun = self.plan[0].t
        whole = len(save_tensors(packed(self.method.state_of(begun))[0]))
        heads = [self.method.outputs.head(task) for task in (begun, t)]
        of_begun, own = (num_bytes(dict(head.state_dict())) if head is not None else 0 for head in heads)
        return whole - of_begun + own

    def table(self, speed: Speed) -> Table:
        """Return a line a session."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("task", overflow="fold")
        for name in ("examples", "steps", "learning", "measured on", "bytes"):
            table.add_column(name, justify="right")
        for session, split in zip(self.plan, self.splits, strict=True):
            name = "all tasks" if len(session.learned) > 1 else self.stream.names[session.t]
            examples = sum(len(self.train[t]) for t in session.learned)
            measured = sum(len(self.held_out[t]) for t in session.learned)
            seconds = speed.training_s * self._training_tokens(split)
            steps = num_steps_of(split, self.trainer)
            bytes_ = size(self.adapter_bytes(session.t))
            table.add_row(name, f"{examples:,}", f"{steps:,}", duration(seconds), f"{measured:,}", bytes_)
        return table

    def summary(self, speed: Speed) -> list[tuple[str, str]]:
        """Return steps, time and memory of the run, and what the time leaves out."""
        learning_s = speed.training_s * sum(map(self._training_tokens, self.splits))
        measuring_s = speed.measuring_s * self._measured_tokens()
        times = f"{duration(learning_s)} learning, {duration(measuring_s)} measuring"
        found = [
            ("steps", f"{sum(num_steps_of(split, self.trainer) for split in self.splits):,}"),
            ("time", f"about {duration(learning_s + measuring_s)}: {times}"),
            (
                "memory",
                f"{size(speed.peak_bytes)} at the peak of {STEPS} steps and two batches; longer texts need more",
            ),
        ]
        for name in self.method.config.strategies:
            strategy = strategy_class(name)
            costs = [("around a task", strategy.task_cost), ("a step of later tasks", strategy.step_cost)]
            said = [f"{when}, {cost}" for when, cost in costs if cost not in ("none", "flat")]
            found += [("apart", f"what {name} adds: {'; '.join(said)}")] if said else []
        return found


class _Clock(lightning.Callback):
    """Times the batches of training; one that ends an optimiser step includes it."""

    def __init__(self, splits: list[EncodedSplit], is_mixed: bool) -> None:
        self._is_mixed = is_mixed
        self._mean = sum(split.num_tokens for split in splits) / sum(map(len, splits))
        self._splits = splits
        self._seconds: list[float] = []
        self._tokens: list[float] = []
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, i: int
    ) -> None:
        """Note how long the batch took, and its tokens; of examples of several tasks in one their mean."""
        now, num = time.perf_counter(), len(batch.rows)
        own = None if self._is_mixed or not isinstance(batch.task, int) else self._splits[batch.task]
        rows = batch.rows.cpu().numpy()
        self._tokens.append(self._mean * num if own is None else float(own.lengths[rows].sum()))
        self._seconds.append(now - self._last)
        self._last = now

    def seconds_a_token(self) -> float:
        """Return it without the first batch, where there are more."""
        warm = slice(1 if len(self._seconds) > 1 else 0, None)
        return sum(self._seconds[warm]) / sum(self._tokens[warm])


def _line(terminal: Terminal, name: str, value: str) -> None:
    terminal.console.print(Text(f"{name:<9}", style="dim").append(value, style="default"), soft_wrap=True)

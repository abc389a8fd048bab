"""Progress of a run with the time left, of the task and of the whole sequence: two bars, or one line every few seconds.

Work is counted in tokens: a training token costs three times a measured one (forward, and a backward of twice that).
What turns out not to be needed (answers carried over) is taken out of the total.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import pytorch_lightning as lightning
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from clora_exp.config import TrainerConfig
from clora_exp.models.batches import EncodedSplit, JointSplit
from clora_exp.reports.words import duration

TRAINING = 3.0  # cost of a training token over that of a measured one


class View(Protocol):
    """Shows how far the step at hand and the whole run are; shares are in [0, 1], times in seconds."""

    def show(self, step: "StepState", run_share: float, run_left_s: float | None) -> None: ...
    def close(self) -> None: ...


class StepState:
    """One training or measuring: what, how far, how long."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.done, self.total, self.note = 0, 1, ""
        self._started, self._first = time.monotonic(), 0

    def begin(self, done: int, total: int) -> None:
        """Start with so many done already, of a session that goes on after an interruption."""
        self.done, self.total = done, total
        self._started, self._first = time.monotonic(), done

    @property
    def left_s(self) -> float | None:
        """Seconds left at the speed so far; None before the first step."""
        return _left(time.monotonic() - self._started, self.done - self._first, self.total - self._first)


class Watch:
    """Hands out the callbacks that watch the sessions and evaluations of one run."""

    def __init__(self, view: View, trainer: TrainerConfig, first: Sequence[lightning.Callback] = ()) -> None:
        """Watch nothing yet; `first` are callbacks that go with every step."""
        self._view, self._trainer, self._first = view, trainer, list(first)
        self._total = self._done = 0.0
        self._started = time.monotonic()

    def expect(self, learned: Sequence[EncodedSplit | JointSplit], measured: Sequence[EncodedSplit]) -> None:
        """Say what is to be learned and measured in all, so that the time left can be told."""
        self._total += sum(map(self._learning_units, learned)) + sum(split.num_tokens for split in measured)

    def learning(self, task: str, split: EncodedSplit | JointSplit) -> list[lightning.Callback]:
        """Return the callbacks of one session."""
        return [*self._first, _StepCallback(self, StepState(f"learning {task}", "step"), self._learning_units(split))]

    def measuring(self, task: str, split: EncodedSplit) -> list[lightning.Callback]:
        """Return the callbacks of one evaluation."""
        return [*self._first, _StepCallback(self, StepState(f"measuring {task}", "batch"), split.num_tokens)]

    def _learning_units(self, split: EncodedSplit | JointSplit) -> float:
        batches = split.num_batches(self._trainer.batch_size)
        steps = -(-batches * self._trainer.epochs // self._trainer.accumulate)
        share = min(1.0, (self._trainer.max_steps or steps) / steps)
        return TRAINING * self._trainer.epochs * share * split.num_tokens

    def skip(self, split: EncodedSplit) -> None:
        """Say that an evaluation of `split` is not needed."""
        self.leave_out(split.num_tokens)

    def leave_out(self, units: float) -> None:
        """Say that so much of what was expected is not needed."""
        self._total -= units

    def advance(self, step: StepState, units: float) -> None:
        """Count `units` of work and show it."""
        self._done += units
        left = _left(time.monotonic() - self._started, self._done, self._total)
        self._view.show(step, min(1.0, self._done / max(self._total, 1.0)), left)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self._view.close()


class _StepCallback(lightning.Callback):
    """Tells the watch after every batch."""

    def __init__(self, watch: Watch, step: StepState, units: float) -> None:
        self._watch, self._step, self._units = watch, step, units

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._step.begin(len(pl_module.steps), pl_module.num_steps)
        self._watch.leave_out(self._units * self._step.done / self._step.total)  # done before an interruption
        self._watch.advance(self._step, 0)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.steps:
            self._step.note = f"loss {pl_module.steps[-1].loss:.3f}"
        self._until(len(pl_module.steps))

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._step.begin(0, int(sum(trainer.num_predict_batches)))
        self._watch.advance(self._step, 0)

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._until(batch_idx + 1)

    def _until(self, done: int) -> None:
        units = self._units * (done - self._step.done) / self._step.total
        self._step.done = done
        self._watch.advance(self._step, units)


class Bars:
    """Two bars, the step's and the run's; they go when the run ends."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=20, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[count]:>13}", markup=False),
            TextColumn("{task.fields[left]:>11}", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=console, transient=True, refresh_per_second=5)
        self._step = self._progress.add_task("", total=1.0, count="", left="", note="")
        self._run = self._progress.add_task("whole run", total=1.0, count="", left="", note="")
        self._shown = ""
        self._progress.start()

    def show(self, step: StepState, run_share: float, run_left_s: float | None) -> None:
        """Move both bars."""
        self._progress.update(
            self._step,
            description=_cut(step.label, 22),
            completed=step.done / step.total,
            count=f"{step.done}/{step.total} {step.unit}",
            left=_in_words(step.left_s),
            note=step.note,
        )
        self._progress.update(self._run, completed=run_share, count=f"{run_share:.0%}", left=_in_words(run_left_s))
        if step.label != self._shown:  # else the screen follows five times a second
            self._shown = step.label
            self._progress.refresh()

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()


class Lines:
    """One plain line every `interval_s` seconds."""

    def __init__(self, console: Console, interval_s: float) -> None:
        self._console, self._interval_s = console, interval_s
        self._last = time.monotonic()

    def show(self, step: StepState, run_share: float, run_left_s: float | None) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if not step.done or now - self._last < self._interval_s:
            return
        self._last = now
        parts = [f"{step.label}: {step.unit} {step.done}/{step.total}", step.note, _in_words(step.left_s)]
        run = f"whole run {run_share:.0%}, {_in_words(run_left_s)}"
        self._console.print(Text(", ".join(part for part in parts if part) + f"; {run}"), soft_wrap=True)

    def close(self) -> None:
        """Nothing is left to take away."""


def _left(elapsed_s: float, done: float, total: float) -> float | None:
    return elapsed_s / done * max(total - done, 0.0) if done > 0 else None


def _in_words(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(round(seconds))} left".replace(".0 s", " s")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

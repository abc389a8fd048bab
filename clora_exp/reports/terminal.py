"""What a person sees while a run goes on: header, progress with time left, the matrix as it grows, the result.

Writes to standard output only. Without a terminal a progress bar becomes one plain line every few seconds.
"""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from clora_exp.config import ExperimentConfig
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import Metric
from clora_exp.results import RunDirectory
from clora_exp.tasks.stream import TaskStream

if TYPE_CHECKING:
    from clora_exp.methods.base import Method

WORDS = {
    "average_accuracy": "accuracy over all tasks at the end",
    "incremental_accuracy": "accuracy over the tasks seen, averaged over the sequence",
    "learning_accuracy": "accuracy on each task right after learning it",
    "backward_transfer": "change on earlier tasks by learning later ones",
    "forgetting": "loss on earlier tasks since their best",
    "mean_drop": "mean distance below each task's best",
    "forward_transfer": "gain on a task before learning it",
    "transfer_gain": "gain over learning each task alone",
    "intransigence": "loss against learning all tasks together",
}


class Terminal:
    """Prints one run. `interval_s` is the time between progress lines where there is no terminal."""

    def __init__(self, console: Console | None = None, interval_s: float = 5.0) -> None:
        self.console = console or Console(highlight=False)
        self.interval_s = interval_s
        self._num_rows = 0

    def header(self, config: ExperimentConfig, stream: TaskStream, folder: RunDirectory, device: torch.device) -> None:
        """Print what runs, where and on what."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.console.print(f"[bold]{config.method.name}[/] learns {' → '.join(stream.names)} on {config.model.name}")
        self._line("folder", folder.path)
        self._line("device", name if device.type != "cpu" else f"cpu, {torch.get_num_threads()} threads")
        self._num_rows = 0

    def method(self, method: "Method") -> None:
        """Print what the method may train: adapters (a fixed basis apart) and heads, against the backbone."""
        layers = list(method.adapters.layers.values()) if method.adapters else []
        added = {n: p for layer in layers for n, p in layer.named_parameters(prefix=str(id(layer))) if ".lora_" in n}
        heads = sum(p.numel() for p in method.model.heads.parameters())
        backbone = sum(p.numel() for p in method.model.backbone.parameters()) - sum(p.numel() for p in added.values())
        is_fixed = method.config.basis == "svd"
        trained = sum(p.numel() for n, p in added.items() if not (is_fixed and (".lora_A." in n or ".lora_B." in n)))
        share = f"{len(layers)} layers adapted, {trained:,} parameters ({trained / backbone:.2%} of {backbone:,}), "
        self._line("size", f"{share if layers else f'{backbone:,} parameters frozen, '}heads {heads:,}")

    def resumed(self, matrix: AccuracyMatrix, num_tasks_done: int) -> None:
        """Say where an interrupted run goes on, and print the rows it has."""
        self._line("resumed", f"after {num_tasks_done} of {len(matrix.tasks)} tasks")
        for i in range(num_tasks_done + 1):
            self.row(matrix, i)

    def row(self, matrix: AccuracyMatrix, i: int) -> None:
        """Print row i of the accuracy matrix; the task just learned is bold, a drop is red with sign and number."""
        widths = [max(len(name), 13) for name in matrix.tasks]
        first = max(len(name) for name in matrix.rows) + 6
        if self._num_rows == 0:
            header = "".join(f"{name:>{width}}  " for name, width in zip(matrix.tasks, widths, strict=True))
            self.console.print(Text(f"\n{'accuracy':<{first}}{header}".rstrip(), style="bold"))
        line = Text(f"{'after ' + matrix.rows[i] if i else 'before':<{first}}")
        for j, width in enumerate(widths):
            line.append_text(_cell(matrix.values, i, j, width))
        self.console.print(line)
        self._num_rows += 1

    def finished(self, folder: RunDirectory, matrix: AccuracyMatrix, metrics: dict[str, Metric]) -> None:
        """Print the matrix, where this process has not printed it yet, the metrics, one sentence and the folder."""
        if self._num_rows == 0:
            self.console.print(
                f"[bold]{folder.config.method.name}[/] on {folder.config.tasks.name} is done already; "
                "[bold]overwrite=true[/] runs it again"
            )
            for i in range(len(matrix.rows)):
                self.row(matrix, i)
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, metric in metrics.items():
            value = Text("—", style="dim") if metric.value is None else Text(_number(name, metric.value))
            explanation = metric.reason if metric.value is None else WORDS[name]
            table.add_row(Text(name, style="bold"), value, Text(explanation, style="dim"))
        self.console.print()
        self.console.print(table)
        self.console.print(f"\n{_sentence(folder.config.method.name, metrics)}")
        self._line("folder", folder.path)

    def task_progress(self, task: str) -> lightning.Callback:
        """Return the callback that shows one task's training."""
        return _Bar(self.console, task) if self.console.is_terminal else _Lines(self.console, task, self.interval_s)

    def _line(self, name: str, value: Any) -> None:
        self.console.print(Text(f"{name:<9}", style="dim").append(str(value), style="default"), soft_wrap=True)


def _cell(values: np.ndarray, i: int, j: int, width: int) -> Text:
    if np.isnan(values[i, j]):
        return Text(f"{'·':>{width}}  ", style="dim")
    text = f"{values[i, j]:.3f}"
    change = values[i, j] - values[i - 1, j] if i > j + 1 else 0.0
    moved = f" {change:+.3f}".replace("-", "−") if abs(change) >= 0.0005 else ""
    cell = Text(f"{'':>{width - len(text) - 7}}")
    cell.append(text, style="bold" if i == j + 1 else "dim" if i <= j else "")
    cell.append(f"{moved:<7}  ", style="red" if change < 0 else "green")
    return cell


def _number(name: str, value: float) -> str:
    signed = name in {"backward_transfer", "forward_transfer", "transfer_gain"}
    return f"{value:+.4f}".replace("-", "−") if signed else f"{value:.4f}".replace("-", "−")


def _sentence(method: str, metrics: dict[str, Metric]) -> str:
    average, forgetting = metrics["average_accuracy"].value, metrics["forgetting"].value
    if average is None or forgetting is None:
        return f"{method} has run."
    kept = "and has forgotten nothing" if forgetting == 0 else f"and has forgotten {100 * forgetting:.1f} points of it"
    if forgetting < 0:
        kept = f"and has gained {-100 * forgetting:.1f} points on earlier tasks"
    return f"[bold]{method}[/] ends at {100 * average:.1f} % over all tasks {kept}."


class _Bar(lightning.Callback):
    """A progress bar with the time left."""

    def __init__(self, console: Console, task: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("loss {task.fields[loss]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = task
        self._id: Any = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._id = self._progress.add_task(f"learning {self._task}", total=pl_module.num_steps, loss="")
        self._progress.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.steps:
            self._progress.update(self._id, completed=len(pl_module.steps), loss=f"{pl_module.steps[-1].loss:.3f}")

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self._progress.stop()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._progress.stop()


class _Lines(lightning.Callback):
    """One plain line every few seconds."""

    def __init__(self, console: Console, task: str, interval_s: float) -> None:
        self._console, self._task, self._interval_s = console, task, interval_s
        self._started = self._last = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._started = self._last = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        now, done, total = time.monotonic(), len(pl_module.steps), pl_module.num_steps
        if not done or (now - self._last < self._interval_s):
            return
        self._last = now
        left = (now - self._started) / done * (total - done)
        loss = pl_module.steps[-1].loss
        self._console.print(f"learning {self._task}: step {done}/{total}, loss {loss:.3f}, {left:.0f} s left")

"""What a person sees while a run goes on: header, progress with time left, the matrix as it grows, the result.

Writes to one console, standard output as a rule. Without a terminal the bars become a plain line every few seconds.
"""

import io
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as lightning
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from clora_exp.config import ExperimentConfig, TrainerConfig
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.reports.progress import Bars, Lines, Watch
from clora_exp.reports.rows import Rows
from clora_exp.reports.siblings import metrics_beside
from clora_exp.reports.words import METRICS, duration, number, sentence, size, threads
from clora_exp.results import RunDirectory
from clora_exp.runs import FILES, StoredRun
from clora_exp.store.manifest import Manifest
from clora_exp.tasks.stream import Task, TaskStream

if TYPE_CHECKING:
    from clora_exp.methods.base import Method


class Terminal:
    """Prints one run. `interval_s` is the time between progress lines where there is no terminal.

    Of one run of many, `is_brief`, the result is a sentence.
    """

    def __init__(self, console: Console | None = None, interval_s: float = 5.0, is_brief: bool = False) -> None:
        self.console = console or Console(highlight=False, markup=False)
        self.interval_s, self.is_brief = interval_s, is_brief
        self._protocol = "sequence"
        self._num_rows = 0

    @classmethod
    def silent(cls) -> "Terminal":
        """Return one that prints nothing: of the processes of one run the first speaks."""
        return cls(Console(file=io.StringIO(), quiet=True))

    @contextmanager
    def preparing(self, source: str) -> Iterator[None]:
        """Say, for as long as it takes, that a source's tasks are being prepared."""
        text = Text(f"preparing {source}: once, then it comes from the cache")
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            self.console.print(text)
            yield

    @contextmanager
    def making(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Show how far something that is made once has come, with the time left; yield what to call after each step."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeRemainingColumn())
        if not self.console.is_terminal:
            self.console.print(Text(f"{what}: once, then it comes from the cache"))
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)

    def header(self, config: ExperimentConfig, stream: TaskStream, folder: RunDirectory, device: torch.device) -> None:
        """Print what runs, where and on what."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._protocol = config.method.protocol
        self._num_rows = 0
        joined = {"sequence": " → ", "joint": " + ", "single": ", "}[self._protocol]
        how = {"sequence": "", "joint": " together", "single": ", each alone,"}[self._protocol]
        what = joined.join(stream.names)
        where = "" if config.scenario == "task_incremental" else f", {config.scenario.replace('_', '-')}"
        self.console.print(
            Text(config.method.name, style="bold").append(f" learns {what}{how} on {config.model.name}{where}", "")
        )
        self._line("folder", folder.path)
        for task in stream:
            self._found(task)
        self._line("device", name if device.type != "cpu" else f"cpu, {threads(torch.get_num_threads())}")

    def _found(self, task: Task) -> None:
        """Print what was found in data that this project does not know."""
        if task.notes:
            self._line("task", f"{task.name}: {task.summary}")
        for note in task.notes:
            style = "yellow" if note.startswith("warning: ") else "dim"
            self.console.print(Text(f"{'':<9}{note}", style=style), soft_wrap=True)

    def method(self, method: "Method") -> None:
        """Print what the method may train, against the backbone."""
        found = method.size()
        where = f" in {found.num_layers} layers" if found.num_layers else ""
        share = f"{found.trained / found.backbone:.2%} of {found.backbone:,}"
        heads = f", heads {found.heads:,}" if found.heads else ""
        self._line("trains", f"{found.trained:,} parameters{where} ({share}){heads}")

    def watching(self, trainer: TrainerConfig, first: Sequence[lightning.Callback]) -> Watch:
        """Return what shows the progress of the run, as a context."""
        view = Bars(self.console) if self.console.is_terminal else Lines(self.console, self.interval_s)
        return Watch(view, trainer, first)

    def resumed(self, matrix: AccuracyMatrix, num_tasks_done: int, num_steps: int) -> None:
        """Say where an interrupted run goes on, and print the rows it has."""
        within = f", after step {num_steps} of the next" if num_steps else ""
        where = f"after {num_tasks_done} of {len(matrix.tasks)} tasks{within}"
        self._line("resumed", f"{where}; its tables are written again from the checkpoint")
        for i in range(num_tasks_done + 1):
            self.row(matrix, i)

    def row(self, matrix: AccuracyMatrix, i: int) -> None:
        """Print row i of the accuracy matrix; what was just learned is in brackets, a drop red with sign and number."""
        rows = Rows(matrix, self.console.width, self._protocol)
        if self._num_rows == 0:
            self.console.print()
            self.console.print(rows.heading(), soft_wrap=True)
        if not np.isnan(matrix.values[i]).all():
            self.console.print(rows.line(i), soft_wrap=True)
        self._num_rows += 1

    def finished(self, folder: RunDirectory) -> None:
        """Print the matrix, where this process has not printed it yet, the result, the folder and what to type next."""
        run = folder.read()
        self._protocol = run.protocol
        if self._num_rows == 0:
            self.console.print(
                Text(run.method, style="bold").append(f" on {run.config['tasks']['name']} is done already; ", "")
                .append("overwrite=true", "bold").append(" runs it again", "")
            )  # fmt: skip
            for i in range(len(run.matrix.rows)):
                self.row(run.matrix, i)
        if self.is_brief:
            self.console.print(Text("\n" + sentence(run), style="bold"))
            return
        self._metrics(run)
        seconds = run.costs["train_seconds"].sum(), run.costs["evaluation_seconds"].sum()
        disk, memory = size(run.costs["adapter_bytes"].mean()), size(run.costs["peak_memory_bytes"].max())
        times = f"{duration(seconds[0])} learning, {duration(seconds[1])} measuring"
        self._line("cost", f"{times}, {disk} a task, {memory} of memory")
        self.console.print(Text("\n" + sentence(run), style="bold"))
        self._map(run)
        self._next(run)

    def followed(self, logger: str, where: str) -> None:
        """Say where a logger shows the run."""
        self._line("log", f"{logger}: {where}")

    def unfollowed(self, logger: str, why: str) -> None:
        """Say that a logger is in trouble, which ends nothing else."""
        self._line("log", f"{logger} stops: {why}; the run goes on, its own tables have everything")

    def unreported(self, folder: RunDirectory) -> None:
        """Say that a finished run lies where its page cannot be written."""
        self._line("report", f"not written: {folder.path} is read-only")

    def stored(self, store: Path, versions: Sequence[Manifest]) -> None:
        """Say which versions of the run's tasks a store has."""
        self._line("store", f"{store}: {', '.join(f'{found.task}@{found.version}' for found in versions)}")

    def notices(self, notices: Sequence[str]) -> None:
        """Print what libraries warned of, each once."""
        if notices:
            self.console.print(Text(f"\nnoticed by libraries ({len(notices)})", style="yellow"))
            for notice in notices:
                self.console.print(Text(f"  {notice}", style="dim"))

    def _metrics(self, run: StoredRun) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, metric in (run.metrics | metrics_beside(run)).items():
            value = Text("—", style="dim") if metric.value is None else Text(number(name, metric.value))
            explanation = metric.reason if metric.value is None else METRICS[name]
            if metric.value is not None and metric.reason:
                explanation += f", {metric.reason}"
            table.add_row(Text(name), value, Text(explanation, style="dim"))
        self.console.print()
        self.console.print(table)

    def _map(self, run: StoredRun) -> None:
        self.console.print(Text(f"\n{run.path}/", style="bold"), soft_wrap=True)
        there = [name for name in FILES if (run.path / name).exists()]
        table = Table.grid(padding=(0, 2, 0, 0))
        for name in there:
            table.add_row(f"  {name}{'/' if (run.path / name).is_dir() else ''}", Text(FILES[name], style="dim"))
        self.console.print(table)

    def _next(self, run: StoredRun) -> None:
        self.console.print(Text("\nnext", style="bold"))
        for command, purpose in next_commands(run):
            self.console.print(Text(f"  {command}"), soft_wrap=True)
            self.console.print(Text(f"      {purpose}", style="dim"), soft_wrap=True)

    def _line(self, name: str, value: Any) -> None:
        self.console.print(Text(f"{name:<9}", style="dim").append(str(value), style="default"), soft_wrap=True)


def next_commands(run: StoredRun) -> list[tuple[str, str]]:
    """Return commands worth typing after this run, each with its purpose."""
    words = shlex.split(run.command)
    at = words.index("run.py") + 1 if "run.py" in words else 0
    start = words[:at] or ["python", "run.py"]
    rest = [word for word in words[at:] if not word.startswith("method=") and word != "-m"]

    def command(*overrides: str) -> str:
        is_another = f"method={run.method}" not in overrides  # the settings of this method are not its
        kept = [word for word in rest if word.split("=")[0] not in {o.split("=")[0] for o in overrides}]
        kept = [word for word in kept if not (is_another and word.lstrip("+").startswith("method."))]
        return shlex.join([*start, *overrides, *kept])

    found = []
    if run.method != "frozen":
        found.append((command("method=frozen"), "the lower bound: what is learned by heads alone"))
    if run.protocol == "sequence":
        found.append((command(f"method={run.method}", "method.protocol=joint"), "the same on all tasks at once"))
    else:
        same = "lora" if run.method in ("joint", "single") else run.method
        found.append((command(f"method={same}", "method.protocol=sequence"), "the same on the tasks in turn"))
    start = ["python", "run.py", "-m"]  # a sweep's jobs have one process each
    seeds = command(f"method={run.method}", "seed=0,1,2")
    found.append((seeds, "three seeds, to know what is chance"))
    return found

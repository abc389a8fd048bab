"""How far a longer measurement is and how long it will still take, on standard error: nothing of short ones."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from clora_exp.reports.words import duration

SILENT_S = 2.0
INTERVAL_S = 30.0  # between lines where there is no terminal


class TimeLeft:
    """Called with what has been done since; after two seconds a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, doing: str) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), TimeRemainingColumn())
        self._console = Console(stderr=True, soft_wrap=True)
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._doing, self._total, self._done = doing, 0, 0
        self._started = time.perf_counter()
        self._next = self._started + SILENT_S

    def expect(self, total: int) -> None:
        """Say how much there is to do in all."""
        self._total = total
        self._bar = self._progress.add_task(self._doing, total=total)

    def __call__(self, amount: int) -> None:
        """Count on."""
        self._done += amount
        self._progress.advance(self._bar, amount)
        now = time.perf_counter()
        if now < self._next:
            return
        if self._console.is_terminal:
            self._progress.start()  # a second time it does nothing
        else:
            left = (now - self._started) / self._done * (self._total - self._done)
            self._console.print(f"{self._doing}: {self._done / self._total:.0%}, {duration(left)} left", markup=False)
        self._next = now + INTERVAL_S

    def __enter__(self) -> "TimeLeft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

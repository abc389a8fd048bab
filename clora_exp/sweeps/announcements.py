"""What a person sees of a sweep: what begins, what is done, what fails at once, and how it all ended."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clora_exp.reports.words import duration
from clora_exp.sweeps.jobs import Job
from clora_exp.sweeps.outcomes import Outcome, log_of, read

EVERY_S = 0.5  # between two looks at what jobs in other processes have come to


class Announcements:
    """Prints a sweep. What fails goes to standard error."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = {job.number: job for job in jobs}
        self._num_missing = sum(not job.is_done for job in jobs)
        self._started = time.monotonic()
        self._console = Console(highlight=False, markup=False)
        self.outcomes: dict[int, Outcome] = {}

    def done_before(self, job: Job) -> None:
        """Say that a job need not be run."""
        self._print(Text(f"{self._name(job)} done before: {job.label}", style="dim"))

    def begun(self, number: int) -> None:
        """Say that a job begins."""
        job = self._jobs[number]
        self._print(Text(f"\n{self._name(job)}  {job.label}", style="bold").append(self._so_far(), "dim"))

    def ended(self, outcome: Outcome) -> None:
        """Say how a job ended, at once."""
        self.outcomes[outcome.number] = outcome
        job = self._jobs[outcome.number]
        if outcome.status == "failed":
            print(f"{self._name(job)} failed: {job.label}: {one_line(outcome.error)}", file=sys.stderr, flush=True)
        else:
            line = f"{self._name(job)} {outcome.status} after {duration(outcome.seconds)}: {job.label}"
            self._print(Text(line).append(self._so_far() if outcome.status == "done" else "", "dim"))

    def _so_far(self) -> str:
        ended = [o for o in self.outcomes.values() if o.seconds]
        failed = sum(outcome.status == "failed" for outcome in self.outcomes.values())
        num_left = self._num_missing - len(self.outcomes)
        parts = [f"{failed} failed"] if failed else []
        if ended and num_left:
            left_s = (time.monotonic() - self._started) / len(ended) * num_left
            parts.append(f"{num_left} to do, about {duration(round(left_s))} left".replace(".0 s", " s"))
        return f"  ({', '.join(parts)})" if parts else ""

    def _name(self, job: Job) -> str:
        return f"job {job.number}/{len(self._jobs)}"

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)
        sys.stdout.flush()

    def table(self) -> None:
        """Print which jobs there are, where their runs lie, and which are done already."""
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for heading in ("job", "", "run"):
            table.add_column(heading, overflow="fold")
        table.add_column("settings", overflow="fold")
        for job in self._jobs.values():
            state = "done" if job.is_done else "cannot" if job.problem else "to do"
            style = {"done": "dim", "cannot": "red"}.get(state, "default")
            place = one_line(job.problem) if job.problem else str(job.folder or "")
            table.add_row(str(job.number), state, place, job.label, style=style)
        wide = Console(highlight=False, markup=False, width=None if self._console.is_terminal else 200)
        wide.print(table)

    def summary(self, again: str, seconds: float, stopped: bool) -> int:
        """Print how the sweep ended and return its status: 0, 2 where users can mend what failed, 1 where not."""
        before = sum(job.is_done for job in self._jobs.values())
        failed = [o for o in sorted(self.outcomes.values(), key=lambda o: o.number) if o.status == "failed"]
        done = sum(o.status == "done" for o in self.outcomes.values())
        left = len(self._jobs) - before - done - len(failed)
        counts = [(before, "done before"), (done, "done"), (len(failed), "failed"), (left, "not done")]
        said = ", ".join(f"{count} {what}" for count, what in counts if count)
        num = len(self._jobs)
        self._print(Text(f"\n{num} job{'s' if num > 1 else ''}: {said}, in {duration(seconds)}", style="bold"))
        for outcome in failed:
            job = self._jobs[outcome.number]
            print(f"  {self._name(job)} failed: {one_line(outcome.error)}\n    {job.command}", file=sys.stderr)
        if failed or (left and not stopped):
            print(f"the same command does what is missing: {again}", file=sys.stderr)
        if not failed and not left:
            return 0
        return 2 if not left and all(outcome.is_mistake for outcome in failed) else 1


class Watcher:
    """Announces, while the block runs, what jobs in other processes have come to."""

    def __init__(self, folder: Path, numbers: Sequence[int], announcements: Announcements) -> None:
        self._folder, self._waiting, self._begun = folder, list(numbers), set[int]()
        self._announcements = announcements
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        for number in list(self._waiting):
            if number not in self._begun and log_of(self._folder, number).exists():
                self._begun.add(number)
                self._announcements.begun(number)
            if (outcome := read(self._folder, number)) is not None:
                self._waiting.remove(number)
                self._announcements.ended(outcome)


def one_line(text: str) -> str:
    """Return several problems in one line."""
    return "; ".join(text.splitlines())

"""What a launcher calls for each job of a sweep, in this process, in another, or on another machine."""

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from clora_exp.command import carry_out, checked, in_a_shell, typed
from clora_exp.errors import CloraError, Interrupted
from clora_exp.sweeps.announcements import Announcements
from clora_exp.sweeps.jobs import Job, is_done
from clora_exp.sweeps.outcomes import STOP, Outcome, log_of, traceback_of


class Worker:
    """Runs jobs; raises nothing but the interruption of a job in the sweep's own process."""

    def __init__(self, folder: Path, jobs: Sequence[Job], announcements: Announcements | None) -> None:
        """`jobs` are those that are launched, in the launcher's order; without announcements they run elsewhere."""
        self._folder = folder.absolute()
        self._launched = [(job.number, job.folder) for job in jobs]
        self._announcements = announcements

    def __call__(self, composed: DictConfig) -> str:
        """Run the job that Hydra has composed; return how it ended."""
        number, run = self._launched[HydraConfig.get().job.num]
        if (self._folder / STOP).exists():
            return "left out"
        if self._announcements is not None:
            self._announcements.begun(number)
        with self._output(number):
            outcome = self._outcome(number, run, composed)
        outcome.write(self._folder)
        if self._announcements is not None:
            self._announcements.ended(outcome)
            if outcome.status == "interrupted":
                raise KeyboardInterrupt(outcome.signal_number)
        return outcome.status

    @contextlib.contextmanager
    def _output(self, number: int) -> Iterator[None]:
        """Send what a job prints that runs beside others into a file of its own."""
        if self._announcements is not None:
            yield
            return
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(log_of(self._folder, number).open("w", encoding="utf-8", buffering=1))
            stack.enter_context(contextlib.redirect_stdout(log))
            stack.enter_context(contextlib.redirect_stderr(log))
            yield

    def _outcome(self, number: int, run: Path | None, composed: DictConfig) -> Outcome:
        started = time.monotonic()

        def ended(status: str, **of: Any) -> Outcome:
            return Outcome(number, status, round(time.monotonic() - started, 1), **of)

        try:
            overrides = typed()
            config = checked(composed, overrides)
            if run is not None and is_done(run, config):  # another process has ended it meanwhile
                return ended("done")
            finding = carry_out(config, in_a_shell(overrides), is_one_of_many=True)
            return ended("done") if finding is None else ended("failed", error=finding)
        except Interrupted as stop:
            return ended("interrupted", signal_number=stop.signal_number)
        except KeyboardInterrupt as stop:  # while the libraries are loaded
            return ended("interrupted", signal_number=stop.args[0] if stop.args else signal.SIGINT)
        except CloraError as mistake:
            return ended("failed", error=str(mistake), is_mistake=True)
        except (Exception, SystemExit) as bug:
            where = traceback_of(self._folder, number)
            where.write_text(traceback.format_exc(), encoding="utf-8")
            if self._announcements is None:
                traceback.print_exc(file=sys.stderr)
            line = (str(bug).splitlines() or [""])[0]
            return ended("failed", error=f"{type(bug).__name__}: {line} (traceback: {where})")

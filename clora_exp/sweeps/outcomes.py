"""How a job of a sweep ended, as a small file that its process writes and the sweep's reads.

A sweep's folder, `<results_dir>/.sweeps/<id>/`, lies where every node sees it. In it
  3.json            how job 3 ended
  3.log             what it printed, where jobs run side by side
  3.traceback.txt   where a bug ended it
  stop              the sweep was asked to stop: no job begins any more
"""

import dataclasses
import json
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clora_exp.files import write_atomically

STOP = "stop"


@dataclass(frozen=True)
class Outcome:
    """How job `number` ended: done, failed, or interrupted by a signal; or left out since the sweep was to stop."""

    number: int
    status: str
    seconds: float = 0.0
    error: str = ""
    is_mistake: bool = False  # of the user's; else a bug
    signal_number: int = 0

    def write(self, folder: Path) -> None:
        """Write it where the sweep looks."""
        write_atomically(folder / f"{self.number}.json", json.dumps(dataclasses.asdict(self)).encode())


def read(folder: Path, number: int) -> Outcome | None:
    """Return how a job ended; None where it has not."""
    try:
        return Outcome(**json.loads((folder / f"{number}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def log_of(folder: Path, number: int) -> Path:
    """Return where a job prints that runs beside others."""
    return folder / f"{number}.log"


def traceback_of(folder: Path, number: int) -> Path:
    """Return where a bug's traceback is."""
    return folder / f"{number}.traceback.txt"


def tidy(folder: Path, done: Collection[int], num_jobs: int) -> None:
    """Leave what is worth reading: nothing of jobs that are done, and no folder where it was all of them."""
    if (folder / STOP).exists():  # jobs that wait in a cluster's queue look for it
        return
    if len(done) == num_jobs:
        shutil.rmtree(folder, ignore_errors=True)
    for path in [*folder.glob("*.json"), *(log_of(folder, number) for number in done)]:
        path.unlink(missing_ok=True)
    for place in (folder, folder.parent, folder.parent.parent):
        with suppress(OSError):  # what holds something stays
            place.rmdir()

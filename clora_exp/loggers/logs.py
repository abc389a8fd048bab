"""Tells the loggers of a run what happens, and keeps their trouble away from it.

Every logger has a note in its folder, `results_dir/.<logger>/<run>.json`: what the run is called there and how many
points it has been told, so that a run that goes on is told on, in the middle of a task too. Loggers write beside the
runs, never into them: a run's folder is checked by its sums, compared byte by byte and emptied by `overwrite=true`.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from clora_exp.errors import CloraError, Interrupted
from clora_exp.files import write_atomically
from clora_exp.loggers.base import Ending, Point, Started, logger_class
from clora_exp.loggers.points import last_point, points_of, step_points
from clora_exp.progress import Progress
from clora_exp.reports.figures import draw_all
from clora_exp.reports.terminal import Terminal
from clora_exp.results import RunDirectory

EVERY_S = 5.0  # between two tellings of the steps of a session


class Logs(lightning.Callback):
    """The loggers of one run, in a `with` block that spans it; with none of them, nothing happens."""

    def __init__(self, folder: RunDirectory, terminal: Terminal) -> None:
        """Start nothing yet. Of several processes the one that writes the run has the loggers."""
        names = folder.config.logger.loggers if folder.writes else {}
        self._followers = [Follower(name, settings, folder, terminal) for name, settings in names.items()]
        self._folder = folder
        self._num_points, self._last = 0, time.monotonic()  # points of the sessions that are over

    def begin(self, progress: Progress, is_new: bool) -> None:
        """Start the loggers, with what the run has so far."""
        for follower in self._followers:
            follower.begin(is_new)
        self.follow(progress)

    def follow(self, progress: Progress) -> None:
        """Tell what has been measured, and the steps before it."""
        if self._followers:
            points = points_of(progress)
            self._num_points = len(points)
            self._tell(points)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Tell the steps of the session, every few seconds."""
        if self._followers and time.monotonic() - self._last >= EVERY_S:
            self._tell_steps(pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Tell the rest of the session's steps, before the tasks are measured."""
        if self._followers:
            self._tell_steps(pl_module)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Tell the steps before the exception."""
        if self._followers:
            self._tell_steps(pl_module)

    def _tell_steps(self, session: Any) -> None:
        since = min((f.num_told for f in self._followers if f.listens), default=None)
        if since is not None:
            self._tell(step_points(self._num_points, session.task_name, session.steps, since))

    def _tell(self, points: list[Point]) -> None:
        for follower in self._followers:
            follower.tell(points)
        self._last = time.monotonic()

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        followers = [follower for follower in self._followers if follower.has_begun]
        with ExitStack() as stack:
            if error is not None:
                status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
                ending = Ending(status, f"{type(error).__name__}: {error}")
            else:
                ending = stack.enter_context(_done(self._folder)) if followers else Ending("done")
            for follower in followers:
                if ending.run is not None:
                    follower.tell([last_point(self._num_points, ending.run)])
                follower.finish(ending)


class Follower:
    """One logger of one run, and how far it has been told."""

    def __init__(self, name: str, settings: Any, folder: RunDirectory, terminal: Terminal) -> None:
        """Make the logger; it starts with `begin`."""
        self.name, self._terminal = name, terminal
        place = Path(folder.config.results_dir).expanduser().absolute() / f".{name}"
        run = Started(folder.path.absolute(), folder.config, folder.stream, folder.model_sha256)
        self._logger = logger_class(name)(settings, run, place)
        self._note = place / f"{folder.path.name}.json"
        self.has_begun = self._is_broken = False
        self._called, self.num_told = "", 0

    @property
    def listens(self) -> bool:
        """Whether the logger has started and is not in trouble."""
        return self.has_begun and not self._is_broken

    def begin(self, is_new: bool) -> None:
        """Start the logger, or where the run is not new go on with it."""
        with self._guarded():
            self._note.parent.mkdir(parents=True, exist_ok=True)
            known, num_told = ("", 0) if is_new else self._read()
            self._called, where = self._logger.start(known or None)
            self.has_begun = True
            self.num_told = num_told if self._called == known else 0
            self._terminal.followed(self.name, where)

    def tell(self, points: list[Point]) -> None:
        """Tell those of the points that are new."""
        new = [point for point in points if point.number >= self.num_told]
        if new and self.listens:
            with self._guarded():
                self._logger.log(new)
                self.num_told = new[-1].number + 1
                write_atomically(self._note, json.dumps({"called": self._called, "told": self.num_told}).encode())

    def finish(self, ending: Ending) -> None:
        """End the logger's run, also where it is in trouble."""
        with self._guarded():
            self._logger.finish(ending)

    def _read(self) -> tuple[str, int]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["called"]), int(note["told"])
        except (OSError, ValueError, KeyError, TypeError):  # the run had no such logger before
            return "", 0

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep an error of the logger from the run: the first one is said, and the logger is told no more."""
        try:
            yield
        except Exception as error:
            if not self._is_broken:
                self._is_broken = True
                why = (str(error).splitlines() or [""])[0] or type(error).__name__
                self._terminal.unfollowed(self.name, why)


@contextmanager
def _done(folder: RunDirectory) -> Iterator[Ending]:
    """Yield the end of a finished run, with the figures of its page, or where it has none such that go with the block.

    A run is finished, whatever happens here: on trouble there are none.
    """
    with ExitStack() as stack:
        try:
            run, where = folder.read(), folder.path / "figures"
            if not where.is_dir():
                where = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
                draw_all(run, where)
            ending = Ending("done", run=run, figures={path.stem: path for path in sorted(where.glob("*.png"))})
        except (CloraError, OSError) as error:
            ending = Ending("done", message=str(error))
        yield ending

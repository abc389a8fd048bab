"""Ctrl-C and SIGTERM as a flag that is looked at between steps, so that a run ends in order and can be resumed.

In training the flag is looked at between optimiser steps, by who keeps the session's checkpoint: what has been learned
is written first. A `SystemExit` of Lightning's, from a second Ctrl-C, becomes `Interrupted` here. `ended_in_order` is
for scripts that make many runs.
"""

import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

import pytorch_lightning as lightning

from clora_exp import processes
from clora_exp.errors import CloraError, Interrupted


class StopOnSignal(lightning.Callback):
    """Inside the `with` block the first SIGINT or SIGTERM raises `Interrupted` before the next batch.

    A second one acts at once, as it would without this. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise Interrupted(self._received or signal.SIGINT) from error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self._received = number

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def check_together(self) -> None:
        """Raise `Interrupted` in every process of the run if a signal has come to one; all must ask."""
        if processes.any_of(self.has_come):
            self.end()

    def end(self) -> None:
        """Raise `Interrupted`, also where the signal came to another process."""
        raise Interrupted(self._received or signal.SIGTERM)

    def on_predict_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Look at the flag before every batch of an evaluation; of several processes all end it first."""
        if processes.world_size() == 1:
            self.check()


def ended_in_order(main: Callable[[], None]) -> NoReturn:
    """Run a script's `main` and end the process as `run.py` does.

    With one line, and status 128 + the signal's number when stopped by one, or 2 after what the user can mend.
    """
    try:
        main()
        sys.exit(0)
    except (Interrupted, KeyboardInterrupt) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        again = shlex.join(["python", *sys.argv])
        print(f"\n{stop}; finished runs are kept, the same command goes on: {again}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    except CloraError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)

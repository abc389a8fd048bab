"""Ctrl-C and SIGTERM as a flag that is looked at between steps, so that a run ends in order and can be resumed."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import pytorch_lightning as lightning


class Interrupted(Exception):  # noqa: N818  # it is no error
    """The run was asked to stop; what was finished is on disk. `signal_number` is SIGINT's or SIGTERM's."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class StopOnSignal(lightning.Callback):
    """Inside the `with` block the first SIGINT or SIGTERM raises `Interrupted` before the next step.

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
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Look at the flag before every batch."""
        self.check()

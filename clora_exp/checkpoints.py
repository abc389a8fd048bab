"""When what a session has come to is written: often enough that little is lost, seldom enough that it costs little.

What is written is `Session.checkpoint()`, where is for `results.py` to know.
"""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as lightning

from clora_exp import processes
from clora_exp.interrupts import StopOnSignal

MAX_SHARE = 0.02  # of training time, for writing


class SessionCheckpoints(lightning.Callback):
    """Saves a session every `every_s` seconds between two steps (0: each step), at its end, and when a signal comes.

    Where writing takes long the next one waits until it has cost `MAX_SHARE` of the time at most.
    """

    def __init__(self, save: Callable[[dict[str, Any]], None], every_s: float, stop: StopOnSignal) -> None:
        self._save, self._every_s, self._stop = save, every_s, stop
        self._took_s, self._last = 0.0, time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Count from here; a signal that came before there is anything new ends the run at once."""
        self._stop.check_together()
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        """Save where it is time to; after a signal save and raise `Interrupted`."""
        if not pl_module.is_between_steps:
            return
        is_last = len(pl_module.steps) == pl_module.num_steps
        floor_s = 0.0 if is_last else self._every_s
        seldom_enough_s = self._took_s * (1 / MAX_SHARE - 1) if self._every_s else 0.0
        has_come = processes.any_of(self._stop.has_come)
        if has_come or time.monotonic() - self._last >= max(floor_s, seldom_enough_s):
            started = time.monotonic()
            self._save(pl_module.checkpoint())
            self._last = time.monotonic()
            self._took_s = self._last - started
        if has_come:
            self._stop.end()


def seconds_of(begun: dict[str, Any] | None) -> float:
    """Return how long an interrupted session had trained when its checkpoint was taken; of none 0."""
    return float(begun["seconds"][-1]) if begun is not None and len(begun["seconds"]) else 0.0


def num_steps_of(begun: dict[str, Any] | None) -> int:
    """Return how many steps an interrupted session had taken then; of none 0."""
    return 0 if begun is None else len(begun["losses"])

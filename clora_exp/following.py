"""A run directory as the other processes of a run see it: they read, and the first one writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clora_exp.methods.base import Method
from clora_exp.progress import Progress
from clora_exp.results import RunDirectory


class Following(RunDirectory):
    """The folder as the other processes of a run see it: they read, and the first one writes."""

    writes = False

    @contextmanager
    def held(self, command: str) -> Iterator[None]:
        """The first process holds it for all."""
        yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """The first process says how the run ends."""
        yield

    def prepare(self, command: str, environment: dict[str, Any]) -> None:
        """Leave it to the first process."""

    def save_progress(self, progress: Progress, method_state: dict[str, Any]) -> None:
        """Leave it to the first process."""

    def save_session(self, progress: Progress, session: dict[str, Any]) -> None:
        """Leave it to the first process."""

    def save_adapter(self, t: int, method: Method) -> int:
        """Leave it to the first process."""
        return 0

    def save_samples(self, samples: list[dict[str, Any]]) -> None:
        """Leave it to the first process."""

    def finish(self, progress: Progress) -> None:
        """Leave it to the first process."""

    def tidy(self) -> None:
        """Leave it to the first process."""

    def drop_checkpoint(self) -> None:
        """Leave it to the first process."""

"""What libraries warn of while a run goes on: collected, and shown once at its end instead of between its lines."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIBRARIES = ("transformers", "peft", "pytorch_lightning", "torch", "huggingface_hub", "matplotlib")


@contextmanager
def collected_notices(show: Callable[[list[str]], None]) -> Iterator[None]:
    """Collect each different warning of the block, one line each, and `show` them when it ends, however it ends.

    The libraries are imported before, since some put up a handler of their own when they are.
    """
    notices: list[str] = []
    handler = _Collect(notices)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_, **__: _add(notices, f"{category.__name__}: {message}")
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield
        finally:
            for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
            show(notices)


class _Collect(logging.Handler):
    def __init__(self, notices: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        _add(self._notices, f"{record.name}: {record.getMessage()}")


def _add(notices: list[str], text: Any) -> None:
    line = " ".join(str(text).split())
    if line not in notices:
        notices.append(line)

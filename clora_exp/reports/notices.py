"""What libraries warn of while a run goes on: collected, and shown once at its end instead of between its lines."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LIBRARIES = ("transformers", "peft", "pytorch_lightning", "torch", "huggingface_hub", "matplotlib")

log = logging.getLogger("clora_exp")


@contextmanager
def collected_notices() -> Iterator[list[str]]:
    """Yield a list that fills with each different warning of the block, one line each; they go to run.log too."""
    notices: list[str] = []
    handler = _Collect(notices)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_, **__: _add(notices, f"{category.__name__}: {message}")
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield notices
        finally:
            for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate


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
        log.warning(line)

"""Which task a call answers. The index travels with the call in a context variable, so each thread has its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_task: ContextVar[int] = ContextVar("task")


@contextmanager
def answering(task: int) -> Iterator[None]:
    """Let the adapted layers called inside the block answer as task `task` (0-based index in the stream)."""
    token = _task.set(task)
    try:
        yield
    finally:
        _task.reset(token)


def active_task() -> int:
    """Return the index that `answering` set.

    Raises:
        LookupError: an adapted layer was called outside `answering`: no task ever gets another's answer by default.
    """
    return _task.get()

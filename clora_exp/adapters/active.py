"""Which task a call answers. It travels with the call: as a context variable, which each thread has for itself, or,
while torch.compile traces, as the traced value, so that the index is an input of the graph and no constant in it.

A task is its index in the stream: an int, a tensor () where one compiled graph answers any task, or a tensor (n,) with
one index a row of a mixed batch; or UNLEARNED.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from clora_exp.errors import ModelError


class Unlearned(Enum):
    """What answers where no task does; only when asked for by name.

    UNLEARNED: a task that has not begun, so what all tasks share answers. BASE: the base model alone.
    """

    UNLEARNED = "unlearned"
    BASE = "base"


UNLEARNED, BASE = Unlearned.UNLEARNED, Unlearned.BASE
Active = int | Tensor | Unlearned

_task: ContextVar[Active] = ContextVar("task")


class _Traced:
    task: Active | None = None  # set and reset where `answering` is traced; nothing reads it when a graph runs


class answering:  # noqa: N801  # used like a function; a generator could not be traced
    """Let the adapted layers called inside the block answer as `task`.

    A block is traced as a whole or not at all: what torch.compile should compile has it inside, see `compiled`.
    """

    def __init__(self, task: Active) -> None:
        self._asked = task
        self._token: Token[Active] | None = None
        self._before: Active | None = None

    def __enter__(self) -> None:
        if torch.compiler.is_compiling():
            self._before, _Traced.task = _Traced.task, self._asked
        else:
            self._token = _task.set(self._asked)

    def __exit__(self, *error: Any) -> None:
        if self._token is None:  # entered while it was traced, even if a graph broke since
            _Traced.task = self._before
        else:
            _task.reset(self._token)


def active_task() -> Active:
    """Return what `answering` set.

    Raises:
        ModelError: an adapted layer was called outside `answering`: no task ever gets another's answer by default.
    """
    task = _Traced.task if torch.compiler.is_compiling() else _task.get(None)
    if task is None:
        raise ModelError("which task? call the model inside `with answering(task):`; compiled, with `compiled(model)`")
    return task


def repeated(times: int) -> AbstractContextManager[None]:
    """Let the surrounding tasks, where there is one a row, answer a batch whose every row stands so many times."""
    task = _task.get(None)
    return answering(task.repeat_interleave(times)) if isinstance(task, Tensor) and task.ndim else nullcontext()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile `function` so that one graph answers any task of the surrounding `answering`; options: torch.compile's.

    A task given as an int becomes a tensor, an input of the graph: switching among tasks compiles nothing anew.
    """

    def answer(task: Active, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        with answering(task):
            return function(*arguments, **keywords)

    fast = torch.compile(answer, **options)

    def call(*arguments: Any, **keywords: Any) -> Any:
        task = active_task()
        return fast(torch.tensor(task) if isinstance(task, int) else task, arguments, keywords)

    return call


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of a checkpointed call's forward and of its recomputation, which binds today's task.

    For `context_fn` of torch.utils.checkpoint: the recomputation may run in another thread, or under another task.
    """
    return nullcontext(), answering(active_task())

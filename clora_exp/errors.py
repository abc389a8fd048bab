"""Every error a user can meet, as one line that says what was asked, what is possible and what to type.

`run.py` prints these without a traceback and ends with status 2. A bug of ours is an `assert` or an ordinary
exception and keeps its traceback.
"""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable


class CloraError(Exception):
    """A mistake the user can mend; the message is one clear line (or one line a problem)."""


class ConfigError(CloraError):
    """A key or a value of the configuration that cannot be."""


class DataError(CloraError):
    """Task data that is missing, empty or cannot be learned from."""


class ModelError(CloraError):
    """A backbone that cannot be found, loaded or adapted as asked."""


class RunError(CloraError):
    """A run that cannot start, go on or be read."""


class StoreError(CloraError):
    """A stored task that is not there, is damaged, or does not belong to the model at hand."""


class Interrupted(Exception):  # noqa: N818  # it is no error
    """The run was asked to stop; what was finished is on disk. `signal_number` is SIGINT's or SIGTERM's."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class Differs(Exception):  # noqa: N818  # a finding
    """A run is not reproduced; the message says where it first differs."""


def nearest(value: object, choices: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest choice, or "" when none is close."""
    close = difflib.get_close_matches(str(value), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, value: object, choices: Iterable[str]) -> str:
    """Return "unknown <kind> 'value'; have: a, b. Did you mean 'a'?"."""
    have = sorted(choices)
    return f"unknown {kind} {str(value)!r}; have: {', '.join(have) or 'none'}.{nearest(value, have)}"


def status_of(do: Callable[[], int]) -> int:
    """Return a command's exit status: its own, 2 after one line about a mistake, 141 where who reads has enough."""
    try:
        status = do()
        sys.stdout.flush()  # at the exit it would be too late for the line below
        return status
    except CloraError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141

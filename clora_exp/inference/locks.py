"""Forward passes go side by side; rows are moved only while none is under way."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Quiet:
    """Who is asking, and a moment in which nobody is."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_asking = 0
        self._is_alone = False

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Keep rows where they are while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._num_asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_asking -= 1

    def alone(self, do: Callable[[], None]) -> bool:
        """Do something, and let who comes wait, if nobody asks now; tell whether it was done."""
        with self._changed:
            if self._num_asking or self._is_alone:
                return False
            self._is_alone = True
        try:
            do()
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
        return True

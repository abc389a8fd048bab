"""How far a benchmark is, on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence


def left(what: str, weights: Sequence[float]) -> Iterator[int]:
    """Count through steps of these lengths, in any unit, and say how far it is and about how much time is left."""
    start, done = time.monotonic(), 0.0
    for i, weight in enumerate(weights):
        yield i
        done += weight
        seconds = (time.monotonic() - start) / done * (sum(weights) - done)
        print(f"{what} {i + 1}/{len(weights)}, about {seconds:.0f} s left", file=sys.stderr, flush=True)

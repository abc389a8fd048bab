"""Backbones that are pre-trained here, once, since no package ships them: one file a recipe, weights in the cache.

A recipe offers `folder()`, where the weights are or will be, named by content, and `make(progress)`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

# (what, steps) → a context that gives what to call after each step
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]

"""What other processes do to a store in the tests: add and promote beside each other, and die at any moment of it."""

import os
import signal
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from clora_exp.store.collect import collect
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Manifest

STEPS = ("replace", "mkdir", "fsync", "chmod", "unlink", "rmdir")  # of the operating system, each of them seen on disk
Version = tuple[Manifest, bytes, bytes | None]  # its file and its basis


def make_and_add(path: Path, versions: Iterable[Version], together: Barrier) -> None:
    """Make a store, or open the one that another makes at this moment, and add versions to it."""
    together.wait()
    store = Store(path, is_new=True)
    for manifest, content, basis in versions:
        store.add(manifest, content, basis=basis)


def promote_in_turn(path: Path, task: str, versions: list[str], num_times: int, together: Barrier) -> None:
    """Make one version after the other the current one, and go back now and then."""
    store = Store(path)
    together.wait()
    for i in range(num_times):
        store.promote(task, versions[i % len(versions)])
        if i % 5 == 0:
            store.rollback(task)


def add_for_ever(path: Path, versions: list[Version], begun: Connection) -> None:
    """Add versions until the process is killed."""
    store = Store(path)
    begun.send(True)
    while True:
        for manifest, content, basis in versions:
            store.add(manifest, content, basis=basis)


def add_one(path: Path, version: Version) -> None:
    """Add a version."""
    manifest, content, basis = version
    Store(path).add(manifest, content, basis=basis)


def collect_all(path: Path) -> None:
    """Remove what nothing needs."""
    collect(Store(path))


def make(path: Path) -> None:
    """Make a store."""
    Store(path, is_new=True)


def dying(action: Callable[..., None], words: tuple[Any, ...], num_steps: int, is_after: bool) -> None:
    """Do something and die by SIGKILL before or after a step of it; end with status 0 where it has fewer steps."""
    left = num_steps

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and not is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return step(*args, **named)
            finally:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return run

    for name in STEPS:
        setattr(os, name, watched(getattr(os, name)))
    action(*words)

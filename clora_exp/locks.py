"""One writer a folder: a lock that ends with its process, and a note that says who holds it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from clora_exp.errors import RunError
from clora_exp.files import write_atomically

LOCK, HOLDER = ".lock", ".holder.json"
PATIENCE_S = 15.0  # for the children of a holder that was killed: they see it within seconds, and end


@contextmanager
def held(folder: Path, command: str) -> Iterator[None]:
    """Hold a folder that exists while the block runs; `command` is what to tell others.

    Raises:
        RunError: another process holds it, with which and since when.
        OSError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait_for_the_dying(lock, folder)
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "command": command}
        write_atomically(folder / HOLDER, json.dumps(me).encode())
        yield
    finally:
        for name in (HOLDER, LOCK):  # filelock looks whether the file it has locked is still the one that lies there
            (folder / name).unlink(missing_ok=True)
        lock.release()


def _wait_for_the_dying(lock: FileLock, folder: Path) -> None:
    """Take the lock over from the children of a holder that is gone."""
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        holder = {key: found[key] for key in ("pid", "host", "since", "command")}
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or damaged
        holder = {}
    is_gone = holder.get("host") == socket.gethostname() and not psutil.pid_exists(holder.get("pid", 0))
    try:
        lock.acquire(timeout=PATIENCE_S if is_gone or not holder else 0)
    except Timeout as error:
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
        what = f" ({holder['command']})" if holder else ""
        raise RunError(f"{folder}: {who}{what} is writing it; wait for it, or stop it") from error

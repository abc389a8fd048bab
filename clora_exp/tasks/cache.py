"""Prepared tasks on disk, keyed by everything that decides them.

The key is a hash of the source's code and the code it splits with, its Config, the data seed and the content
fingerprint of its raw material, so a cached task is never stale and needs no invalidation. Plain JSON, written
atomically; a file that cannot be read is prepared again.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import platformdirs

from clora_exp.errors import DataError
from clora_exp.files import write_atomically

if TYPE_CHECKING:
    from clora_exp.tasks.stream import Preparing, Task


def cache_dir() -> Path:
    """Return the folder of everything that can be made again: $CLORA_EXP_CACHE, or the user's cache folder."""
    return Path(os.environ.get("CLORA_EXP_CACHE") or platformdirs.user_cache_path("clora-exp"))


def store(path: Path, content: bytes) -> None:
    """Write a file of the cache.

    Raises:
        DataError: the cache cannot be written, with the variable that names another.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise DataError(f"CLORA_EXP_CACHE={cache_dir()}: cannot be written: {error.strerror}") from error


def load_or_prepare(source: ModuleType, config: Any, data_seed: int, preparing: "Preparing") -> list["Task"]:
    """Return the tasks of `source` under `config`, prepared once, inside `preparing(name)`, and read back later."""
    from clora_exp.tasks.stream import SPLITS, Example, Task

    path = cache_dir() / "tasks" / f"{_key(source, config, data_seed)}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["sha256"] != _digest(stored["tasks"]):
            raise ValueError("hash differs")
        return [
            Task(**{**task, **{split: [Example(**row) for row in task[split]] for split in SPLITS}})
            for task in stored["tasks"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        with preparing(source.__name__.rpartition(".")[2]):
            tasks = source.tasks(config, data_seed)
        rows = [dataclasses.asdict(task) for task in tasks]
        store(path, json.dumps({"sha256": _digest(rows), "tasks": rows}, ensure_ascii=False).encode())
        return tasks


def _key(source: ModuleType, config: Any, data_seed: int) -> str:
    from clora_exp.tasks import split

    code = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in (source, split)]
    parts = [source.__name__, *code, dataclasses.asdict(config), data_seed, source.fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _digest(rows: Any) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, sort_keys=True).encode()).hexdigest()

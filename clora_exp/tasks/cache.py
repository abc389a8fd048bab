"""Prepared tasks on disk, keyed by everything that decides them.

The key is a hash of the source's code and of the modules beside it that it uses, its Config, the data seed and the
content fingerprint of its raw material, so a cached task is never stale and needs no invalidation. JSON Lines under a
hash, written atomically; a file that cannot be read, or whose images have gone, is prepared again.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator
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
        where = f"CLORA_EXP_CACHE={cache_dir()}: cannot be written: {error.strerror}"
        raise DataError(f"{where}, {error.filename}; the same command goes on when this is mended") from error


def load_or_prepare(source: ModuleType, config: Any, data_seed: int, preparing: "Preparing") -> list["Task"]:
    """Return the tasks of `source` under `config`, prepared once, inside `preparing(name)`, and read back later."""
    path = cache_dir() / "tasks" / f"{_key(source, config, data_seed)}.jsonl"
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError, DataError):
        with preparing(source.__name__.rpartition(".")[2]):
            tasks = source.tasks(config, data_seed)
        content = b"".join(_lines(tasks))
        store(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        return tasks


def _lines(tasks: list["Task"]) -> Iterator[bytes]:
    """Yield a line a task, with the sizes of its splits, and then one an example."""
    from clora_exp.tasks.stream import SPLITS

    for task in tasks:
        fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
        yield _line({**fields, **{split: len(fields[split]) for split in SPLITS}})
        yield from (_line(list(vars(example).values())) for split in SPLITS for example in fields[split])


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _read(path: Path) -> list["Task"]:
    """Return the tasks of a file, read line by line.

    Raises:
        OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError, DataError: it is not there, damaged, or
            an image has gone.
    """
    from clora_exp.tasks.stream import SPLITS, Example, Task

    tasks = []
    with path.open("rb") as file:
        digest = file.readline().decode().strip()
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError("hash differs")
        file.seek(len(digest) + 1)
        for head in file:
            fields = json.loads(head)
            for split in SPLITS:
                fields[split] = [Example(*json.loads(next(file))) for _ in range(fields[split])]
                if not all(example.image_is_there for example in fields[split]):
                    raise ValueError("an image has gone")
            tasks.append(Task(**fields))
    return tasks


def _key(source: ModuleType, config: Any, data_seed: int) -> str:
    code = [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _modules(source)]
    parts = [source.__name__, *code, dataclasses.asdict(config), data_seed, source.fingerprint(config)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _modules(source: ModuleType) -> list[ModuleType]:
    """Return the source and the modules of this package that it takes something from, and they in turn."""
    found = {source.__name__: source}
    waiting = [source]
    while waiting:
        for value in list(vars(waiting.pop()).values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if name not in found and str(name).startswith("clora_exp.tasks."):
                found[str(name)] = sys.modules[str(name)]
                waiting.append(found[str(name)])
    return [found[name] for name in sorted(found)]

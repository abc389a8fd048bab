"""What `list` shows of every version, kept in one file: reading a thousand folders each time would take too long.

The folder is the truth. A task's entry holds the stamp of its aliases, which every change of the task renews; where the
stamp is another, the task is read again. So the index may be old, damaged or gone, and the list is right.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from clora_exp.errors import StoreError
from clora_exp.files import write_atomically
from clora_exp.store.aliases import NAME, Aliases
from clora_exp.store.folder import TASK, Store
from clora_exp.store.manifest import MANIFEST, SUMS, WEIGHTS

INDEX, FORMAT = "index.json", 1


@dataclass(frozen=True)
class Row:
    """One version in a list."""

    task: str
    version: str
    id: str
    method: str
    rank: int
    num_bytes: int  # of its files
    accuracy: float | None
    created: str
    base: str
    aliases: list[str]
    problem: str = ""  # why it cannot be read


def listing(store: Store, *, is_new: bool = False) -> list[Row]:
    """Return every version of every task, by task and age; with `is_new` the index is not believed.

    Raises:
        StoreError: aliases cannot be read.
    """
    before = {} if is_new else _read(store)
    entries: dict[str, dict[str, Any]] = {}
    for entry in os.scandir(store.path / "tasks"):
        if not TASK.fullmatch(entry.name) or entry.is_file():
            continue
        stamp = _stamp(entry)
        known = before.get(entry.name, {})
        rows = known["rows"] if stamp is not None and known.get("stamp") == stamp else _rows(store, entry.name)
        entries[entry.name] = {"stamp": stamp, "rows": rows}
    if entries != before:
        with suppress(OSError, StoreError):  # a store that can only be read has no index of its own
            _write(store, entries)
    return [Row(**row) for name in sorted(entries) for row in entries[name]["rows"]]


def _stamp(entry: "os.DirEntry[str]") -> list[int] | None:
    try:
        found, folder = os.stat(os.path.join(entry.path, NAME)), os.stat(entry.path)
    except OSError:
        return None
    # a replaced file is another inode; a version that comes or goes changes the folder
    return [found.st_mtime_ns, found.st_ino, found.st_size, folder.st_mtime_ns]


def _rows(store: Store, task: str) -> list[dict[str, Any]]:
    aliases: Aliases = store.aliases(task)
    by_version: dict[str, list[str]] = {}
    for name, target in aliases.targets.items():
        by_version.setdefault(target.version, []).append(name)
    return [asdict(_row(store, task, version, by_version.get(version, []))) for version in store.versions(task)]


def _row(store: Store, task: str, version: str, aliases: list[str]) -> Row:
    try:
        target, manifest = store.look_up(task, version)
    except StoreError as error:
        return Row(task, version, "", "", 0, 0, None, "", "", sorted(aliases), str(error))
    folder = store.folder(task) / version
    num_bytes = sum((folder / name).stat().st_size for name in (MANIFEST, SUMS)) + manifest.weights.num_bytes
    return Row(
        task,
        version,
        target.id,
        str(manifest.method.get("name", "")),
        manifest.weights.rank,
        num_bytes if (folder / WEIGHTS).exists() else 0,
        manifest.metrics.get("accuracy"),
        manifest.created,
        manifest.base.name,
        sorted(aliases),
        "" if (folder / WEIGHTS).exists() else f"{WEIGHTS} is missing",
    )


def _read(store: Store) -> dict[str, Any]:
    try:
        found = json.loads((store.path / INDEX).read_bytes())
        tasks = found["tasks"]
        if found["sha256"] != _sha256(tasks):
            return {}
        if found["format"] != FORMAT or not all(Row(**row) for entry in tasks.values() for row in entry["rows"]):
            return {}
        return dict(tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(store: Store, entries: dict[str, Any]) -> None:
    found = {"format": FORMAT, "sha256": _sha256(entries), "tasks": entries}
    write_atomically(store.path / INDEX, json.dumps(found, separators=(",", ":"), sort_keys=True).encode())


def _sha256(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()

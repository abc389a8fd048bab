"""The store: a folder of immutable versions a task, with aliases that move in one step. What lies where:

    store.json                       format
    tasks/<task>/v1/manifest.json    what the version is; its SHA-256 is the version's id
    tasks/<task>/v1/adapter.clora    its tensors, see container.py
    tasks/<task>/v1/SHA256SUMS       of both, for `sha256sum --check`
    tasks/<task>/aliases.json        current, previous, best
    bases/<sha256>.clora             fixed factors that the versions of several tasks share
    index.json                       what `list` shows; made again from the rest whenever it is not true

Writers hold a lock; readers need none: a version never changes, and is there as a whole or not at all. What is read is
hashed, and it is those bytes that are used. Names come from outside: they are checked, and no link is followed.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from clora_exp.errors import StoreError, unknown
from clora_exp.files import folder_written_atomically, place_of, remove_unfinished, write_atomically
from clora_exp.store.aliases import ALIASES, Aliases, Target
from clora_exp.store.manifest import MANIFEST, SHA256, SUMS, VERSION, WEIGHTS, Manifest, number_of, read_manifest

if TYPE_CHECKING:  # a list, a promotion, a rollback read no tensors: without torch they are there at once
    from torch import Tensor

FORMAT = 1
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
RESERVED = ("auto", "unknown")  # in place of a task, and of no task: see inference/identification.py
MOST_PARENTS = 8  # above each other
MOST_BYTES = 1 << 30  # of a file; a larger one is not read
PATIENCE_S = 60.0  # for another writer: the longest write is a large adapter's


@dataclass(frozen=True)
class Stored:
    """A version as it was read: every byte of it has been hashed."""

    manifest: Manifest
    id: str
    tensors: "dict[str, Tensor]"  # float32, as manifest.weights.layers names them, and head.weight, head.bias

    @property
    def label(self) -> str:
        """Return task@version."""
        return f"{self.manifest.task}@{self.manifest.version}"


class Store:
    """A folder of versions."""

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        """Open a store; with `is_new` make it where there is none.

        Raises:
            StoreError: there is none, or one of another format, or it cannot be made.
        """
        self.path = path
        try:
            if is_new and not (path / "store.json").exists():
                path.mkdir(parents=True, exist_ok=True)
                is_other = any(not found.name.startswith(".") and not _is_begun(found) for found in path.iterdir())
                if is_other and not (path / "store.json").exists():  # another process may have made it meanwhile
                    raise StoreError(f"{path} holds files and is no store; name a folder that is empty or new")
                for name in ("tasks", "bases"):
                    (path / name).mkdir(exist_ok=True)
                write_atomically(path / "store.json", json.dumps({"format": FORMAT}).encode() + b"\n")
            found = json.loads((path / "store.json").read_bytes())
            if found["format"] != FORMAT:
                raise StoreError(f"{path} is a store of format {found['format']}; this version reads {FORMAT}")
            for name in ("tasks", "bases"):
                if (path / name).is_symlink():
                    raise StoreError(f"{path / name} is a link; a store holds its versions itself")
                if not (path / name).exists():  # git and many archives keep no empty folder
                    (path / name).mkdir()
        except FileNotFoundError as error:
            raise StoreError(f"{path} is no store: there is no store.json in it") from error
        except OSError as error:
            raise StoreError(f"{place_of(error, path)}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path}/store.json cannot be read: {error}") from error

    def tasks(self) -> list[str]:
        """Return the names of the tasks, sorted.

        Raises:
            StoreError: the store is gone.
        """
        try:
            found = list(os.scandir(self.path / "tasks"))
        except OSError as error:
            raise StoreError(place_of(error, self.path)) from error
        return sorted(entry.name for entry in found if TASK.fullmatch(entry.name) and not entry.is_file())

    def versions(self, task: str) -> list[str]:
        """Return a task's versions, oldest first.

        Raises:
            StoreError: there is no such task.
        """
        names = [entry.name for entry in os.scandir(self.folder(task)) if VERSION.fullmatch(entry.name)]
        return sorted(names, key=number_of)

    def aliases(self, task: str) -> Aliases:
        """Return a task's aliases.

        Raises:
            StoreError: there is no such task, or they cannot be read.
        """
        return Aliases.read(self.folder(task))

    def folder(self, task: str) -> Path:
        """Return where a task's versions lie.

        Raises:
            StoreError: there is no such task, or its name or its folder leads elsewhere.
        """
        folder = self._place(task)
        if folder.is_symlink() or not folder.is_dir():
            raise StoreError(f"{self.path}: " + unknown("task", task, self.tasks()))
        return folder

    def _place(self, task: str) -> Path:
        if not isinstance(task, str) or not TASK.fullmatch(task) or task in RESERVED:
            raise StoreError(
                f"task {task!r}: names have up to 100 letters, digits, _ . and -, a letter or digit "
                f"first; {' and '.join(RESERVED)} mean something else"
            )
        return self.path / "tasks" / task

    def resolve(self, task: str, which: str = "current") -> Target:
        """Return the version that an alias, a name like v3, or an id of at least 8 digits means.

        Raises:
            StoreError: there is none.
        """
        return self._meant(task, which)[0]

    def _meant(self, task: str, which: str) -> tuple[Target, Manifest | None]:
        """Return what `resolve` does, and the manifest where it had to be read."""
        aliases = self.aliases(task)
        if which in aliases.targets:
            return aliases.targets[which], None
        if which in ALIASES:
            raise StoreError(f"task {task!r} has no {which} version; have: {', '.join(self.versions(task)) or 'none'}")
        versions = self.versions(task)
        if which in versions:
            manifest, found = self._manifest(task, which)
            return Target(which, found), manifest
        if re.fullmatch(r"[0-9a-f]{8,64}", which):
            for version in versions:
                try:
                    manifest, found = self._manifest(task, version)
                except StoreError:  # damaged; another may be meant
                    continue
                if found.startswith(which):
                    return Target(version, found), manifest
        raise StoreError(f"task {task!r}: " + unknown("version", which, [*aliases.targets, *versions]))

    def look_up(self, task: str, which: str | Target) -> tuple[Target, Manifest]:
        """Return which version is meant, and its manifest, which is read once.

        Raises:
            StoreError: there is none, or it is damaged or another than was meant.
        """
        target, manifest = (which, None) if isinstance(which, Target) else self._meant(task, which)
        return target, manifest or self._checked_manifest(task, target)

    def manifest(self, task: str, which: str | Target = "current") -> Manifest:
        """Return what a version says of itself.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        return self.look_up(task, which)[1]

    def checked(self, task: str, version: str) -> Manifest:
        """Return the manifest of a version by its name, without looking at aliases.

        Raises:
            StoreError: it is damaged.
        """
        return self._manifest(task, version)[0]

    def read(self, task: str, which: str | Target = "current") -> Stored:
        """Return a version with its tensors, hashed and strictly checked.

        Raises:
            StoreError: there is none, or anything of it is damaged, missing, left over, NaN or too large.
        """
        from clora_exp.store.opening import opened

        target, manifest = self.look_up(task, which)
        try:
            content = _bytes_of(self.folder(task) / target.version / WEIGHTS)
        except FileNotFoundError as error:  # collected meanwhile
            raise StoreError(f"{task}@{target.version}: {error.filename} is gone") from error
        except OSError as error:
            raise StoreError(f"{task}@{target.version}: {place_of(error, self.path)}") from error
        return Stored(manifest, target.id, opened(manifest, content))

    def basis(self, sha256: str) -> "dict[str, Tensor]":
        """Return fixed factors that versions share: "A/<module>" (r, in) and "B/<module>" (out, r).

        Raises:
            StoreError: they are not there, or damaged.
        """
        from clora_exp.store.container import unpack

        if not SHA256.fullmatch(sha256):
            raise StoreError(f"{sha256!r} is no SHA-256")
        try:
            content = _bytes_of(self.path / "bases" / f"{sha256}.clora")
        except FileNotFoundError as error:
            raise StoreError(f"{self.path}: the basis {sha256[:12]} is missing") from error
        except OSError as error:
            raise StoreError(place_of(error, self.path)) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(f"{self.path}: the basis {sha256[:12]} has changed since it was written")
        return unpack(content)

    def _checked_manifest(self, task: str, target: Target) -> Manifest:
        manifest, found = self._manifest(task, target.version)
        if found != target.id:
            raise StoreError(
                f"{task}@{target.version}: its id is {found[:12]}, and {target.id[:12]} was stored: it has changed"
            )
        return manifest

    def _manifest(self, task: str, version: str) -> tuple[Manifest, str]:
        folder = self.folder(task) / version
        try:
            content = _bytes_of(folder / MANIFEST)
            listed = _bytes_of(folder / SUMS).decode().splitlines()
            found = hashlib.sha256(content).hexdigest()
            if f"{found}  {MANIFEST}" not in listed:
                raise StoreError(f"{MANIFEST} has changed since it was written, by {SUMS}")
            manifest = read_manifest(content)
            if (manifest.task, manifest.version) != (task, version):
                raise StoreError(f"its manifest is of {manifest.task}@{manifest.version}")
        except StoreError as error:
            raise StoreError(f"{task}@{version}: {error}") from error
        except (OSError, ValueError) as error:
            raise StoreError(f"{task}@{version} cannot be read: {error}") from error
        return manifest, found

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer while the block runs.

        Raises:
            StoreError: another process writes for too long, or the store cannot be written.
        """
        try:
            with FileLock(self.path / ".lock", timeout=PATIENCE_S):
                yield
        except Timeout as error:
            raise StoreError(f"{self.path}: another process has been writing for {PATIENCE_S:.0f} s") from error
        except OSError as error:
            raise StoreError(place_of(error, self.path)) from error

    def add(self, manifest: Manifest, content: bytes, *, basis: bytes | None = None, promote: bool = True) -> Manifest:
        """Write a new version, whole or not at all, and return its manifest; `version` is given here.

        Args:
            manifest: with any version; its `weights` are of `content`.
            content: of adapter.clora, see container.py.
            basis: the file that `weights.basis_sha256` is of, where the store may not have it.
            promote: make it the current version; a task's first one is in any case.

        Raises:
            StoreError: content and manifest do not fit each other, or the store cannot be written.
        """
        from clora_exp.store.opening import opened

        try:
            read_manifest(replace(manifest, version="v1").to_bytes())
        except ValueError as error:
            raise StoreError(f"{manifest.task}: a manifest that cannot be written: {error}") from error
        opened(manifest, content)
        with self.writing():
            folder = self._place(manifest.task)
            if folder.is_symlink():
                raise StoreError(f"{folder} is a link; a store holds its versions itself")
            self._check_parents(manifest)
            self._keep_basis(manifest.weights.basis_sha256, basis)
            folder.mkdir(exist_ok=True)
            aliases = Aliases.read(folder)
            number = max([aliases.next_number - 1, *map(number_of, self.versions(manifest.task))]) + 1
            manifest = replace(manifest, version=f"v{number}")
            is_better = self._is_better(manifest, aliases)
            with folder_written_atomically(folder / manifest.version) as new:
                sums = {MANIFEST: manifest.to_bytes(), WEIGHTS: content}
                for name, written in sums.items():
                    write_atomically(new / name, written)
                lines = "".join(f"{hashlib.sha256(written).hexdigest()}  {name}\n" for name, written in sums.items())
                write_atomically(new / SUMS, lines.encode())
            target = Target(manifest.version, manifest.id)
            moved = aliases.promoted(target) if promote or "current" not in aliases.targets else aliases
            if is_better:
                moved = moved.pointing(best=target)
            replace(moved, next_number=number + 1).write(folder)
        return manifest

    def _check_parents(self, manifest: Manifest) -> None:
        """Look whether a manifest's parent, and that one's, and so on, are here and not too many."""
        at = manifest
        for _ in range(MOST_PARENTS):
            if at.parent is None:
                return
            at = self._checked_manifest(at.parent.task, self.resolve(at.parent.task, at.parent.id))
        if at.parent is not None:
            raise StoreError(f"{manifest.task}: more than {MOST_PARENTS} parents above each other")

    def _is_better(self, manifest: Manifest, aliases: Aliases) -> bool:
        """Tell whether a new version has the highest accuracy of its task."""
        best = aliases.targets.get("best")
        accuracy = manifest.metrics.get("accuracy", -1.0)
        return best is None or accuracy > self._checked_manifest(manifest.task, best).metrics.get("accuracy", -1.0)

    def _keep_basis(self, sha256: str | None, content: bytes | None) -> None:
        if sha256 is None:
            return
        path = self.path / "bases" / f"{sha256}.clora"
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            self.basis(sha256)
        elif not path.exists() or path.is_symlink() or path.read_bytes() != content:
            write_atomically(path, content)

    def promote(self, task: str, which: str) -> Target:
        """Make a version the current one; the one before becomes previous.

        Raises:
            StoreError: there is no such version, or it is damaged.
        """
        with self.writing():
            target = self.resolve(task, which)
            self._checked_manifest(task, target)
            self.aliases(task).promoted(target).write(self.folder(task))
        return target

    def rollback(self, task: str) -> Target:
        """Make the previous version the current one again, and the current one previous.

        Raises:
            StoreError: there is no previous version, or it is damaged.
        """
        with self.writing():
            back = self.aliases(task).rolled_back(task)
            target = back.targets["current"]
            self._checked_manifest(task, target)
            back.write(self.folder(task))
        return target

    def tidy(self) -> None:
        """Remove what writers left that were killed."""
        with self.writing():
            for path in self.path.glob(".*.json.????????"):
                path.unlink(missing_ok=True)
            remove_unfinished(self.path / "tasks")
            remove_unfinished(self.path / "bases")

    def remove(self, task: str, version: str) -> None:
        """Remove a version's folder; the caller holds the lock and has asked whether anything needs it."""
        aliases = self.aliases(task)  # written again: the list looks at their stamp, and no number is given twice
        replace(aliases, next_number=max(aliases.next_number, number_of(version) + 1)).write(self.folder(task))
        aside = self.folder(task) / f".{version}.removed_"
        os.replace(self.folder(task) / version, aside)  # it is gone in one step, then its files are
        shutil.rmtree(aside)


def _is_begun(found: Path) -> bool:
    """Tell whether it is an empty folder that a store has."""
    return found.name in ("tasks", "bases") and found.is_dir() and not any(found.iterdir())


def _bytes_of(path: Path) -> bytes:
    """Read a file of the store, not a link to another."""
    if path.is_symlink() or path.parent.is_symlink():
        raise StoreError(f"{path} is a link; a store holds its files itself")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise StoreError(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are read")
    return path.read_bytes()

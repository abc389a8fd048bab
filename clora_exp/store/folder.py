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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from clora_exp.errors import StoreError, unknown
from clora_exp.files import folder_written_atomically, place_of, remove_unfinished, write_atomically
from clora_exp.store.aliases import ALIASES, Aliases, Target
from clora_exp.store.container import unpack
from clora_exp.store.encoding import Encoding, decode
from clora_exp.store.manifest import SHA256, VERSION, Manifest, number_of, read_manifest

FORMAT = 1
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
RESERVED = ("auto", "unknown")  # in place of a task, and of no task: see inference/identification.py
MANIFEST, WEIGHTS, SUMS = "manifest.json", "adapter.clora", "SHA256SUMS"
PATIENCE_S = 60.0  # for another writer: the longest write is a large adapter's


@dataclass(frozen=True)
class Stored:
    """A version as it was read: every byte of it has been hashed."""

    manifest: Manifest
    id: str
    tensors: dict[str, Tensor]  # float32, as manifest.weights.layers names them, and head.weight, head.bias

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
                if any(found for found in path.iterdir() if not found.name.startswith(".")):
                    raise StoreError(f"{path} holds files and is no store; name a folder that is empty or new")
                for name in ("tasks", "bases"):
                    (path / name).mkdir(exist_ok=True)
                write_atomically(path / "store.json", json.dumps({"format": FORMAT}).encode() + b"\n")
            found = json.loads((path / "store.json").read_bytes())
            if found["format"] != FORMAT:
                raise StoreError(f"{path} is a store of format {found['format']}; this version reads {FORMAT}")
        except FileNotFoundError as error:
            raise StoreError(f"{path} is no store: there is no store.json in it") from error
        except OSError as error:
            raise StoreError(f"{place_of(error, path)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}/store.json cannot be read: {error}") from error

    def tasks(self) -> list[str]:
        """Return the names of the tasks, sorted."""
        return sorted(entry.name for entry in os.scandir(self.path / "tasks") if TASK.fullmatch(entry.name))

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
        aliases = self.aliases(task)
        if which in aliases.targets:
            return aliases.targets[which]
        if which in ALIASES:
            raise StoreError(f"task {task!r} has no {which} version; have: {', '.join(self.versions(task)) or 'none'}")
        versions = self.versions(task)
        if which in versions:
            return Target(which, self._manifest(task, which)[1])
        if re.fullmatch(r"[0-9a-f]{8,64}", which):
            for version in versions:
                found = self._manifest(task, version)[1]
                if found.startswith(which):
                    return Target(version, found)
        raise StoreError(f"task {task!r}: " + unknown("version", which, [*aliases.targets, *versions]))

    def manifest(self, task: str, which: str = "current") -> Manifest:
        """Return what a version says of itself.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        target = self.resolve(task, which)
        return self._checked_manifest(task, target)

    def checked(self, task: str, version: str) -> Manifest:
        """Return the manifest of a version by its name, without looking at aliases.

        Raises:
            StoreError: it is damaged.
        """
        return self._manifest(task, version)[0]

    def read(self, task: str, which: str = "current") -> Stored:
        """Return a version with its tensors, hashed and strictly checked.

        Raises:
            StoreError: there is none, or anything of it is damaged, missing, left over, NaN or too large.
        """
        target = self.resolve(task, which)
        try:
            manifest = self._checked_manifest(task, target)
            content = _bytes_of(self.folder(task) / target.version / WEIGHTS)
        except FileNotFoundError as error:  # collected meanwhile
            raise StoreError(f"{task}@{target.version}: {error.filename} is gone") from error
        return Stored(manifest, target.id, opened(manifest, content))

    def basis(self, sha256: str) -> dict[str, Tensor]:
        """Return fixed factors that versions share: "A/<module>" (r, in) and "B/<module>" (out, r).

        Raises:
            StoreError: they are not there, or damaged.
        """
        if not SHA256.fullmatch(sha256):
            raise StoreError(f"{sha256!r} is no SHA-256")
        try:
            content = _bytes_of(self.path / "bases" / f"{sha256}.clora")
        except FileNotFoundError as error:
            raise StoreError(f"{self.path}: the basis {sha256[:12]} is missing") from error
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
            listed = (folder / SUMS).read_text(encoding="utf-8").splitlines()
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
        opened(manifest, content)
        with self.writing():
            folder = self._place(manifest.task)
            if folder.is_symlink():
                raise StoreError(f"{folder} is a link; a store holds its versions itself")
            if manifest.parent and self.resolve(manifest.parent.task, manifest.parent.id).id != manifest.parent.id:
                raise StoreError(f"its parent {manifest.parent.task}@{manifest.parent.version} is not in this store")
            folder.mkdir(exist_ok=True)
            aliases = Aliases.read(folder)
            number = max([aliases.next_number - 1, *map(number_of, self.versions(manifest.task))]) + 1
            manifest = replace(manifest, version=f"v{number}")
            self._keep_basis(manifest.weights.basis_sha256, basis)
            with folder_written_atomically(folder / manifest.version) as new:
                sums = {MANIFEST: manifest.to_bytes(), WEIGHTS: content}
                for name, written in sums.items():
                    write_atomically(new / name, written)
                lines = "".join(f"{hashlib.sha256(written).hexdigest()}  {name}\n" for name, written in sums.items())
                write_atomically(new / SUMS, lines.encode())
            target = Target(manifest.version, manifest.id)
            moved = aliases.promoted(target) if promote or "current" not in aliases.targets else aliases
            if self._is_better(manifest, aliases):
                moved = moved.pointing(best=target)
            replace(moved, next_number=number + 1).write(folder)
        return manifest

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
        elif not path.exists():
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
            remove_unfinished(self.path / "tasks")
            remove_unfinished(self.path / "bases")

    def remove(self, task: str, version: str) -> None:
        """Remove a version's folder; the caller holds the lock and has asked whether anything needs it."""
        aside = self.folder(task) / f".{version}.removed_"
        os.replace(self.folder(task) / version, aside)  # it is gone in one step, then its files are
        shutil.rmtree(aside)


def opened(manifest: Manifest, content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a version's file, in float32: these very bytes are hashed, unpacked and checked.

    Raises:
        StoreError: they are others than the manifest says, or hold anything that cannot be.
    """
    weights = manifest.weights
    where = f"{manifest.task}@{manifest.version}"
    found = hashlib.sha256(content).hexdigest()
    if found != weights.sha256 or len(content) != weights.num_bytes:
        raise StoreError(f"{where}: {WEIGHTS} has the SHA-256 {found[:12]}, and {weights.sha256[:12]} was stored")
    try:
        encodings = {name: Encoding.from_plain(name, plain) for name, plain in weights.encodings.items()}
        tensors = decode(unpack(content), encodings)
        _check_form(manifest, tensors)
    except StoreError as error:
        raise StoreError(f"{where}: {error}") from error
    return tensors


def _check_form(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Look whether the tensors are those of the manifest's form, rank and labels."""
    weights = manifest.weights
    parts = {"pairs": ("A", "B"), "routed": ("R",)}[weights.form]
    of_layers = {name for name in tensors if not name.startswith("head.")}
    if of_layers != weights.layers.keys() or not {name.split(".")[0] for name in of_layers} <= set(parts):
        raise StoreError(f"it holds the tensors {sorted(of_layers)}; the manifest names {sorted(weights.layers)}")
    modules = {
        part: [m for key, names in weights.layers.items() if key.split(".")[0] == part for m in names] for part in parts
    }
    if any(sorted(names) != sorted(modules[parts[0]]) or len(set(names)) < len(names) for names in modules.values()):
        raise StoreError("A and B are of different layers, or a layer stands there twice")
    for name in of_layers:
        shape, num_layers = tensors[name].shape, len(weights.layers[name])
        rank = {"A": 1, "B": 2, "R": 1}[name.split(".")[0]]
        if len(shape) != 3 or shape[0] != num_layers or shape[rank] != weights.rank:
            raise StoreError(f"tensor {name!r} is {tuple(shape)}, for {num_layers} layers of rank {weights.rank}")
    head = tensors.get("head.weight")
    if head is not None and (head.ndim != 2 or len(head) != len(manifest.labels)):
        raise StoreError(f"head.weight is {tuple(head.shape)}, for {len(manifest.labels)} labels")


def _bytes_of(path: Path) -> bytes:
    """Read a file of the store, not a link to another."""
    if path.is_symlink() or path.parent.is_symlink():
        raise StoreError(f"{path} is a link; a store holds its files itself")
    return path.read_bytes()

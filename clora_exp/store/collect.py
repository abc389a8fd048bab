"""What may go: versions that no alias names and no other needs, bases of no version, and what killed writers left."""

from dataclasses import dataclass
from pathlib import Path

from clora_exp.store.folder import Store
from clora_exp.store.manifest import Manifest


@dataclass(frozen=True)
class Garbage:
    """What a collection would remove, with its bytes."""

    versions: list[tuple[str, str, int]]  # task, version, bytes
    bases: list[tuple[str, int]]  # SHA-256, bytes

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return sum(size for *_, size in self.versions) + sum(size for _, size in self.bases)


def garbage(store: Store) -> Garbage:
    """Return what no alias means, nothing that stays has as its parent, and no version that stays has as its basis.

    Raises:
        StoreError: a version cannot be read, so that what it needs is not known; then nothing is removed.
    """
    manifests: dict[tuple[str, str], Manifest] = {}
    kept: list[tuple[str, str]] = []
    for task in store.tasks():
        for version in store.versions(task):
            manifests[task, version] = store.manifest(task, version)
        targets = store.aliases(task).targets
        if not targets:  # they were lost, and reindex makes them again
            kept += [(task, version) for version in store.versions(task)]
        kept += [(task, target.version) for target in targets.values()]
    needed: set[tuple[str, str]] = set()
    while kept:
        name = kept.pop()
        if name in manifests and name not in needed:
            needed.add(name)
            parent = manifests[name].parent
            kept += [(parent.task, parent.version)] if parent else []
    versions = [
        (*name, _size(store.folder(name[0]) / name[1])) for name in sorted(manifests.keys() - needed, key=_by_number)
    ]
    in_use = {manifests[name].weights.basis_sha256 for name in needed}
    files = sorted((store.path / "bases").glob("*.clora"))
    return Garbage(versions, [(file.stem, file.stat().st_size) for file in files if file.stem not in in_use])


def collect(store: Store) -> Garbage:
    """Remove what `garbage` names, and what killed writers left; return it."""
    store.tidy()
    with store.writing():
        found = garbage(store)
        for task, version, _ in found.versions:
            store.remove(task, version)
        for sha256, _ in found.bases:
            (store.path / "bases" / f"{sha256}.clora").unlink()
    return found


def _by_number(name: tuple[str, str]) -> tuple[str, int]:
    return name[0], int(name[1][1:])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

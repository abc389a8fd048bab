"""Every version of a store read and hashed as serving would, and aliases that mean nothing found."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from clora_exp.errors import StoreError
from clora_exp.store.aliases import Aliases, Target
from clora_exp.store.folder import Store
from clora_exp.store.manifest import number_of


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what is wrong with it, or nothing."""

    what: str
    problem: str = ""


def verify(store: Store, tasks: Iterable[str] | None = None) -> Iterator[Finding]:
    """Read every version, its basis and its parent, and every alias; yield one finding for each."""
    for task in store.tasks() if tasks is None else tasks:
        try:
            versions, aliases = store.versions(task), store.aliases(task)
        except StoreError as error:
            yield Finding(task, str(error))
            continue
        for version in versions:
            yield Finding(f"{task}@{version}", _problem(store, task, version).removeprefix(f"{task}@{version}: "))
        for name, target in sorted(aliases.targets.items()):
            yield Finding(f"{task}: {name} → {target.version}", _problem_of_alias(store, task, name, versions))


def _problem(store: Store, task: str, version: str) -> str:
    try:
        manifest = store.read(task, version).manifest
        if manifest.weights.basis_sha256:
            store.basis(manifest.weights.basis_sha256)
        if manifest.parent and store.resolve(manifest.parent.task, manifest.parent.version).id != manifest.parent.id:
            return f"its parent {manifest.parent.task}@{manifest.parent.version} is another than it was trained on"
    except StoreError as error:
        return str(error)
    return ""


def _problem_of_alias(store: Store, task: str, name: str, versions: list[str]) -> str:
    try:
        target = store.resolve(task, name)
        if target.version not in versions:
            return "the version is gone"
        store.manifest(task, name)
    except StoreError as error:
        return str(error)
    return ""


def repaired(store: Store) -> list[str]:
    """Make aliases again that cannot be read, of a task's versions: current is the newest, best the most accurate.

    Returns:
        The tasks that it was done for.
    """
    changed = []
    for task in store.tasks():
        if _has_aliases(store, task):
            continue
        with store.writing():
            if not _has_aliases(store, task):  # a writer may have been at it
                _aliases_again(store, task)
                changed.append(task)
    return changed


def _has_aliases(store: Store, task: str) -> bool:
    """Tell whether a task's aliases can be read and, where it has versions, mean any."""
    try:
        return bool(store.aliases(task).targets) or not store.versions(task)
    except StoreError:
        return False


def _aliases_again(store: Store, task: str) -> None:
    found: list[tuple[Target, float]] = []
    versions = store.versions(task)
    folder = store.folder(task)
    for version in versions:
        try:
            manifest = store.checked(task, version)
        except StoreError:
            continue
        found.append((Target(version, manifest.id), manifest.metrics.get("accuracy", -1.0)))
    aliases = Aliases(next_number=max(map(number_of, versions), default=0) + 1)
    for target, _ in found[-2:]:
        aliases = aliases.promoted(target)
    if found:
        best = max(found, key=lambda entry: entry[1])[0]
        aliases = aliases.pointing(best=best)
    aliases.write(folder)

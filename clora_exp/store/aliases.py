"""Which version a task's aliases mean: one small file a task, replaced in one step, so that a reader sees old or new.

An alias holds the version's id beside its name: what is read under `current` is the very version that was promoted.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from clora_exp.errors import StoreError
from clora_exp.files import write_atomically
from clora_exp.store.manifest import SHA256, VERSION

ALIASES = ("current", "previous", "best")
NAME = "aliases.json"


@dataclass(frozen=True)
class Target:
    """A version by name and id."""

    version: str
    id: str


@dataclass(frozen=True)
class Aliases:
    """Of one task; `next_number` is that of the next version: a number is never given twice."""

    targets: dict[str, Target] = field(default_factory=dict)
    next_number: int = 1

    def promoted(self, target: Target) -> "Aliases":
        """Return them with `target` as current, and what was current as previous."""
        now = self.targets.get("current")
        if now == target:
            return self
        return self.pointing(current=target, previous=now)

    def rolled_back(self, task: str) -> "Aliases":
        """Return them with current and previous exchanged.

        Raises:
            StoreError: there is no previous version.
        """
        if not {"previous", "current"} <= self.targets.keys():
            raise StoreError(f"task {task!r} has no previous version to go back to")
        return self.pointing(current=self.targets["previous"], previous=self.targets["current"])

    def pointing(self, **changes: Target | None) -> "Aliases":
        """Return them with some changed; None takes one away."""
        targets = {name: found for name, found in (self.targets | changes).items() if found is not None}
        return replace(self, targets=targets)

    def write(self, folder: Path) -> None:
        """Write them into a task's folder, atomically."""
        plain = {name: {"version": found.version, "id": found.id} for name, found in sorted(self.targets.items())}
        content = json.dumps({"aliases": plain, "next_number": self.next_number}, indent=1, sort_keys=True)
        write_atomically(folder / NAME, f"{content}\n".encode())

    @classmethod
    def read(cls, folder: Path) -> "Aliases":
        """Read them from a task's folder; of one that has none yet, none.

        Raises:
            StoreError: the file is damaged; `reindex` makes it again from the versions.
        """
        path = folder / NAME
        try:
            if path.is_symlink():
                raise StoreError("it is a link")
            plain = json.loads(path.read_bytes())
            targets = {name: Target(found["version"], found["id"]) for name, found in plain["aliases"].items()}
            next_number = plain["next_number"]
            is_known = targets.keys() <= set(ALIASES) and isinstance(next_number, int) and next_number >= 1
            if not is_known or not all(
                VERSION.fullmatch(x.version) and SHA256.fullmatch(x.id) for x in targets.values()
            ):
                raise ValueError(f"it holds {plain}")
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError) as error:
            raise StoreError(f"{path} cannot be read ({error}); reindex makes it again") from error
        return cls(targets, next_number)

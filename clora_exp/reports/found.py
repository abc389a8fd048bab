"""Every run below some folders: the finished ones, and apart from them those that are not, with their status."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from clora_exp.errors import RunError
from clora_exp.runs import status_of


@dataclass(frozen=True)
class Found:
    """A run directory, and what its STATUS says; `message` is the line after it, e.g. why it failed."""

    path: Path
    status: str
    message: str = ""


def find_runs(folders: Iterable[Path]) -> list[Found]:
    """Return every run directory at or below the folders, each once, sorted by path.

    Raises:
        RunError: a folder is not there, or no run is below any of them.
    """
    paths: dict[Path, Path] = {}  # resolved → as it was given
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder; runs are written to results_dir, results/runs by default")
        for config in sorted(folder.rglob("config.yaml")):
            paths.setdefault(config.parent.resolve(), config.parent)
    found = [_found(path) for path in sorted(paths.values()) if (path / "STATUS").exists()]
    if not found:
        raise RunError(
            f"no run below {', '.join(map(str, folders))} (a run directory has config.yaml and STATUS in it)"
        )
    return found


def _found(path: Path) -> Found:
    lines = (path / "STATUS").read_text(encoding="utf-8", errors="replace").splitlines()
    return Found(path, status_of(path) or "unknown", " ".join(lines[1:2]))


Item = TypeVar("Item")


def with_progress(items: Sequence[Item], doing: str) -> Iterable[Item]:
    """Yield the items; on a terminal a bar on standard error says how far it is, and the time left."""
    console = Console(stderr=True)
    return track(items, doing, console=console, transient=True, disable=not console.is_terminal)


def setting_of(path: Path) -> str:
    """Return the eight hex digits of a run directory's name that its setting's seeds share; else the whole name."""
    named = re.fullmatch(r"([0-9a-f]{8})-s\d+", path.name)
    return named[1] if named else path.name

"""What a case of bad input is, the place it is made in, and the kinds of damage. The cases: bad_*.py beside this.

A case gets a folder of its own and may copy what is ready into it: a tiny model, two small tasks, a finished run, one
of another seed, one that was interrupted in its second task. It does its damage there and returns the command.
"""

import ctypes
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Words = list[str]
COMMON = [
    "model=encoder",
    "model.text_encoder.max_length=16",
    "tasks=files",
    "trainer.accelerator=cpu",
    "trainer.epochs=2",
    "trainer.batch_size=8",
    "method=clora_xs",
    "method.rank=4",
    "report=false",
]
MOVES = (".lock", ".holder.json", "run.log", "STATUS")  # what a run says of itself may change
MOVES_UNFINISHED = (
    "environment.json",
    "command.txt",
    "config.yaml",
    "SHA256SUMS",
)  # and, of one that is not finished, what it runs on


class Skipped(Exception):  # noqa: N818  # it is no error
    """The case cannot be made here; the message says why."""


@dataclass(frozen=True)
class Place:
    """A case's own folder, and the ready things that it may copy."""

    folder: Path
    ready: Path

    def copy(self, what: str, of: str = "") -> Path:
        """Copy a ready folder, under its name or as another's `of`; once."""
        target = self.folder / what
        if not target.exists():
            shutil.copytree(self.ready / (of or what), target)
        return target

    def run(self, kind: str) -> Path:
        """Copy the results folder that holds one run, finished, other or cut; return the run directory."""
        return next(self.copy("runs", kind).rglob("config.yaml")).parent

    def run_py(self, *overrides: str, results: str = "runs") -> Words:
        """Return the run's command on this place's own model and data, copied where they are not there yet."""
        own = [f"model.path={self.copy('model')}", f"tasks.path={self.copy('data')}"]
        return ["run.py", *COMMON, *own, f"results_dir={self.folder / results}", *overrides]

    @property
    def is_finished(self) -> bool:
        """Whether the run here is one that was finished before it was damaged."""
        return not any(self.folder.glob("runs/**/checkpoint"))

    def again(self, kind: str, *overrides: str) -> Words:
        """Return the command that finds the run `kind` again."""
        self.run(kind)
        return self.run_py(f"seed={1 if kind == 'other' else 0}", *overrides)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every file that was here before the command and must be as it was after it."""
        may_move = MOVES + (() if (self.folder / "runs").exists() and self.is_finished else MOVES_UNFINISHED)
        found = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name not in may_move)
        return {str(path.relative_to(self.folder)): sha256(path) for path in found}


@dataclass(frozen=True)
class Case:
    """One malformed input. `make` does the damage and returns the command: run.py, or a module and its arguments."""

    subject: str
    name: str
    wrong: str  # what is wrong, in words
    make: Callable[[Place], Words]
    says: str = ""  # what the error, or the sentence about the repair, must hold
    is_repair: bool = False  # status 0, and the numbers of a run are those of the undamaged one


def of_overrides(subject: str, wrong: str, rows: Iterable[tuple[str, str]]) -> list[Case]:
    """Return a case for every (overrides, what the error must hold); an override may not hold a blank here."""
    cases = []
    for text, says in rows:
        words = text.split(" ") if "'" not in text else [text]
        cases.append(Case(subject, text or "(empty)", wrong, _of_words(words), says))
    return cases


def _of_words(words: Words) -> Callable[[Place], Words]:
    if words[0] == "-m":
        return lambda place: ["run.py", "-m", *place.run_py(*words[1:])[1:]]
    return lambda place: place.run_py(*words)


def sha256(path: Path) -> str:
    """Return a file's hash; "" of one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def truncated(path: Path) -> None:
    """Cut a file in the middle."""
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    """Flip one bit in the middle; in text the case of a letter or a digit, so that it stays text where it can."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    path.write_bytes(content)


def flipped_late(path: Path) -> None:
    """Flip one bit near the end, where a file of tensors has numbers."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x10
    path.write_bytes(content)


def emptied(path: Path) -> None:
    """Leave nothing of the content."""
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    """Put random bytes in its place."""
    path.write_bytes(bytes((i * 197 + 13) % 256 for i in range(4096)))


def missing(path: Path) -> None:
    """Remove it."""
    path.unlink()


def a_folder(path: Path) -> None:
    """Put a folder where the file was."""
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "one bit flipped": flipped,
    "one bit flipped near the end": flipped_late,
    "emptied": emptied,
    "random bytes": garbage,
    "missing": missing,
    "a folder in its place": a_folder,
}


def without_privileges() -> None:
    """Give up root's right to read and write whatever there is, so that permissions count."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version of the interface; this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if libc.capget(header, sets) == 0:
        for i in (0, 1):
            sets[i] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if libc.capset(header, sets) == 0:
            return
    raise Skipped(f"root may read everything, and cannot give that up here: {os.strerror(ctypes.get_errno())}")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file's value."""
    import json

    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(value) or value), encoding="utf-8")

"""SHA256SUMS, which says of every file of a run what it was when it was written: damage is found before it is believed.

The format is that of `sha256sum --check SHA256SUMS`. STATUS, run.log, the page and the figures are not in it: they can
be made again, or change. Runs that are older have none.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from clora_exp.errors import RunError
from clora_exp.files import write_atomically

NAME = "SHA256SUMS"


def keep_sums(folder: Path, paths: Iterable[Path]) -> None:
    """Enter files of a run, and of folders every file in them, as they are now."""
    try:
        sums = _read(folder)
    except (OSError, ValueError):
        sums = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        sums = {n: s for n, s in sums.items() if n != name and not n.startswith(f"{name}/")}
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            sums[file.relative_to(folder).as_posix()] = _sha256(file)
    lines = [f"{found}  {name}\n" for name, found in sorted(sums.items())]
    write_atomically(folder / NAME, "".join(lines).encode())


def check_sums(folder: Path, advice: str, within: str = "") -> None:
    """Look whether the files of a run, or of one folder in it, are as they were written.

    Raises:
        RunError: those that are not, one line each, and with `within` also where there are no sums of that folder.
    """
    if not within and not (folder / NAME).exists():
        return
    try:
        sums = _read(folder)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / NAME} cannot be read ({error}); {advice}") from error
    names = [name for name in sums if name.startswith(within)]
    if within and not names:
        raise RunError(f"{folder / within}: {NAME} lists no file of it; {advice}")
    problems = []
    for name in names:
        try:
            if _sha256(folder / name) != sums[name]:
                problems.append(f"{folder / name} has changed since it was written, by {NAME}; {advice}")
        except OSError as error:
            problems.append(f"{folder / name} cannot be read ({error.strerror}); {advice}")
    if problems:
        raise RunError("\n".join(problems))


def _read(folder: Path) -> dict[str, str]:
    sums = {}
    for line in (folder / NAME).read_text(encoding="utf-8").splitlines():
        found, _, name = line.partition("  ")
        if len(found) != 64 or not name:
            raise ValueError(f"{line[:80]!r} is no line of it")
        sums[name] = found
    if not sums:
        raise ValueError("it is empty")
    return sums


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""SHA256SUMS, which says of every file of a run what it was when it was written: damage is found before it is believed.

The format is that of `sha256sum --check SHA256SUMS`, with a comment that is the hash of the lines after it. STATUS,
run.log, the page and the figures are not in it: they can be made again, or change. Runs that are older have none.
"""

import hashlib
from collections.abc import Collection, Iterable
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
    write_atomically(folder / NAME, f"{_seal(lines)}{''.join(lines)}".encode())


def check_sums(folder: Path, advice: str, within: Collection[str] = ()) -> None:
    """Look whether the files of a run, or those whose names begin with one of `within`, are as they were written.

    Raises:
        RunError: those that are not, one line each; and where nothing begins with one of `within`.
    """
    if not within and not (folder / NAME).exists():
        return
    try:
        sums = _read(folder)
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / NAME} cannot be read ({error}); {advice}") from error
    names = [name for name in sums if not within or name.startswith(tuple(within))]
    problems = [
        f"{folder / start}: {NAME} lists no file of it; {advice}"
        for start in within
        if not any(name.startswith(start) for name in names)
    ]
    for name in names:
        try:
            if _sha256(folder / name) != sums[name]:
                problems.append(f"{folder / name} has changed since it was written, by {NAME}; {advice}")
        except OSError as error:
            problems.append(f"{folder / name} cannot be read ({error.strerror}); {advice}")
    if problems:
        raise RunError("\n".join(problems))


def _read(folder: Path) -> dict[str, str]:
    seal, *lines = (folder / NAME).read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    if seal != _seal(lines):
        raise ValueError("it has changed since it was written")
    return {name: found for found, _, name in (line.rstrip("\n").partition("  ") for line in lines)}


def _seal(lines: list[str]) -> str:
    return f"# {hashlib.sha256(''.join(lines).encode()).hexdigest()}\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

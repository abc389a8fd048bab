"""What a finished folder held when it was finished: SHA256SUMS, which `sha256sum -c SHA256SUMS` reads too."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from clora_exp.errors import RunError
from clora_exp.files import write_atomically

NAME = "SHA256SUMS"


def write_sums(folder: Path, paths: Iterable[Path]) -> None:
    """Write the SHA-256 of each file, by its name below the folder."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in sorted(paths)]
    write_atomically(folder / NAME, "".join(lines).encode())


def check_sums(folder: Path, start: str = "") -> None:
    """Look whether files are what they were: those below `start`, or those of the folder itself.

    A folder without sums is taken as it is.

    Raises:
        RunError: one of them was changed or is missing, or the sums cannot be read.
    """
    for name, sha256 in _sums(folder).items():
        path = folder / name
        if not (name.startswith(start) if start else "/" not in name):
            continue
        if not path.is_file():
            raise RunError(f"{path} is missing; it was there when the run ended. overwrite=true runs it again")
        if _sha256(path) != sha256:
            raise RunError(
                f"{path} is not what it was when the run ended: its SHA-256 is not the one in {NAME}; put it back, or "
                "overwrite=true runs it again"
            )


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / NAME} cannot be read: {error}") from error
    found = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not found or None in found:
        raise RunError(f"{folder / NAME} cannot be read: a line is no SHA-256 and a name")
    return {match[2]: match[1] for match in found if match is not None}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

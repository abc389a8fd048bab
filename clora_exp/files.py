"""Writing files so that a reader, or a crash, never sees half of one, and tables so that they read back."""

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def csv_text(table: Any) -> str:
    """Return a pandas table as CSV that reads back; where a cell has a carriage return every cell is quoted.

    Before Python 3.13 the csv module leaves such a cell bare, and a reader takes it for the end of a line.
    """
    text = table.to_csv(index=False, lineterminator="\n")
    return table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL) if "\r" in text else text


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, then replace: `path` holds the old content or the new, never a part.

    An OSError names `path`, also where the system names no file or a temporary one.
    """
    with _named(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def folder_written_atomically(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it takes the place of `path` when the block ends without an exception.

    A folder cannot replace a full one in one step, so an old one is moved aside first: a crash in between leaves none.
    An OSError names `path`.
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield temporary
            os.chmod(temporary, 0o755)  # nosec B103  # what mkdir gives; mkdtemp lets nobody else read
            if path.exists():
                aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
                os.replace(path, aside / "old")
                os.replace(temporary, path)
                shutil.rmtree(aside)
            else:
                os.replace(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def place_of(error: OSError, folder: Path) -> str:
    """Return where and why: "results/…/state.safetensors: No space left on device"."""
    return f"{error.filename or folder}: {error.strerror or error}"


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written anywhere below `folder`; nobody else may be writing there."""
    for path in sorted(folder.rglob(".*"), reverse=True):
        if re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name):  # as tempfile names them
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

"""The user's tables, CSV, JSON Lines and Parquet, read row by row, and what is wrong in them, with its line.

A file is streamed: nothing but the current row, or the current batch of Parquet, is held here. A line that cannot be
read goes to `Problems`, and reading goes on, so that one error tells how many more there are.
"""

import codecs
import csv
import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clora_exp.errors import DataError

SUFFIXES = (".csv", ".jsonl", ".parquet")
Row = tuple[int, dict[str, Any]]  # its line in the file, from 1, of Parquet its row; column → value

csv.field_size_limit(2**31 - 1)  # of a text; the default is 128 kB


class Problems:
    """What is wrong in one file: of each kind the first line, and how many more."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._word = "row" if file.lower().endswith(".parquet") else "line"
        self._found: dict[str, tuple[str, int]] = {}  # kind → the first's message, how many

    def add(self, kind: str, line: int, message: str) -> None:
        """Enter one problem; problems of one kind are counted together."""
        first, count = self._found.get(kind, (f"{self.file}, {self._word} {line}: {message}", 0))
        self._found[kind] = (first, count + 1)

    def check(self) -> None:
        """Raises DataError if there was any, one line a kind."""
        lines = [f"{first}{self._more(count - 1)}" for first, count in self._found.values()]
        if lines:
            raise DataError("\n".join(lines))

    def _more(self, count: int) -> str:
        return f" (and {count} more {self._word}{'s' if count > 1 else ''} like it)" if count else ""


def has_mark(path: Path) -> bool:
    """Tell whether a text begins with a byte order mark, which is left out as it is read."""
    with path.open("rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def columns(path: Path, file: str) -> list[str]:
    """Return the names of a table's columns, of JSON Lines those of its first object; [] where there is no row.

    Raises:
        DataError: it is no table of these formats.
    """
    if path.suffix.lower() == ".parquet":
        with _parquet(path, file) as table:
            return list(table.schema_arrow.names)
    return list(next(rows(path, Problems(file)), (0, {}))[1])


def rows(path: Path, problems: Problems, wanted: Collection[str | None] = ()) -> Iterator[Row]:
    """Yield every row that can be read, of Parquet only the columns `wanted`.

    Raises:
        DataError: it is no table of these formats.
    """
    match path.suffix.lower():
        case ".csv":
            yield from _csv_rows(path, problems)
        case ".jsonl":
            yield from _json_rows(path, problems)
        case ".parquet":
            yield from _parquet_rows(path, problems, wanted)
        case _:
            raise DataError(f"{problems.file}: no table; have: {', '.join(SUFFIXES)}")


def _lines(path: Path, problems: Problems) -> Iterator[str]:
    """Yield the lines; one that is no UTF-8 is empty, so that the count stays right."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line and not line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                problems.add("nul", number, f"no text: a NUL byte at {line.index(0) + 1}; save it as UTF-8")
                yield "\n"
                continue
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                problems.add("utf-8", number, f"no UTF-8: byte 0x{byte:02x} at {error.start + 1}; save it as UTF-8")
                yield "\n"


def _csv_rows(path: Path, problems: Problems) -> Iterator[Row]:
    reader = csv.reader(_lines(path, problems), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "unexpected end of data" in str(error)
            what = "a quote is opened and never closed" if unclosed else str(error)
            problems.add("csv", line, f"no CSV: {what}")
            continue
        if not fields:
            if not header:
                problems.check()  # the header itself cannot be read
            continue
        if not header:
            header = fields
            twice = next((name for name, count in Counter(header).items() if count > 1), None)
            if twice is not None:
                raise DataError(f"{problems.file}: two columns are called {twice!r}")
        elif len(fields) != len(header):
            problems.add("fields", line, f"no CSV: {len(header)} fields wanted, as in the header, not {len(fields)}")
        else:
            yield line, dict(zip(header, fields, strict=True))


def _json_rows(path: Path, problems: Problems) -> Iterator[Row]:
    for line, text in enumerate(_lines(path, problems), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text, object_pairs_hook=_once)
        except KeyError as error:
            problems.add("twice", line, f"key {error.args[0]!r} stands in it twice")
            continue
        except json.JSONDecodeError as error:
            problems.add(
                "json",
                line,
                f"no JSON: {error.msg.removesuffix(' at')} at column {error.colno}; each line is one object",
            )
            continue
        except (ValueError, RecursionError) as error:
            what = "too deep" if isinstance(error, RecursionError) else "a number has thousands of digits"
            problems.add("json", line, f"no JSON: {what}; each line is one object")
            continue
        if "\\u" in text and not _is_unicode(row):
            problems.add("unicode", line, "no Unicode: half a surrogate pair, \\ud800 to \\udfff")
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            problems.add("object", line, "no JSON object; each line is one object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of its pairs; a KeyError where a key stands twice, which JSON leaves open."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise KeyError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return found


def _is_unicode(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet_rows(path: Path, problems: Problems, wanted: Collection[str | None]) -> Iterator[Row]:
    number = 0
    with _parquet(path, problems.file) as table:
        for batch in table.iter_batches(columns=[name for name in table.schema_arrow.names if name in wanted]):
            for values in batch.to_pylist():
                number += 1
                yield number, values


@contextmanager
def _parquet(path: Path, file: str) -> Iterator[Any]:
    """Yield the file, open; what is wrong in its bytes may show at any use of it.

    Raises:
        DataError: it is no Parquet file, or pyarrow is not there.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"{file}: Parquet needs pyarrow; run: pip install -e '.[hub]' -c constraints.txt, "
            "or save it as CSV or JSON Lines"
        ) from None
    try:
        with ParquetFile(path) as table:
            yield table
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: of text that is no UTF-8
        raise DataError(f"{file}: no Parquet file: {str(error).splitlines()[0]}") from error

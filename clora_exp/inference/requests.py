"""What stands on the command line or comes through a pipe, as requests: lines of text, or one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clora_exp.errors import DataError
from clora_exp.inference.engine import Request

KEYS = ("text", "task", "version", "id")


@dataclass(frozen=True)
class Line:
    """A request, and what its answer is to be known by."""

    request: Request
    id: Any = None


def read_lines(lines: Iterable[str], task: str, version: str) -> Iterator[Line]:
    """Yield requests; a line that begins as an object is JSON with `text`, and if need be `task`, `version`, `id`.

    Raises:
        DataError: a line that cannot be read; the message names it.
    """
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        yield _of_object(line, number, task, version) if line.startswith("{") else Line(Request(task, line, version))


def _of_object(line: str, number: int, task: str, version: str) -> Line:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} begins as a JSON object and is none: {error}") from error
    if strange := sorted(found.keys() - set(KEYS)):
        raise DataError(f"line {number}: unknown key {strange[0]!r}; have: {', '.join(KEYS)}")
    if "text" not in found:
        raise DataError(f"line {number}: no text in it")
    for key in ("text", "task", "version"):
        if not isinstance(found.get(key, ""), str):
            raise DataError(f"line {number}: {key}={found[key]!r} is no string")
    return Line(Request(found.get("task", task), found["text"], found.get("version", version)), found.get("id"))

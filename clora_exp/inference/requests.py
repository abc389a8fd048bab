"""What stands on the command line or comes through a pipe, as requests: lines of text, or one JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from clora_exp.inference.engine import Request

KEYS = ("text", "task", "version", "id")


@dataclass(frozen=True)
class Line:
    """A request, and what its answer is to be known by; or why it is none."""

    request: Request
    id: Any = None
    problem: str = ""


def read_lines(lines: Iterable[str], task: str, version: str) -> Iterator[Line]:
    """Yield a request a line; one that begins as an object is JSON with `text`, maybe `task`, `version`, `id`."""
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n").removeprefix("\ufeff") if number == 1 else line.rstrip("\r\n")
        if text.lstrip().startswith("{"):
            found = _of_object(text, task, version)
        else:
            found = Line(Request(task, text, version), problem="" if text.strip() else "no text in it")
        yield replace(found, problem=f"line {number}: {found.problem}") if found.problem else found


def _of_object(line: str, task: str, version: str) -> Line:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Line(Request(task, line, version), problem=f"it begins as a JSON object and is none: {error}")
    problem = ""
    if strange := sorted(found.keys() - set(KEYS)):
        problem = f"unknown key {strange[0]!r}; have: {', '.join(KEYS)}"
    elif "text" not in found:
        problem = "no text in it"
    words = {"text": "", "task": task, "version": version} | found
    for key in ("text", "task", "version"):
        if not isinstance(words[key], str):
            problem = problem or f"{key}={words[key]!r} is no string"
            words[key] = str(words[key])
    return Line(Request(words["task"], words["text"], words["version"]), found.get("id"), problem)

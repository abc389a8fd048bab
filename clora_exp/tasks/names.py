"""Names of tasks, splits and labels: their order, what a split may be called, and how a long list is said."""

import re
from collections.abc import Iterable

from clora_exp.errors import DataError

SPLIT_WORDS = {  # what a file, a folder or a cell may say → the split
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names sorted as a reader counts: integers by value, and task2 before task10."""
    distinct = set(names)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct, key=lambda name: (_counted(name.casefold()), name))


def _counted(text: str) -> list[tuple[str, int]]:
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)(\d{0,18})", text)]


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return "a, b, c" of at most `most` names, then how many there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f", … ({len(every)})" if len(every) > most else "")


def check_task_name(name: str, where: str) -> None:
    """Look whether the name can become a folder's.

    Raises:
        DataError: it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise DataError(
            f"{where}: task {name!r}: its name becomes a folder's; rename it with letters, digits, _ . and - alone, "
            "a letter or digit first"
        )

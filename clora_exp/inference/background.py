"""Texts of no task: what the packages of this environment say of themselves. What is foreign is learned from them."""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from clora_exp.errors import DataError
from clora_exp.files import place_of

LEAST_WORDS = 8
WORD = re.compile(r"[a-z]{3}")


def package_texts(most: int, seed: int = 0, without: tuple[str, ...] = ()) -> list[str]:
    """Return paragraphs of the installed packages' long descriptions, at most so many, in an order drawn by the seed.

    Args:
        without: packages that are left out, e.g. those that a measurement takes its foreign texts from.
    """
    found: set[str] = set()
    for package in metadata.distributions():
        if package.name not in without:
            about: Any = package.metadata  # an email.message.Message: the description is a header, or what follows them
            found.update(paragraphs(str(about.get_payload() or about.get("Description") or "")))
    return drawn(sorted(found), most, seed)


def texts_of(path: Path) -> list[str]:
    """Return the paragraphs of a text file.

    Raises:
        DataError: it cannot be read, or has none.
    """
    try:
        found = list(paragraphs(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(place_of(error, path) if isinstance(error, OSError) else f"{path}: {error}") from error
    if not found:
        raise DataError(f"{path} has no paragraph of {LEAST_WORDS} words or more")
    return found


def paragraphs(text: str) -> Iterator[str]:
    """Yield what stands between empty lines and has words enough, on one line each."""
    for part in re.split(r"\n\s*\n", text):
        line = " ".join(part.split())
        if len(line.split()) >= LEAST_WORDS and WORD.search(line):
            yield line


def drawn(texts: list[str], most: int, seed: int) -> list[str]:
    """Return at most so many of the texts, in an order drawn by the seed."""
    order = np.random.default_rng(seed).permutation(len(texts))[:most]
    return [texts[i] for i in order]

"""What in a local copy of a data set could lead out of its folder, fetch something, or unpack without end.

The library `datasets` runs no code of a data set any more, but it follows patterns in a data card, file names in the
state of a saved data set, and links, and it unpacks archives whatever their size.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from clora_exp.errors import DataError
from clora_exp.received import is_inside, parse_yaml

CARDS = ("README.md", ".huggingface.yaml")
STATES = ("dataset_dict.json", "state.json")
PACKED = {  # how files begin that would be unpacked
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"(\xb5/\xfd": "compressed by zstd",
    b"\x04\x22M\x18": "compressed by lz4",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
}
TAR_AT = 257  # where a tar archive says that it is one


def check_local(task: str, place: Path) -> None:
    """Look through a local data set before it is loaded: every file's place and first bytes, cards and states.

    Raises:
        DataError: a link or a name leads out of it, or a file is packed.
    """
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if not path.is_dir())
    for path in files:
        if not any(is_inside(path, root) for root in roots(place)):
            raise DataError(f"task {task!r}: {path} is a link that leads out of {place}; put the file itself there")
        if packed := _packed(path):
            raise DataError(f"task {task!r}: {path} is {packed}; unpack it and name what was in it")
        if path.name in (*CARDS, *STATES):
            for name in _names(task, path):
                if re.search(r"^[/~\\]|^\w:|(^|[/\\])\.\.([/\\]|$)|:/", name):
                    raise DataError(f"task {task!r}: {path} names {name!r}, which lies outside of its folder")


def roots(place: Path) -> list[Path]:
    """Return the folders that files of a local data set may lie in: its own, and the store that a hub copy links to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = place.resolve() if place.is_dir() else place.resolve().parent
    store = Path(HF_HUB_CACHE).resolve()
    return [folder, store] if folder.is_relative_to(store) else [folder]


def _packed(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(TAR_AT + 5)
    except OSError:  # whoever reads it says so
        return None
    is_tar = start[TAR_AT:] == b"ustar"
    return (
        "a tar archive" if is_tar else next((what for magic, what in PACKED.items() if start.startswith(magic)), None)
    )


def _names(task: str, path: Path) -> Iterator[str]:
    """Yield the file names and patterns that a card or a state holds."""
    try:
        if path.name in STATES:
            yield from _strings(json.loads(path.read_text(encoding="utf-8")))
            return
        text = path.read_text(encoding="utf-8")
        if path.name.endswith(".md"):
            head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
            text = head[1] if head else ""
        card = parse_yaml(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"task {task!r}: {path} cannot be read: {str(error).splitlines()[0]}") from error
    for config in card.get("configs") or [] if isinstance(card, dict) else []:
        if isinstance(config, dict):
            yield from _strings([config.get("data_files"), config.get("data_dir")])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)

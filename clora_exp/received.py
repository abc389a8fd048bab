"""Reading what may come from somebody else: it is bounded in size, stays in its folder and cannot run anything.

Tensors are read as safetensors and nothing is unpickled, so what is left to look at is where a name leads, how large a
compressed file becomes, and what YAML may refer to. Models: `models/foreign.py`; data sets: `tasks/foreign.py`.
"""

import errno
import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import yaml

MAX_YAML_BYTES = 1 << 20  # of a configuration or the head of a data card; ours have a few kB
ALWAYS_UNPACKED_BYTES = 64 << 20  # small enough, however well it was compressed
MAX_RATIO = 200  # unpacked to packed; tables of answers come to 10 to 40, a decompression bomb to 1000


class _PlainLoader(yaml.SafeLoader):
    """Plain values without aliases, nine lines of which can stand for a billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias stands in it; write the value itself")
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        yaml.YAMLError: it is none, too long or too deep, or has tags of Python or aliases.
    """
    if len(text) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} characters; at most {MAX_YAML_BYTES:,} are read")
    loader = _PlainLoader(text)
    try:
        return loader.get_single_data()
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path, its links followed, is the folder or lies in it.

    Raises:
        OSError: it is a link that leads back to itself.
    """
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, "a link that leads back to itself", str(path)) from error


def unpacked(path: Path) -> io.BytesIO:
    """Return what a gzip file holds, unless it is a decompression bomb.

    Raises:
        ValueError: it is one, or no gzip file.
    """
    most = max(ALWAYS_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)
    content = io.BytesIO()
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 20):
                content.write(block)
                if content.tell() > most:
                    raise ValueError(f"{path} unpacks to more than {most:,} bytes; it is refused")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no gzip file that can be read: {error}") from error
    content.seek(0)
    return content

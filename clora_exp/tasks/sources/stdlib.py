"""Code: the source of a function → the chapter of the Python library reference that describes its module.

Raw material: the standard library of the running Python (PSF licence), so the fingerprint differs between Python
versions. Groups are files. Every part of the module's own dotted path is masked in the text; what remains are the
names of other modules that the function mentions, and the vocabulary of its classes.
"""

import ast
import hashlib
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clora_exp.config import STRICT, Count, Name
from clora_exp.tasks.split import PerClass, distinct, grouped_splits, mask
from clora_exp.tasks.stream import Example, Task

LICENCE = "PSF-2.0"
ATTRIBUTION = "the Python standard library, Python Software Foundation"

# Chapter of the library reference → its modules. Chapters with fewer than eight files in Python 3.11, or with most
# functions in one of them, are left out, and Tk, which some distributions package apart.
CHAPTERS = {
    "data types": "datetime _pydatetime zoneinfo calendar collections _collections_abc heapq bisect weakref "
    "_weakrefset types copy pprint reprlib enum graphlib",
    "file access": "pathlib posixpath ntpath genericpath fileinput stat filecmp tempfile glob fnmatch linecache shutil",
    "operating system": "os io _pyio time _strptime argparse optparse getopt logging getpass curses platform ctypes",
    "concurrency": "threading _threading_local multiprocessing concurrent subprocess sched queue contextvars",
    "networking": "asyncio socket ssl selectors signal",
    "internet data": "email json mailbox mimetypes base64 quopri",
    "markup": "html xml _markupbase",
    "internet protocols": "webbrowser wsgiref urllib http ftplib poplib imaplib smtplib uuid socketserver xmlrpc "
    "ipaddress",
    "development tools": "typing pydoc doctest unittest",
    "runtime services": "warnings dataclasses contextlib abc _py_abc traceback inspect site sysconfig code codeop",
    "importing": "zipimport pkgutil modulefinder runpy importlib",
    "debugging": "bdb pdb cProfile profile pstats timeit trace tracemalloc",
}


@dataclass(frozen=True)
class Config:
    """Examples a class and split (12 classes), and the lines a function may have."""

    __pydantic_config__ = STRICT
    name: Name = "code"
    train_per_class: Count = 84
    validation_per_class: Count = 24
    test_per_class: Count = 60
    min_lines: Count = 4
    max_lines: Count = 31


def fingerprint() -> str:
    """Return the SHA-256 over names and bytes of every file read."""
    digest = hashlib.sha256()
    for _, path, relative in _files():
        digest.update(relative.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the one task."""
    examples = []
    for chapter, path, relative in _files():
        names = [part for part in Path(relative).with_suffix("").parts if part != "__init__"]
        names += [name.strip("_") for name in names]
        for name, source in _functions(path.read_text(encoding="utf-8"), config):
            examples.append(Example(f"{relative}:{name}", mask(source, names), chapter, group=relative))
    sizes = PerClass(config.train_per_class, config.validation_per_class, config.test_per_class)
    splits = grouped_splits(config.name, distinct(examples), sizes, data_seed)
    description = "the source of a function → its module's chapter in the Python library reference"
    return [Task(config.name, description, LICENCE, ATTRIBUTION, list(CHAPTERS), **splits)]


def _files() -> Iterator[tuple[str, Path, str]]:
    """Yield (chapter, file, path relative to the library), without tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for chapter, modules in CHAPTERS.items():
        for module in modules.split():
            single = root / f"{module}.py"
            for path in [single] if single.is_file() else sorted((root / module).rglob("*.py")):
                relative = path.relative_to(root)
                if not {"test", "tests", "__pycache__"} & set(relative.parts):
                    yield chapter, path, relative.as_posix()


def _functions(source: str, config: Config) -> Iterator[tuple[str, str]]:
    """Yield ("line:name", dedented source without decorators) of the functions of a wanted length."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        if config.min_lines <= node.end_lineno - node.lineno + 1 <= config.max_lines:
            yield f"{node.lineno}:{node.name}", textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))

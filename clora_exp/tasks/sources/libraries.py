"""Code: the source of a function → the library it comes from.

Raw material: the Python files of twelve libraries that this project installs, without their tests, so the fingerprint
follows their versions. Groups are files. The library's name, its customary abbreviations and every part of the file's
path are masked; what remains are the names of other libraries that the function mentions, the names that it defines,
and its style.
"""

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clora_exp.config import STRICT, Count, Name
from clora_exp.tasks.packages import package_fingerprint, package_folder
from clora_exp.tasks.split import MASK, PerClass, distinct, grouped_splits, mask
from clora_exp.tasks.stream import Example, Task

# Library → the folder of its source, and the abbreviations that its own code uses. The package has the library's name.
LIBRARIES = {
    "numpy": ("numpy", "np"),
    "scipy": ("scipy", ""),
    "pandas": ("pandas", "pd"),
    "matplotlib": ("matplotlib", "mpl plt"),
    "networkx": ("networkx", "nx"),
    "sympy": ("sympy", ""),
    "torch": ("torch", ""),
    "transformers": ("transformers", ""),
    "peft": ("peft", ""),
    "pytorch-lightning": ("pytorch_lightning", "pl"),
    "pydantic": ("pydantic", ""),
    "rich": ("rich", ""),
}
LICENCE = "BSD-3-Clause, Apache-2.0, MIT, Matplotlib (each library its own)"
ATTRIBUTION = f"the authors of {', '.join(LIBRARIES)}"

# Tests; what another project wrote or some Python versions lack; models of transformers, which repeat each other.
LEFT_OUT = {"test", "tests", "testing", "_vendor", "vendor", "externals", "_external", "distutils", "models"}


@dataclass(frozen=True)
class Config:
    """Examples a class and split (12 classes), files that are read of a library, and lines a function may have."""

    __pydantic_config__ = STRICT
    name: Name = "code"
    train_per_class: Count = 84
    validation_per_class: Count = 24
    test_per_class: Count = 60
    files_per_library: Count = 120
    min_lines: Count = 4
    max_lines: Count = 31


def fingerprint(_config: Config) -> str:
    """Return the SHA-256 over names and content of the libraries' Python files."""
    return hashlib.sha256("".join(package_fingerprint(name, ".py") for name in LIBRARIES).encode()).hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the one task."""
    rng = np.random.default_rng([data_seed, *config.name.encode()])
    examples = []
    for library, (name, abbreviations) in LIBRARIES.items():
        folder = package_folder(library, name)
        files = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.py"))]
        files = [file for file in files if not LEFT_OUT.intersection(file.parts)]
        for file in (files[i] for i in rng.permutation(len(files))[: config.files_per_library]):
            names = [library, *file.with_suffix("").parts]
            names = [name for name in names + [name.strip("_") for name in names] if name not in ("__init__", "init")]
            for function, source in _functions((folder.parent / file).read_text(encoding="utf-8"), config):
                for abbreviation in abbreviations.split():  # only as a prefix: pl, pd and nx are also variables
                    source = re.sub(rf"\b{abbreviation}\.", f"{MASK}.", source)
                group = file.as_posix()
                examples.append(Example(f"{group}:{function}", mask(source, names), library, group))
    sizes = PerClass(config.train_per_class, config.validation_per_class, config.test_per_class)
    splits = grouped_splits(config.name, distinct(examples), sizes, data_seed)
    description = "the source of a function → the library it comes from"
    return [Task(config.name, description, LICENCE, ATTRIBUTION, list(LIBRARIES), **splits)]


def _functions(source: str, config: Config) -> Iterator[tuple[str, str]]:
    """Yield ("line:name", dedented source without decorators) of the functions of a wanted length."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        if config.min_lines <= node.end_lineno - node.lineno + 1 <= config.max_lines:
            yield f"{node.lineno}:{node.name}", textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))

"""What a task and a stream are, and how a stream is prepared: sources → cache → tasks in order.

A source (one file in `sources/`) offers `Config`, `fingerprint(config)`, the content identity of its raw material, and
`tasks(config, data_seed)`. Preparing is cached by everything that decides its outcome, see `cache.py`.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clora_exp import discovery
from clora_exp.config import TasksConfig
from clora_exp.errors import ConfigError, DataError, unknown
from clora_exp.tasks import cache
from clora_exp.tasks.names import check_task_name, listed

Preparing = Callable[[str], AbstractContextManager[Any]]
SplitName = Literal["train", "validation", "test"]
RESERVED = {"init", "after", "basis.safetensors"}  # first row and column of result files; a file beside adapters
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One text or image with its label, or a prompt with its response, which are `text` and `label` too.

    `group` is what must never stand in two splits (a category, a licence, a file). `image` is a file's path, or the
    image itself as a data URI.
    """

    id: str
    text: str
    label: str
    group: str
    image: str = ""

    @property
    def image_is_there(self) -> bool:
        """Whether the image, if there is to be one, can be read."""
        return not self.image or self.image.startswith("data:") or Path(self.image).is_file()

    @property
    def image_bytes(self) -> bytes:
        """The encoded image, e.g. of a PNG file.

        Raises:
            OSError: the file cannot be read.
        """
        if self.image.startswith("data:"):
            return base64.b64decode(self.image.partition(",")[2])
        return Path(self.image).read_bytes()


@dataclass(frozen=True)
class Task:
    """One task: label names (their order is the head's), and train, validation and test examples.

    Without label names it is a free-form task: the model is to write each example's response. `notes` say, a line each,
    what a source found in data that it does not know; those of concern begin with "warning: ".
    """

    name: str
    description: str
    licence: str
    attribution: str
    labels: list[str]
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises DataError if the name can be no folder's, a split is empty, a label unknown, or splits share a group.

        One class is enough here: where a head grows by it. `scenario.py` knows.
        """
        check_task_name(self.name, "tasks")
        for split in SPLITS:
            if not self.split(split):
                raise DataError(f"task {self.name!r} has no {split} examples")
            strange = {example.label for example in self.split(split)} - set(self.labels)
            if strange and not self.is_free_form:
                raise DataError(f"task {self.name!r}: " + unknown(f"{split} label", min(strange), self.labels))
        groups: dict[str, set[str]] = {split: {example.group for example in self.split(split)} for split in SPLITS}
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            shared = groups[one] & groups[other]
            if shared:
                raise DataError(f"task {self.name!r}: group {min(shared)!r} stands in both {one} and {other}")

    @property
    def is_free_form(self) -> bool:
        """Whether the answers are written, not chosen among labels."""
        return not self.labels

    @property
    def modality(self) -> str:
        """text or image."""
        return "image" if self.train[0].image else "text"

    @property
    def summary(self) -> str:
        """One line: how many examples of what, and the first labels."""
        sizes = ", ".join(f"{len(self.split(split)):,} {split}" for split in SPLITS)
        answers = f"{len(self.labels)} labels: {listed(self.labels, 6)}" if self.labels else "free-form responses"
        return f"{sizes} {self.modality}s; {answers}"

    def split(self, name: str) -> list[Example]:
        """Return the examples of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def label_counts(self, split: str) -> dict[str, int]:
        """Return the number of examples of each label, in the head's order."""
        counts = Counter(example.label for example in self.split(split))
        return {label: counts[label] for label in self.labels}

    @cached_property
    def sha256(self) -> dict[str, str]:
        """SHA-256 of each split's canonical JSON lines (id, text, label): equal iff the split is equal."""
        found: dict[str, str] = {}
        for name in SPLITS:
            digest = hashlib.sha256()
            for line in _json_lines(self.split(name)):
                digest.update(line.encode())
            found[name] = digest.hexdigest()
        return found


@dataclass(frozen=True)
class TaskStream:
    """The tasks of a run, in order."""

    name: str
    tasks: list[Task]

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def names(self) -> list[str]:
        """The task names, in order."""
        return [task.name for task in self.tasks]

    def thinned(self, split: SplitName, count: int | None) -> "TaskStream":
        """Return the stream with at most so many examples of a split in each task, spread evenly over it."""
        if count is None:
            return self
        tasks = []
        for task in self.tasks:
            every = task.split(split)
            kept = every if len(every) <= count else [every[i * len(every) // count] for i in range(count)]
            changed: Any = {split: kept}
            tasks.append(replace(task, **changed))
        return replace(self, tasks=tasks)

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Return task → split → SHA-256."""
        return {task.name: task.sha256 for task in self.tasks}


def json_lines(examples: list[Example]) -> str:
    """Return the examples as JSON Lines with the keys id, text, label: what `export` writes and `sha256` hashes.

    In place of a text an image stands as what it shows, a data URI: of a file its SHA-256.
    """
    return "".join(_json_lines(examples))


def _json_lines(examples: list[Example]) -> Iterator[str]:
    for e in examples:
        yield json.dumps({"id": e.id, **_input(e), "label": e.label}, ensure_ascii=False) + "\n"


def _input(example: Example) -> dict[str, str]:
    if not example.image:
        return {"text": example.text}
    is_inline = example.image.startswith("data:")
    return {"image": example.image if is_inline else "sha256:" + hashlib.sha256(example.image_bytes).hexdigest()}


def load_stream(config: TasksConfig, data_seed: int, preparing: Preparing = nullcontext) -> TaskStream:
    """Prepare every task of the stream, from the cache where nothing that decides it has changed.

    Args:
        preparing: makes the context, from a source's name, in which a source that is not cached is prepared.

    Raises:
        ConfigError: an order that names no task or one twice, a task name used twice or reserved, or no source.
        DataError: raw material that is missing or too small.
    """
    if not config.sources:
        raise ConfigError(f"tasks={config.name}: names no source; have: {', '.join(discovery.sources.names())}")
    tasks: list[Task] = []
    for name, source_config in config.sources.items():
        source = discovery.sources.load(name)
        tasks += cache.load_or_prepare(source, source_config, data_seed, preparing)
    names = [task.name for task in tasks]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ConfigError(f"tasks={config.name}: task name {twice[0]!r} is used twice; names must differ")
    for name in RESERVED & set(names):
        raise ConfigError(f"tasks={config.name}: no task can be called {name!r}; results use it for something else")
    return TaskStream(config.name, _ordered(tasks, config.order))


def _ordered(tasks: list[Task], order: list[str] | int | None) -> list[Task]:
    if order is None:
        return tasks
    if isinstance(order, int):
        return [tasks[i] for i in np.random.default_rng(order).permutation(len(tasks))]
    by_name = {task.name: task for task in tasks}
    for name in order:
        if name not in by_name:
            raise ConfigError("tasks.order: " + unknown("task", name, by_name))
    if len(set(order)) != len(order):
        raise ConfigError(f"tasks.order={order}: names a task twice")
    return [by_name[name] for name in order]

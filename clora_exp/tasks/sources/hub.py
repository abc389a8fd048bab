"""Hub data sets by name: columns, labels and splits are mapped in the configuration, `datasets` reads them.

A data set is one task, or several tasks of some classes each. Classes can be limited to so many examples, drawn by
`data_seed`. The hub is asked only with HF_HUB_OFFLINE=0; `tasks.path=FOLDER` takes FOLDER/<name> in place of each data
set, `tasks.hub.datasets.<name>.path=FOLDER` of one. `hub_data.py` loads.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from clora_exp.config import STRICT, Count, Name, OpenFraction
from clora_exp.errors import DataError, unknown
from clora_exp.tasks import hub_data
from clora_exp.tasks.names import in_order
from clora_exp.tasks.stream import Example, Task


@dataclass(frozen=True)
class HubDataset:
    """One data set, and how its columns and splits become a task's."""

    __pydantic_config__ = STRICT
    path: str | None = None  # its name on the hub, or a local folder or file; null: the hub has no trustworthy copy
    name: str | None = None  # its configuration, e.g. mnli of nyu-mll/glue
    revision: str | None = None  # branch, tag or commit; with a commit the cache is used without loading anything
    text: str | list[str] = "text"  # one column, or several that are joined; of free-form data the prompt
    separator: str = "\n"  # between them
    image: str | None = None  # a column of images, in place of text
    label: str = "label"
    labels: list[str] | None = None  # names of integer labels; null: the data set's own, else the values, sorted
    response: str | None = None  # in place of label: a column of free-form answers
    train: str = "train"
    validation: str | None = None  # null: held out from train
    test: str | None = "test"  # null: held out from train
    classes: Count | dict[Name, list[str]] | None = None  # so many tasks of equal parts, or task → its labels

    def __post_init__(self) -> None:
        if self.response is not None and (self.classes is not None or self.image is not None):
            raise ValueError("response: free-form data has neither classes nor images")


@dataclass(frozen=True)
class Config:
    """The data sets in order, and how many examples a class has at most; free-form data counts as one class."""

    __pydantic_config__ = STRICT
    path: str | None = None  # tasks.path: a folder with a local copy of each data set, under its name here
    train_per_class: Count | None = None  # null: all
    validation_per_class: Count | None = None
    test_per_class: Count | None = None
    validation_fraction: OpenFraction = 0.1  # of a class, where validation is null and has no limit
    test_fraction: OpenFraction = 0.2  # of a class, where test is null
    datasets: dict[Name, HubDataset] = field(default_factory=dict)


Rows = dict[str, Any]  # train, validation, test → a `datasets.Dataset`


def fingerprint(config: Config) -> str:
    """Return the hash of the rows, or for one that is pinned to a commit, of its name and the commit."""
    parts = []
    for task, data in config.datasets.items():
        place = _place(task, data, config)
        if data.revision and re.fullmatch("[0-9a-f]{40}", data.revision) and not hub_data.is_local(place):
            parts.append(f"{place} {data.name} {data.revision}")
        else:
            parts += [f"{role} {hub_data.content_sha256(rows)}" for role, rows in _load(task, data, config).items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the tasks of every data set, in their order.

    Raises:
        DataError: a data set that is not here, or a column, split or label it does not have.
    """
    return [made for task, data in config.datasets.items() for made in _tasks(task, data, config, data_seed)]


def _place(task: str, data: HubDataset, config: Config) -> str:
    if config.path is not None:
        return str(Path(config.path).expanduser() / task)
    if data.path is None:
        raise DataError(
            f"task {task!r}: the hub has no trustworthy copy of it; download it and write tasks.path=FOLDER, with its "
            f"data in FOLDER/{task}"
        )
    return data.path


def _load(task: str, data: HubDataset, config: Config) -> Rows:
    """Return the splits that the configuration names, with the columns it needs."""
    splits = hub_data.load(task, _place(task, data, config), data.name, data.revision)
    columns = [*_inputs(data), data.response or data.label]
    named = {"train": data.train, "validation": data.validation, "test": data.test}
    return {role: hub_data.split_of(splits, task, name, role, columns) for role, name in named.items() if name}


def _inputs(data: HubDataset) -> list[str]:
    if data.image:
        return [data.image]
    return [data.text] if isinstance(data.text, str) else data.text


def _tasks(task: str, data: HubDataset, config: Config, data_seed: int) -> list[Task]:
    rows, place = _load(task, data, config), _place(task, data, config)
    names = [] if data.response else _label_names(task, data, rows)
    answers = {role: _answers(split, data, names) for role, split in rows.items()}
    made = []
    for name, labels in _classes(task, data, names).items():
        rng = np.random.default_rng([data_seed, *name.encode()])
        chosen = _chosen(answers, labels or [""], config, rng)
        splits = {role: _examples(rows, role, indices, answers, data, place) for role, indices in chosen.items()}
        notes = [f"{place}{f' ({data.name})' if data.name else ''}: {_says(data)}"]
        held = [role for role in ("validation", "test") if role not in rows]
        notes += [f"{' and '.join(held)}: held out from {data.train} here by data_seed={data_seed}"] if held else []
        empty = sum(not (e.text.strip() or e.image) for split in splits.values() for e in split)
        notes += [f"warning: {empty} examples without text are left out"] if empty else []
        kept = {role: [e for e in split if e.text.strip() or e.image] for role, split in splits.items()}
        page = f"https://huggingface.co/datasets/{data.path}" if data.path and not hub_data.is_local(data.path) else ""
        source = "licence: see its page" if page else ""
        made.append(Task(name, "", source, page, labels, kept["train"], kept["validation"], kept["test"], notes))
    return made


def _says(data: HubDataset) -> str:
    return f"{', '.join(_inputs(data))} → {data.response or data.label}"


def _label_names(task: str, data: HubDataset, rows: Rows) -> list[str]:
    """Return the names of the labels: as configured, the data set's own, or its values."""
    values = rows["train"].unique(data.label)
    own = getattr(rows["train"].features[data.label], "names", None)
    names = data.labels or own or in_order(str(value) for value in values if value is not None)
    for value in values:
        if isinstance(value, int) and value >= len(names) and (data.labels or own):
            raise DataError(f"task {task!r}: label {value} of column {data.label!r}, labels names {len(names)}")
        if isinstance(value, str) and value not in names:
            raise DataError(f"task {task!r}: {unknown('label', value, names)}")
    return cast(list[str], names)


def _classes(task: str, data: HubDataset, names: list[str]) -> dict[str, list[str]]:
    """Return task name → its labels: all of them, equal parts, or the parts that are configured."""
    if isinstance(data.classes, dict):
        for label in (label for labels in data.classes.values() for label in labels):
            if label not in names:
                raise DataError(f"task {task!r}: classes: {unknown('label', label, names)}")
        return data.classes
    if data.classes is None:
        return {task: names}
    if data.classes > len(names):
        raise DataError(f"task {task!r}: classes={data.classes} tasks wanted of {len(names)} labels")
    parts = np.array_split(np.arange(len(names)), data.classes)
    return {f"{task}_{i}": [names[j] for j in part] for i, part in enumerate(parts, 1)}


def _answers(split: Any, data: HubDataset, names: list[str]) -> np.ndarray:
    """Return each row's label name, "" of free-form rows and None of rows without a label (n,)."""
    if data.response:
        return np.full(len(split), "", dtype=object)
    is_named = data.labels is not None or hasattr(split.features[data.label], "names")
    values = split[data.label][:]
    if is_named and any(isinstance(value, int) for value in values):
        return np.array([names[v] if v is not None and 0 <= v < len(names) else None for v in values], dtype=object)
    return np.array([None if value is None else str(value) for value in values], dtype=object)


def _chosen(
    answers: dict[str, np.ndarray], labels: list[str], config: Config, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the rows of each split, drawn class by class up to the limits; those held out are rows of train."""
    found: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    limits = {"train": config.train_per_class, "validation": config.validation_per_class, "test": config.test_per_class}
    for label in labels:
        drawn = {role: rng.permutation(np.flatnonzero(values == label)) for role, values in answers.items()}
        for role, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
            if role not in drawn:
                there = len(drawn["train"])
                of = there if role == "test" else min(there, limits["train"] or there)
                wanted = limits[role] or max(1, round(fraction * of))
                count = min(wanted, there // 2)
                drawn[role], drawn["train"] = np.split(drawn["train"], [count])
        for role, indices in drawn.items():
            found[role].append(indices[: limits[role]])
    return {role: np.sort(np.concatenate(parts)) for role, parts in found.items()}


def _examples(
    rows: Rows, role: str, indices: np.ndarray, answers: dict[str, np.ndarray], data: HubDataset, place: str
) -> list[Example]:
    of = role if role in rows else "train"
    split = rows[of].select(indices)
    if data.image:
        from datasets import Image

        split = split.cast_column(data.image, Image(decode=False))
    found = []
    for index, row in zip(indices.tolist(), split, strict=True):
        label = str(row[data.response]) if data.response else answers[of][index]
        image = hub_data.image_file(row[data.image], place) if data.image else ""
        text = "" if data.image else data.separator.join(str(row[c]) for c in _inputs(data) if row[c] not in (None, ""))
        found.append(Example(f"{of}-{index}", text, label, group=f"{of}-{index}", image=image))
    return found

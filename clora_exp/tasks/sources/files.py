"""The user's own data: a folder a task with a table or an image folder a split, or one table with a column `task`.

`folders.py` says what a folder may look like, `tables.py` reads the formats; here rows become examples. Columns are
text and label, or prompt and response for free-form answers; `id` and `group` are read where they are there. Label
names are sorted, integers by value. Whatever a row lacks is one error with file and line.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clora_exp.config import STRICT, OpenFraction
from clora_exp.errors import DataError, nearest, unknown
from clora_exp.tasks import folders, tables
from clora_exp.tasks.folders import TaskFolder
from clora_exp.tasks.images import open_image
from clora_exp.tasks.names import SPLIT_WORDS, check_task_name, in_order, listed
from clora_exp.tasks.split import held_out
from clora_exp.tasks.stream import Example, Task
from clora_exp.tasks.tables import Problems, has_mark

_MARKED = "{} begins with a byte order mark, which is left out"


@dataclass(frozen=True)
class Config:
    """Where the data is, what its columns are called, and the shares that are held out where a split is missing."""

    __pydantic_config__ = STRICT
    path: str | None = None  # tasks.path
    text_column: str = "text"
    label_column: str = "label"  # integers or strings
    prompt_column: str = "prompt"  # for free-form answers, where there is no text column
    response_column: str = "response"
    task_column: str = "task"  # of one table
    split_column: str = "split"  # of one table: train, validation (valid, val, dev), test; without it: split here
    id_column: str = "id"  # null or missing: split and row
    group_column: str = "group"  # what may never stand in two splits; missing: the row
    validation_fraction: OpenFraction = 0.1  # of train, stratified by label, where there is no validation split
    test_fraction: OpenFraction = 0.2  # of a table without a split column

    def __post_init__(self) -> None:
        """Raises ValueError where what is asked and what is to be answered are one column."""
        for asked, answer in (("text_column", "label_column"), ("prompt_column", "response_column")):
            if getattr(self, asked) == getattr(self, answer):
                raise ValueError(f"{asked} and {answer} are both {getattr(self, asked)!r}; they must be two columns")


@dataclass(frozen=True)
class Columns:
    """The columns of one table that are read; task and split only of a table that holds several."""

    file: str
    text: str
    label: str
    is_free_form: bool
    task: str | None = None
    split: str | None = None


@dataclass
class Part:
    """The examples of one task and split, each with its line."""

    file: str
    examples: list[Example] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def fingerprint(config: Config) -> str:
    """Return the hash of all files; of images, which tasks hold by their place, of the place too.

    Raises:
        DataError: what is missing or cannot be read.
    """
    with _readable(config) as root:
        return _content(root)


def _content(root: Path) -> str:
    found = folders.find(root)
    if isinstance(found, Path):
        return folders.content_sha256(found.parent, [found])
    content = folders.content_sha256(root, [path for folder in found for path in folder.files()])
    place = root if any(folder.has_images for folder in found) else ""
    return hashlib.sha256(f"{content} {place}".encode()).hexdigest()


def tasks(config: Config, data_seed: int) -> list[Task]:
    """Return the tasks, sorted by name.

    Raises:
        DataError: what is missing or cannot be read, with file and line.
    """
    with _readable(config) as root:
        found = folders.find(root)
        if isinstance(found, Path):
            return _of_table(found, config, data_seed)
        return [(_of_images if folder.has_images else _of_folder)(folder, config, data_seed) for folder in found]


@contextmanager
def _readable(config: Config) -> Iterator[Path]:
    """Yield the place of the data; what the system says of it while the block runs becomes a DataError."""
    if config.path is None:
        raise DataError(
            "tasks=files needs the place of the data: tasks.path=FOLDER, with FOLDER/<task>/train.csv and test.csv "
            "(.jsonl, .parquet), FOLDER/<task>/train/<label>/ with images, or one table with a column 'task'"
        )
    try:
        yield Path(config.path).expanduser().resolve()
    except OSError as error:
        where = f"{error.filename}: " if error.filename not in (None, config.path) else ""
        raise DataError(f"tasks.path={config.path}: cannot be read: {where}{error.strerror or error}") from error


def _of_folder(folder: TaskFolder, config: Config, data_seed: int) -> Task:
    """Return the task of a folder that holds a table a split."""
    parts = {}
    all_columns = {}
    for split, path in folder.splits.items():
        file = f"{folder.name}/{path.name}"
        all_columns[split] = _columns(path, file, config)
        parts[split] = _read(path, all_columns[split], config, split)["", ""]
        if not parts[split].examples:  # a Parquet file has columns all the same
            raise DataError(f"{file}: holds no rows")
    for columns in all_columns.values():
        if columns.is_free_form != all_columns["train"].is_free_form:
            raise DataError(f"{columns.file}: columns {columns.text}, {columns.label}; those of train are others")
    notes = [_says(all_columns["train"])]
    notes += [_MARKED.format(columns.file) for split, columns in all_columns.items() if has_mark(folder.splits[split])]
    return _task(folder.name, parts, all_columns["train"].is_free_form, notes, config, data_seed)


def _of_table(path: Path, config: Config, data_seed: int) -> list[Task]:
    """Return the tasks of one table, whose split column, or else the fractions, make the splits."""
    columns = _columns(path, path.name, config, is_of_tasks=True)
    by_task: dict[str, dict[str, Part]] = defaultdict(dict)
    for (name, split), part in _read(path, columns, config, "row").items():
        by_task[name][split or "train"] = part
    if not by_task:
        raise DataError(f"{path.name}: holds no rows")
    made = []
    for name in in_order(by_task):
        check_task_name(name, path.name)
        for split in ("train", "test") if columns.split else ():
            if split not in by_task[name]:
                have = listed(in_order(by_task[name]))
                raise DataError(
                    f"{path.name}: task {name!r} has no {split} rows in column {columns.split!r}; has: {have}"
                )
        notes = [_says(columns), *([_MARKED.format(path.name)] if has_mark(path) else [])]
        made.append(_task(name, by_task[name], columns.is_free_form, notes, config, data_seed))
    return made


def _of_images(folder: TaskFolder, config: Config, data_seed: int) -> Task:
    """Return the task of a folder that holds a folder of images a label in each split."""
    parts = {}
    for split, path in folder.splits.items():
        part = parts[split] = Part(f"{folder.name}/{path.name}")
        for label, paths in folders.images(path, part.file).items():
            for image in paths:
                _check_image(image, f"{part.file}/{label}/{image.name}")
                name = f"{split}/{label}/{image.name}"
                part.examples.append(Example(name, "", label, group=name, image=str(image)))
    known = {example.label for example in parts["train"].examples}
    for part in parts.values():
        for label in in_order({example.label for example in part.examples} - known):
            raise DataError(f"{part.file}/{label}: {_unseen(label, known)}")
    notes = [f"images of {', '.join(part.file for part in parts.values())}, a folder a label"]
    return _task(folder.name, parts, False, notes, config, data_seed)


def _check_image(path: Path, file: str) -> None:
    try:
        open_image(path).close()
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow's readers raise
        reason = f": {error}" if "pixels" in str(error) else ""
        raise DataError(f"{file}: no image that can be read{reason}") from error


def _columns(path: Path, file: str, config: Config, is_of_tasks: bool = False) -> Columns:
    """Return the columns to read.

    Raises:
        DataError: there are no rows, or one that is needed is not there, with what is and what to type.
    """
    have = tables.columns(path, file)
    if not have:
        problems = Problems(file)
        list(tables.rows(path, problems))
        problems.check()
        raise DataError(f"{file}: holds no rows")
    is_free_form = config.text_column not in have and config.prompt_column in have
    wanted = ["prompt", "response"] if is_free_form else ["text", "label"]
    for role in [*(["task"] if is_of_tasks else []), *wanted]:
        name = getattr(config, f"{role}_column")
        if name not in have:
            near = nearest(name, have) or nearest(role, have)
            instead = f" (or {config.prompt_column!r} for free-form answers)" if role == "text" else ""
            why = ", which tells the tasks of one table apart" if role == "task" else ""
            raise DataError(
                f"{file}: no column {name!r}{instead}{why}; have: {listed(have)}.{near} "
                f"Another name: tasks.files.{role}_column=NAME"
            )
    text, label = (getattr(config, f"{role}_column") for role in wanted)
    task = config.task_column if is_of_tasks else None
    split = config.split_column if is_of_tasks and config.split_column in have else None
    return Columns(file, text, label, is_free_form, task, split)


def _read(path: Path, columns: Columns, config: Config, prefix: str) -> dict[tuple[str, str], Part]:
    """Return (task, split) → its examples, "" for what the table has no column of.

    Raises:
        DataError: rows that cannot be read or lack something, the first of each kind with its line.
    """
    problems = Problems(columns.file)
    wanted = {columns.text, columns.label, columns.task, columns.split, config.id_column, config.group_column}
    parts: dict[tuple[str, str], Part] = {} if columns.task else {("", ""): Part(columns.file)}
    ids: dict[tuple[str, str, str], int] = {}
    for number, (line, row) in enumerate(tables.rows(path, problems, wanted), 1):
        text, label = _word(row, columns.text), _word(row, columns.label)
        label = label if columns.is_free_form else label.strip()
        task, split = _word(row, columns.task), _word(row, columns.split)
        for name, value in ((columns.text, text), (columns.label, label), (columns.task, task), (columns.split, split)):
            if name and not value.strip():
                problems.add(f"no {name}", line, f"no {name}" if name not in row else f"{name} is empty")
            elif name and isinstance(row.get(name), float) and math.isinf(row[name]):
                problems.add(f"kind of {name}", line, f"{name} is infinite")
            elif name and isinstance(row.get(name), (list, dict, bytes)):
                problems.add(f"kind of {name}", line, f"{name} is a {type(row[name]).__name__}, no text or number")
        if columns.split and split and split.lower() not in SPLIT_WORDS:
            problems.add("split", line, unknown("split", split, SPLIT_WORDS))
        key = (task, SPLIT_WORDS.get(split.lower(), ""))
        name = _word(row, config.id_column) or f"{prefix}-{number}"
        first = ids.setdefault((*key, name), line)
        if first != line:
            problems.add("id", line, f"{config.id_column} {name!r} stands in line {first} already")
        group = _word(row, config.group_column) or f"{prefix}-{number}"
        part = parts.setdefault(key, Part(columns.file))
        part.examples.append(Example(name, text, label, group))
        part.lines.append(line)
    problems.check()
    return parts


def _word(row: Mapping[str, Any], column: str | None) -> str:
    """Return a cell as a string; "" where there is none."""
    value = row.get(column) if column else None
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float() if value != value:  # what pandas makes of a gap
            return ""
        case float() if value.is_integer():  # what pandas makes of integers in a column with a gap
            return str(int(value))
        case _:
            return str(value)


def _task(
    name: str, parts: Mapping[str, Part], is_free_form: bool, notes: list[str], config: Config, data_seed: int
) -> Task:
    """Return the task, with what is missing held out of train and notes on what was found."""
    if not is_free_form:
        known = {example.label for example in parts["train"].examples}
        for part in parts.values():
            _check_labels(part, known)
    splits = {split: part.examples for split, part in parts.items()}
    notes, leaks = list(notes), []
    for split, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        if split not in splits:
            splits["train"], splits[split] = _held_out(splits["train"], fraction, name, split, is_free_form, data_seed)
            notes.append(f"{split}: {fraction:.0%} of train, held out here by data_seed={data_seed}")
        if split == "test":
            leaks = _leaks(splits["train"], splits["test"])
    notes += leaks
    labels = [] if is_free_form else in_order(example.label for example in parts["train"].examples)
    notes += _alike(labels)
    return Task(name, "", "", "", labels, splits["train"], splits["validation"], splits["test"], notes)


def _check_labels(part: Part, known: set[str]) -> None:
    problems = Problems(part.file)
    for example, line in zip(
        part.examples, part.lines, strict=False
    ):  # images have no lines, and are checked by folder
        if example.label not in known:
            problems.add("label", line, _unseen(example.label, known))
    problems.check()


def _unseen(label: str, known: set[str]) -> str:
    return f"label {label!r} does not occur in training; have: {listed(in_order(known))}.{nearest(label, known)}"


def _held_out(
    examples: list[Example], fraction: float, name: str, split: str, is_free_form: bool, data_seed: int
) -> tuple[list[Example], list[Example]]:
    if not is_free_form:
        kept, held = held_out(examples, fraction, f"{name}/{split}", data_seed)
    else:
        blank = [Example(str(i), e.text, "", e.group) for i, e in enumerate(examples)]
        kept, held = held_out(blank, fraction, f"{name}/{split}", data_seed)
        kept, held = [examples[int(e.id)] for e in kept], [examples[int(e.id)] for e in held]
    if not held:
        raise DataError(
            f"task {name!r}: {len(examples)} training examples, no label with two groups to hold one out for {split}; "
            f"give more, or a {split} split"
        )
    return kept, held


def _leaks(train: list[Example], test: list[Example]) -> list[str]:
    """Return a warning where inputs stand in train and in test."""
    what = "images" if train[0].image else "texts"
    seen = {_shown(example) for example in train}
    found = [example for example in test if _shown(example) in seen]
    if not found:
        return []
    return [f"warning: {len(found)} of {len(test)} test {what} stand in train too, the first is {found[0].id}"]


def _alike(labels: list[str]) -> list[str]:
    """Return a warning where labels differ in case or spaces alone."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault("".join(label.lower().split()), label), label) for label in labels]
    return [f"warning: labels {a!r} and {b!r} differ in case or spaces alone" for a, b in pairs if a != b]


def _shown(example: Example) -> str:
    return folders.file_sha256(Path(example.image)) if example.image else " ".join(example.text.split())


def _says(columns: Columns) -> str:
    return f"columns {columns.text} → {columns.label} of {columns.file}"

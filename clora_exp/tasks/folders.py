"""What the user's folder holds: one table, or a folder a task with its splits, tables or image folders.

    FOLDER/<task>/train.csv         .jsonl and .parquet too; test.csv; validation.csv, valid.csv, val.csv or dev.csv
    FOLDER/<task>/train/<label>/    images, in train/, test/ and perhaps validation/
    FOLDER/table.csv                the only table, or FOLDER is the table itself; its column `task` tells tasks apart

Nothing is read here but names, and bytes to hash.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clora_exp.errors import DataError, nearest
from clora_exp.received import is_inside
from clora_exp.tasks.names import SPLIT_WORDS, check_task_name, in_order, listed
from clora_exp.tasks.tables import SUFFIXES

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


@dataclass(frozen=True)
class TaskFolder:
    """One task: split → its table, or the folder that holds a folder of images a label."""

    name: str
    splits: dict[str, Path]

    @property
    def has_images(self) -> bool:
        """Whether its splits are folders of images."""
        return self.splits["train"].is_dir()

    def files(self) -> list[Path]:
        """Return every file that decides the task, in a fixed order."""
        if not self.has_images:
            return [self.splits[split] for split in sorted(self.splits)]
        found = (images(folder, f"{self.name}/{split}") for split, folder in sorted(self.splits.items()))
        return [path for by_label in found for paths in by_label.values() for path in paths]


def find(root: Path) -> Path | list[TaskFolder]:
    """Return the one table that `root` is or holds, or the tasks' folders, sorted by name.

    Raises:
        DataError: there is neither, with what was looked for and what is there.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        raise DataError(f"tasks.path={root}: no such file or folder")
    entries = _entries(root)
    own = [path.name for path in entries if _split_of(path)]
    if own:
        raise DataError(
            f"tasks.path={root}: holds {listed(own)} itself; a task is a folder: put them into {root}/<task>/"
        )
    folders = [path for path in entries if path.is_dir()]
    tables = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    if folders and tables:
        raise DataError(
            f"tasks.path={root}: holds the folders {listed(p.name for p in folders)} and the table {tables[0].name}; "
            f"write tasks.path={tables[0]} for the table, or move it away"
        )
    if folders:
        return [_task(folder) for folder in folders]
    if len(tables) == 1:
        return tables[0]
    if tables:
        raise DataError(
            f"tasks.path={root}: holds {len(tables)} tables, {listed(p.name for p in tables)}; "
            "have one with a column 'task', or a folder a task: <task>/train.csv, <task>/test.csv"
        )
    raise DataError(
        f"tasks.path={root}: holds no data; looked for <task>/train{', '.join(SUFFIXES)}, <task>/train/<label>/ with "
        f"images, and one table; have: {listed(p.name for p in entries) or 'nothing'}"
    )


def images(folder: Path, name: str) -> dict[str, list[Path]]:
    """Return label → its images, both in order.

    Raises:
        DataError: there are no label folders, one without images, or an image that is in none.
    """
    labels = [path for path in _entries(folder) if path.is_dir()]
    stray = [path.name for path in _entries(folder) if path not in labels and path.suffix.lower() in IMAGES]
    if labels and stray:
        raise DataError(f"{name}/{stray[0]}: an image beside the folders of labels; put it into {name}/<label>/")
    if not labels:
        raise DataError(f"{name}: holds no folder of images a label; looked for {name}/<label>/*.png")
    found = {label.name: [p for p in _entries(label) if p.suffix.lower() in IMAGES] for label in labels}
    for label, paths in found.items():
        if not paths:
            raise DataError(f"{name}/{label}: holds no images; looked for {', '.join(IMAGES)}")
    return found


def content_sha256(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 over the names below `root` and the content of the files.

    Raises:
        DataError: a file cannot be read, or is a link that leads out of `root`.
    """
    files = list(files)
    for path in files:
        if not is_inside(path, root):
            raise DataError(f"{path} is a link that leads out of {root}; put the file itself there")
    lines = (f"{path.relative_to(root).as_posix()} {file_sha256(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is no file that can be read")  # a pipe would be waited for
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _task(folder: Path) -> TaskFolder:
    check_task_name(folder.name, f"tasks.path={folder.parent}")
    splits: dict[str, Path] = {}
    for path in _entries(folder):
        split = _split_of(path)
        if split and split in splits:
            raise DataError(f"task {folder.name!r}: {splits[split].name} and {path.name} are both {split}; keep one")
        if split:
            splits[split] = path
    for split in ("train", "test"):
        if split not in splits:
            have = [path.name for path in _entries(folder)]
            raise DataError(
                f"task {folder.name!r}: no {split} split; looked for {', '.join(split + s for s in SUFFIXES)} and "
                f"{split}/<label>/ with images in {folder}; have: {listed(have) or 'nothing'}."
                f"{nearest(f'{split}.csv', have)}"
            )
    for path in splits.values():
        if path.is_dir() != splits["train"].is_dir():
            names = f"{splits['train'].name} and {path.name}"
            raise DataError(f"task {folder.name!r}: {names} are a table and a folder of images; have the same in both")
    return TaskFolder(folder.name, splits)


def _split_of(path: Path) -> str | None:
    """Return the split that a table or a folder is by its name."""
    if path.is_dir():
        return SPLIT_WORDS.get(path.name.lower())
    return SPLIT_WORDS.get(path.stem.lower()) if path.suffix.lower() in SUFFIXES else None


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder and not hidden, in order."""
    by_name = {path.name: path for path in folder.iterdir() if not path.name.startswith((".", "__"))}
    return [by_name[name] for name in in_order(by_name)]

"""Hub data sets through the library `datasets`: one that was downloaded, one on the hub, or a local copy of one.

Imported only where a hub data set is asked for. Whether the hub may be asked is HF_HUB_OFFLINE's matter.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from clora_exp.errors import DataError, unknown
from clora_exp.received import is_inside
from clora_exp.tasks import cache
from clora_exp.tasks.foreign import check_local, roots


def is_local(path: str) -> bool:
    """Tell whether a data set's path is a place on this machine, not a name on the hub."""
    return path.startswith((".", "/", "~")) or Path(path).exists()


def load(task: str, path: str, name: str | None, revision: str | None) -> dict[str, Any]:
    """Return split → the data set's rows (a `datasets.Dataset`).

    Raises:
        DataError: `datasets` is not installed, or the data set is not here and cannot be fetched, with what to type.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "hub data sets need the package datasets; run: pip install -e '.[hub]' -c constraints.txt"
        ) from None
    where = Path(path).expanduser()
    if is_local(path) and not where.exists():
        raise DataError(f"task {task!r}: {path}: no such file or folder")
    if is_local(path):
        check_local(task, where)
    try:
        if not is_local(path):
            return dict(datasets.load_dataset(path, name, revision=revision))
        if (where / "dataset_dict.json").exists():
            return dict(datasets.load_from_disk(str(where)))
        if where.is_file():
            kind = {".jsonl": "json", ".json": "json", ".csv": "csv"}.get(where.suffix, "parquet")
            found = datasets.load_dataset(kind, data_files=str(where), cache_dir=_local_cache())
        elif plain := _one_file_a_split(where):
            found = datasets.load_dataset(*plain, cache_dir=_local_cache())
        else:
            named = name if name in datasets.get_dataset_config_names(str(where)) else None
            found = datasets.load_dataset(str(where), named, cache_dir=_local_cache())
        return dict(found)
    except Exception as error:  # of requests, httpx, pyarrow, datasets: whatever it is, the data is not there
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if is_local(path):
            raise DataError(f"task {task!r}: {path} cannot be read as a data set: {reason}") from error
        raise DataError(
            f"task {task!r}: hub data set {path!r}{f' ({name})' if name else ''} is not on this machine and could not "
            f"be fetched: {reason}. Write HF_HUB_OFFLINE=0 before the command to ask the hub, or name a local copy: "
            f"tasks.hub.datasets.{task}.path=FOLDER, or tasks.path=FOLDER for FOLDER/{task}"
        ) from error


def _one_file_a_split(folder: Path) -> tuple[str, None, None, dict[str, str]] | None:
    """Return what loads a folder of plain files, train.json and the like, each as the split of its name.

    Left to itself the library takes eval.json for a part of test.
    """
    kinds = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix in kinds]
    if not {"train", "test"} <= {file.stem for file in files} or len({file.stem for file in files}) != len(files):
        return None
    if len({kinds[file.suffix] for file in files}) != 1:
        return None
    return kinds[files[0].suffix], None, None, {file.stem: str(file) for file in files}


def split_of(splits: dict[str, Any], task: str, split: str, role: str, columns: Collection[str]) -> Any:
    """Return one split with these columns alone.

    Raises:
        DataError: the split or a column is not there, with what is.
    """
    if split not in splits:
        raise DataError(f"task {task!r}: tasks.hub.datasets.{task}.{role}={split}: {unknown('split', split, splits)}")
    for column in columns:
        if column not in splits[split].column_names:
            raise DataError(f"task {task!r}: {unknown('column', column, splits[split].column_names)}")
    return splits[split].select_columns(list(columns))


def content_sha256(rows: Any) -> str:
    """Return the SHA-256 of a split's columns and values, read in batches."""
    digest = hashlib.sha256(repr(rows.features).encode())
    for table in rows.with_format("arrow").iter(10_000):
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def image_file(image: dict[str, Any], path: str) -> str:
    """Return the path of an undecoded image: its own, or in the cache, by content, where it came inside the table.

    Raises:
        DataError: the table of the data set `path` names a file that does not belong to it.
    """
    if image["bytes"] is None:
        file = Path(image["path"])
        if not any(is_inside(file, root) for root in _places(path)):
            raise DataError(f"{path}: names the image {file}, which lies outside of it")
        return str(file.resolve())
    name = hashlib.sha256(image["bytes"]).hexdigest()
    kept = cache.cache_dir() / "images" / name[:2] / f"{name}{Path(image['path'] or '').suffix or '.png'}"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_bytes(image["bytes"])  # tens of thousands: not worth a flush to disk each
        os.replace(part, kept)
    return str(kept.resolve())


def _places(path: str) -> list[Path]:
    """Return where the files of a data set may lie: of one on the hub, in what was downloaded and unpacked."""
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    if is_local(path):
        return [*roots(Path(path).expanduser()), Path(_local_cache())]
    return [Path(HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE), Path(datasets.config.DOWNLOADED_DATASETS_PATH)]


def _local_cache() -> str:
    return str(cache.cache_dir() / "datasets")

"""Identification of a store's tasks: learned from their data, kept in the store, asked with the store's base model."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clora_exp.errors import StoreError
from clora_exp.inference.identification import Features, Identification, TaskTexts, Way, learned
from clora_exp.inference.loaded import Loader
from clora_exp.inference.measuring import BATCH, StoredData
from clora_exp.inference.places import Place
from clora_exp.reports.time_left import TimeLeft
from clora_exp.store.manifest import Base, Manifest

FILE = "identification.safetensors"


def file_of(place: Place) -> Path:
    """Return where a store keeps it."""
    return place.store.path / FILE


def learn(
    place: Place,
    way: Way,
    foreign: Sequence[str],
    overrides: Sequence[str] = (),
    progress: TimeLeft | None = None,
) -> Identification:
    """Learn to tell a store's tasks apart, from their training and validation texts, and keep it in the store.

    Args:
        foreign: texts of no task, see background.py.
        overrides: of the data, see `StoredData`.
        progress: shows how far the base is with its reading.

    Raises:
        StoreError: there is no task, the tasks are of images, or their data is not here.
    """
    manifests = [place.store.manifest(task) for task in place.tasks()]
    if not manifests:
        raise StoreError(f"{place.store.path} has no tasks to tell apart")
    tasks = texts_of_tasks(manifests, StoredData(overrides))
    if progress:
        texts = {text for task in tasks.values() for text in (*task.train, *task.validation)}
        progress.expect(len(texts.union(foreign)))
    found = learned(way, tasks, foreign, features_of(Loader(place), manifests[0].base, progress))
    found.write(file_of(place))
    return found


def texts_of_tasks(manifests: Sequence[Manifest], data: StoredData) -> dict[str, TaskTexts]:
    """Return what there is to learn from, by task.

    Raises:
        StoreError: the tasks are of images, or their data is not here.
    """
    found = {}
    for manifest in manifests:
        task = data.task(manifest)
        if task.modality != "text":
            raise StoreError(f"task {manifest.task!r} is of images; tasks are told apart by texts alone")
        found[manifest.task] = TaskTexts(
            f"{manifest.description} {' '.join(manifest.labels)}",
            [example.text for example in task.train],
            [example.label for example in task.train],
            [example.text for example in task.validation],
        )
    return found


def known_to(place: Place) -> Identification:
    """Read a store's identification, where it knows every task of the store.

    Raises:
        StoreError: there is none, it is damaged, or it was learned for other tasks.
    """
    found = Identification.read(file_of(place))
    if strange := sorted(set(place.tasks()) ^ set(found.tasks)):
        is_new = strange[0] not in found.tasks
        what = "does not know the task" if is_new else "was learned with a task that is gone,"
        raise StoreError(f"the identification of {place.store.path} {what} {strange[0]!r}: `learn` it again")
    return found


def features_of(loader: Loader, base: Base, progress: Callable[[int], None] | None = None) -> Features:
    """Return what gives the frozen base's features of texts, (n, d), in batches of texts of similar length."""

    def features(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, np.ndarray] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            rows = loader.features(base, [texts[i] for i in part]).numpy()
            found.update(zip(part, rows, strict=True))
            if progress:
                progress(len(part))
        return np.stack([found[i] for i in range(len(texts))])

    return features

"""Which stored tasks a new one may start from, and the mean feature by which the most similar one is found."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from clora_exp.adapters.active import BASE, answering
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError
from clora_exp.methods.base import SIMILARITY_EXAMPLES, spread_evenly
from clora_exp.methods.starts import Start
from clora_exp.saved import SavedTask
from clora_exp.store.folder import Store
from clora_exp.store.parents import pairs_of
from clora_exp.tasks.stream import Task, load_stream

BATCH = 32


def configured_starts(config: ExperimentConfig, model_sha256: str) -> list[Start]:
    """Return the current versions of `store.path` on this base model, for `warm_start=stored`; of another, nothing.

    A version with a parent is none: its update belongs to other weights.

    Raises:
        StoreError: there is no such store, or a version in it is damaged.
    """
    if config.method.warm_start != "stored":
        return []
    assert config.store.path is not None
    store = Store(Path(config.store.path), is_new=True)
    found = []
    for task in store.tasks():
        manifest = store.manifest(task)
        if manifest.base.sha256 == model_sha256 and manifest.mean_feature and not manifest.parent:
            mean = torch.tensor(manifest.mean_feature)
            read = partial(_pairs, store, task, manifest.version)
            found.append(Start(f"{task}@{manifest.version}", mean, manifest.data_sha256["train"], read))
    return found


def _pairs(store: Store, task: str, version: str) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    return pairs_of(store, store.read(task, version))


def data_of(config: ExperimentConfig) -> dict[str, Task]:
    """Return a run's tasks by name, where their data is still at hand; else none."""
    try:
        return {task.name: task for task in load_stream(config.tasks, config.data_seed)}
    except CloraError:
        return {}


def mean_feature(saved: SavedTask, task: Task | None) -> list[float]:
    """Return the mean of the frozen base's features over training examples, (d,); none without the very data."""
    if task is None or task.sha256 != saved.manifest["data_sha256"] or saved.config.store.parent:
        return []
    examples = [task.train[i] for i in spread_evenly(len(task.train), SIMILARITY_EXAMPLES)]
    rows = []
    with torch.inference_mode(), answering(BASE):
        for start in range(0, len(examples), BATCH):
            rows.append(
                saved.model.features(saved.model.inputs_of(examples[start : start + BATCH], saved.told)).float()
            )
    return [float(f"{value:.6g}") for value in torch.cat(rows).double().mean(0).tolist()]

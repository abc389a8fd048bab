"""Where tasks come from: a store, or the folder of one run, whose tasks then have the one version v1."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

from torch import Tensor

from clora_exp import discovery
from clora_exp.compose import compose_experiment
from clora_exp.config import ModelConfig
from clora_exp.errors import ModelError, StoreError
from clora_exp.models.base import TaskModel
from clora_exp.runs import read_run
from clora_exp.store.aliases import NAME, Aliases, Target
from clora_exp.store.folder import Store, Stored
from clora_exp.store.manifest import Base
from clora_exp.store.parents import pairs_of
from clora_exp.store.saving import import_run

YOUNG_NS = 2_000_000_000  # FAT's clock, the coarsest, ticks every two seconds


class Place:
    """A store, read-only, and the base model that its versions belong to."""

    def __init__(self, store: Store, model_path: str | None = None, folder: object = None) -> None:
        """Read from a store.

        Args:
            model_path: the folder of the base model, where it is not the one of its name.
            folder: kept as long as this is, e.g. a temporary directory.
        """
        self.store, self._model_path, self._folder = store, model_path, folder
        self._aliases: dict[
            str, tuple[str, tuple[int, int], Aliases]
        ] = {}  # task → its file, that one's stamp, what it says

    def tasks(self) -> list[str]:
        """Return the tasks' names."""
        return self.store.tasks()

    def resolve(self, task: str, which: str) -> Target:
        """Return the version that an alias or a name means now.

        Raises:
            StoreError: there is none.
        """
        if which != "current":
            return self.store.resolve(task, which)
        path, stamp, known = self._aliases.get(task) or (str(self.store.folder(task) / NAME), None, None)
        now = _stamp(path)
        if now is None:
            return self.store.resolve(task, which)
        if known is None or now != stamp:
            known = self.store.aliases(task)
            if time.time_ns() - now[0] > YOUNG_NS:  # else what is written next may have the same stamp, as clocks tick
                self._aliases[task] = path, now, known
        return known.targets.get(which) or self.store.resolve(task, which)

    def stamp(self, name: str) -> object:
        """Return what changes when a file of the store is replaced; None where there is none."""
        now = _stamp(str(self.store.path / name))
        return now and (*now, *self.tasks())

    def read(self, task: str, target: Target) -> Stored:
        """Return a version, hashed and checked.

        Raises:
            StoreError: it is damaged, gone, or another than was meant.
        """
        return self.store.read(task, target)

    def basis(self, sha256: str) -> dict[str, Tensor]:
        """Return the factors that versions share."""
        return self.store.basis(sha256)

    def pairs_of(self, stored: Stored) -> dict[str, tuple[Tensor, Tensor]]:
        """Return a version's whole update, its parents' too, as pairs."""
        return pairs_of(self.store, stored)

    def build(self, base: Base) -> TaskModel:
        """Return the base model.

        Raises:
            ModelError: it cannot be had here, or it is another one.
        """
        config = self.config_of(base)
        if config.kind != base.kind:
            raise ModelError(f"model {base.name} is a {config.kind} here, and a {base.kind} is needed")
        kind = discovery.model_kinds.load(base.kind)
        found = kind.identity(config)
        if found != base.sha256:
            raise ModelError(f"model {base.name}: its weights are {found[:12]} here, and {base.sha256[:12]} are needed")
        model: TaskModel = kind.build(config)
        model.knows_task = base.knows_task
        return model.requires_grad_(False).eval()

    def config_of(self, base: Base) -> ModelConfig:
        """Return the base model's configuration, with the version's own settings.

        Raises:
            ConfigError: this version of the project has no such model, or no such settings.
        """
        words = [f"model={base.name}", *([f"model.path={self._model_path}"] if self._model_path else [])]
        config = compose_experiment(words).model
        try:
            settings = type(config.settings)(**base.settings)
        except (TypeError, ValueError) as error:
            raise ModelError(f"model {base.name}: its settings in the store are not this version's: {error}") from error
        return dataclasses.replace(config, settings=settings)


def _stamp(path: str) -> tuple[int, int] | None:
    """Return what is another when a file has been replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def open_place(path: Path, model_path: str | None = None) -> Place:
    """Return the place of a store or of a run directory; the tasks of a run are put into a store for as long.

    Raises:
        StoreError, RunError: it is neither, or damaged.
    """
    if (path / "store.json").exists():
        return Place(Store(path), model_path)
    if not (path / "config.yaml").exists():
        raise StoreError(f"{path} is neither a store (no store.json in it) nor a run directory (no config.yaml)")
    folder = tempfile.TemporaryDirectory(prefix="clora-exp-run-")
    store = Store(Path(folder.name), is_new=True)
    import_run(store, path)
    return Place(store, model_path or read_run(path).config["model"]["path"], folder)

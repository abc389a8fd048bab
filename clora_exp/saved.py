"""A learned task back from a run's folder: model, adapters and head, as they answered when it had just been learned."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from clora_exp import discovery
from clora_exp.adapters.active import answering
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.exported import Exported, Pairs
from clora_exp.adapters.targets import rank_of
from clora_exp.compose import SECTIONS
from clora_exp.config import ExperimentConfig, MethodConfig, ModelConfig
from clora_exp.errors import ModelError, RunError, unknown
from clora_exp.methods.suitable import not_exportable
from clora_exp.models.base import TaskModel
from clora_exp.models.prompts import Told
from clora_exp.received import is_inside, parse_yaml
from clora_exp.states import read_state, unpack_layers
from clora_exp.structuring import structure
from clora_exp.sums import check_sums
from clora_exp.tasks.names import listed
from clora_exp.tasks.stream import Example

ADAPTER_FORMAT = 1  # of adapter.json


@dataclass(frozen=True)
class SavedTask:
    """One task, alone on its backbone: slot 0 of the adapters, the model's only head."""

    config: ExperimentConfig
    manifest: dict[str, Any]  # adapter.json
    model: TaskModel
    adapters: Adapters

    def probe(self) -> list[Example]:
        """Return examples to compare answers on: texts are the task's description and its label names."""
        words = [self.manifest["description"] or self.manifest["task"], *self.manifest["labels"]][:16]
        return self.model.probe(words)

    @property
    def told(self) -> Told:
        """What a prompt may tell of the task."""
        labels = tuple(self.manifest["labels"])
        return Told(self.manifest["task"], self.manifest["description"], labels, self.model.knows_task)

    def logits(self, examples: list[Example]) -> Tensor:
        """Return the task's logits, (n, c), or scores of its labels; of written answers those of the first token."""
        with torch.inference_mode(), answering(0):
            return self.model.alone(examples, self.told)

    def exported(self, is_merged: bool = False) -> Exported:
        """Return it for other software."""
        of = {
            "task": self.manifest["task"],
            "base": self.config.model.base_name,
            "description": self.manifest["description"],
            "labels": tuple(self.manifest["labels"]),
        }
        return self.model.exported(self.adapters, 0, next(iter(self.model.heads), None), of, is_merged)


@dataclass(frozen=True)
class SavedHead:
    """A task's labels, and its head as it was when the task had just been learned; of language models no tensors."""

    labels: tuple[str, ...]
    tensors: dict[str, Tensor]  # weight (c, d), bias (c,)

    @classmethod
    def of(cls, manifest: dict[str, Any], tensors: dict[str, Tensor]) -> "SavedHead":
        """Take it out of what `_read` gave."""
        named = {n.removeprefix("head."): t for n, t in tensors.items() if n.startswith("head.")}
        return cls(tuple(manifest["labels"]), named)

    def answer_in(self, model: TaskModel) -> None:
        """Make it the model's only head."""
        model.add_heads([len(self.labels)])
        for head in model.heads:
            head.load_state_dict(self.tensors)


def load_task(run: Path, task: str, *, as_it_ran: bool = False) -> SavedTask:
    """Read a task of a run directory, and build its backbone.

    Args:
        as_it_ran: the backbone has its weights in the run's precision, and answers as in the run; else in float32.

    Raises:
        RunError: no run, no such task in it, or a file that was altered or cannot be read.
        ConfigError, ModelError: its configuration or its base model cannot be had here, or it is another one now.
    """
    folder, config = _folder_of(run, task)
    manifest, tensors, state = _read(run, folder)
    kind = discovery.model_kinds.load(config.model.kind)
    if kind.identity(config.model) != manifest["model"]["sha256"]:
        raise ModelError(f"{folder}: was learned on other weights of {config.model.name} than are here now")
    model = kind.build(config.model if as_it_ran else in_single_precision(config.model))
    model.knows_task = config.scenario == "task_incremental"
    try:
        settings, targets = _of_one_task(config.method, state), config.model.settings.target_modules
        adapters = Adapters(model.backbone, settings, targets, _parent(run, folder, manifest), awaits_state=True)
        adapters.add_state(state)
        SavedHead.of(manifest, tensors).answer_in(model)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise RunError(f"{folder}: does not fit {config.model.name} under the run's settings: {reason}") from error
    return SavedTask(config, manifest, model.requires_grad_(False).eval(), adapters)


def load_head(run: Path, task: str) -> SavedHead:
    """Read a task's head alone, without a backbone.

    Raises:
        RunError: as `load_task`.
    """
    manifest, tensors, _ = _read(run, _folder_of(run, task)[0])
    return SavedHead.of(manifest, tensors)


def _folder_of(run: Path, task: str) -> tuple[Path, ExperimentConfig]:
    """Return where a task lies, and the run's configuration.

    Raises:
        RunError: no run, no such task in it, a file that was altered, or what was learned is no low-rank update.
    """
    folder = run / "adapters" / task
    if not (run / "config.yaml").is_file():
        raise RunError(f"{run}: no run directory (no config.yaml in it)")
    check_sums(run, "restore it, or run it again with overwrite=true")
    have = [path.parent.name for path in run.glob("adapters/*/adapter.json")]
    if task not in have:
        raise RunError(f"{run}: " + unknown("task", task, have))
    if not is_inside(folder, run):
        raise RunError(f"{folder} is a link that leads out of the run")
    try:
        raw = parse_yaml((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{run}/config.yaml cannot be read: {error}") from error
    config = structure(raw, SECTIONS)
    if reason := not_exportable(config.method):
        raise RunError(f"{run}: {reason}")
    return folder, config


def _read(run: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Return the manifest of a task's folder, its tensors as they lie there, and those of the layers by name.

    Raises:
        RunError: a file that was altered or cannot be read.
    """
    try:
        manifest = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        if manifest["format"] != ADAPTER_FORMAT:
            raise ValueError(f"adapter.json has format {manifest['format']}, this version reads {ADAPTER_FORMAT}")
        if not isinstance(manifest["labels"], list) or not isinstance(manifest["model"]["sha256"], str):
            raise ValueError("adapter.json does not say which labels or which model")
        content = (folder / "adapter.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise ValueError("its SHA-256 is not the one in adapter.json")
        tensors = load(content)
        for name, tensor in tensors.items():
            if tensor.dtype not in (torch.float32, torch.bfloat16) or not torch.isfinite(tensor).all():
                raise ValueError(f"{name} is {tensor.dtype}, or holds numbers that are NaN or infinite")
        state = {}
        if manifest["basis_sha256"]:
            basis = run / "adapters" / "basis.safetensors"
            if hashlib.sha256(basis.read_bytes()).hexdigest() != manifest["basis_sha256"]:
                raise ValueError(f"the SHA-256 of {basis} is not the one in adapter.json")
            state = read_state(basis)
        of_layers = {n: t for n, t in tensors.items() if not n.startswith("head.")}
        if of_layers.keys() != manifest["layers"].keys():
            raise ValueError(f"adapter.json names the tensors {listed(manifest['layers'])}, not {listed(of_layers)}")
        return manifest, tensors, state | unpack_layers(of_layers, manifest["layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise RunError(f"{folder}: cannot be read: {error}") from error


def _parent(run: Path, folder: Path, manifest: dict[str, Any]) -> Pairs | None:
    """Return the update that a task has beneath its own.

    Raises:
        RunError: the file was altered or cannot be read.
    """
    if not manifest.get("parent_sha256"):
        return None
    path = run / "adapters" / "parent.safetensors"
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["parent_sha256"]:
            raise ValueError(f"the SHA-256 of {path} is not the one in adapter.json")
        return {name: (A, B) for name, (A, B) in read_state(path).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}: cannot be read: {error}") from error


def in_single_precision(config: ModelConfig) -> ModelConfig:
    """Return the model's configuration with its weights in float32, which other software is compared in."""
    if not hasattr(config.settings, "dtype"):
        return config
    return dataclasses.replace(config, settings=dataclasses.replace(config.settings, dtype="float32"))


def _of_one_task(settings: MethodConfig, state: dict[str, Tensor]) -> MethodConfig:
    """Return the setting under which what is saved is one task: a sum of updates becomes one update of their ranks."""
    if settings.composition != "sum":
        return settings
    name, A = next((name, tensor) for name, tensor in state.items() if name.startswith("A/"))
    times = len(A) // rank_of(name.removeprefix("A/"), settings)
    return dataclasses.replace(
        settings,
        composition="own",
        magnitudes="fixed",
        rank=settings.rank * times,
        alpha=settings.alpha * times,
        rank_pattern={end: rank * times for end, rank in (settings.rank_pattern or {}).items()} or None,
    )

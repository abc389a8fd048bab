"""A version in memory: its rows in the banks, and how texts are answered with it."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clora_exp.adapters.active import answering
from clora_exp.errors import ModelError, StoreError
from clora_exp.inference.bank import Bank, HeadBank
from clora_exp.inference.places import Place
from clora_exp.models.base import TaskModel
from clora_exp.models.prompts import Told
from clora_exp.states import unpack_layers
from clora_exp.store.folder import Stored
from clora_exp.store.manifest import Base
from clora_exp.tasks.stream import Example

NO_TASK = Told("", "", (), is_known=False)
TOLERANCE = 1e-3  # of a probe's logits, over their largest number: another order of sums, on another processor


@dataclass
class Loaded:
    """One version in memory."""

    task: str
    version: str
    id: str
    labels: tuple[str, ...]
    told: Told
    group: int  # of versions that can answer in one forward pass
    row: int  # in the group's bank
    head: int | None  # its row among the heads; None where the base answers in words
    num_bytes: int  # of its tensors
    num_users: int = 0  # requests that are being answered with it


class Loader:
    """The base model and the banks on it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._base: tuple[Base, TaskModel] | None = None
        self._banks: dict[tuple[Any, ...], int] = {}  # basis and modules → group
        self._groups: list[Bank] = []
        self._heads: HeadBank | None = None
        self._building = threading.Lock()
        self._words = threading.Lock()  # a tokenizer of transformers serves one thread at a time

    def take_in(self, stored: Stored) -> Loaded:
        """Write a version into the banks, answer its probe, and return it; where anything is wrong nothing stays.

        Raises:
            ModelError: it belongs to another base, or does not fit it.
            StoreError: its probe is not answered as it was.
        """
        manifest = stored.manifest
        base = self._base_for(manifest.base, stored.label)
        group, tensors = self._group(stored, base)
        row = self._groups[group].put(tensors)
        weight = stored.tensors.get("head.weight")
        head = None
        try:
            if weight is not None:
                self._heads = self._heads or HeadBank(base.width, weight)
                head = self._heads.put(weight, stored.tensors.get("head.bias"))
            told = Told(manifest.task, manifest.description, tuple(manifest.labels), manifest.base.knows_task)
            num_bytes = sum(x.numel() * x.element_size() for x in stored.tensors.values())
            entry = Loaded(manifest.task, manifest.version, stored.id, told.labels, told, group, row, head, num_bytes)
            self._check_probe(stored, entry)
        except BaseException:
            self._groups[group].clear(row)
            if head is not None and self._heads is not None:
                self._heads.clear(head)
            raise
        return entry

    @property
    def base(self) -> TaskModel:
        """The base model, once a version has been taken in."""
        assert self._base is not None
        return self._base[1]

    def let_go(self, entry: Loaded) -> None:
        """Clear a version's rows."""
        self._groups[entry.group].clear(entry.row)
        if entry.head is not None and self._heads is not None:
            self._heads.clear(entry.head)

    def logits(self, versions: Sequence[Loaded], texts: Sequence[str]) -> Tensor:
        """Return logits of one text each, (n, c), of versions of one group; 0 beyond a version's labels."""
        model = self._groups[versions[0].group].model
        if versions[0].head is None:
            return self._scores(model, versions, texts)
        with self._words:
            examples = [Example(str(i), text, "", str(i)) for i, text in enumerate(texts)]
            inputs = model.inputs_of(examples, versions[0].told)
        rows = [version.row for version in versions]
        task = rows[0] if len(set(rows)) == 1 else torch.tensor(rows)
        assert self._heads is not None
        with torch.inference_mode(), answering(task):
            features = model.features(inputs)
            return self._heads.logits(features, torch.tensor([version.head for version in versions]))

    def features(self, base: Base, texts: Sequence[str]) -> Tensor:
        """Return what the frozen base sees in texts of no task in particular, (n, d), float32.

        Raises:
            ModelError: it is another base than the one in memory.
        """
        model = self._base_for(base, "identification of tasks")
        with self._words:
            inputs = model.inputs_of([Example(str(i), x, "", str(i)) for i, x in enumerate(texts)], NO_TASK)
        with torch.inference_mode():
            return model.features(inputs).float()

    def _scores(self, model: TaskModel, versions: Sequence[Loaded], texts: Sequence[str]) -> Tensor:
        """Return how likely a language model finds each label, (n, c), task by task: their prompts differ."""
        found = torch.zeros(len(texts), max(len(version.labels) for version in versions))
        for entry in {id(version): version for version in versions}.values():
            own = [i for i, version in enumerate(versions) if version is entry]
            examples = [Example(str(i), texts[i], "", str(i)) for i in own]
            with self._words, torch.inference_mode(), answering(entry.row):
                scores = model.alone(examples, entry.told)
            found[own, : scores.shape[1]] = scores.float()
        return found

    def write(self, entry: Loaded, prompt: str, options: dict[str, Any]) -> str:
        """Let a language model write on from a prompt.

        Raises:
            ModelError: the base is none.
        """
        model: Any = self._groups[entry.group].model
        if entry.head is not None or not hasattr(model, "write"):
            raise ModelError(f"task {entry.task!r}: its base answers with labels, it does not write; use predict")
        with self._words:
            inputs = dict(model.tokenizer([prompt], return_tensors="pt"))
        with torch.inference_mode(), answering(entry.row):
            return str(model.write(inputs, **options)[0])

    def _check_probe(self, stored: Stored, entry: Loaded) -> None:
        probe = stored.manifest.probe
        if not probe.words:
            return
        expected = torch.tensor(probe.logits, dtype=torch.float64)
        found = self.logits([entry] * len(probe.words), probe.words)[:, : expected.shape[1]].double()
        error = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
        if not error <= TOLERANCE:  # NaN too
            raise StoreError(
                f"{stored.label}: its probe is answered {float(error):.1e} away from what it was when it was saved, at "
                f"most {TOLERANCE:.0e} is allowed; its base model or its software is another"
            )

    def _base_for(self, base: Base, label: str) -> TaskModel:
        with self._building:
            if self._base is None:
                self._base = base, self._place.build(base)
        known, model = self._base
        if base != known:
            what = "sha256" if base.sha256 != known.sha256 else "settings"
            raise ModelError(f"{label}: its base model is another than the one in memory ({base.name}, by its {what})")
        return model

    def _group(self, stored: Stored, base: TaskModel) -> tuple[int, dict[str, Tensor]]:
        """Return the bank that a version belongs to, and its tensors as that takes them."""
        weights, sha256 = stored.manifest.weights, None
        if stored.manifest.parent:
            pairs = self._place.pairs_of(stored)
            tensors = {f"{part}/{name}": pair[i].float() for name, pair in pairs.items() for i, part in enumerate("AB")}
        else:
            layers = {name: x for name, x in stored.tensors.items() if name in weights.layers}
            unpacked = unpack_layers(layers, dict(weights.layers))
            tensors = {re.sub("^R/", "routing/", name): x for name, x in unpacked.items()}
            sha256 = weights.basis_sha256
        modules = sorted({name.partition("/")[2] for name in tensors})
        key = (sha256, tuple(modules))
        if key not in self._banks:
            basis = self._place.basis(sha256) if sha256 else None
            rank = max(x.shape[1 if name.startswith("B/") else 0] for name, x in tensors.items())
            self._groups.append(Bank(base, modules, rank, basis))
            self._banks[key] = len(self._groups) - 1
        return self._banks[key], tensors

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows of all banks, room to spare included; the base is not counted."""
        return sum(bank.num_bytes for bank in self._groups) + (self._heads.num_bytes if self._heads else 0)

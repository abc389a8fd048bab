"""A version in memory: its rows in the banks, and how texts are answered with it."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from clora_exp.adapters.active import answering
from clora_exp.errors import ModelError, StoreError, unknown
from clora_exp.inference.bank import Bank, HeadBank
from clora_exp.inference.places import Place
from clora_exp.models.base import TaskModel
from clora_exp.models.prompts import Told
from clora_exp.states import unpack_layers
from clora_exp.store.folder import Stored
from clora_exp.store.manifest import Base
from clora_exp.tasks.stream import Example

LEAST_ROOM = 4  # labels that a bank of heads is for; then 8, 16, …
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
    writes: bool  # its answers are written, not chosen among labels
    bank: int  # of versions that can answer in one forward pass
    row: int  # in the bank
    heads: int = 0  # of how many labels the bank is that has its head; 0 where the base answers in words
    head: int = 0  # its row there
    num_bytes: int = 0  # of its rows
    num_users: int = 0  # requests that are being answered with it


class Loader:
    """The base model and the banks on it. One thread at a time may take in and let go; any number may ask meanwhile."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._base: tuple[Base, TaskModel] | None = None
        self._numbers: dict[tuple[Any, ...], int] = {}  # basis, rank and modules → the bank's number
        self._banks: dict[int, Bank] = {}
        self._heads: dict[int, HeadBank] = {}  # by how many labels they have room for
        self._entries: list[Loaded] = []
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
        told = Told(manifest.task, manifest.description, tuple(manifest.labels), manifest.base.knows_task)
        weight = stored.tensors.get("head.weight")
        if weight is not None and weight.shape[1] != base.width:
            raise ModelError(f"{stored.label}: a head of {weight.shape[1]} features; the base model gives {base.width}")
        if weight is None and not hasattr(base, "writes"):
            raise ModelError(f"{stored.label}: it has no head, and its base does not answer in words")
        number, tensors = self._bank_of(stored, base)
        writes = weight is None and base.writes(told)  # type: ignore[operator]
        entry = Loaded(manifest.task, manifest.version, stored.id, told.labels, told, writes, number, row=-1)
        try:
            entry.row = self._banks[number].put(tensors)
            entry.num_bytes = self._banks[number].slots.row_bytes
            if weight is not None:
                room = max(LEAST_ROOM, 1 << (len(weight) - 1).bit_length())
                heads = self._heads.setdefault(room, HeadBank(room, weight))
                entry.heads, entry.head = room, heads.put(weight, stored.tensors.get("head.bias"))
                entry.num_bytes += heads.slots.row_bytes
            self._entries.append(entry)
            self._check_probe(stored, entry)
        except BaseException:
            self.let_go(entry)
            raise
        return entry

    @property
    def base(self) -> TaskModel:
        """The base model, once a version has been taken in."""
        assert self._base is not None
        return self._base[1]

    def let_go(self, entry: Loaded) -> None:
        """Clear a version's rows. Of the banks without any one is kept: the next task is likely to need it again."""
        if entry.heads:
            self._heads[entry.heads].slots.give_back(entry.head)
            if not self._heads[entry.heads].slots.num_used:
                del self._heads[entry.heads]
        if entry.row >= 0:
            self._banks[entry.bank].slots.give_back(entry.row)
        self._entries = [other for other in self._entries if other is not entry]
        self._drop_empty(but=entry.bank)

    def _drop_empty(self, but: int | None = None) -> None:
        empty = [n for n, bank in self._banks.items() if not bank.slots.num_used and n != but]
        self._banks = {n: bank for n, bank in self._banks.items() if n not in empty}
        self._numbers = {key: n for key, n in self._numbers.items() if n not in empty}

    def compact(self) -> None:
        """Leave no room to spare. Nobody may be asking, and it is for the caller to see to that."""
        self._drop_empty()
        moved = {n: bank.slots.compact() for n, bank in self._banks.items()}
        heads = {n: bank.slots.compact() for n, bank in self._heads.items()}
        for entry in self._entries:
            entry.row = moved[entry.bank][entry.row]
            entry.head = heads[entry.heads][entry.head] if entry.heads else 0

    def logits(self, versions: Sequence[Loaded], texts: Sequence[str]) -> Tensor:
        """Return logits of one text each, (n, c), of versions of one bank; 0 beyond a version's labels.

        Of a version that writes they are those of the first token.
        """
        model = self._banks[versions[0].bank].model
        if not versions[0].heads:
            return self._scores(model, versions, texts)
        with self._words:
            examples = [Example(str(i), text, "", str(i)) for i, text in enumerate(texts)]
            inputs = model.inputs_of(examples, versions[0].told)
        rows = [version.row for version in versions]
        task = rows[0] if len(set(rows)) == 1 else torch.tensor(rows)
        with torch.inference_mode(), answering(task):
            return self._through_heads(model.features(inputs), versions)

    def _through_heads(self, features: Tensor, versions: Sequence[Loaded]) -> Tensor:
        found = features.new_zeros(len(versions), max(len(version.labels) for version in versions), dtype=torch.float32)
        for room in {version.heads for version in versions}:
            own = [i for i, version in enumerate(versions) if version.heads == room]
            part = self._heads[room].logits(features[own], torch.tensor([versions[i].head for i in own]))
            width = min(part.shape[1], found.shape[1])
            found[own, :width] = part[:, :width].float()
        return found

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
        parts = []
        for entry in {id(version): version for version in versions}.values():
            own = [i for i, version in enumerate(versions) if version is entry]
            examples = [Example(str(i), texts[i], "", str(i)) for i in own]
            with self._words, torch.inference_mode(), answering(entry.row):
                parts.append((own, model.alone(examples, entry.told).float()))
        found = torch.zeros(len(texts), max(scores.shape[1] for _, scores in parts))
        for own, scores in parts:
            found[own, : scores.shape[1]] = scores
        return found

    def write(self, entry: Loaded, prompt: str, options: dict[str, Any]) -> str:
        """Let a language model write on from a prompt, as it stands.

        Raises:
            ModelError: the base is none, or has no room for the prompt and what is to be written; an option that
                transformers does not take.
        """
        model: Any = self._banks[entry.bank].model
        if entry.heads or not hasattr(model, "write"):
            raise ModelError(f"task {entry.task!r}: its base answers with labels, it does not write; use predict")
        with self._words:
            inputs = dict(model.tokenizer([prompt], return_tensors="pt"))
        for name in options:
            if name not in (have := vars(GenerationConfig())):
                raise ModelError(unknown("option of generate", name, [key for key in have if key[0] != "_"]))
        config = model.backbone.config
        room = None if config.is_encoder_decoder else getattr(config, "max_position_embeddings", None)
        length, more = inputs["input_ids"].shape[1], options.get("max_new_tokens", model.config.max_new_tokens)
        if room is not None and length + more > room:
            raise ModelError(f"a prompt of {length} tokens and max_new_tokens={more}: the base has room for {room}")
        try:
            with torch.inference_mode(), answering(entry.row):
                return str(model.write(inputs, **options)[0])
        except (ValueError, TypeError) as error:
            raise ModelError(f"task {entry.task!r}: {error}") from error

    def written(self, entry: Loaded, texts: Sequence[str]) -> list[str]:
        """Return what a version that writes answers to texts, as it did in its run."""
        model: Any = self._banks[entry.bank].model
        examples = [Example(str(i), text, "", str(i)) for i, text in enumerate(texts)]
        with self._words:
            inputs = model.inputs_of(examples, entry.told)
        with torch.inference_mode(), answering(entry.row):
            return list(model.write(inputs))

    def _check_probe(self, stored: Stored, entry: Loaded) -> None:
        probe = stored.manifest.probe
        if not probe.words:
            return
        found = self.logits([entry] * len(probe.words), probe.words).double()
        if [len(row) for row in probe.logits] != [found.shape[1]] * len(found):
            raise StoreError(f"{stored.label}: its probe is of other shape than its answers, {tuple(found.shape)}")
        expected = torch.tensor(probe.logits, dtype=torch.float64)
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

    def _bank_of(self, stored: Stored, base: TaskModel) -> tuple[int, dict[str, Tensor]]:
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
        rank = max(x.shape[1 if name.startswith("B/") else 0] for name, x in tensors.items())
        key = (sha256, rank, tuple(modules))
        if key not in self._numbers:
            number = max(self._banks, default=-1) + 1
            self._banks[number] = Bank(base, modules, rank, self._place.basis(sha256) if sha256 else None)
            self._numbers[key] = number
        return self._numbers[key], tensors

    @property
    def num_bytes(self) -> int:
        """Bytes of all banks, room to spare and what tasks share included; the base is not counted."""
        of_banks = sum(bank.slots.num_bytes for bank in list(self._banks.values()))
        of_heads = sum(bank.slots.num_bytes for bank in list(self._heads.values()))
        return of_banks + of_heads + sum(bank.fixed_bytes for bank in list(self._banks.values()))

    @property
    def used_bytes(self) -> int:
        """The same without room to spare, as `compact` leaves it."""
        of_banks = sum(bank.fixed_bytes for bank in list(self._banks.values()) if bank.slots.num_used)
        return sum(entry.num_bytes for entry in list(self._entries)) + of_banks

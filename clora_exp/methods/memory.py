"""Kept examples: a memory bounded by count or bytes, with its counters in its state, sampled at a flat cost.

Encoded examples are kept, not texts or files, each with its label, its task and, where asked for, its logits. Both ways
of choosing go through a stream once and know only what it has shown: a reservoir keeps each example with the same
probability (Vitter 1985, algorithm R), a class-balanced memory each of a class, and of all classes as many as can be
(Chrysakis & Moens 2020, ICML, algorithm 1). What is drawn comes from a generator of the memory's own.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clora_exp.errors import DataError
from clora_exp.methods.invariant import Invariant
from clora_exp.models.base import TaskModel
from clora_exp.models.batches import Batch, EncodedSplit

Selection = Literal["reservoir", "class_balanced"]


@dataclass
class Kept:
    """One example: its inputs without padding, its label among the scenario's labels, its task, its logits if any."""

    inputs: dict[str, Tensor]
    label: int
    task: int
    logits: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors, and eight each for label, task and every tensor's length."""
        tensors = [*self.inputs.values()] + ([] if self.logits is None else [self.logits])
        return 16 + sum(8 + tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def key(self) -> tuple[int, int]:
        """Its class: the label alone is not enough where tasks have label spaces of their own."""
        return self.task, self.label


class ExampleMemory:
    """At most `capacity` examples, or as many as fit `capacity_bytes`; None: without that bound.

    A bound in bytes counts each example as large as the largest that was offered, so that long ones are as likely kept.
    """

    def __init__(
        self, selection: Selection, capacity: int | None = None, capacity_bytes: int | None = None, seed: int = 0
    ) -> None:
        self.selection, self.capacity, self.capacity_bytes = selection, capacity, capacity_bytes
        self.examples: list[Kept] = []
        self.num_seen: Counter[tuple[int, int]] = Counter()  # by class
        self.was_largest: set[tuple[int, int]] = set()  # classes that no longer grow
        self._places: dict[tuple[int, int], list[int]] = {}  # class → where its examples are
        self._largest_bytes = 0
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def size_bytes(self) -> int:
        """Bytes of what is kept."""
        return sum(example.size_bytes for example in self.examples)

    def offer(self, example: Kept) -> None:
        """Show the memory an example; it keeps it, in place of another where it is full, or does not.

        Raises:
            DataError: not even one example fits the bound in bytes.
        """
        self.num_seen[example.key] += 1
        self._largest_bytes = max(self._largest_bytes, example.size_bytes)
        if self.capacity_bytes is not None and self._largest_bytes > self.capacity_bytes:
            raise DataError(f"capacity_bytes={self.capacity_bytes}: an example has {self._largest_bytes} bytes already")
        bound = self._bound()
        while len(self.examples) > max(bound, 0):
            self._remove(int(self._rng.integers(len(self.examples))))
        if len(self.examples) < bound:
            self._places.setdefault(example.key, []).append(len(self.examples))
            self.examples.append(example)
        elif bound > 0:
            place = self._place_for(example)
            if place is not None:
                self._places[self.examples[place].key].remove(place)
                self._places.setdefault(example.key, []).append(place)
                self.examples[place] = example

    def _bound(self) -> int:
        bounds = [len(self.examples) + 1]
        bounds += [] if self.capacity is None else [self.capacity]
        bounds += [] if self.capacity_bytes is None else [self.capacity_bytes // self._largest_bytes]
        return min(bounds)

    def _place_for(self, example: Kept) -> int | None:
        """Return where a full memory puts the example, or None: it is not kept."""
        if self.selection == "reservoir":
            place = int(self._rng.integers(self.num_seen.total()))
            return place if place < len(self.examples) else None
        most = max(map(len, self._places.values()))
        self.was_largest |= {key for key, places in self._places.items() if len(places) == most}
        own = self._places.get(example.key, [])
        if example.key not in self.was_largest:  # it may grow, at the cost of a class that has most
            largest = sorted(key for key, places in self._places.items() if len(places) == most)
            places = self._places[largest[int(self._rng.integers(len(largest)))]]
            return places[int(self._rng.integers(len(places)))]
        keeps = self._rng.random() < len(own) / self.num_seen[example.key]  # a reservoir of the class
        return own[int(self._rng.integers(len(own)))] if own and keeps else None

    def _remove(self, place: int) -> None:
        last = len(self.examples) - 1
        self._places[self.examples[place].key].remove(place)
        if place != last:
            moved = self.examples[last]
            places = self._places[moved.key]
            places[places.index(last)] = place
            self.examples[place] = moved
        self.examples.pop()

    def offer_split(self, split: EncodedSplit, model: TaskModel, rows: np.ndarray) -> None:
        """Show the memory these rows of a split, in this order."""
        for row in rows.tolist():
            batch = split[[row]]
            assert isinstance(batch.task, int)
            self.offer(Kept(model.unbatch(batch.inputs)[0], int(batch.labels[0]), batch.task))

    def offer_batch(self, batch: Batch, model: TaskModel, logits: Tensor) -> None:
        """Show the memory a batch with logits (n, c), of which −inf is left out."""
        tasks = torch.as_tensor(batch.task).expand(len(batch.labels)).tolist()
        logits = logits.detach().float().cpu()
        rows = zip(model.unbatch(batch.inputs), batch.labels.tolist(), tasks, logits, strict=True)
        for inputs, label, task, own in rows:
            width = int((own != -torch.inf).nonzero().max()) + 1
            self.offer(Kept(inputs, label, task, own[:width].clone()))

    def sample(self, count: int, model: TaskModel, device: torch.device) -> tuple[Batch, Tensor | None]:
        """Return so many examples, or all where there are fewer, drawn without replacement, and their logits if any.

        Logits are (n, c), NaN where an example has none.
        """
        return self.batch(self.places(count), model, device)

    def places(self, count: int) -> list[int]:
        """Return where so many examples are, or all where there are fewer, drawn without replacement."""
        return self._rng.choice(len(self.examples), size=min(count, len(self.examples)), replace=False).tolist()

    def of_task(self, t: int) -> list[int]:
        """Return where the examples of a task are."""
        return sorted(place for (task, _), places in self._places.items() if task == t for place in places)

    def batch(self, places: list[int], model: TaskModel, device: torch.device) -> tuple[Batch, Tensor | None]:
        """Return the examples at these places as one batch on the device, and their logits as `sample` does."""
        chosen = [self.examples[place] for place in places]
        inputs = {name: value.to(device) for name, value in model.collate([e.inputs for e in chosen]).items()}
        labels = torch.tensor([e.label for e in chosen], device=device)
        tasks = torch.tensor([e.task for e in chosen], device=device)
        logits = None
        if chosen[0].logits is not None:
            kept = [e.logits for e in chosen if e.logits is not None]
            logits = torch.full((len(kept), max(map(len, kept))), torch.nan)
            for row, own in zip(logits, kept, strict=True):
                row[: len(own)] = own
            logits = logits.to(device)
        return Batch(inputs, labels, tasks, torch.tensor(places)), logits

    def state_dict(self) -> dict[str, Any]:
        """Return examples, counters and generator as tensors and plain values."""
        names = sorted(self.examples[0].inputs) if self.examples else []
        has_logits = bool(self.examples) and self.examples[0].logits is not None
        return {
            "inputs": {name: _packed([e.inputs[name] for e in self.examples]) for name in names},
            "logits": _packed([e.logits for e in self.examples if e.logits is not None]) if has_logits else {},
            "labels": torch.tensor([e.label for e in self.examples]),
            "tasks": torch.tensor([e.task for e in self.examples]),
            "num_seen": [[*key, count] for key, count in sorted(self.num_seen.items())],
            "was_largest": [list(key) for key in sorted(self.was_largest)],
            "largest_bytes": self._largest_bytes,
            "places": [[list(key), places] for key, places in self._places.items()],
            "generator": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave: the next offer is decided as it would have been."""
        columns = {name: _unpacked(packed) for name, packed in state["inputs"].items()}
        logits = _unpacked(state["logits"]) if state["logits"] else None
        labels, tasks = state["labels"].tolist(), state["tasks"].tolist()
        self.examples = [
            Kept({n: column[i] for n, column in columns.items()}, labels[i], tasks[i], logits[i] if logits else None)
            for i in range(len(labels))
        ]
        self.num_seen = Counter({(task, label): count for task, label, count in state["num_seen"]})
        self.was_largest = {(task, label) for task, label in state["was_largest"]}
        self._largest_bytes = state["largest_bytes"]
        self._places = {(key[0], key[1]): list(places) for key, places in state["places"]}
        self._rng.bit_generator.state = state["generator"]


def _packed(tensors: list[Tensor]) -> dict[str, Tensor]:
    """Return tensors that differ in their first dimension, one after another, with their lengths."""
    return {"values": torch.cat(tensors), "lengths": torch.tensor([len(tensor) for tensor in tensors])}


def _unpacked(packed: dict[str, Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in packed["values"].split(packed["lengths"].tolist())]


def memory_promises() -> Iterator[Invariant]:
    """How often a reservoir keeps each of sixty examples, saved and loaded on the way, in standard deviations."""
    num, capacity, trials = 60, 12, 400
    counts = np.zeros(num)
    for seed in range(trials):
        memory = ExampleMemory("reservoir", capacity, seed=seed)
        for i in range(num):
            if i == num // 2:
                fresh = ExampleMemory("reservoir", capacity)
                fresh.load_state_dict(memory.state_dict())
                memory = fresh
            memory.offer(Kept({"x": torch.tensor([i])}, 0, 0))
        counts[[int(kept.inputs["x"]) for kept in memory.examples]] += 1
    share = capacity / num
    z = np.abs(counts - trials * share) / np.sqrt(trials * share * (1 - share))
    yield Invariant("a reservoir is uniform, largest deviation in σ", "Vitter 1985, algorithm R", float(z.max()), 4.0)
    memory = ExampleMemory("class_balanced", 40)
    for i, label in enumerate(np.random.default_rng(0).permutation([0] * 300 + [1] * 100 + [2] * 5)):
        memory.offer(Kept({"x": torch.tensor([i])}, int(label), 0))
    of_class = np.bincount([kept.label for kept in memory.examples])
    missing = float(abs(of_class[0] - of_class[1]) + 5 - of_class[2])
    yield Invariant("balanced: all of a rare class, others alike", "Chrysakis 2020, algorithm 1", missing, 1.0)

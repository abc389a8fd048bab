"""A smaller version of a stored one: made, measured beside it on the same examples, and kept as derived from it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clora_exp.errors import StoreError
from clora_exp.inference.distilling import Training, distilled
from clora_exp.inference.loaded import Loader
from clora_exp.inference.measuring import Measured, StoredData, logits_of, measure
from clora_exp.inference.places import Place
from clora_exp.reports.time_left import TimeLeft
from clora_exp.store.folder import Stored
from clora_exp.store.manifest import Manifest, Probe
from clora_exp.store.opening import opened
from clora_exp.store.saving import now, packed, same_task, software
from clora_exp.store.schemes import Scheme, check_fits, pruned, read_scheme, truncated
from clora_exp.tasks.stream import Example


@dataclass(frozen=True)
class Compressed:
    """What a scheme did to a version. Examples are those of the test split."""

    scheme: str
    manifest: Manifest  # of the smaller version, in the store where it was kept
    bytes_before: int  # of adapter.clora
    bytes_after: int
    before: Measured
    after: Measured

    @property
    def ratio(self) -> float:
        """How many times smaller."""
        return self.bytes_before / self.bytes_after

    @property
    def num_changed(self) -> int:
        """Answers that are others now."""
        return sum(a != b for a, b in zip(self.before.predicted, self.after.predicted, strict=True))


class Compressor:
    """Makes smaller versions of those of one place; the base and each version's data are read once."""

    def __init__(self, place: Place, overrides: Sequence[str] = (), max_examples: int | None = None) -> None:
        """Take a place; `overrides` are those of the data, see `measuring.StoredData`."""
        self.place, self._data, self._max = place, StoredData(overrides), max_examples
        self.loader = Loader(place)
        self._before: dict[str, Measured] = {}

    def compress(
        self, task: str, scheme: str, which: str = "current", *, keep: bool = True, promote: bool = False
    ) -> Compressed:
        """Make a version smaller, measure both, and keep the smaller one.

        Raises:
            StoreError: no such version or scheme, one that it does not fit, or its data is not here.
        """
        found = read_scheme(scheme)
        stored = self.place.store.read(task, which)
        check_fits(found, stored.manifest)
        before = self.before(stored)
        content, manifest = self._made(stored, found)
        tensors = opened(manifest, content)
        manifest = dataclasses.replace(manifest, probe=self._probe(stored, tensors, manifest))
        after = self._measured(Stored(manifest, manifest.id, tensors), scheme)
        manifest = dataclasses.replace(
            manifest, metrics={"accuracy": after.accuracy, "num_examples": float(after.num_examples)}
        )
        if keep:
            manifest = self.place.store.add(manifest, content, promote=promote)
        return Compressed(scheme, manifest, stored.manifest.weights.num_bytes, len(content), before, after)

    def before(self, stored: Stored) -> Measured:
        """Return how a version answers its test examples, measured once."""
        if stored.id not in self._before:
            self._before[stored.id] = self._measured(stored, stored.label)
        return self._before[stored.id]

    def _made(self, stored: Stored, scheme: Scheme) -> tuple[bytes, Manifest]:
        tensors, layers = stored.tensors, stored.manifest.weights.layers
        if scheme.rank is not None:
            tensors, layers = truncated(tensors, layers, scheme.rank)
        if scheme.is_distilled:
            tensors, layers = self._distilled(stored, tensors, layers)
        if scheme.sparsity:
            tensors = pruned(tensors, scheme.sparsity)
        weights = stored.manifest.weights
        content, found = packed(
            tensors,
            layers,
            weights.form,
            basis_sha256=weights.basis_sha256,
            number=scheme.number,
            sparse=scheme.sparsity > 0,
            is_shuffled=scheme.is_shuffled,
            level=scheme.level,
        )
        derivation: dict[str, Any] = {"scheme": scheme.name}
        if scheme.is_distilled:
            derivation["training"] = dataclasses.asdict(Training())
        manifest = dataclasses.replace(
            stored.manifest,
            weights=found,
            derived_from=same_task(stored.manifest),
            derivation=derivation,
            created=now(),
            software=software(),
        )
        return content, manifest

    def _distilled(
        self, stored: Stored, tensors: dict[str, Tensor], layers: dict[str, list[str]]
    ) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        if stored.manifest.parent:
            raise StoreError(f"{stored.label}: a student has no parent beneath it; of a child take svd, int8, prune")
        if "head.weight" not in tensors:
            raise StoreError(f"{stored.label}: distil needs a head; of a language model take svd")
        entry = self.loader.take_in(stored)
        try:
            with TimeLeft(f"distilling {stored.manifest.task}") as bar:
                examples = self._data.task(stored.manifest).train

                def step(number: int, of: int) -> None:
                    if number == 1:
                        bar.expect(of)
                    bar(1)

                return distilled(
                    self.loader.base,
                    tensors,
                    layers,
                    entry.told,
                    examples,
                    lambda texts: logits_of(self.loader, entry, texts),
                    Training(),
                    step,
                )
        finally:
            self.loader.let_go(entry)

    def _probe(self, stored: Stored, tensors: dict[str, Tensor], manifest: Manifest) -> Probe:
        """Return the same words and what the smaller version answers them."""
        words = stored.manifest.probe.words
        entry = self.loader.take_in(Stored(dataclasses.replace(manifest, probe=Probe([], [])), "", tensors))
        try:
            logits = logits_of(self.loader, entry, words).double().tolist()
        finally:
            self.loader.let_go(entry)
        return Probe(words, logits)

    def _measured(self, stored: Stored, what: str) -> Measured:
        examples: Sequence[Example] = self._data.task(stored.manifest).test
        examples = examples[: self._max] if self._max else examples
        entry = self.loader.take_in(stored)
        try:
            with TimeLeft(f"answering {len(examples)} examples with {what}") as bar:
                bar.expect(len(examples))
                return measure(self.loader, entry, examples, bar)
        finally:
            self.loader.let_go(entry)

"""How a stored version answers its own task's examples, found again by the name of its stream and their fingerprint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clora_exp.compose import compose_experiment
from clora_exp.errors import StoreError, unknown
from clora_exp.inference.loaded import Loaded, Loader
from clora_exp.models.prompts import same_words
from clora_exp.store.manifest import Manifest
from clora_exp.tasks.stream import Example, Task, TaskStream, load_stream

BATCH = 32


@dataclass(frozen=True)
class Measured:
    """Of a version on a split."""

    accuracy: float
    num_examples: int
    predicted: list[str]  # labels, or what was written, in the split's order


class StoredData:
    """The data that versions were trained and measured on, by the words that name their streams."""

    def __init__(self, overrides: Sequence[str] = ()) -> None:
        """Take overrides as on run.py, for a stream that needs more than its name, e.g. tasks.path=FOLDER."""
        self._overrides = list(overrides)
        self._streams: dict[tuple[str, ...], TaskStream] = {}

    def task(self, manifest: Manifest) -> Task:
        """Return the task of a version.

        Raises:
            StoreError: it is other data now.
            ConfigError, DataError: the stream cannot be had.
        """
        words = tuple(manifest.stream)
        if words not in self._streams:
            config = compose_experiment([*words, *self._overrides])
            self._streams[words] = load_stream(config.tasks, config.data_seed)
        stream = self._streams[words]
        if manifest.task not in stream.names:
            raise StoreError(f"{' '.join(words)}: " + unknown("task", manifest.task, stream.names))
        task = stream.tasks[stream.names.index(manifest.task)]
        if task.sha256 != manifest.data_sha256:
            raise StoreError(
                f"{manifest.task}@{manifest.version}: its data is another now than it was trained on "
                f"({' '.join(words)}); pass what else it needs, e.g. tasks.path=FOLDER"
            )
        return task


def measure(
    loader: Loader, entry: Loaded, examples: Sequence[Example], progress: Callable[[int], None] | None = None
) -> Measured:
    """Return a version's accuracy on examples; of one that writes, how many it writes, but for case and white space.

    Args:
        progress: is told how many are done since.
    """
    predicted: list[str] = []
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        texts = [example.text for example in part]
        if entry.writes:
            predicted += loader.written(entry, texts)
        else:
            logits = loader.logits([entry] * len(part), texts)
            predicted += [entry.labels[i] for i in logits[:, : len(entry.labels)].argmax(-1).tolist()]
        if progress:
            progress(len(part))
    right = sum(same_words(p) == same_words(example.label) for p, example in zip(predicted, examples, strict=True))
    return Measured(right / len(examples), len(examples), predicted)


def logits_of(loader: Loader, entry: Loaded, texts: Sequence[str]) -> Tensor:
    """Return a version's logits of texts, (n, c), without those beyond its labels; of one that writes, (n, V)."""
    with torch.inference_mode():
        logits = loader.logits([entry] * len(texts), texts)
        return logits if entry.writes else logits[:, : len(entry.labels)]

"""Encoded examples and how they become batches: grouped by length; texts are padded to the batch's longest."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clora_exp.processes import rank, share, world_size


@dataclass
class Batch:
    """Examples of one task, or of one each: `inputs` as the model's forward takes them, labels (n,), tasks' indices."""

    inputs: dict[str, Tensor]
    labels: Tensor
    task: int | Tensor  # t, or (n,) in a mixed batch
    rows: Tensor  # (n,): which examples of their split these are


@dataclass(frozen=True)
class EncodedSplit(Dataset[Batch]):
    """One split as a model reads it; a kind of model says how. labels: (n,) int64."""

    labels: np.ndarray
    task: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """What each example costs, (n,), e.g. its tokens; a batch is of examples of similar length."""
        return np.ones(len(self), dtype=np.int64)

    def example(self, row: int) -> Any:
        """Return one example by itself."""
        raise AssertionError(f"{type(self).__name__} defines no example")

    def stacked(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Return examples, of this or another split of its kind, in one batch as the model's forward takes it."""
        raise AssertionError(f"{type(self).__name__} defines no stacked")

    @property
    def num_tokens(self) -> int:
        """The lengths of all examples together, without padding."""
        return int(self.lengths.sum())

    def num_batches(self, batch_size: int) -> int:
        """Return the batches of one epoch."""
        return -(-len(self) // batch_size)

    def __getitem__(self, rows: list[int]) -> Batch:
        """Return the examples `rows`."""
        inputs = self.stacked([self.example(row) for row in rows])
        return Batch(inputs, torch.from_numpy(self.labels[rows]), self.task, torch.tensor(rows))

    def training_batches(
        self, batch_size: int, seed: int, epochs: int = 1, start: int = 0, num_workers: int = 0
    ) -> DataLoader[Batch]:
        """Return the batches of all epochs from number `start` on: shuffled anew each, of similar length within one."""
        order = EveryEpoch(LengthGroupedBatches(self.lengths, batch_size, seed), epochs, start)
        return _loader(self, order, num_workers)

    def evaluation_batches(self, batch_size: int, num_workers: int = 0) -> DataLoader[Batch]:
        """Return every example once, longest batches first: what does not fit in memory fails at once.

        Of several processes each has its share of the batches.
        """
        order = np.argsort(-self.lengths, kind="stable")
        batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
        return _loader(self, batches[rank() :: world_size()], num_workers)


@dataclass(frozen=True)
class EncodedTexts(EncodedSplit):
    """The token ids of one split, concatenated, with the start of each example.

    token_ids: (total,) int32; starts: (n + 1,) int64.
    """

    token_ids: np.ndarray
    starts: np.ndarray
    pad_token_id: int

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, (n,)."""
        return np.diff(self.starts)

    def example(self, row: int) -> np.ndarray:
        """Return the token ids of one example, (l,)."""
        return self.token_ids[self.starts[row] : self.starts[row + 1]]

    def stacked(self, examples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Return token ids and mask, (n, l) each, padded to the longest."""
        return padded(examples, self.pad_token_id)


@dataclass(frozen=True)
class EncodedAnswers(EncodedSplit):
    """Prompts and answers of one split as token ids, concatenated, with the start of each. Dtypes as of texts."""

    token_ids: np.ndarray  # of the prompts
    starts: np.ndarray
    answer_token_ids: np.ndarray
    answer_starts: np.ndarray
    pad_token_id: int
    pads_left: bool  # prompts; answers are padded behind

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each prompt with its answer, (n,)."""
        return np.diff(self.starts) + np.diff(self.answer_starts)

    def example(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of one prompt and its answer."""
        prompt = self.token_ids[self.starts[row] : self.starts[row + 1]]
        return prompt, self.answer_token_ids[self.answer_starts[row] : self.answer_starts[row + 1]]

    def stacked(self, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
        """Return prompts and answers, (n, l) and (n, a), padded to the longest, with their masks."""
        return padded_pairs(examples, self.pad_token_id, self.pads_left)


def padded_pairs(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], pad_token_id: int, pads_left: bool
) -> dict[str, Tensor]:
    """Return prompts (n, l), padded at their start if `pads_left`, answers (n, a), and the masks of both."""
    answers = padded([answer for _, answer in pairs], pad_token_id)
    named = {"answer_ids": answers["input_ids"], "answer_mask": answers["attention_mask"]}
    return padded([prompt for prompt, _ in pairs], pad_token_id, pads_left) | named


def mixed_batch(splits: Sequence[EncodedSplit], which: Sequence[tuple[int, int]]) -> Batch:
    """Return the examples (split, row) as one batch, each with its own task."""
    inputs = splits[0].stacked([splits[i].example(row) for i, row in which])
    labels = torch.tensor([int(splits[i].labels[row]) for i, row in which])
    tasks = torch.tensor([splits[i].task for i, _ in which])
    return Batch(inputs, labels, tasks, torch.tensor([row for _, row in which]))


def padded(texts: Sequence[np.ndarray], pad_token_id: int, pads_left: bool = False) -> dict[str, Tensor]:
    """Return token ids and mask, (n, l), padded to the longest."""
    lengths = np.array([len(text) for text in texts])
    ids = np.full((len(texts), lengths.max()), pad_token_id, dtype=np.int64)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    mask = mask[:, ::-1] if pads_left else mask
    ids[mask] = np.concatenate(texts)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


@dataclass(frozen=True)
class JointSplit(Dataset[Batch]):
    """The training examples of several tasks, for one session that learns them together.

    A batch is of one task where tasks have heads of their own, and the tasks' batches are mixed at random, as in
    MT-DNN (Liu et al. 2019, arXiv 1901.11504). With one head for all, `is_mixed`, the examples are. `task` is the last.
    """

    splits: list[EncodedSplit]
    is_mixed: bool = False

    @property
    def task(self) -> int:
        """The index of the last task."""
        return self.splits[-1].task

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples, without padding."""
        return sum(split.num_tokens for split in self.splits)

    def num_batches(self, batch_size: int) -> int:
        """Return the batches of one epoch."""
        if self.is_mixed:
            return -(-sum(map(len, self.splits)) // batch_size)
        return sum(split.num_batches(batch_size) for split in self.splits)

    def __getitem__(self, which: tuple[int, list[int]] | list[int]) -> Batch:
        """Return the examples (split, rows), or rows of all splits one after another."""
        if isinstance(which, list):
            starts = np.cumsum([0, *map(len, self.splits)])
            of = np.searchsorted(starts, which, side="right") - 1
            pairs = [(int(i), int(row - starts[i])) for i, row in zip(of, which, strict=True)]
            return dataclasses.replace(mixed_batch(self.splits, pairs), task=self.task)
        split, rows = which
        return self.splits[split][rows]

    def training_batches(
        self, batch_size: int, seed: int, epochs: int = 1, start: int = 0, num_workers: int = 0
    ) -> DataLoader[Batch]:
        """Return every example of every task once an epoch; without a mix each task's batches as it has them alone."""
        order: LengthGroupedBatches | MixedBatches
        if self.is_mixed:
            lengths = np.concatenate([split.lengths for split in self.splits])
            order = LengthGroupedBatches(lengths, batch_size, seed)
        else:
            alone = [LengthGroupedBatches(split.lengths, batch_size, seed + i) for i, split in enumerate(self.splits)]
            order = MixedBatches(alone, seed)
        return _loader(self, EveryEpoch(order, epochs, start), num_workers)


class EveryEpoch:
    """The batches of several epochs one after another, from number `start` on: a place in them is one number.

    Of each a process has its share of the rows, so that all together take the batches of one process.
    """

    def __init__(self, batches: "LengthGroupedBatches | MixedBatches", epochs: int, start: int = 0) -> None:
        self._batches, self._epochs, self._start = batches, epochs, start

    def __len__(self) -> int:
        return len(self._batches) * self._epochs - self._start

    def __iter__(self) -> Iterator[Any]:
        first, skipped = divmod(self._start, len(self._batches))
        for epoch in range(first, self._epochs):
            self._batches.set_epoch(epoch)
            for batch in itertools.islice(iter(self._batches), skipped if epoch == first else 0, None):
                yield (batch[0], share(batch[1])) if isinstance(batch, tuple) else share(batch)


def _loader(split: Dataset[Batch], order: Any, num_workers: int) -> DataLoader[Batch]:
    """Return a loader with a generator of its own: it draws a seed for its workers, even where it has none."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(split, batch_size=None, sampler=order, num_workers=num_workers, generator=generator)


class MixedBatches:
    """The batches of several samplers in random turns, as (sampler, rows)."""

    def __init__(self, samplers: "list[LengthGroupedBatches]", seed: int) -> None:
        self._samplers, self._seed = samplers, seed
        self._epoch = 0

    def __len__(self) -> int:
        return sum(map(len, self._samplers))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch
        for sampler in self._samplers:
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        rng = np.random.default_rng([self._seed, self._epoch, 1])
        turns = rng.permutation(np.repeat(np.arange(len(self._samplers)), list(map(len, self._samplers))))
        batches = [iter(sampler) for sampler in self._samplers]
        for i in turns.tolist():
            yield i, next(batches[i])


class LengthGroupedBatches:
    """Batches of similar length: shuffle, sort within windows of `window` batches, cut, shuffle the batches.

    An epoch is drawn from a generator of its own, so that epoch e is the same whichever epochs ran before it.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, window: int = 8) -> None:
        self._lengths, self._batch_size, self._seed, self._window = lengths, batch_size, seed, window
        self._epoch = 0

    def __len__(self) -> int:
        return -(-len(self._lengths) // self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        span = self._batch_size * self._window
        batches = []
        for start in range(0, len(order), span):
            window = order[start : start + span]
            window = window[np.argsort(self._lengths[window], kind="stable")]
            batches += [window[i : i + self._batch_size] for i in range(0, len(window), self._batch_size)]
        for i in rng.permutation(len(batches)):
            yield batches[i].tolist()

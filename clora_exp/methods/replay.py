"""Experience replay: every batch is joined by one of kept examples of earlier tasks.

Chaudhry et al. 2019 (arXiv 1902.10486), "tiny episodic memories". A mini-batch is drawn from memory, so a step costs
the same whatever the number of tasks; each example is answered by its own task's head. Differs: the memory takes in a
task when it ends, from all its training examples, and the two losses are added, not averaged over both batches.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from torch import Tensor

from clora_exp.config import Count, Gt, Le, NonNegativeFloat, Strict
from clora_exp.methods.memory import ExampleMemory
from clora_exp.methods.rehearsal import MemoryConfig, Rehearsal
from clora_exp.methods.strategy import Answer
from clora_exp.models.batches import Batch
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config(MemoryConfig):
    """What is kept, and how it is rehearsed."""

    fraction: Annotated[float, Strict(), Gt(0), Le(1)] = 0.1  # of each task's training examples, without a capacity
    batch_size: Count | None = None  # from memory; null: the trainer's
    strength: NonNegativeFloat = 1.0  # of the loss on them


class Replay(Rehearsal):
    """State: the memory."""

    source: ClassVar[str] = "Chaudhry et al. 2019, 1902.10486"
    stores: ClassVar[str] = "examples: 10 % of each task, or up to a bound"
    step_cost: ClassVar[str] = "flat: one more batch"
    task_cost: ClassVar[str] = "a pass over its examples, without the model"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.memory = ExampleMemory(config.selection, config.capacity, config.capacity_bytes, method.seed)

    def training_loss(self, batch: Batch, answer: Answer) -> Tensor | None:
        """Return the loss on a batch from memory, times its strength."""
        if not len(self.memory) or self.config.strength == 0:
            return None
        count = self.config.batch_size or self.method.batch_size
        kept, _ = self.memory.sample(count, self.method.model, self.method.device)
        return self.config.strength * self.method.loss(kept, self.method.answer(kept))

    def after_task(self, t: int, task: Task) -> None:
        """Offer the task's training examples to the memory, in random order, or the fraction of them that is kept."""
        split = self.method.encode(t, task, "train")
        rng = np.random.default_rng([self.method.seed, t])
        rows = rng.permutation(len(split))
        if self.config.capacity is None and self.config.capacity_bytes is None:
            rows = _share(rows, split.labels, self.config.fraction, self.config.selection)
        self.memory.offer_split(split, self.method.model, rows)


def _share(rows: np.ndarray, labels: np.ndarray, fraction: float, selection: str) -> np.ndarray:
    """Return the first rows, so many that the fraction is reached; class-balanced, of all classes in turn."""
    count = math.ceil(fraction * len(rows))
    if selection == "reservoir":
        return rows[:count]
    of_class = [rows[labels[rows] == label] for label in np.unique(labels)]
    turns = [(turn, i) for i, own in enumerate(of_class) for turn in range(len(own))]
    return np.array([of_class[i][turn] for turn, i in sorted(turns)[:count]])

"""Averaged GEM: a step must not raise the loss on a batch of kept examples of all earlier tasks, to first order.

Chaudhry et al. 2019 (arXiv 1812.00420). One reference gradient a step, at today's parameters, so the cost is flat.

Differs: with a head a task, earlier heads stay as they were unless `earlier_heads=trained`, as in `gem`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from clora_exp.config import STRICT, Count
from clora_exp.methods.invariant import Invariant
from clora_exp.methods.memory import ExampleMemory
from clora_exp.methods.projection import agem_projection, agem_promises, flattened, write_gradients
from clora_exp.methods.rehearsal import EarlierHeads, Rehearsal
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    """What is kept, and how much of it a step looks at."""

    __pydantic_config__ = STRICT
    examples_per_task: Count = 64
    earlier_heads: EarlierHeads = "kept"
    batch_size: Count = 64  # of the reference gradient


class AGEM(Rehearsal):
    """State: the memory."""

    source: ClassVar[str] = "Chaudhry et al. 2019, 1812.00420"
    stores: ClassVar[str] = "examples: so many a task"
    step_cost: ClassVar[str] = "flat: one more backward pass"
    task_cost: ClassVar[str] = "a pass over some examples, without the model"

    in_processes: ClassVar[str] = (
        "gradients are averaged before they are projected; the memory is the same in every process"
    )

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.trains_earlier_heads = config.earlier_heads == "trained"
        self.memory = ExampleMemory("reservoir", None, None, method.seed)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Memory and projection."""
        yield from super().invariants()
        yield from agem_promises()

    def before_optimizer_step(self) -> None:
        """Project the gradient."""
        if not len(self.memory):
            return
        parameters = self.method.trained_parameters()
        reference = self.gradient_of(self.memory.places(self.config.batch_size))
        g = flattened([p.grad for p in parameters], parameters)
        if torch.dot(g, reference) < 0:
            write_gradients(agem_projection(g, reference), parameters)

    def after_task(self, t: int, task: Task) -> None:
        """Keep some of the task's training examples."""
        split = self.method.encode(t, task, "train")
        rows = np.random.default_rng([self.method.seed, t]).permutation(len(split))
        self.memory.offer_split(split, self.method.model, rows[: self.config.examples_per_task])

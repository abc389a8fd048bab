"""Gradient episodic memory: a step must not raise the loss on any earlier task's kept examples, to first order.

Lopez-Paz & Ranzato 2017 (arXiv 1706.08840). The memory holds examples; the reference gradients are taken at today's
parameters in every step, one backward pass an earlier task, so a step's cost grows with the tasks: that is the method.
The projection acts on the whole accumulated gradient, before clipping. An optimiser that rescales coordinates, as Adam
does, turns the step again; the guarantee is that of the gradient.

Differs: with a head a task, earlier heads stay as they were, unless `earlier_heads=trained`. No gradient of the new
task reaches them, so that the inner products that are constrained are the same; in the released code the projection
trains each on its kept examples alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from clora_exp.config import STRICT, Count, NonNegativeFloat, PositiveFloat
from clora_exp.methods.invariant import Invariant
from clora_exp.methods.memory import ExampleMemory
from clora_exp.methods.projection import flattened, gem_projection, gem_promises, write_gradients
from clora_exp.methods.rehearsal import EarlierHeads, Rehearsal
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    """What is kept, and how the gradient is turned."""

    __pydantic_config__ = STRICT
    examples_per_task: Count = 64
    earlier_heads: EarlierHeads = "kept"
    margin: NonNegativeFloat = 0.5  # the paper's memory strength γ
    ridge: PositiveFloat = 1e-3  # on the diagonal of the scaled QP


class GEM(Rehearsal):
    """State: the memory."""

    source: ClassVar[str] = "Lopez-Paz & Ranzato 2017, 1706.08840"
    stores: ClassVar[str] = "examples: so many a task"
    step_cost: ClassVar[str] = "grows: a backward pass an earlier task"
    task_cost: ClassVar[str] = "a pass over some examples, without the model"

    in_processes: ClassVar[str] = (
        "gradients are averaged before they are projected; the memory is the same in every process"
    )

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.trains_earlier_heads = config.earlier_heads == "trained"
        self.memory = ExampleMemory("reservoir", None, None, method.seed)
        self._t = 0

    def before_task(self, t: int, task: Task) -> None:
        """Take note of how many tasks are earlier."""
        self._t = t

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Memory and projection."""
        yield from super().invariants()
        yield from gem_promises()

    def before_optimizer_step(self) -> None:
        """Project the gradient."""
        if self._t == 0:
            return
        parameters = self.method.trained_parameters()
        G = torch.stack([self.gradient_of(self.memory.of_task(k)) for k in range(self._t)])
        g = flattened([p.grad for p in parameters], parameters)
        if (G @ g < 0).any():
            write_gradients(gem_projection(g, G, self.config.margin, self.config.ridge), parameters)

    def after_task(self, t: int, task: Task) -> None:
        """Keep some of the task's training examples."""
        split = self.method.encode(t, task, "train")
        rows = np.random.default_rng([self.method.seed, t]).permutation(len(split))
        self.memory.offer_split(split, self.method.model, rows[: self.config.examples_per_task])

"""Elastic weight consolidation: parameters that mattered to earlier tasks are held where they were.

Offline (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3): L + λ/2 Σ_k Σ_i F_k,i (θ_i − θ*_k,i)². The sum over tasks k
is one quadratic, so it is kept as one: F = Σ_k F_k and the centre Σ_k F_k θ*_k / F, the rest as a constant.
Online (Schwarz et al. 2018, arXiv 1805.06370, section 3.2): F ← γ F + F_t, and the centre is the last θ*.
Both cost the same whatever the number of tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from clora_exp.config import STRICT, Count, ExperimentConfig, Ge, Le, NonNegativeFloat, Strict
from clora_exp.methods.fisher import Kind, diagonal_fisher, softmax_regression
from clora_exp.methods.invariant import Invariant, distance, finite_difference
from clora_exp.methods.rehearsal import nothing_shared
from clora_exp.methods.strategy import Strategy
from clora_exp.models.batches import Batch, EncodedSplit
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    """How strongly what is held, and how its importance is measured."""

    __pydantic_config__ = STRICT
    strength: NonNegativeFloat = 100.0  # λ
    mode: Literal["offline", "online"] = "offline"
    decay: Annotated[float, Strict(), Ge(0), Le(1)] = 0.95  # γ of online
    fisher: Kind = "sampled"  # exact: a backward pass a label; see fisher.py
    examples: Count | None = 256  # of the training split, spread evenly; null: all


@dataclass(frozen=True)
class Quadratic:
    """Σ_i F_i (θ_i − centre_i)² + constant, of one parameter."""

    F: Tensor
    centre: Tensor
    constant: float = 0.0

    def __call__(self, theta: Tensor) -> Tensor:
        """Return its value, a scalar."""
        return (self.F * (theta - self.centre).square()).sum() + self.constant

    def plus(self, other: "Quadratic") -> "Quadratic":
        """Return the sum of two, which is one again."""
        F = self.F + other.F
        share = torch.where(F > 0, other.F / F.clamp_min(torch.finfo(F.dtype).tiny), 0)
        apart = other.centre - self.centre
        between = float((self.F * share * apart.square()).sum())
        return Quadratic(F, self.centre + share * apart, self.constant + other.constant + between)


class EWC(Strategy):
    """State: a quadratic for each protected parameter, by name."""

    source: ClassVar[str] = "Kirkpatrick et al. 2017, 1612.00796; online Schwarz et al. 2018, 1805.06370"
    stores: ClassVar[str] = "two numbers a shared parameter"
    task_cost: ClassVar[str] = "a backward pass an example for F"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self.quadratics: dict[str, Quadratic] = {}
        self._generator = torch.Generator().manual_seed(method.seed)

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """There must be something to hold, and it must stay what it is."""
        method = config.method
        if method.trainable == "adapters" and method.composition != "own":
            return (
                f"method.composition={method.composition}: earlier updates stay as they are; there is nothing to hold"
            )
        if method.trainable == "adapters" and method.factor_tasks is not None and method.routing != "additive":
            return (
                f"method.factor_tasks={method.factor_tasks}: the factors stop to learn; there is nothing to hold then"
            )
        if method.trainable == "heads" and method.trained_classes == "task":
            return "method.trained_classes=task with method.trainable=heads: no later task trains an earlier class"
        return nothing_shared(config)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Fisher information and penalty against what they are by definition."""
        yield from softmax_regression()
        yield from _quadratics()

    def penalty(self) -> Tensor | None:
        """Return λ/2 Σ F (θ − centre)², the constant included."""
        if not self.quadratics or self.config.strength == 0:
            return None
        current = self.method.shared_parameters()  # what no longer trains is held anyway
        terms = [q(current[name]) for name, q in self.quadratics.items() if name in current]
        return self.config.strength / 2 * torch.stack(terms).sum() if terms else None

    def after_task(self, t: int, task: Task) -> None:
        """Measure F of the task at its end, in evaluation mode, and merge it with what there is."""
        split = self.method.encode(t, task, "train")
        count = min(self.config.examples or len(split), len(split))
        rows = np.arange(count) * len(split) // count
        with self.method.whole_gradients():
            shared = self.method.shared_parameters()
            at = [parameter.detach().clone() for parameter in shared.values()]
            examples = (
                ((lambda row=row: self.method.log_probabilities(self._one(split, row))[0]), int(split.labels[row]))
                for row in rows.tolist()
            )
            found = diagonal_fisher(examples, list(shared.values()), self.config.fisher, self._generator)
        for name, F, where in zip(shared, found, at, strict=True):
            one, before = Quadratic(F, where), self.quadratics.get(name)
            if before is None:
                self.quadratics[name] = one
            elif self.config.mode == "online":
                self.quadratics[name] = Quadratic(self.config.decay * before.F + F, one.centre)
            else:
                self.quadratics[name] = before.plus(one)

    def _one(self, split: EncodedSplit, row: int) -> Batch:
        return self.method.on_device(split[[row]])

    def state_dict(self) -> dict[str, Any]:
        """Return the quadratic and the generator's state."""
        return {
            "quadratics": {name: [q.F, q.centre, q.constant] for name, q in self.quadratics.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        device = self.method.device
        stored = state["quadratics"].items()
        self.quadratics = {name: Quadratic(F.to(device), c.to(device), constant) for name, (F, c, constant) in stored}
        self._generator.set_state(state["generator"])


def _quadratics() -> Iterator[Invariant]:
    """The sum over tasks, kept as one quadratic, against the sum written out; its gradient against differences."""
    draw = torch.Generator().manual_seed(0)
    F, centres = (torch.rand(3, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    F[1, :2] = 0
    one = Quadratic(F[0], centres[0])
    for k in (1, 2):
        one = one.plus(Quadratic(F[k], centres[k]))
    theta = torch.rand(7, generator=draw, dtype=torch.float64).requires_grad_()
    written_out = (F * (theta - centres).square()).sum()
    yield Invariant(
        "one quadratic is the sum over tasks", "Kirkpatrick 2017, eq. 3", distance(one(theta), written_out), 1e-12
    )
    (gradient,) = torch.autograd.grad(0.5 * one(theta), theta)
    by_hand = (F * (theta.detach() - centres)).sum(0)
    yield Invariant("gradient is Σ F (θ − θ*), the ½ included", "by hand", distance(gradient, by_hand), 1e-12)
    differences = finite_difference(lambda at: 0.5 * one(at), theta.detach())
    yield Invariant("gradient of the penalty", "finite differences", distance(gradient, differences), 1e-7)

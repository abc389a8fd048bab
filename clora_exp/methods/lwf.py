"""Learning without forgetting: on a new task's examples the earlier answers are kept.

Li & Hoiem 2016 (arXiv 1606.09282): before a task trains, the old model's answers to its examples are recorded; while
it trains, the cross-entropy between them and the answers now, both at temperature 2, is added, a term an earlier
head, or one over all classes that were there. The new examples' own loss is among the new task's labels (the yaml's
trained_classes=task), as the paper has it, a head a task. Differs: no warm-up in which the new head trains alone;
with additive routing the new R_δ, near zero, is in the old answers already; the term is times T², so that the
gradient does not shrink with the temperature (Hinton et al. 2015, arXiv 1503.02531, section 2.1).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clora_exp.adapters.family import owned_parts
from clora_exp.config import STRICT, ExperimentConfig, NonNegativeFloat, PositiveFloat
from clora_exp.methods.invariant import Invariant, distance, finite_difference
from clora_exp.methods.rehearsal import nothing_shared
from clora_exp.methods.strategy import Answer, Strategy
from clora_exp.models.batches import Batch
from clora_exp.tasks.stream import Task


@dataclass(frozen=True)
class Config:
    """Weight and temperature of the old answers."""

    __pydantic_config__ = STRICT
    strength: NonNegativeFloat = 1.0  # λ_o
    temperature: PositiveFloat = 2.0


class LwF(Strategy):
    """Keeps nothing between tasks; in a session the old logits of each training example."""

    source: ClassVar[str] = "Li & Hoiem 2016, 1606.09282"
    step_cost: ClassVar[str] = "grows: one head an earlier task"
    task_cost: ClassVar[str] = "a forward pass over its examples"
    trains_earlier_heads = True
    needs_heads: ClassVar[bool] = True
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    def __init__(self, config: Config, method: Any) -> None:
        super().__init__(config, method)
        self._old: list[Tensor] = []  # by earlier head, or one for all: logits (n, c) of the session's examples

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """One forward pass must answer for all earlier tasks."""
        owned = owned_parts(config.method) if config.method.trainable == "adapters" else ()
        if owned and config.method.forgets:
            return f"tasks own {', '.join(owned)} of the adapters: each earlier task would need a pass of its own"
        return nothing_shared(config)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """The distillation term."""
        old, new = torch.tensor([[2 * math.log(3.0), 0.0]]), torch.zeros(1, 2)
        even = distillation(new, old, 2.0)  # softmax(old / 2) = (¾, ¼), against (½, ½)
        yield Invariant(
            "T² cross-entropy of (½, ½) to (¾, ¼)", "by hand: 4 ln 2", distance(even, 4 * math.log(2)), 1e-6
        )
        at = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
        still = finite_difference(lambda z: distillation(z, at, 2.0), at)
        yield Invariant("unchanged answers pull nowhere", "its minimum", float(still.abs().max()), 1e-8)

    def before_task(self, t: int, task: Task) -> None:
        """Record the old model's answers to the task's training examples."""
        self._old = []
        if t == 0 or self.config.strength == 0:
            return
        split, found = self.method.encode(t, task, "train"), []
        with torch.no_grad():
            for start in range(0, len(split), 32):
                batch = self.method.on_device(split[list(range(start, min(start + 32, len(split))))])
                found.append(self._earlier(self.method.answer(batch), t))
        self._old = [torch.cat(of_head) for of_head in zip(*found, strict=True)]

    def training_loss(self, batch: Batch, answer: Answer) -> Tensor | None:
        """Return λ_o times the distance of the answers from those recorded, summed over heads."""
        if not self._old:
            return None
        assert isinstance(batch.task, int)
        now = self._earlier(answer, batch.task)
        rows = batch.rows.to(self._old[0].device)
        terms = [distillation(new, old[rows], self.config.temperature) for new, old in zip(now, self._old, strict=True)]
        return self.config.strength * torch.stack(terms).sum()

    def _earlier(self, answer: Answer, t: int) -> list[Tensor]:
        """Return what the answer says about the tasks before t: logits of each head, or of the classes there were."""
        scenario = self.method.scenario
        if scenario.knows_task:
            return [self.method.outputs.logits_of(answer.features, k) for k in range(t)]
        return [answer.logits[:, : scenario.first[t]] if scenario.grows else answer.logits]


def distillation(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Return T² · mean over examples of −Σ_c softmax(old / T)_c log softmax(new / T)_c, of logits (n, c)."""
    target = F.softmax(old / temperature, dim=-1)
    return temperature**2 * F.cross_entropy(new / temperature, target)

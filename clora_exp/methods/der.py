"""Dark experience replay: kept examples are held to the logits they had when they were seen.

Buzzega et al. 2020 (arXiv 2004.07211), eq. 5: L + α E ‖z − h(x)‖² over a reservoir of examples, with logits z stored as
the example passed by in training. A head that has grown since is compared in the logits it had; with
trained_classes=all, the yaml's choice, it has the logits of later classes from the start, as in the paper, and they
are held down too. Differs: the mean of the squared differences over the logits, as the released code takes it, for
which α is given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from clora_exp.config import Count, NonNegativeFloat
from clora_exp.methods.invariant import Invariant, distance
from clora_exp.methods.memory import ExampleMemory
from clora_exp.methods.rehearsal import MemoryConfig, Rehearsal
from clora_exp.methods.strategy import Answer
from clora_exp.models.batches import Batch


@dataclass(frozen=True)
class Config(MemoryConfig):
    """What is kept, and how it is rehearsed."""

    capacity: Count | None = 200  # the smallest buffer of the paper
    batch_size: Count | None = None  # from memory; null: the trainer's
    alpha: NonNegativeFloat = 0.3  # of the logits' term

    def __post_init__(self) -> None:
        if self.capacity is None and self.capacity_bytes is None:
            raise ValueError("every batch of every epoch is offered to the memory; set capacity or capacity_bytes")


class DER(Rehearsal):
    """State: the memory, with logits."""

    source: ClassVar[str] = "Buzzega et al. 2020, 2004.07211"
    stores: ClassVar[str] = "examples with their logits, up to a bound"
    step_cost: ClassVar[str] = "flat: one more batch"
    needs_heads: ClassVar[bool] = True
    needs_one_process: ClassVar[str] = "its memory takes in batches as they pass, and each process sees its own share"
    off: ClassVar[dict[str, Any]] = {"alpha": 0.0}

    def __init__(self, config: Any, method: Any) -> None:
        super().__init__(config, method)
        self.memory = ExampleMemory(config.selection, config.capacity, config.capacity_bytes, method.seed)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Memory and distance."""
        yield from super().invariants()
        now = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -torch.inf]])
        then = torch.tensor([[0.0, 4.0, -torch.inf], [0.5, torch.nan, -torch.inf]])
        yield Invariant(
            "the mean square over the logits there were",
            "by hand: (1 + 4 + ¼) / 3",
            distance(logit_distance(now, then), 1.75),
            1e-6,
        )

    def training_loss(self, batch: Batch, answer: Answer) -> Tensor | None:
        """Return the term, and then offer the batch to the memory with the logits it has now."""
        term = self._rehearse() if len(self.memory) else None
        self.memory.offer_batch(batch, self.method.model, answer.logits)
        return term

    def _rehearse(self) -> Tensor | None:
        if self.config.alpha == 0:
            return None
        kept, logits = self._draw()
        assert logits is not None
        return self.config.alpha * logit_distance(self.method.answer(kept).logits, logits)

    def _draw(self) -> tuple[Batch, Tensor | None]:
        count = self.config.batch_size or self.method.batch_size
        return self.memory.sample(count, self.method.model, self.method.device)


def logit_distance(now: Tensor, then: Tensor) -> Tensor:
    """Return the mean squared difference of logits (n, c) to those stored, (n, c'), NaN where there were none."""
    had = then.isfinite()
    difference = torch.where(had, now[:, : then.shape[1]], 0) - torch.where(had, then, 0)
    return difference.square().sum() / had.sum()

"""O-LoRA: each task's A is kept apart from the earlier tasks'.

Wang et al. 2023 (arXiv 2310.14152), eqs. 6 to 8: L + λ₁ Σ_layers Σ_{k<t} ‖A_k A_tᵀ‖ + λ₂ ‖(A_t, B_t)‖, where what
answers is the sum of all updates. The paper writes the squared norm of the overlap, Σ (A_k A_tᵀ)²; the released code
takes Σ |A_k A_tᵀ|, with λ₁ = 0.5 and λ₂ = 0, and for λ₂ the norm of each matrix: both overlaps are here, by name.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clora_exp.config import STRICT, ExperimentConfig, NonNegativeFloat
from clora_exp.methods.strategy import Strategy


@dataclass(frozen=True)
class Config:
    """Weights of the two terms."""

    __pydantic_config__ = STRICT
    strength: NonNegativeFloat = 0.5  # λ₁
    norm_strength: NonNegativeFloat = 0.0  # λ₂
    overlap: Literal["absolute", "squared"] = "absolute"  # as in the released code, or as in the paper


class OLoRA(Strategy):
    """Keeps nothing: the earlier A_k are the adapters'."""

    source: ClassVar[str] = "Wang et al. 2023, 2310.14152"
    stores: ClassVar[str] = "A and B of each task, all answer"
    step_cost: ClassVar[str] = "grows: the rank of the sum"

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """It is about a sum of pairs."""
        return of_a_sum(config)

    def penalty(self) -> Tensor | None:
        """Return λ₁ times the overlaps plus λ₂ times the norms, over all layers."""
        settings, terms = self.config, []
        for layer in self.method.layers.values():
            A, B = layer.part("A"), layer.part("B")
            if settings.strength and layer.num_ended:
                overlaps = layer.stack("A").flatten(0, 1) @ A.T  # (t r, r)
                size = overlaps.abs() if settings.overlap == "absolute" else overlaps.square()
                terms.append(settings.strength * size.sum())
            if settings.norm_strength:
                terms.append(settings.norm_strength * (A.norm() + B.norm()))
        return torch.stack(terms).sum() if terms else None


def of_a_sum(config: ExperimentConfig) -> str | None:
    """Return why a method that sums its tasks' updates cannot have this adapter setting."""
    method = config.method
    if method.trainable != "adapters" or method.composition != "sum":
        return "needs method.trainable=adapters, method.factors=per_task and method.composition=sum"
    return None

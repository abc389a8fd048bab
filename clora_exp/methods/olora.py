"""O-LoRA: each task's A is kept apart from the earlier tasks'.

Wang et al. 2023 (arXiv 2310.14152), eqs. 6 to 8: L + λ₁ Σ_layers Σ_{k<t} ‖A_k A_tᵀ‖ + λ₂ ‖(A_t, B_t)‖, where what
answers is the sum of all updates. The paper writes the squared norm of the overlap, Σ (A_k A_tᵀ)²; the released code
takes Σ |A_k A_tᵀ|, with λ₁ = 0.5 and λ₂ = 0, and for λ₂ the norm of each matrix: both overlaps are here, by name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from clora_exp.config import STRICT, ExperimentConfig, NonNegativeFloat
from clora_exp.methods.invariant import Invariant, distance
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
    off: ClassVar[dict[str, Any]] = {"strength": 0.0, "norm_strength": 0.0}

    @classmethod
    def objection(cls, config: ExperimentConfig) -> str | None:
        """It is about a sum of pairs, whose A trains."""
        strategies = config.method.strategies
        if "inflora" in strategies and strategies["olora"].norm_strength == 0:
            return "method.inflora fixes every A; method.olora.strength changes nothing there, norm_strength would"
        return of_a_sum(config)

    @classmethod
    def invariants(cls) -> Iterator[Invariant]:
        """Both overlaps against the matrices written out."""
        draw = torch.Generator().manual_seed(0)
        earlier, A = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((3, 2, 7), (2, 7)))
        written = [float(row @ other) for old in earlier for row in old for other in A]
        for kind, expected in (("absolute", sum(map(abs, written))), ("squared", sum(w * w for w in written))):
            found = overlap(earlier, A, kind)
            yield Invariant(f"the {kind} overlap", "Wang 2023, row by row", distance(found, expected), 1e-12)

    def penalty(self) -> Tensor | None:
        """Return λ₁ times the overlaps plus λ₂ times the norms, over all layers."""
        settings, terms = self.config, []
        for layer in self.method.layers.values():
            A, B = layer.part("A"), layer.part("B")
            if settings.strength and layer.num_ended:
                terms.append(settings.strength * overlap(layer.stack("A"), A, settings.overlap))
            if settings.norm_strength:
                terms.append(settings.norm_strength * (A.norm() + B.norm()))
        return torch.stack(terms).sum() if terms else None


def overlap(earlier: Tensor, A: Tensor, kind: str) -> Tensor:
    """Return Σ_k Σ |A_k Aᵀ|, or of the squares, of stacked A_k (t, r, in) and A (r, in)."""
    products = earlier.flatten(0, 1) @ A.T  # (t r, r)
    return (products.abs() if kind == "absolute" else products.square()).sum()


def of_a_sum(config: ExperimentConfig) -> str | None:
    """Return why a method that sums its tasks' updates cannot have this adapter setting."""
    method = config.method
    if method.trainable != "adapters" or method.composition != "sum":
        return "needs method.trainable=adapters, method.factors=per_task and method.composition=sum"
    return None

"""The orthogonality penalties P(R_δ) of C-LoRA, for one layer. A and B are constants in all of them.

Zhang et al. 2025 (arXiv 2502.17920) add λ Σ_layers P(R_δ) to the loss, λ = 0.01, and print P as ‖Aᵀ R_δ‖²_F, whose
shapes do not conform for a non-square A; the three readings offered here are named for what they keep apart.
Differs: `column` and `row` go through the r×r Gram matrices BᵀB and AAᵀ and never build an out×in matrix.
"""

import torch
from torch import Tensor


def routing_overlap(R_old: Tensor, R_delta: Tensor) -> Tensor:
    """Return ‖R_oldᵀ R_δ‖²_F: the routing matrices' column spaces, in the r×r coordinates."""
    return (R_old.T @ R_delta).square().sum()


def column_overlap(R_old: Tensor, R_delta: Tensor, B: Tensor) -> Tensor:
    """Return ‖(B R_old)ᵀ (B R_δ)‖²_F = ‖R_oldᵀ (BᵀB) R_δ‖²_F: the updates' outputs."""
    B = B.detach()
    return (R_old.T @ (B.T @ B) @ R_delta).square().sum()


def row_overlap(R_old: Tensor, R_delta: Tensor, A: Tensor) -> Tensor:
    """Return ‖(R_old A)(R_δ A)ᵀ‖²_F = ‖R_old (AAᵀ) R_δᵀ‖²_F: the updates' inputs."""
    A = A.detach()
    return (R_old @ (A @ A.T) @ R_delta.T).square().sum()


def orthogonality(kind: str, A: Tensor, B: Tensor, R_old: Tensor, R_delta: Tensor) -> Tensor:
    """Return the penalty named by `method.orthogonality`, a scalar; zero for `none`."""
    match kind:
        case "routing":
            return routing_overlap(R_old, R_delta)
        case "column":
            return column_overlap(R_old, R_delta, B)
        case "row":
            return row_overlap(R_old, R_delta, A)
    return torch.zeros((), device=R_delta.device, dtype=R_delta.dtype)

"""The update with additive routing, B (R_old + R_δ) A x, whose factors learn through R_δ alone."""

from typing import Any

import torch
from torch import Tensor


class RoutedUpdate(torch.autograd.Function):
    """y = B (R_old + R_δ) A x, with A and B receiving gradient only through the R_δ path.

    Zhang et al. 2025, arXiv 2502.17920: the old path is stop_grad(B) R_old stop_grad(A), so that with G = ∂L/∂ΔW
    ∂L/∂B = G (R_δ A)ᵀ and ∂L/∂A = (B R_δ)ᵀ G, while R_old, R_δ and x see the whole update (R_old has a gradient only
    where a trained gate or scale is folded into it). One product forward; backward sends the input's gradient through
    R_old + R_δ and the factors' through R_δ. Equation numbers of the paper are not given: it was not at hand.

    Shapes: x (n, in), A (r, in), B (out, r), R_old and R_δ (r, r); y (n, out).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, R_old: Tensor, R_delta: Tensor) -> Tensor:
        R = R_old + R_delta
        h = x @ A.T
        ctx.save_for_backward(x, A, B, R, R_delta, h)
        return (h @ R.T) @ B.T

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, R, R_delta, h = ctx.saved_tensors
        (grad_y,) = grad_outputs
        needs_x, needs_A, needs_B, needs_R_old, needs_R_delta = ctx.needs_input_grad
        grad_u = grad_y @ B  # (n, r): the gradient of R A x
        grad_x = (grad_u @ R) @ A if needs_x else None
        grad_A = (grad_u @ R_delta).T @ x if needs_A else None
        grad_B = grad_y.T @ (h @ R_delta.T) if needs_B else None
        grad_R = grad_u.T @ h if needs_R_old or needs_R_delta else None
        return grad_x, grad_A, grad_B, grad_R if needs_R_old else None, grad_R if needs_R_delta else None

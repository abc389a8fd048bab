"""The update with additive routing, B (R_old + R_δ) A x, whose factors learn through R_δ alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clora_exp.errors import ModelError


def linear(x: Tensor, M: Tensor) -> Tensor:
    """Return M x for x (…, in) and one M (out, in), or for x (n, …, in) and one M a row, (n, out, in)."""
    if M.ndim == 2:
        return F.linear(x, M)
    if len(x) != len(M):
        raise ModelError(f"a mixed batch of {len(M)} rows: a layer got an input of {len(x)}; answer one task at a time")
    return (x.reshape(len(x), -1, x.shape[-1]) @ M.mT).view(*x.shape[:-1], M.shape[-2])


def add_linear(y: Tensor, x: Tensor, M: Tensor) -> Tensor:
    """Add M x to y in place, M as in `linear`, and return y: no update is written to be read and added."""
    if M.ndim == 2:
        y.view(-1, y.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), M.t())
    else:
        y.view(len(M), -1, y.shape[-1]).baddbmm_(x.reshape(len(M), -1, x.shape[-1]), M.mT)
    return y


class RoutedUpdate(torch.autograd.Function):
    """y = B (R_old + R_δ) A x, with A and B receiving gradient only through the R_δ path.

    Zhang et al. 2025, arXiv 2502.17920: the old path is stop_grad(B) R_old stop_grad(A), so that with G = ∂L/∂ΔW
    ∂L/∂B = G (R_δ A)ᵀ and ∂L/∂A = (B R_δ)ᵀ G, while R_old, R_δ and x see the whole update (R_old has a gradient only
    where a trained gate or scale is folded into it). One product forward; backward sends the input's gradient through
    R_old + R_δ and the factors' through R_δ. Equation numbers of the paper are not given: it was not at hand.

    Shapes: x (n, …, in), A (r, in), B (out, r), R_old and R_δ (r, r), or (n, r, r) in a mixed batch; y (n, …, out).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, R_old: Tensor, R_delta: Tensor) -> Tensor:
        R = R_old + R_delta
        h = linear(x, A)
        ctx.save_for_backward(x, A, B, R, R_delta, h)
        return linear(linear(h, R), B)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, R, R_delta, h = ctx.saved_tensors
        (grad_y,) = grad_outputs
        needs_x, needs_A, needs_B, needs_R_old, needs_R_delta = ctx.needs_input_grad
        grad_u = linear(grad_y, B.mT)  # (n, …, r): the gradient of R A x
        grad_x = linear(linear(grad_u, R.mT), A.mT) if needs_x else None
        grad_A = _outer(linear(grad_u, R_delta.mT), x) if needs_A else None
        grad_B = _outer(grad_y, linear(h, R_delta)) if needs_B else None
        grad_R = _outer(grad_u, h, by_row=R.ndim == 3) if needs_R_old or needs_R_delta else None
        return grad_x, grad_A, grad_B, grad_R if needs_R_old else None, grad_R if needs_R_delta else None


def _outer(a: Tensor, b: Tensor, by_row: bool = False) -> Tensor:
    """Return Σ a bᵀ over all but the last dimension, or over all but the first and the last: (n, …)."""
    if by_row:
        return a.reshape(len(a), -1, a.shape[-1]).mT @ b.reshape(len(b), -1, b.shape[-1])
    return a.reshape(-1, a.shape[-1]).mT @ b.reshape(-1, b.shape[-1])

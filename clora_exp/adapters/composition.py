"""What answers a task beside its own update: the sum of all tasks' updates, or a column that reads earlier columns.

`sum`: y = W0 x + b + s Σ_k m_k B_k A_k x over the tasks so far; earlier A_k and B_k stay. With magnitudes learned
(SD-LoRA, Wu et al. 2025, arXiv 2501.13198) every earlier update is a direction of unit Frobenius norm and all m_k
train; else m_k = 1, as in O-LoRA and InfLoRA. What answers one task answers all, and later tasks change it. Differs
from the released code of SD-LoRA: a magnitude a layer, not one for all layers; it starts at the update's own norm, so
that nothing changes as a task ends, where the code starts at 0.8; directions are divided by ‖BA‖, as printed, not
‖B‖·‖A‖; and the task in training has none, its B can grow.

`columns`: progressive networks (Rusu et al. 2016, arXiv 1606.04671, eq. 2), their columns adapters of one backbone.
Every column runs through the whole backbone with the activations of its own, and reads those of the columns before it
where they are narrow: column t computes y_t = W0 x_t + b + s B_t (A_t x_t + Σ_{k<t} L_{t,k} A_k x_k). Differs: the
lateral link L is a linear r×r matrix behind A_k, and starts at zero; the non-linearity is the backbone's. What a
column answers never changes, but answering as the t-th costs t columns.

Shapes: n rows, T columns, r rank.
"""

import torch
from torch import Tensor


def update_norm(A: Tensor, B: Tensor) -> Tensor:
    """Return ‖B A‖_F of A (r, in), B (out, r) through the r×r Gram matrices."""
    return ((B.T @ B) * (A @ A.T)).sum().clamp_min(0).sqrt()


def summed(stack_A: Tensor, stack_B: Tensor, magnitudes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return Σ_k m_k B_k A_k as one pair, (T r, in) and (out, T r), of stacks (T, r, in) and (T, out, r)."""
    if magnitudes is not None:
        stack_A = stack_A * magnitudes[:, None, None]
    return stack_A.flatten(0, 1), stack_B.transpose(0, 1).flatten(1)


def columns_update(x: Tensor, A: Tensor, B: Tensor, laterals: Tensor) -> Tensor:
    """Return what columns add, (T n, …, out), for x (T n, …, in), the rows of one column after those of another.

    Args:
        A, B: of the columns, (T, r, in) and (T, out, r).
        laterals: L_{t,k} at [t, k], the identity at k = t and zero beyond, (T, T, r, r).
    """
    T = len(A)
    narrow = x.reshape(T, -1, x.shape[-1]) @ A.mT  # (T, n …, r)
    read = torch.einsum("tkab,knb->tna", laterals, narrow)
    return (read @ B.mT).reshape(*x.shape[:-1], B.shape[1])


def lateral_blocks(pairs: Tensor, num_columns: int) -> Tensor:
    """Return L (T, T, r, r) of the links (T (T − 1) / 2, r, r), those of the first columns first."""
    r = pairs.shape[-1]
    blocks = torch.eye(num_columns).to(pairs)[:, :, None, None] * torch.eye(r).to(pairs)
    t, k = torch.tril_indices(num_columns, num_columns, -1)
    return blocks.index_put((t.to(pairs.device), k.to(pairs.device)), pairs[: len(t)])


def num_pairs(num_columns: int) -> int:
    """Return how many links so many columns have among them."""
    return num_columns * (num_columns - 1) // 2

"""Vanilla LoRA pairs of scale 1, A' (r, in) and B' (out, r) by module: added to weights, and to each other."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clora_exp.adapters.exported import Pairs
from clora_exp.errors import ModelError


def merge_into(backbone: nn.Module, pairs: Pairs) -> None:
    """Add B' A' to the weights, in double precision and rounded once, as a plain checkpoint has them.

    Raises:
        ModelError: the backbone has no such layer, or it has another shape.
    """
    for name, (A, B) in pairs.items():
        try:
            layer: Any = backbone.get_submodule(name)
            is_conv1d = isinstance(layer, Conv1D)
            shape = tuple(layer.weight.T.shape if is_conv1d else layer.weight.shape)
        except AttributeError as error:
            raise ModelError(f"{name}: the backbone has no such layer for an update") from error
        if shape != (len(B), A.shape[1]):
            raise ModelError(f"{name}: an update of {(len(B), A.shape[1])} for weights of {shape}")
        update = B.to(layer.weight.device).double() @ A.to(layer.weight.device).double()
        with torch.no_grad():
            layer.weight.copy_(layer.weight.double() + (update.T if is_conv1d else update))


def joined(first: Pairs, second: Pairs) -> dict[str, tuple[Tensor, Tensor]]:
    """Return pairs whose update is the sum of both, B_1 A_1 + B_2 A_2: factors side by side, ranks added.

    A layer that only one of them has keeps that one's.
    """
    found = dict(first) | dict(second)
    for name in first.keys() & second.keys():
        (A1, B1), (A2, B2) = first[name], second[name]
        found[name] = torch.cat([A1.to(A2), A2]), torch.cat([B1.to(B2), B2], dim=1)
    return found


def of_rank(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of B A of a rank (Eckart & Young 1936), √Σ Vᵀ (rank, in) and U √Σ (out, rank).

    In double precision. B A is never formed: with B = Q_B T_B and Aᵀ = Q_A T_A the SVD is that of T_B T_Aᵀ (r, r).
    """
    Q_B, T_B = torch.linalg.qr(B.double())
    Q_A, T_A = torch.linalg.qr(A.double().T)
    U, S, Vh = torch.linalg.svd(T_B @ T_A.T)
    root = S[:rank].sqrt()
    return root[:, None] * (Vh[:rank] @ Q_A.T), (Q_B @ U[:, :rank]) * root


def routing_nearest(A: Tensor, B: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    """Return the R (r, r) for which B R A comes nearest to another pair's update, B⁺ B' A' A⁺, float64."""
    of_a, of_b = pair[0].to(A.device).double(), pair[1].to(A.device).double()
    return torch.linalg.pinv(B.double()) @ of_b @ of_a @ torch.linalg.pinv(A.double())


def padded(pairs: Pairs, rank: int | None = None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return them at one rank, smaller ones filled up with zeros: not every reader of adapters knows rank patterns.

    Args:
        rank: the largest one's if none is named.
    """
    rank = rank or max(len(A) for A, _ in pairs.values())
    return {n: (F.pad(A, (0, 0, 0, rank - len(A))), F.pad(B, (0, rank - len(A)))) for n, (A, B) in pairs.items()}

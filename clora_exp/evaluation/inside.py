"""What adapters have learned, measured on their weights: where the updates lie, how large they are, what they share.

Every update is a pair of thin factors, D = B A, and no (out, in) matrix is built: norms and inner products go through
r×r Gram matrices, singular values through two thin QR decompositions. `reports/inside_run.py` reads the pairs from a
run's folder, `reports/inside_figures.py` draws them. Weights say where a task has been written, not whether the answers
need it there: for that `inside_run.needed` takes updates away and measures again.

Shapes: A (r, in), B (out, r), in double precision; k directions.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from clora_exp.adapters.composition import update_norm

Pair = tuple[Tensor, Tensor]
Side = Literal["reads", "writes"]  # the directions of the layer's input that an update answers to; those it moves


@dataclass(frozen=True)
class LayerUpdate:
    """What answers a task in one layer: ΔW = B A, and the parts it is made of, None where the setting has none.

    `gate` is sigmoid(γ), between 0 and 1; `routing` is R (r, r), with additive routing R_old + R_δ.
    """

    A: Tensor
    B: Tensor
    weight_norm: float  # ‖W0‖_F
    scale: float
    gate: Tensor | None = None
    routing: Tensor | None = None

    @property
    def pair(self) -> Pair:
        """A and B."""
        return self.A, self.B


Updates = Mapping[str, Mapping[str, LayerUpdate]]  # task → layer → what answers it there, both in order
Steps = dict[str, dict[str, Pair]]  # task → layer → what learning the task has added to the layer


def steps(updates: Updates, is_cumulative: bool) -> Steps:
    """Return what each task has added: ΔW_t, or ΔW_t − ΔW_{t−1} where one adapter goes on from task to task."""
    found: Steps = {}
    before: Mapping[str, LayerUpdate] = {}
    for task, layers in updates.items():
        found[task] = {n: difference(x.pair, before[n].pair) if before else x.pair for n, x in layers.items()}
        before = layers if is_cumulative else {}
    return found


def difference(later: Pair, earlier: Pair) -> Pair:
    """Return B₂ A₂ − B₁ A₁ as one pair, (r₁ + r₂, in) and (out, r₁ + r₂)."""
    return torch.cat([later[0], earlier[0]]), torch.cat([later[1], -earlier[1]], dim=1)


def inner_product(one: Pair, other: Pair) -> float:
    """Return ⟨D, D'⟩ = tr(Dᵀ D') = Σ (Bᵀ B') ∘ (A A'ᵀ)."""
    return float(((one[1].T @ other[1]) * (one[0] @ other[0].T)).sum())


def cosine(one: Mapping[str, Pair], other: Mapping[str, Pair]) -> float:
    """Return the cosine of two updates, each one vector of all its layers; NaN where one is zero.

    Gradient steps along D and D' help each other where it is positive and undo each other where it is negative; at 0
    the updates lie across each other.
    """
    lengths = [math.sqrt(sum(inner_product(pair, pair) for pair in update.values())) for update in (one, other)]
    product = sum(inner_product(pair, other[name]) for name, pair in one.items())
    return product / (lengths[0] * lengths[1]) if min(lengths) > 0 else math.nan


def directions(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD of B A: U (out, r), σ (r,) falling, V (in, r), through the QR of both factors."""
    A, B = pair
    Q_out, R_out = torch.linalg.qr(B)
    Q_in, R_in = torch.linalg.qr(A.T)
    U, S, Vh = torch.linalg.svd(R_out @ R_in.T, full_matrices=False)
    return Q_out @ U, S, Q_in @ Vh.T


def effective_rank(pair: Pair) -> float:
    """Return exp of the entropy of the singular values' shares, between 1 and r (Roy & Vetterli 2007); NaN of zero."""
    _, S, _ = directions(pair)
    if S.sum() == 0:
        return math.nan
    shares = S / S.sum()
    return float(torch.special.entr(shares).sum().exp())


def leading(pair: Pair, side: Side, k: int) -> Tensor:
    """Return the k directions that carry most of an update, orthonormal: of its input (in, k), or output (out, k)."""
    U, _, V = directions(pair)
    return (V if side == "reads" else U)[:, :k]


def overlap(one: Tensor, other: Tensor) -> float:
    """Return how much two subspaces share: ‖Uᵀ V‖_F² / min(k, l) = the mean of cos² over their principal angles.

    1 where one holds the other, 0 where they are orthogonal. The similarity by which Hu et al. 2021 (arXiv 2106.09685,
    section 7) compare LoRAs. U (d, k) and V (d, l) have orthonormal columns.
    """
    return float((one.T @ other).square().sum()) / min(one.shape[1], other.shape[1])


def chance_overlap(k: int, l: int, d: int) -> float:  # noqa: E741
    """Return the `overlap` that two random subspaces of dimensions k and l have in d on average: max(k, l) / d.

    E Uᵀ(V Vᵀ)U = (l / d) I for a uniformly random V, so E ‖Uᵀ V‖_F² = k l / d.
    """
    return max(k, l) / d


def angles(one: Tensor, other: Tensor) -> np.ndarray:
    """Return the principal angles of two subspaces in degrees, the smallest first (Björck & Golub 1973)."""
    return np.degrees(subspace_angles(one.numpy(), other.numpy()))[::-1]


def overlaps(found: Steps, side: Side, k: int) -> tuple[np.ndarray, float]:
    """Return the `overlap` of what every two tasks have added, (T, T), the mean over layers, and that of chance.

    Of each update the k leading directions, or as many as a layer's smallest update has. A layer that some task has
    left alone is left out: nothing has no directions. NaN where that is every layer.
    """
    tasks, matrices, chances = list(found), [], []
    for layer in found[tasks[0]]:
        pairs = [found[task][layer] for task in tasks]
        if any(update_norm(*pair) == 0 for pair in pairs):
            continue
        depth = min(k, *(len(A) for A, _ in pairs))
        spaces = [leading(pair, side, depth) for pair in pairs]
        matrices.append([[overlap(one, other) for other in spaces] for one in spaces])
        chances.append(chance_overlap(depth, depth, len(spaces[0])))
    if not matrices:
        return np.full((len(tasks), len(tasks)), math.nan), math.nan
    return np.mean(matrices, axis=0), float(np.mean(chances))


def cosines(found: Steps) -> np.ndarray:
    """Return the `cosine` of what every two tasks have added, (T, T)."""
    return np.array([[cosine(one, other) for other in found.values()] for one in found.values()])


def place(layer: str) -> tuple[str, str]:
    """Return the block and the kind of projection that a layer's name says.

    encoder.layer.3.attention.self.query → ("3", "query"); pooler.dense → ("pooler", "pooler").
    """
    named = re.search(r"\.(\d+)\.(.+)$", layer)
    words = (named[2] if named else layer).split(".")
    if words[-1] in ("dense", "weight") and len(words) > 1:
        words = words[:-1]
    kind = ".".join(words[-2:]) if words[-1] == "output" else words[-1]
    return (named[1], kind) if named else (kind, kind)


def sizes(found: Steps, updates: Updates) -> pd.DataFrame:
    """Return a row a task and layer: how large what the task has added is there.

    Columns: task, layer, block, kind; norm ‖D‖_F; relative ‖D‖_F / ‖W0‖_F; share ‖D‖_F² over its sum over the task's
    layers; effective_rank.
    """
    rows = []
    for task, layers in found.items():
        norms = {name: float(update_norm(*pair)) for name, pair in layers.items()}
        total = sum(norm**2 for norm in norms.values()) or math.nan
        for name, pair in layers.items():
            block, kind = place(name)
            relative = norms[name] / updates[task][name].weight_norm
            share, rank = norms[name] ** 2 / total, effective_rank(pair)
            rows.append((task, name, block, kind, norms[name], relative, share, rank))
    return pd.DataFrame(rows, columns=["task", "layer", "block", "kind", "norm", "relative", "share", "effective_rank"])


def gates(updates: Updates) -> pd.DataFrame:
    """Return a row a task and layer: gate g (the mean, where it is a vector), scale s, and g · s; 1 without a gate."""
    rows = []
    for task, layers in updates.items():
        for name, x in layers.items():
            gate = 1.0 if x.gate is None else float(x.gate.mean())
            rows.append((task, name, *place(name), gate, x.scale, gate * x.scale))
    return pd.DataFrame(rows, columns=["task", "layer", "block", "kind", "gate", "scale", "factor"])


def routing_sizes(updates: Updates, is_cumulative: bool) -> pd.DataFrame:
    """Return a row a task and layer: ‖R_t‖_F, and ‖R_t − R_{t−1}‖_F, of a first or an own routing ‖R_t‖_F again.

    Empty where the setting has no routing.
    """
    rows = []
    before: dict[str, Tensor] = {}
    for task, layers in updates.items():
        now = {name: x.routing for name, x in layers.items() if x.routing is not None}
        for name, R in now.items():
            moved = R - before[name] if name in before else R
            rows.append((task, name, *place(name), float(R.norm()), float(moved.norm())))
        before = now if is_cumulative else {}
    return pd.DataFrame(rows, columns=["task", "layer", "block", "kind", "norm", "update"])


def update_and_drop(found: Steps, routing: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """Return a row a task after the first: how far it moved what answers all, and what that cost the tasks before.

    Args:
        routing: of `routing_sizes`.
        values: the accuracy matrix (T + 1, T), row 0 before training.

    Returns:
        task; routing ‖R_δ‖_F over all layers, NaN without routing; weights ‖ΔW_t − ΔW_{t−1}‖_F over all layers; drop,
        the mean over earlier tasks j of a[t−1, j] − a[t, j].
    """
    rows = []
    moved = routing.groupby("task")["update"].apply(lambda x: float(np.sqrt((x**2).sum()))) if len(routing) else {}
    for t, (task, layers) in enumerate(found.items()):
        if t == 0:
            continue
        weights = math.sqrt(sum(inner_product(pair, pair) for pair in layers.values()))
        drop = float(np.mean(values[t, :t] - values[t + 1, :t]))
        rows.append((task, moved.get(task, math.nan), weights, drop))
    return pd.DataFrame(rows, columns=["task", "routing", "weights", "drop"])


def groups(layers: Sequence[str], by: Literal["block", "kind"]) -> dict[str, list[str]]:
    """Return the layers of each block, or of each kind of projection, in the model's order."""
    found: dict[str, list[str]] = {}
    for name in layers:
        block, kind = place(name)
        found.setdefault(block if by == "block" else kind, []).append(name)
    return found

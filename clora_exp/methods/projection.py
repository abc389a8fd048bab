"""Gradients turned so that they do not point uphill for earlier tasks: the projections of GEM and A-GEM.

Shapes: p numbers in all parameters, k earlier tasks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from clora_exp.methods.invariant import Invariant, distance


def gem_projection(g: Tensor, G: Tensor, margin: float = 0.0, ridge: float = 1e-3) -> Tensor:
    """Return the gradient nearest to g (p,) whose products with the rows of G (k, p) are not negative.

    Lopez-Paz & Ranzato 2017 (arXiv 1706.08840), eqs. 8 to 11: min ½‖g − g̃‖² s.t. G g̃ ≥ 0, whose dual is
    min_v ½ vᵀ G Gᵀ v + gᵀ Gᵀ v s.t. v ≥ margin, and g̃ = Gᵀ v + g. The margin favours earlier tasks. Solved as a
    non-negative least-squares problem in v − margin: with G Gᵀ = L Lᵀ the objective is ½‖Lᵀ v + L⁻¹ G g‖².
    Differs: gradients are scaled by the largest norm before the QP, so that `ridge`, added to the diagonal of the
    scaled G Gᵀ, means the same whatever their size; others add 1e-3 to the unscaled one.
    """
    scale = float(G.norm(dim=1).max())
    if scale == 0:
        return g
    scaled = G.double() / scale
    P = (scaled @ scaled.T).cpu().numpy() + ridge * np.eye(len(G))
    q = (scaled @ (g.double() / scale)).cpu().numpy() + margin * P.sum(axis=1)  # of w = v − margin ≥ 0
    L = np.linalg.cholesky(P)
    w, _ = nnls(L.T, -np.linalg.solve(L, q))
    return g + G.T @ torch.from_numpy(w + margin).to(G)


def agem_projection(g: Tensor, reference: Tensor) -> Tensor:
    """Return g − (gᵀ r / rᵀ r) r where gᵀ r < 0, else g (Chaudhry et al. 2019, arXiv 1812.00420, eq. 11)."""
    product = torch.dot(g, reference)
    return g if product >= 0 else g - product / torch.dot(reference, reference) * reference


def flattened(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return gradients as one vector (p,); None, which nothing depended on, is zero."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])


def write_gradients(vector: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Set the parameters' gradients from one vector (p,); one that had none and gets zeros keeps none."""
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))
        elif part.any():
            parameter.grad = part.view_as(parameter).clone()


def gem_promises() -> Iterator[Invariant]:
    """The projection on random problems, by the conditions that only the nearest gradient fulfils, and by hand."""
    infeasible = wrong = 0.0
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        g, G = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((30,), (4, 30)))
        found = gem_projection(g, G, ridge=1e-12)
        v = torch.linalg.lstsq(G.T, found - g).solution
        infeasible = max(infeasible, float(-(G @ found).clamp_max(0).min()))
        wrong = max(wrong, float(-v.clamp_max(0).min()), float((v * (G @ found)).abs().max()))
    yield Invariant("no product with an earlier gradient is negative", "Lopez-Paz 2017, eq. 8", infeasible, 1e-6)
    yield Invariant("nearest: multipliers ≥ 0, zero off the walls", "Karush-Kuhn-Tucker", wrong, 1e-6)
    g, up = torch.tensor([1.0, -1.0]).double(), torch.tensor([[0.0, 1.0]]).double()
    left = gem_projection(g, up, ridge=1e-12)
    yield Invariant("(1, −1) under (0, 1) is (1, 0)", "by hand", distance(left, torch.tensor([1.0, 0.0])), 1e-6)


def agem_promises() -> Iterator[Invariant]:
    """The projection by its closed form, and where there is nothing to project on."""
    g, r = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 1.0])
    expected = torch.tensor([1.0, -1.25, 1.25])
    yield Invariant("g − (gᵀr / rᵀr) r", "Chaudhry 2019, eq. 11", distance(agem_projection(g, r), expected), 1e-6)
    unchanged = max(distance(agem_projection(g, other), g) for other in (-r, torch.zeros(3)))
    yield Invariant("agreement and a zero reference change nothing", "Chaudhry 2019, eq. 10", unchanged)
    one = gem_projection(g.double(), r[None].double(), ridge=1e-12)
    yield Invariant("with one earlier task it is GEM", "gem", distance(agem_projection(g, r), one), 1e-6)

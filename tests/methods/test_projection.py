"""GEM's and A-GEM's projections against two QP solvers, their optimality conditions, and cases by hand."""

import numpy as np
import pytest
import quadprog
import torch
from scipy.optimize import minimize

from clora_exp.methods.projection import agem_projection, flattened, gem_projection, write_gradients

RIDGE = 1e-10


def _problem(seed: int, k: int = 4, p: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-4, 2)
    g = rng.normal(size=p) * scales
    return g, (rng.normal(size=(k, p)) - rng.uniform(0, 1) * g / scales) * scales


def _ours(g: np.ndarray, G: np.ndarray, margin: float = 0.0) -> np.ndarray:
    return gem_projection(torch.from_numpy(g), torch.from_numpy(G), margin, RIDGE).numpy()


@pytest.mark.parametrize("seed", range(20))
def test_it_is_feasible_and_no_solver_finds_a_nearer_gradient(seed: int) -> None:
    g, G = _problem(seed)
    found, size = _ours(g, G), np.linalg.norm(g)
    assert (G @ found >= -1e-6 * size * np.linalg.norm(G, axis=1)).all()
    # quadprog: min ½ xᵀ x − gᵀ x s.t. Cᵀ x ≥ 0, the primal
    primal = quadprog.solve_qp(np.eye(len(g)), g / size, G.T / size, np.zeros(len(G)))[0] * size
    np.testing.assert_allclose(found, primal, atol=1e-5 * size)
    # SciPy's SLSQP on the dual: min ½ vᵀ G Gᵀ v + gᵀ Gᵀ v s.t. v ≥ 0
    P, q = G @ G.T / size**2, G @ g / size**2
    dual = minimize(
        lambda v: 0.5 * v @ P @ v + q @ v,
        np.ones(len(G)),
        jac=lambda v: P @ v + q,
        bounds=[(0, None)] * len(G),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found, g + G.T @ dual.x, atol=1e-4 * size)


@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_the_margin_is_the_papers_dual_bound(margin: float) -> None:
    """quadprog, as the released code calls it: min ½ vᵀ P v − (−G g)ᵀ v s.t. v ≥ margin."""
    g, G = _problem(1)
    v = quadprog.solve_qp(G @ G.T, -(G @ g), np.eye(len(G)), np.full(len(G), margin))[0]
    np.testing.assert_allclose(_ours(g, G, margin), g + G.T @ v, rtol=1e-5, atol=1e-6 * np.linalg.norm(g))


def test_in_the_plane_by_hand() -> None:
    """g = (1, −1). One earlier task says up, (0, 1): (1, 0) is left. Another says left and up, (−1, 1): nothing."""
    g, up, left = torch.tensor([1.0, -1.0]), [0.0, 1.0], [-1.0, 1.0]
    torch.testing.assert_close(gem_projection(g, torch.tensor([up]), ridge=RIDGE), torch.tensor([1.0, 0.0]))
    both = gem_projection(g, torch.tensor([up, left]), ridge=RIDGE)
    torch.testing.assert_close(both, torch.zeros(2), atol=1e-6, rtol=0)


def test_a_gradient_that_hurts_nobody_stays_without_a_margin() -> None:
    g = torch.tensor([1.0, 2.0])
    assert torch.equal(gem_projection(g, torch.tensor([[1.0, 0.0], [0.5, 0.5]])), g)
    assert torch.equal(gem_projection(g, torch.zeros(2, 2), margin=0.5), g)


def test_equal_and_opposite_rows_are_no_obstacle() -> None:
    g = torch.tensor([1.0, -1.0])
    twice = gem_projection(g, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    torch.testing.assert_close(twice, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    wall = gem_projection(g, torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    torch.testing.assert_close(wall, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)


def test_the_size_of_the_gradients_does_not_matter() -> None:
    g, G = (torch.from_numpy(x) for x in _problem(3))
    for scale in (1e-8, 1e6):
        torch.testing.assert_close(gem_projection(g * scale, G * scale) / scale, gem_projection(g, G))


def test_agem_is_its_closed_form_and_leaves_agreement_alone() -> None:
    g, r = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 1.0])
    expected = torch.tensor([1.0, -2.0 + 0.75, 0.5 + 0.75])  # gᵀr = −1.5, rᵀr = 2
    torch.testing.assert_close(agem_projection(g, r), expected)
    assert abs(float(agem_projection(g, r) @ r)) < 1e-6
    assert torch.equal(agem_projection(g, -r), g)
    assert torch.equal(agem_projection(g, torch.zeros(3)), g)


def test_agem_with_one_task_is_gem_with_one_task() -> None:
    g, G = (torch.from_numpy(x) for x in _problem(5, k=1))
    torch.testing.assert_close(agem_projection(g, G[0]), gem_projection(g, G, ridge=RIDGE), rtol=1e-6, atol=1e-8)


def test_a_parameter_without_gradient_counts_as_zero_and_keeps_none() -> None:
    a, b, c = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad = torch.tensor([1.0, 2.0])
    vector = flattened([p.grad for p in (a, b, c)], [a, b, c])
    assert vector.tolist() == [1, 2, 0, 0, 0, 0]
    write_gradients(torch.tensor([3.0, 4.0, 0.0, 0.0, 5.0, 6.0]), [a, b, c])
    assert (a.grad.tolist(), b.grad, c.grad.tolist()) == ([3, 4], None, [5, 6])

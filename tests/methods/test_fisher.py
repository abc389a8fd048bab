"""The diagonal Fisher information against the closed form of softmax regression."""

import math

import pytest
import torch
import torch.nn.functional as F

from clora_exp.methods.fisher import diagonal_fisher

N, D, C = 40, 5, 4


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(C, D, generator=draw, dtype=torch.float64).requires_grad_()
    x = torch.randn(N, D, generator=draw, dtype=torch.float64)
    return W, x, torch.randint(C, (N,), generator=draw)


def _found(W, x, y, kind: str, seed: int = 0) -> torch.Tensor:
    examples = ((lambda i=i: F.log_softmax(W @ x[i], -1), int(y[i])) for i in range(len(x)))
    return diagonal_fisher(examples, [W], kind, torch.Generator().manual_seed(seed))[0]


def test_exact_is_the_analytic_fisher_of_softmax_regression(problem) -> None:
    """F of W_cd is E_x p_c (1 − p_c) x_d²."""
    W, x, y = problem
    p = F.softmax(x @ W.detach().T, -1)
    analytic = torch.einsum("nc,nd->cd", p * (1 - p), x.square()) / N
    assert (_found(W, x, y, "exact") - analytic).abs().max() < 1e-10


def test_empirical_is_its_own_closed_form(problem) -> None:
    """Of W_cd it is E (1[y = c] − p_c)² x_d²."""
    W, x, y = problem
    p = F.softmax(x @ W.detach().T, -1)
    closed = torch.einsum("nc,nd->cd", (F.one_hot(y, C) - p).square(), x.square()) / N
    assert (_found(W, x, y, "empirical") - closed).abs().max() < 1e-10


def test_sampled_lies_within_its_monte_carlo_bound_and_gets_nearer(problem) -> None:
    W, x, y = problem
    p = F.softmax(x @ W.detach().T, -1)
    exact = _found(W, x, y, "exact")
    repeats = 100
    mean = torch.stack([_found(W, x, y, "sampled", seed) for seed in range(repeats)]).mean(0)
    # of one draw at one x: (1[y = c] − p_c)² x_d², with y ~ p
    first = torch.einsum("nc,nd->ncd", p * (1 - p), x.square())
    second = torch.einsum("nc,nd->ncd", p * (1 - p) ** 4 + (1 - p) * p**4, x**4)
    deviation = ((second - first.square()).sum(0) / N**2 / repeats).sqrt()
    z = (mean - exact).abs() / deviation
    assert z.max() < 4.5
    assert z.mean() > 0.3  # and it is a draw, not the exact sum


def test_it_does_not_depend_on_how_often_examples_are_repeated(problem) -> None:
    W, x, y = problem
    for kind in ("exact", "empirical"):
        once, thrice = _found(W, x, y, kind), _found(W, x.repeat(3, 1), y.repeat(3), kind)
        torch.testing.assert_close(once, thrice, rtol=1e-12, atol=0)


def test_a_label_that_cannot_be_adds_nothing(problem) -> None:
    W, x, y = problem

    def log_p(i: int) -> torch.Tensor:
        return F.log_softmax(F.pad(W @ x[i], (0, 2), value=-math.inf), -1)

    examples = [(lambda i=i: log_p(i), int(y[i])) for i in range(N)]
    found = diagonal_fisher(examples, [W], "exact", torch.Generator())[0]
    torch.testing.assert_close(found, _found(W, x, y, "exact"), rtol=1e-12, atol=0)

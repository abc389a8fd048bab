"""The penalties against the out×in matrices they avoid building."""

import pytest
import torch

from clora_exp.adapters.penalty import orthogonality


@pytest.fixture
def parts() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in ((3, 8), (5, 3), (3, 3), (3, 3))
    )


def _explicit(kind: str, A, B, R_old, R_delta) -> torch.Tensor:
    left, right = {
        "routing": (R_old, R_delta),
        "column": (B @ R_old, B @ R_delta),
        "row": ((R_old @ A).T, (R_delta @ A).T),
    }[kind]
    return (left.T @ right).pow(2).sum()


@pytest.mark.parametrize("kind", ["routing", "column", "row"])
def test_penalty_equals_the_explicit_matrices(kind: str, parts) -> None:
    torch.testing.assert_close(orthogonality(kind, *parts), _explicit(kind, *parts))


@pytest.mark.parametrize("kind", ["routing", "column", "row"])
def test_only_the_routings_receive_its_gradient(kind: str, parts) -> None:
    A, B, _, R_delta = parts
    grad_A, grad_B, grad_R = torch.autograd.grad(orthogonality(kind, *parts), (A, B, R_delta), allow_unused=True)
    assert grad_A is None
    assert grad_B is None
    torch.testing.assert_close(grad_R, torch.autograd.grad(_explicit(kind, *parts), R_delta)[0])


def test_orthogonal_routings_cost_nothing_and_none_is_zero() -> None:
    A, B = torch.randn(2, 4), torch.randn(5, 2)
    old, new = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))
    assert orthogonality("routing", A, B, old, new) == 0
    assert orthogonality("none", A, B, old, old) == 0

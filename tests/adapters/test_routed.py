"""The one autograd function against autograd on the surrogate, its closed forms and finite differences."""

import pytest
import torch

from clora_exp.adapters.routed import RoutedUpdate


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"x": (7, 5), "A": (3, 5), "B": (6, 3), "R_old": (3, 3), "R_delta": (3, 3)}
    return {k: torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for k, s in shapes.items()}


def test_value_is_the_whole_update(tensors) -> None:
    x, A, B, R_old, R_delta = tensors.values()
    torch.testing.assert_close(RoutedUpdate.apply(x, A, B, R_old, R_delta), x @ (B @ (R_old + R_delta) @ A).T)


def test_factors_learn_through_the_new_routing_alone(tensors) -> None:
    """∂L/∂B = G (R_δ A)ᵀ and ∂L/∂A = (B R_δ)ᵀ G with G = ∂L/∂ΔW; and autograd on B R_δ A x + c."""
    x, A, B, R_old, R_delta = tensors.values()
    weight = torch.randn(7, 6, dtype=torch.float64)
    grad_A, grad_B = torch.autograd.grad((RoutedUpdate.apply(x, A, B, R_old, R_delta) * weight).sum(), (A, B))
    G = weight.T @ x
    torch.testing.assert_close(grad_B, G @ (R_delta @ A).T)
    torch.testing.assert_close(grad_A, (B @ R_delta).T @ G)
    constant = (x @ (B @ R_old @ A).T).detach()
    surrogate = x @ (B @ R_delta @ A).T + constant
    for ours, reference in zip((grad_A, grad_B), torch.autograd.grad((surrogate * weight).sum(), (A, B)), strict=True):
        torch.testing.assert_close(ours, reference)


def test_input_and_routing_see_the_whole_update(tensors) -> None:
    x, A, B, R_old, R_delta = tensors.values()
    fixed = A.detach(), B.detach()
    assert torch.autograd.gradcheck(lambda x, o, d: RoutedUpdate.apply(x, *fixed, o, d), (x, R_old, R_delta))


def test_gradcheck_fails_for_the_factors_by_design(tensors) -> None:
    x, A, B, R_old, R_delta = (t.detach() for t in tensors.values())
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda B: RoutedUpdate.apply(x, A, B, R_old, R_delta), (B.requires_grad_(),))


def test_without_an_old_routing_it_is_the_ordinary_product(tensors) -> None:
    x, A, B, _, R_delta = tensors.values()
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: RoutedUpdate.apply(*t[:3], zero, t[3]), (x, A, B, R_delta))

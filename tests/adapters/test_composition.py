"""Sums and columns of updates against explicit matrices and explicit loops, with PEFT and without."""

import dataclasses

import pytest
import torch
from layers import LORA, make
from torch import nn

from clora_exp.adapters.active import UNLEARNED, answering
from clora_exp.adapters.composition import columns_update, lateral_blocks, num_pairs, summed, update_norm
from clora_exp.adapters.plain import PlainLinear
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError

SUM = dataclasses.replace(LORA, factors="per_task", composition="sum")
SDLORA = dataclasses.replace(SUM, magnitudes="learned")
COLUMNS = dataclasses.replace(LORA, factors="per_task", composition="columns")


def plain(settings: MethodConfig) -> PlainLinear:
    torch.manual_seed(0)
    return PlainLinear(nn.Linear(10, 8, dtype=torch.float64).requires_grad_(False), settings, settings.rank).double()


def learn(layer, t: int, seed: int) -> None:
    """Stand in for training: move everything that trains; the task has not ended yet."""
    layer.start_task(t)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in layer.parts:
            if layer.part(part).requires_grad:
                layer.part(part).add_(torch.randn(layer.part(part).shape, generator=draw, dtype=torch.float64))


def taught(settings: MethodConfig, num_tasks: int):
    layer = make(settings)
    for t in range(num_tasks):
        learn(layer, t, seed=t)
        layer.finish_task()
    return layer


def answer(layer, x: torch.Tensor, task) -> torch.Tensor:
    with answering(task), torch.no_grad():
        return layer(x)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_norm_of_an_update_is_that_of_its_matrix() -> None:
    A, B = random(3, 7), random(5, 3, seed=1)
    torch.testing.assert_close(update_norm(A, B), (B @ A).norm())


@pytest.mark.parametrize("magnitudes", [None, torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)])
def test_a_sum_is_one_pair(magnitudes) -> None:
    A, B = random(3, 2, 7), random(3, 5, 2, seed=1)
    left, right = summed(A, B, magnitudes)
    weights = torch.ones(3) if magnitudes is None else magnitudes
    torch.testing.assert_close(right @ left, sum(w * b @ a for w, a, b in zip(weights, A, B, strict=True)))


@pytest.mark.parametrize("settings", [SUM, SDLORA], ids=["sum", "sdlora"])
@pytest.mark.parametrize("kind", [make, plain])
def test_every_task_is_answered_by_the_sum_of_all_updates_so_far(settings: MethodConfig, kind) -> None:
    layer, x = kind(settings), random(4, 10)
    total = torch.zeros(8, 10, dtype=torch.float64)
    for t in range(3):
        learn(layer, t, seed=t)
        total = total + layer.part("B").detach() @ layer.part("A").detach()
        if settings.magnitudes == "learned" and t:  # `learn` has moved the earlier ones
            moved = zip(layer.part("magnitude").detach(), layer.stack("B"), layer.stack("A"), strict=True)
            total = sum(m * b @ a for m, b, a in moved) + layer.part("B").detach() @ layer.part("A").detach()
        expected = layer.base_layer(x) + layer.scaling["default"] * x @ total.T
        for task in (0, t, torch.tensor([0, t, t, 0])):
            torch.testing.assert_close(answer(layer, x, task), expected)
        layer.finish_task()
        torch.testing.assert_close(answer(layer, x, 0), expected)
    torch.testing.assert_close(answer(layer, x, UNLEARNED), layer.base_layer(x))
    A, B = layer.as_lora(1)
    torch.testing.assert_close(layer.base_layer(x) + x @ (B @ A).T, answer(layer, x, 1))
    with pytest.raises(ModelError, match="task 3 has not been learned"):
        answer(layer, x, 3)


def test_with_magnitudes_earlier_updates_become_directions_of_unit_length() -> None:
    layer = taught(SDLORA, 3)
    for k in range(3):
        torch.testing.assert_close((layer.stack("B")[k] @ layer.stack("A")[k]).norm(), torch.ones(()).double())


def test_an_update_that_learned_nothing_stays_nothing() -> None:
    layer = make(SDLORA)
    layer.start_task(0)
    layer.finish_task()
    assert layer.part("magnitude").tolist() == [0]
    assert torch.isfinite(layer.stack("B")).all()


def by_loop(x: list[torch.Tensor], A, B, links: dict, scale: float) -> list[torch.Tensor]:
    """Equation 2 of Rusu et al. 2016 with low-rank columns, written out."""
    found = []
    for t in range(len(A)):
        read = A[t] @ x[t]
        for k in range(t):
            read = read + links[t, k] @ (A[k] @ x[k])
        found.append(scale * B[t] @ read)
    return found


def test_columns_read_earlier_columns_as_the_equation_says() -> None:
    T, r = 4, 3
    A, B, pairs = random(T, r, 7), random(T, 5, r, seed=1), random(num_pairs(T), r, r, seed=2)
    inputs = [random(7, seed=10 + t) for t in range(T)]
    order = [(t, k) for t in range(T) for k in range(t)]
    expected = by_loop(inputs, A, B, dict(zip(order, pairs, strict=True)), 1.0)
    found = columns_update(torch.stack(inputs), A, B, lateral_blocks(pairs, T))
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("kind", [make, plain])
def test_a_column_is_not_changed_by_later_ones_and_reads_earlier_ones(kind) -> None:
    layer, x = kind(COLUMNS), random(2, 5, 10)  # two columns of five rows
    for t in range(2):
        learn(layer, t, seed=t)
        layer.finish_task()
    first, both = answer(layer, x[0], 0), answer(layer, x.flatten(0, 1), 1)
    torch.testing.assert_close(both[:5], first, rtol=0, atol=0)
    A, B = layer.stack("A"), layer.stack("B")
    read = x[1] @ A[1].T + x[0] @ A[0].T @ layer.lora_laterals[0].T
    torch.testing.assert_close(both[5:], layer.base_layer(x[1]) + layer.scaling["default"] * read @ B[1].T)
    learn(layer, 2, seed=2)
    assert layer.part("lateral").shape == (2, 4, 4)
    torch.testing.assert_close(answer(layer, x.flatten(0, 1), 1), both, rtol=0, atol=0)
    layer.finish_task()
    torch.testing.assert_close(answer(layer, x.flatten(0, 1), 1), both, rtol=0, atol=0)
    with pytest.raises(ModelError, match="task 3 has not been learned"):
        answer(layer, x[0], 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"composition": "sum"}, "composition=sum needs factors=per_task"),
        ({"composition": "columns", "factors": "per_task", "gate": "scalar"}, "composition=columns needs"),
        ({"composition": "columns", "factors": "per_task", "scale": "learned"}, "needs scale=fixed"),
        ({"composition": "sum", "factors": "per_task", "scale": "learned"}, "magnitudes=learned has a scale a task"),
        ({"magnitudes": "learned", "factors": "per_task"}, "magnitudes=learned needs composition=sum"),
    ],
)
def test_settings_that_do_not_fit_say_why(changes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(LORA, **changes)

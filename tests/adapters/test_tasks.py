"""Tasks one after another and rows of many in one batch: what one may and may not change for another."""

import dataclasses

import pytest
import torch
from layers import (
    CLORA,
    CLORA_XS,
    ISOLATED,
    answers_when_learned,
    learn,
    make,
    names,
    start,
)

from clora_exp.adapters.active import answering
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_learning_a_later_task_leaves_earlier_answers_bit_identical(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers = answers_when_learned(layer, x, 3)
    for t, before in enumerate(answers):
        with answering(t):
            assert torch.equal(layer(x), before)
    assert not torch.allclose(answers[0], answers[1])


@pytest.mark.parametrize("shape", [(6, 10), (6, 3, 10), (6, 2, 3, 10)])
@pytest.mark.parametrize("settings", **names)
def test_a_mixed_batch_is_its_rows_one_by_one(settings: MethodConfig, shape: tuple[int, ...]) -> None:
    layer, x = make(settings), torch.randn(shape, dtype=torch.float64)
    for t in range(3):
        learn(layer, t, t)
    rows = [2, 0, 1, 0, 2, 1]
    with answering(torch.tensor(rows)):
        mixed = layer(x)
    for i, t in enumerate(rows):
        for task in (t, torch.tensor(t)):
            with answering(task):
                torch.testing.assert_close(mixed[i : i + 1], layer(x[i : i + 1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", **names)
def test_a_mixed_batch_trains_the_task_in_training_as_its_rows_would(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(6, 3, 10, dtype=torch.float64)
    learn(layer, 0, 1)
    learn(layer, 1, 2)
    trained = start(layer, 2, 3)
    rows = [2, 0, 2, 1, 0, 2]
    weights = torch.randn(6, 3, 8, dtype=torch.float64)

    def gradients(total: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad(total, [layer.part(part) for part in trained])

    with answering(torch.tensor(rows)):
        mixed = gradients((layer(x) * weights).sum())
    one_by_one = torch.zeros((), dtype=torch.float64)
    for i, t in enumerate(rows):
        with answering(t):
            one_by_one = one_by_one + (layer(x[i : i + 1]) * weights[i]).sum()
    for part, ours, expected in zip(trained, mixed, gradients(one_by_one), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10, msg=part)


def test_an_unknown_task_in_a_mixed_batch_is_an_error() -> None:
    layer = make(CLORA_XS)
    learn(layer, 0, 0)
    with answering(torch.tensor([0, 1])), pytest.raises(IndexError):
        layer(torch.randn(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("num_ended", [0, 1, 2])
@pytest.mark.parametrize("wrong", [3, 7, -1])
def test_an_unknown_task_beside_one_in_training_is_an_error(num_ended: int, wrong: int) -> None:
    layer = make(CLORA_XS)
    for t in range(num_ended):
        learn(layer, t, t)
    start(layer, num_ended, 0)
    for rows in ([wrong, wrong], [num_ended, wrong]):
        with answering(torch.tensor(rows)), pytest.raises(IndexError):
            layer(torch.randn(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [2, -1])
def test_an_unknown_task_has_no_snapshot(wrong: int) -> None:
    layer = make(dataclasses.replace(CLORA, inference_routing="snapshot"))
    learn(layer, 0, 0)
    learn(layer, 1, 1)
    with answering(torch.tensor([0, wrong])), pytest.raises(IndexError):
        layer(torch.randn(2, 10, dtype=torch.float64))


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_each_row_is_answered_by_what_its_task_had_learned(settings: MethodConfig) -> None:
    """By parts noted down outside the layer as each task ended, and the formula written out."""
    layer, x, noted = make(settings), torch.randn(6, 10, dtype=torch.float64), []
    for t in range(3):
        start(layer, t, t)
        noted.append({part: layer.part(part).detach().clone() for part in layer.parts})
        layer.finish_task()
    start(layer, 3, 9)
    noted.append({part: layer.part(part).detach().clone() for part in layer.parts})
    rows = [2, 0, 3, 1, 0, 3]
    with answering(torch.tensor(rows)):
        mixed = layer(x)
    for i, t in enumerate(rows):
        of = noted[t]
        R = of.get("routing", torch.eye(4, dtype=torch.float64))
        gate = torch.sigmoid(of["gate"]) if "gate" in of else torch.ones((), dtype=torch.float64)
        inner, outer = (
            (gate.expand(4), torch.ones(8)) if settings.gate == "per_rank" else (torch.ones(4), gate.expand(8))
        )
        scale = of.get("scale", torch.tensor(6.0 / 4))
        delta = scale * torch.diag(outer.double()) @ of["B"] @ torch.diag(inner.double()) @ R @ of["A"]
        expected = layer.base_layer(x[i]) + delta @ x[i]
        torch.testing.assert_close(mixed[i], expected, rtol=0, atol=1e-10)
        with answering(t):
            torch.testing.assert_close(layer(x[i : i + 1])[0], expected, rtol=0, atol=1e-10)


def test_a_snapshot_answers_while_a_later_task_trains() -> None:
    layer, x = (
        make(dataclasses.replace(CLORA, factor_tasks=1, inference_routing="snapshot")),
        torch.randn(3, 10).double(),
    )
    answers = answers_when_learned(layer, x, 2)
    start(layer, 2, 5)
    with answering(2):
        new = layer(x)
    for t in (0, 1):
        with answering(t):
            torch.testing.assert_close(layer(x), answers[t], rtol=0, atol=1e-12)
    with answering(torch.tensor([1, 2, 0])):
        expected = torch.stack([answers[1][0], new[1], answers[0][2]])
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_tasks_begin_in_order() -> None:
    layer = make(CLORA_XS)
    learn(layer, 0, 0)
    for t in (0, 2):
        with pytest.raises(ModelError, match=f"task {t} cannot begin: 1 tasks have ended"):
            layer.start_task(t)
    layer.start_task(1)
    with pytest.raises(ModelError, match="1 is in training"):
        layer.start_task(2)


def test_a_snapshot_keeps_the_routing_of_the_task_and_the_latest_moves_on() -> None:
    """With the factors fixed after the first task the snapshot forgets nothing; the latest routing does."""
    x = torch.randn(5, 10, dtype=torch.float64)
    for routing in ("latest", "snapshot"):
        layer = make(dataclasses.replace(CLORA, factor_tasks=1, inference_routing=routing))
        answers = answers_when_learned(layer, x, 3)
        with answering(0):
            assert torch.equal(layer(x), answers[0]) == (routing == "snapshot")
        assert layer.stack("snapshot").shape == (3, 4, 4) if routing == "snapshot" else not layer.owned


@pytest.mark.parametrize("settings", ISOLATED, ids=names["ids"])
def test_a_warm_start_answers_as_the_earlier_task_did(settings: MethodConfig) -> None:
    layer, x = make(settings), torch.randn(5, 10, dtype=torch.float64)
    answers = answers_when_learned(layer, x, 2)
    layer.start_task(2, like=0)
    with answering(2):
        torch.testing.assert_close(layer(x), answers[0], rtol=0, atol=1e-12)

"""Measures of updates against closed forms and against the dense matrices that they do not build."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from clora_exp.evaluation import inside
from clora_exp.evaluation.inside import LayerUpdate, Pair

DRAW = torch.Generator().manual_seed(0)


def pair_of(*entries: tuple[int, int, float], shape: tuple[int, int] = (5, 4)) -> Pair:
    """Return an update (out, in) that is zero but for entries (row, column, value), one a direction."""
    A, B = torch.zeros(len(entries), shape[1]).double(), torch.zeros(shape[0], len(entries)).double()
    for k, (row, column, value) in enumerate(entries):
        B[row, k], A[k, column] = value, 1.0
    return A, B


def drawn(r: int, shape: tuple[int, int] = (7, 6)) -> Pair:
    A = torch.randn(r, shape[1], generator=DRAW, dtype=torch.float64)
    return A, torch.randn(shape[0], r, generator=DRAW, dtype=torch.float64)


def dense(pair: Pair) -> torch.Tensor:
    return pair[1] @ pair[0]


def layer(pair: Pair, **parts) -> LayerUpdate:
    return LayerUpdate(*pair, weight_norm=2.0, **{"scale": 2.0, **parts})


def test_a_difference_is_the_difference_of_the_matrices() -> None:
    one, other = drawn(2), drawn(3)
    torch.testing.assert_close(dense(inside.difference(one, other)), dense(one) - dense(other))


def test_inner_products_are_those_of_the_matrices() -> None:
    one, other = drawn(2), drawn(3)
    assert inside.inner_product(one, other) == pytest.approx(float((dense(one) * dense(other)).sum()))


def test_the_cosine_of_an_update_with_itself_its_opposite_and_one_across() -> None:
    update = {"a": pair_of((0, 0, 3.0)), "b": pair_of((1, 1, 4.0))}
    opposite = {name: (A, -B) for name, (A, B) in update.items()}
    half = {"a": pair_of((0, 0, 1.0)), "b": pair_of((0, 1, 1.0))}
    assert inside.cosine(update, update) == pytest.approx(1)
    assert inside.cosine(update, opposite) == pytest.approx(-1)
    assert inside.cosine(update, half) == pytest.approx(3 / (5 * math.sqrt(2)))
    assert math.isnan(inside.cosine(update, {name: pair_of((0, 0, 0.0)) for name in update}))


def test_directions_are_the_singular_value_decomposition() -> None:
    pair = drawn(3)
    U, S, V = inside.directions(pair)
    torch.testing.assert_close(U @ torch.diag(S) @ V.T, dense(pair))
    torch.testing.assert_close(S, torch.linalg.svdvals(dense(pair))[:3])
    torch.testing.assert_close(U.T @ U, torch.eye(3).double())
    torch.testing.assert_close(V.T @ V, torch.eye(3).double())


@pytest.mark.parametrize(
    ("entries", "rank"),
    [
        ([(0, 0, 2.0)], 1),
        ([(0, 0, 2.0), (1, 1, 2.0), (2, 2, 2.0)], 3),
        ([(0, 0, 3.0), (1, 1, 1.0)], 4 / 3**0.75),  # exp H(¾, ¼)
    ],
)
def test_the_effective_rank_of_known_singular_values(entries, rank: float) -> None:
    assert inside.effective_rank(pair_of(*entries)) == pytest.approx(rank)
    assert math.isnan(inside.effective_rank(pair_of((0, 0, 0.0))))


def test_overlaps_and_angles_of_planes_that_share_a_line() -> None:
    e = torch.eye(5).double()
    tilted = torch.stack([e[0], math.cos(0.3) * e[1] + math.sin(0.3) * e[2]], dim=1)
    assert inside.overlap(e[:, :2], e[:, 1:3]) == pytest.approx(0.5)
    assert inside.overlap(e[:, :2], e[:, 2:4]) == 0
    assert inside.overlap(e[:, :1], e[:, :3]) == 1, "one holds the other"
    assert inside.overlap(e[:, :2], tilted) == pytest.approx((1 + math.cos(0.3) ** 2) / 2)
    np.testing.assert_allclose(inside.angles(e[:, :2], tilted), [0, math.degrees(0.3)], atol=1e-6)


def test_the_overlap_of_chance_is_the_mean_over_subspaces_that_fill_the_space() -> None:
    """Of d / l orthogonal subspaces that together are everything, Σ ‖Uᵀ V‖² = k, whatever U is."""
    d, k, l = 12, 3, 4  # noqa: E741
    Q, U = (torch.linalg.qr(torch.randn(d, d, generator=DRAW, dtype=torch.float64))[0] for _ in range(2))
    found = [inside.overlap(U[:, :k], Q[:, i : i + l]) for i in range(0, d, l)]
    assert np.mean(found) == pytest.approx(inside.chance_overlap(k, l, d))
    assert inside.chance_overlap(k, l, d) == pytest.approx(4 / 12)


def test_what_a_task_adds_is_its_own_update_or_the_change_of_the_one_adapter() -> None:
    one, two = pair_of((0, 0, 1.0)), pair_of((0, 0, 1.0), (1, 1, 5.0))
    updates = {"first": {"x": layer(one)}, "second": {"x": layer(two)}}
    own, shared = inside.steps(updates, False), inside.steps(updates, True)
    torch.testing.assert_close(dense(own["second"]["x"]), dense(two))
    torch.testing.assert_close(dense(shared["second"]["x"]), dense(pair_of((1, 1, 5.0))))
    for found in (own, shared):
        torch.testing.assert_close(dense(found["first"]["x"]), dense(one))


def test_overlaps_leave_out_a_layer_that_a_task_left_alone() -> None:
    zero, x, y = pair_of((0, 0, 0.0)), pair_of((0, 0, 1.0)), pair_of((0, 1, 2.0))
    found = {"first": {"a": x, "b": x}, "second": {"a": y, "b": zero}}
    reads, chance = inside.overlaps(found, "reads", 4)
    writes, _ = inside.overlaps(found, "writes", 4)
    np.testing.assert_allclose(reads, [[1, 0], [0, 1]], atol=1e-12)
    np.testing.assert_allclose(writes, [[1, 1], [1, 1]])
    assert chance == 1 / 4, "one direction of four"
    nothing, chance = inside.overlaps({task: {"b": zero} for task in found}, "reads", 4)
    assert np.isnan(nothing).all()
    assert math.isnan(chance)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("encoder.layer.3.attention.self.query", ("3", "query")),
        ("encoder.layer.11.attention.output.dense", ("11", "attention.output")),
        ("encoder.layer.0.output.dense", ("0", "output")),
        ("encoder.layer.0.intermediate.dense", ("0", "intermediate")),
        ("layers.1.mlp.fc2", ("1", "fc2")),
        ("pooler.dense", ("pooler", "pooler")),
    ],
)
def test_the_place_of_a_layer_is_read_from_its_name(name: str, where: tuple[str, str]) -> None:
    assert inside.place(name) == where


def test_sizes_are_norms_shares_and_ranks() -> None:
    updates = {"first": {"layers.0.q": layer(pair_of((0, 0, 3.0))), "layers.1.q": layer(pair_of((1, 1, 4.0)))}}
    table = inside.sizes(inside.steps(updates, False), updates)
    np.testing.assert_allclose(table["norm"], [3, 4])
    np.testing.assert_allclose(table["relative"], [1.5, 2])
    np.testing.assert_allclose(table["share"], [9 / 25, 16 / 25])
    np.testing.assert_allclose(table["effective_rank"], [1, 1])
    assert list(table["block"]) == ["0", "1"]


def test_gates_are_means_and_products_and_one_where_there_is_none() -> None:
    x = pair_of((0, 0, 1.0))
    gated = layer(x, gate=torch.tensor([0.2, 0.6]), scale=3.0)
    table = inside.gates({"first": {"layers.0.q": gated, "layers.1.q": layer(x)}})
    np.testing.assert_allclose(table["gate"], [0.4, 1.0], rtol=1e-6)
    np.testing.assert_allclose(table["factor"], [1.2, 2.0], rtol=1e-6)


def test_routing_moves_from_task_to_task_or_starts_anew() -> None:
    x = pair_of((0, 0, 1.0))
    R = [torch.diag(torch.tensor(values)).double() for values in ([3.0, 4.0], [3.0, 16.0])]
    updates = {task: {"layers.0.q": layer(x, routing=M)} for task, M in zip(("first", "second"), R, strict=True)}
    np.testing.assert_allclose(inside.routing_sizes(updates, True)["update"], [5, 12])
    np.testing.assert_allclose(inside.routing_sizes(updates, False)["update"], [5, math.hypot(3, 16)])
    assert inside.routing_sizes({"first": {"layers.0.q": layer(x)}}, True).empty


def test_the_drop_of_a_session_stands_beside_its_update(hand_worked) -> None:
    tasks = ("first", "second", "third")
    found = {task: {"x": pair_of((0, 0, float(t + 1)))} for t, task in enumerate(tasks)}
    routing = pd.DataFrame({"task": ["second", "second", "third"], "update": [3.0, 4.0, 7.0]})
    table = inside.update_and_drop(found, routing, np.array(hand_worked))
    assert list(table["task"]) == ["second", "third"]
    np.testing.assert_allclose(table["routing"], [5, 7])
    np.testing.assert_allclose(table["weights"], [2, 3])
    np.testing.assert_allclose(table["drop"], [0.2, (0.1 - 0.05) / 2])
    assert inside.update_and_drop(found, routing.iloc[:0], np.array(hand_worked))["routing"].isna().all()

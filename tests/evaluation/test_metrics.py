"""Every metric against values worked out by hand from one 3×3 matrix (row 0 before training)."""

import numpy as np
import pytest

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import intransigence, metrics_of_run, transfer_gain

#            j=1   j=2   j=3
#   init     0.10  0.20  0.30
#   after 1  0.90  0.25  0.20
#   after 2  0.70  0.80  0.40
#   after 3  0.60  0.85  0.70
BY_HAND = {
    "average_accuracy": (0.60 + 0.85 + 0.70) / 3,
    "incremental_accuracy": (0.90 + (0.70 + 0.80) / 2 + (0.60 + 0.85 + 0.70) / 3) / 3,
    "learning_accuracy": (0.90 + 0.80 + 0.70) / 3,
    "backward_transfer": ((0.60 - 0.90) + (0.85 - 0.80)) / 2,
    "forgetting": ((0.90 - 0.60) + (0.80 - 0.85)) / 2,
    "mean_drop": ((0.20 + 0.30) + (0.05 + 0.0) + (0.30 + 0.0)) / 6,
    "forward_transfer": ((0.25 - 0.20) + (0.40 - 0.30)) / 2,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_metric_has_the_hand_worked_value(name: str, hand_worked) -> None:
    matrix = AccuracyMatrix(["a", "b", "c"], np.array(hand_worked))
    assert metrics_of_run(matrix, scenario="domain_incremental")[name].value == pytest.approx(BY_HAND[name], abs=1e-12)


def test_forward_transfer_is_null_with_a_reason_where_every_task_has_its_own_head(hand_worked) -> None:
    metric = metrics_of_run(AccuracyMatrix(["a", "b", "c"], np.array(hand_worked)))["forward_transfer"]
    assert metric.value is None
    assert "untrained" in metric.reason


def test_metrics_that_compare_tasks_are_null_for_one_task() -> None:
    found = metrics_of_run(AccuracyMatrix(["a"], np.array([[0.2], [0.9]])))
    assert found["average_accuracy"].value == 0.9
    assert found["learning_accuracy"].value == 0.9
    for name in ("backward_transfer", "forgetting", "mean_drop", "forward_transfer"):
        assert found[name].value is None
        assert "2 tasks" in found[name].reason


def test_an_incomplete_matrix_gives_nulls_and_never_zeros() -> None:
    found = metrics_of_run(AccuracyMatrix(["a", "b"]), scenario="domain_incremental")
    assert {metric.value for metric in found.values()} == {None}
    assert all(metric.reason for metric in found.values())


def test_metrics_that_need_other_runs_say_which() -> None:
    found = metrics_of_run(AccuracyMatrix(["a"], np.array([[0.2], [0.9]])))
    assert "`single`" in found["transfer_gain"].reason
    assert "`joint`" in found["intransigence"].reason


def test_against_the_references_of_the_same_seed(hand_worked) -> None:
    a = np.array(hand_worked)
    single, joint = np.array([0.9, 0.7, 0.75]), np.array([0.85, 0.9, 0.8])
    assert transfer_gain(a, single) == pytest.approx(((0.80 - 0.70) + (0.70 - 0.75)) / 2, abs=1e-12)
    assert intransigence(a, joint) == pytest.approx(((0.85 - 0.90) + (0.90 - 0.80) + (0.80 - 0.70)) / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("protocol", "rows", "defined"),
    [
        ("joint", [[0.1, 0.2], [np.nan, np.nan], [0.8, 0.6]], {"average_accuracy": 0.7}),
        ("single", [[0.1, 0.2], [0.9, np.nan], [np.nan, 0.5]], {"learning_accuracy": 0.7}),
    ],
)
def test_references_have_the_metrics_that_their_cells_define(protocol: str, rows, defined: dict[str, float]) -> None:
    found = metrics_of_run(AccuracyMatrix(["a", "b"], np.array(rows)), protocol=protocol)
    assert {name: m.value for name, m in found.items() if m.value is not None} == pytest.approx(defined)
    assert {"joint": "at once", "single": "alone"}[protocol] in found["forgetting"].reason

"""The paired bootstrap: pairs stay pairs, intervals are those of known samples, and a seed makes it repeatable."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clora_exp.evaluation.metrics import backward_transfer
from clora_exp.evaluation.paired import Bootstrap, TaskAnswers, answers_of, interval, matrix_of, resampled


def _answers(right: np.ndarray) -> TaskAnswers:
    """Return answers that are right where `right` (T + 1, n) says so."""
    n = right.shape[1]
    rows = tuple(tuple("yes" if ok else "no" for ok in row) for row in right.astype(bool))
    return TaskAnswers(tuple(f"e{i}" for i in range(n)), ("yes",) * n, rows)


def _frame(rows: list[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["after", "task", "example", "label", "predicted"])


def test_answers_are_read_by_task_and_row_and_give_the_matrix_back() -> None:
    frame = _frame(
        [
            ("init", "a", "1", "x", "y"),
            ("init", "a", "2", "y", "y"),
            ("a", "a", "1", "x", "x"),
            ("a", "a", "2", "y", "y"),
            ("b", "b", "3", "z", "w"),
            ("b", "a", "1", "x", "y"),
            ("b", "a", "2", "y", "x"),
        ]
    )
    answers = answers_of(frame, ["a", "b"])
    assert answers["a"].examples == ("1", "2")
    assert answers["b"].predicted == (None, None, ("w",))
    assert answers["a"].last == ("y", "x")
    np.testing.assert_array_equal(matrix_of(answers, ["a", "b"]), [[0.5, np.nan], [1.0, np.nan], [0.0, 0.0]])


def test_a_task_measured_on_changing_examples_is_an_error() -> None:
    frame = _frame([("init", "a", "1", "x", "y"), ("a", "a", "2", "x", "y")])
    with pytest.raises(ValueError, match="task 'a' was not measured on the same examples throughout"):
        answers_of(frame, ["a"])


def test_both_runs_see_the_same_draw_so_equal_answers_never_differ() -> None:
    rows = {"a": np.random.default_rng(1).integers(0, 2, (3, 40)).astype(float)}
    first, second = resampled([rows, rows], num_resamples=200)
    np.testing.assert_array_equal(first["a"], second["a"])
    assert first["a"].std() > 0


def test_the_draws_are_those_of_the_seed_however_they_are_made(monkeypatch) -> None:
    rows = {"a": np.eye(3, 7), "b": np.ones((3, 5))}
    (whole,) = resampled([rows], num_resamples=100)
    monkeypatch.setattr("clora_exp.evaluation.paired.AT_ONCE", 70)
    (in_parts,) = resampled([rows], num_resamples=100)
    np.testing.assert_array_equal(whole["a"], in_parts["a"])
    assert (whole["b"] == 1).all()


def test_the_interval_is_scipys_paired_percentile_bootstrap() -> None:
    random = np.random.default_rng(3)
    first, second = random.random(300) < 0.7, random.random(300) < 0.8
    answers = [{"a": _answers(np.vstack([run, run]))} for run in (first, second)]
    bootstrap = Bootstrap(answers, [["a"], ["a"]], num_resamples=20_000)
    found = bootstrap.metric("average_accuracy")
    expected = stats.bootstrap(
        (second.astype(float), first.astype(float)),
        lambda b, a, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.004)
    assert found[0] < second.mean() - first.mean() < found[1]


def test_pairing_makes_the_interval_narrower_than_independent_draws_would() -> None:
    first = np.random.default_rng(0).random(400) < 0.6
    second = first.copy()
    second[:12] = True
    answers = [{"a": _answers(np.vstack([run, run]))} for run in (first, second)]
    low, high = Bootstrap(answers, [["a"], ["a"]]).metric("average_accuracy")
    apart = 2 * 1.96 * np.sqrt(2 * 0.24 / 400)
    assert high - low < 0.2 * apart


def test_metrics_are_those_of_the_resampled_matrices_in_each_runs_own_order() -> None:
    random = np.random.default_rng(5)
    a = {task: _answers(random.random((3, 50)) < 0.7) for task in ("x", "y")}
    bootstrap = Bootstrap([a, a], [["x", "y"], ["y", "x"]], num_resamples=500)
    np.testing.assert_array_equal(bootstrap.matrices[0], bootstrap.matrices[1][:, :, ::-1])
    values = [np.array([backward_transfer(m) for m in bootstrap.matrices[run]]) for run in (0, 1)]
    low, high = interval(values[1] - values[0])
    assert bootstrap.metric("backward_transfer") == (low, high)
    assert bootstrap.metric("rouge_l") is None


def test_with_new_classes_incremental_accuracy_is_weighted_and_both_factors_have_intervals() -> None:
    small = TaskAnswers(("1", "2"), ("a", "b"), (None, ("a", "b"), ("a", "c")))
    large = TaskAnswers(("3", "4", "5", "6"), ("c", "d", "c", "d"), (None, None, ("c", "d", "d", "a")))
    better = TaskAnswers(("3", "4", "5", "6"), ("c", "d", "c", "d"), (None, None, ("c", "d", "c", "d")))
    bootstrap = Bootstrap([{"s": small, "l": large}, {"s": small, "l": better}], [["s", "l"]] * 2, num_resamples=3000)
    accuracy = bootstrap.matrices[0][:, 2]
    expected = (bootstrap.matrices[0][:, 1, 0] + accuracy @ [2, 4] / 6) / 2
    np.testing.assert_allclose(bootstrap._values("incremental_accuracy", 0, True), expected)
    low, high = bootstrap.metric("task_identification")
    assert (low, high) == pytest.approx((0, 3 / 6))  # of the large task one answer more is of it, drawn 0 to 3 times
    assert bootstrap.metric("within_task_accuracy")[1] > 0

"""The metrics on matrices that nobody chose: bounds, symmetries, identities, and the definitions in exact fractions."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clora_exp.evaluation import metrics
from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import DEFINED_BY_MATRIX, metrics_of_run
from clora_exp.evaluation.statistics import mcnemar

Exact = list[list[Fraction]]  # a[i][j - 1], rows i = 0..T
NEVER_NEGATIVE = {"average_accuracy", "incremental_accuracy", "learning_accuracy", "mean_drop"}
DIFFERENCES = {"backward_transfer", "forgetting", "mean_drop", "forward_transfer"}


@st.composite
def matrices(draw: st.DrawFn, min_tasks: int = 1, max_tasks: int = 6) -> Exact:
    num_tasks, num_examples = draw(st.integers(min_tasks, max_tasks)), draw(st.integers(1, 60))
    right = st.integers(0, num_examples).map(lambda k: Fraction(k, num_examples))
    return draw(
        st.lists(
            st.lists(right, min_size=num_tasks, max_size=num_tasks), min_size=num_tasks + 1, max_size=num_tasks + 1
        )
    )


def as_floats(exact: Exact) -> np.ndarray:
    return np.array([[float(x) for x in row] for row in exact])


def values_of(a: np.ndarray) -> dict[str, float]:
    names = [f"t{j}" for j in range(a.shape[1])]
    found = metrics_of_run(AccuracyMatrix(names, a), scenario="domain_incremental")
    return {name: found[name].value for name in DEFINED_BY_MATRIX if found[name].value is not None}


def by_definition(a: Exact) -> dict[str, Fraction]:
    """Every metric from the sums it is defined by, counted from 1 as they are printed."""
    T = len(a) - 1
    at = lambda i, j: a[i][j - 1]  # noqa: E731
    tasks, earlier, later = range(1, T + 1), range(1, T), range(2, T + 1)
    found = {
        "average_accuracy": sum(at(T, j) for j in tasks) / T,
        "incremental_accuracy": sum(sum(at(i, j) for j in range(1, i + 1)) / i for i in tasks) / T,
        "learning_accuracy": sum(at(j, j) for j in tasks) / T,
    }
    if T > 1:
        best = {j: max(at(i, j) for i in range(T + 1)) for j in tasks}
        best_before = {j: max(at(i, j) for i in earlier) for j in earlier}
        found |= {
            "backward_transfer": sum(at(T, j) - at(j, j) for j in earlier) / (T - 1),
            "forgetting": sum(best_before[j] - at(T, j) for j in earlier) / (T - 1),
            "mean_drop": sum(best[j] - at(i, j) for j in tasks for i in later) / (T * (T - 1)),
            "forward_transfer": sum(at(j - 1, j) - at(0, j) for j in later) / (T - 1),
        }
    return found


def close(expected: dict[str, float]) -> object:
    return pytest.approx(expected, abs=1e-12)


@given(matrices())
def test_every_metric_is_its_definition_in_exact_fractions(exact: Exact) -> None:
    assert values_of(as_floats(exact)) == close({name: float(value) for name, value in by_definition(exact).items()})


@given(matrices(), st.data())
def test_metrics_against_references_are_their_definitions(exact: Exact, data: st.DataObject) -> None:
    T = len(exact) - 1
    reference = data.draw(st.lists(st.fractions(0, 1, max_denominator=60), min_size=T, max_size=T))
    alone = np.array([float(x) for x in reference])
    differences = [exact[j + 1][j] - reference[j] for j in range(T)]
    assert metrics.intransigence(as_floats(exact), alone) == pytest.approx(float(-sum(differences) / T), abs=1e-12)
    if T > 1:
        gain = float(sum(differences[1:]) / (T - 1))
        assert metrics.transfer_gain(as_floats(exact), alone) == pytest.approx(gain, abs=1e-12)


@given(matrices())
def test_metrics_lie_in_their_bounds(exact: Exact) -> None:
    for name, value in values_of(as_floats(exact)).items():
        assert (0 if name in NEVER_NEGATIVE else -1) - 1e-12 <= value <= 1 + 1e-12, name


@given(matrices(min_tasks=2))
def test_the_average_is_what_was_learned_plus_what_came_back(exact: Exact) -> None:
    a, T = as_floats(exact), len(exact) - 1
    moved = (T - 1) / T * metrics.backward_transfer(a)
    assert metrics.average_accuracy(a) == pytest.approx(metrics.learning_accuracy(a) + moved, abs=1e-12)


@given(matrices(min_tasks=2))
def test_forgetting_is_no_less_than_the_loss_since_each_task_was_learned(exact: Exact) -> None:
    assert metrics.forgetting(as_floats(exact)) >= -metrics.backward_transfer(as_floats(exact)) - 1e-12


@given(st.floats(0, 1), st.integers(2, 6))
def test_of_a_constant_matrix_nothing_is_forgotten_and_nothing_carried_over(accuracy: float, num_tasks: int) -> None:
    found = values_of(np.full((num_tasks + 1, num_tasks), accuracy))
    assert {name: found[name] for name in DIFFERENCES} == dict.fromkeys(DIFFERENCES, 0.0)
    levels = {name: found[name] for name in found.keys() - DIFFERENCES}
    assert levels == close(dict.fromkeys(levels, accuracy))


@given(matrices(min_tasks=2))
def test_of_tasks_that_never_change_nothing_is_forgotten_whatever_their_levels(exact: Exact) -> None:
    found = values_of(np.tile(as_floats(exact)[0], (len(exact), 1)))
    assert {name: found[name] for name in DIFFERENCES} == dict.fromkeys(DIFFERENCES, 0.0)


@given(matrices(min_tasks=2))
def test_with_equal_columns_every_metric_is_one_of_the_rows_alone(exact: Exact) -> None:
    row = as_floats(exact)[:, 0]
    expected = {
        "average_accuracy": row[-1],
        "incremental_accuracy": row[1:].mean(),
        "learning_accuracy": row[1:].mean(),
        "backward_transfer": row[-1] - row[1:-1].mean(),
        "forgetting": row[1:-1].max() - row[-1],
        "mean_drop": (row.max() - row[2:]).mean(),
        "forward_transfer": row[1:-1].mean() - row[0],
    }
    assert values_of(np.tile(row[:, None], len(row) - 1)) == close(expected)


@given(matrices(min_tasks=2), st.data())
def test_the_order_of_what_a_metric_averages_does_not_matter(exact: Exact, data: st.DataObject) -> None:
    """All columns for the average and the drop, and those of earlier tasks, or the rows between, for forgetting."""
    a, T = as_floats(exact), len(exact) - 1
    columns = data.draw(st.permutations(range(T)))
    earlier = [*data.draw(st.permutations(range(T - 1))), T - 1]
    between = [0, *data.draw(st.permutations(range(1, T))), T]
    after_first = [0, 1, *data.draw(st.permutations(range(2, T + 1)))]
    assert metrics.average_accuracy(a[:, columns]) == pytest.approx(metrics.average_accuracy(a), abs=1e-12)
    assert metrics.mean_drop(a[:, columns]) == pytest.approx(metrics.mean_drop(a), abs=1e-12)
    assert metrics.mean_drop(a[after_first]) == pytest.approx(metrics.mean_drop(a), abs=1e-12)
    assert metrics.forgetting(a[:, earlier]) == pytest.approx(metrics.forgetting(a), abs=1e-12)
    assert metrics.forgetting(a[between]) == pytest.approx(metrics.forgetting(a), abs=1e-12)


@given(matrices(min_tasks=2), st.floats(0, 1), st.floats(0, 1))
def test_differences_scale_and_levels_move_with_the_accuracies(exact: Exact, slope: float, level: float) -> None:
    before, after = values_of(as_floats(exact)), values_of(slope * as_floats(exact) + level)
    assert after == close({name: slope * v + (0 if name in DIFFERENCES else level) for name, v in before.items()})


@given(st.data())
def test_class_incremental_accuracy_is_the_share_of_right_answers_of_all_examples_so_far(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    T = len(sizes)
    right = [[data.draw(st.integers(0, size)) for size in sizes] for _ in range(T)]
    a = np.array(
        [[np.nan] * T]
        + [
            [k / n if j <= i else np.nan for j, (k, n) in enumerate(zip(row, sizes, strict=True))]
            for i, row in enumerate(right)
        ]
    )
    pooled = [Fraction(sum(right[i][: i + 1]), sum(sizes[: i + 1])) for i in range(T)]
    matrix = AccuracyMatrix([f"t{j}" for j in range(T)], a)
    found = metrics_of_run(matrix, scenario="class_incremental", num_examples=np.array(sizes))
    assert found["incremental_accuracy"].value == pytest.approx(float(sum(pooled) / T), abs=1e-12)
    assert found["forward_transfer"].value is None


@given(matrices(min_tasks=2), st.data())
def test_a_missing_cell_makes_null_what_is_defined_on_it_and_changes_nothing_else(
    exact: Exact, data: st.DataObject
) -> None:
    """What the maxima run over before a task is learned may be missing: it has no accuracy then in some scenarios."""
    a, T = as_floats(exact), len(exact) - 1
    i, j = data.draw(st.integers(0, T)), data.draw(st.integers(1, T))
    needed = {
        "average_accuracy": i == T,
        "incremental_accuracy": j <= i,
        "learning_accuracy": i == j,
        "backward_transfer": j < T and i in (j, T),
        "forgetting": j <= i,
        "mean_drop": j <= i,
        "forward_transfer": j > 1 and i in (0, j - 1),
    }
    before = values_of(a)
    a[i, j - 1] = np.nan
    found = values_of(a)
    assert found.keys() == {name for name, is_needed in needed.items() if not is_needed}
    may_change = {"forgetting", "mean_drop"}
    assert {n: v for n, v in found.items() if n not in may_change} == {
        n: before[n] for n in found if n not in may_change
    }


answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(answers, st.randoms(use_true_random=False))
def test_two_classifiers_compare_the_same_in_any_order_and_either_way_round(pairs: list, random) -> None:
    first, second = np.array(pairs).T
    found = mcnemar(first, second)
    random.shuffle(pairs)
    assert mcnemar(*np.array(pairs).T) == found
    swapped = mcnemar(second, first)
    assert (swapped.only_first, swapped.only_second, swapped.p_value) == (
        found.only_second,
        found.only_first,
        found.p_value,
    )
    more = mcnemar(np.append(first, [True, False]), np.append(second, [True, False]))
    assert more == found  # where they agree says nothing


@given(answers)
def test_p_is_the_chance_of_a_split_at_least_as_unlikely(pairs: list) -> None:
    found = mcnemar(*np.array(pairs).T)
    n = found.only_first + found.only_second
    assume(n > 0)
    unlikely = [comb(n, k) for k in range(n + 1) if comb(n, k) <= comb(n, found.only_first)]
    assert found.p_value == pytest.approx(float(Fraction(sum(unlikely), 2**n)), rel=1e-9)
    assert 0 < found.p_value <= 1

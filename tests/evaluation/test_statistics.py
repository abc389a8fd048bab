from itertools import product
from math import comb, isnan, sqrt

import numpy as np
import pytest
from scipy.stats import bootstrap, permutation_test, ttest_1samp

from clora_exp.evaluation.statistics import McNemar, holm, mcnemar, on_every_seed, sign_flip, spreads


@pytest.mark.parametrize(("only_first", "only_second"), [(3, 10), (10, 3), (1, 8), (5, 5), (40, 61)])
def test_p_is_the_exact_binomial_tail_of_both_sides(only_first: int, only_second: int) -> None:
    n, k = only_first + only_second, min(only_first, only_second)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    first = np.array([True] * only_first + [False] * only_second + [True] * 7 + [False] * 4)
    second = np.array([False] * only_first + [True] * only_second + [True] * 7 + [False] * 4)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(expected, rel=1e-12)


def test_two_classifiers_that_agree_everywhere_do_not_differ() -> None:
    answers = np.array([True, False, True])
    assert mcnemar(answers, answers).p_value == 1.0


def test_mean_and_deviation_of_a_known_sample_are_those_worked_by_hand() -> None:
    (found,) = spreads(np.array([[0.1, 0.2, 0.6]]))
    assert found.n == 3
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(sqrt((0.04 + 0.01 + 0.09) / 2))  # divisor n − 1


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_is_scipys_bca_interval(n: int) -> None:
    sample = np.random.default_rng(n).normal(0.8, 0.1, size=n)
    (found,) = spreads(sample[None])
    expected = bootstrap((sample,), np.mean, method="BCa", random_state=np.random.default_rng(0)).confidence_interval
    assert found.interval == "BCa"
    # up to ties of resampled means with the mean, which scipy's own call counts by rounding errors
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)
    assert found.low < found.mean < found.high


def test_a_row_has_the_same_interval_beside_any_other_rows() -> None:
    table = np.random.default_rng(0).uniform(size=(40, 5))
    assert spreads(table)[3] == spreads(table[3:4])[0]


def test_where_bca_is_not_defined_the_interval_is_the_percentiles_and_says_so() -> None:
    same, varied = spreads(np.array([[0.5, 0.5, 0.5], [0.1, 0.2, 0.6]]))
    assert (same.low, same.high, same.interval) == (0.5, 0.5, "percentile")
    assert varied.interval == "BCa"


def test_one_seed_has_a_mean_and_neither_deviation_nor_interval() -> None:
    (found,) = spreads(np.array([[0.7]]))
    assert (found.n, found.mean, found.interval) == (1, 0.7, "")
    assert all(isnan(value) for value in (found.sd, found.low, found.high))


@pytest.mark.parametrize("differences", [[0.1, 0.2, 0.3], [0.1, -0.2, 0.3, 0.05], [-1.0, -2.0, -3.0, -4.0, 0.5]])
def test_sign_flips_give_what_trying_all_of_them_by_hand_gives(differences: list[float]) -> None:
    d = np.array(differences)
    means = np.array([np.mean(d * signs) for signs in product((1, -1), repeat=len(d))])
    one_sided = min((means >= d.mean() - 1e-12).mean(), (means <= d.mean() + 1e-12).mean())
    found = sign_flip(d)
    assert found is not None
    assert found.p_value == pytest.approx(min(1.0, 2 * one_sided))
    assert found.smallest_p == 2 / 2 ** len(d)
    assert found.is_exact


def test_sign_flips_are_scipys_paired_permutation_test() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(1, 1, 8), rng.normal(0, 1, 8)
    expected = permutation_test(
        (first, second), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    )
    found = sign_flip(first - second)
    assert found is not None
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.p_value == pytest.approx(ttest_1samp(first - second, 0).pvalue, abs=0.1)


def test_differences_all_of_one_sign_have_the_smallest_p_and_none_at_all_has_1() -> None:
    agreed, nothing = sign_flip(np.array([0.01, 0.5, 0.02])), sign_flip(np.zeros(3))
    assert agreed is not None
    assert agreed.p_value == agreed.smallest_p == 0.25
    assert nothing is not None
    assert nothing.p_value == 1.0
    assert sign_flip(np.array([0.3])) is None


def test_holms_correction_is_that_of_published_examples() -> None:
    # https://en.wikipedia.org/wiki/Holm–Bonferroni_method, the example of four hypotheses: H4 and H1 fall at 0.05
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Holm 1979 against Bonferroni: thresholds 0.05/7, 0.05/6, …, of which only the first three are met
    family = [0.00001, 0.00099, 0.003, 0.0145, 0.016, 0.06, 0.13]
    assert [p <= 0.05 for p in holm(family)] == [True, True, True, False, False, False, False]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_better_on_every_seed_is_as_sure_as_the_least_sure_seed_and_nothing_where_seeds_disagree() -> None:
    assert on_every_seed([McNemar(9, 1, 0.02), McNemar(8, 2, 0.11)]) == 0.11
    assert on_every_seed([McNemar(9, 1, 0.02), McNemar(1, 9, 0.02)]) == 1.0
    assert on_every_seed([McNemar(9, 1, 0.02), McNemar(4, 4, 1.0)]) == 1.0

from math import comb

import numpy as np
import pytest

from clora_exp.evaluation.statistics import mcnemar


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

"""Tests that say whether two results differ by more than chance."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class McNemar:
    """How many examples only one of two classifiers answers right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare two classifiers on the same examples (McNemar 1947), by the exact binomial test on the discordant pairs.

    Under the null hypothesis an example that only one of them answers right is either's with probability ½.

    Args:
        first: whether each example was answered right, (n,) booleans; `second` the same examples in the same order.
    """
    only_first = int(np.sum(first & ~second))
    only_second = int(np.sum(second & ~first))
    if only_first + only_second == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_first, only_second, float(binomtest(only_first, only_first + only_second, 0.5).pvalue))

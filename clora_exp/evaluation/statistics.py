"""What several seeds and the same examples say: spread, intervals, and tests whether two results differ by chance.

The resampling is scipy's. Nothing here is 0 because it is undefined: what few seeds cannot give is NaN, and said.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap, permutation_test

LEVEL = 0.95  # of every interval
NUM_RESAMPLES = 9999
MOST_EXACT_SEEDS = 16  # 2^16 sign vectors are enumerated; of more seeds as many are drawn


@dataclass(frozen=True)
class Spread:
    """What n seeds say of one number. `sd` has the divisor n − 1; it and the interval are NaN with one seed."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    interval: str  # "BCa", "percentile", or "" where there is none


def spreads(values: np.ndarray) -> list[Spread]:
    """Return the spread of each row of (m, n) values over n seeds, with bootstrap intervals of the mean.

    The interval is BCa (Efron 1987); where that is not defined, e.g. of values that are all equal, the percentile
    interval. Bootstrap intervals of few seeds are too narrow, by about √((n − 1)/n) or more (Hesterberg 2015).
    """
    n = values.shape[1]
    if n < 2:
        return [Spread(n, float(row.mean()) if n else np.nan, np.nan, np.nan, np.nan, "") for row in values]
    means, sds = values.mean(axis=1), values.std(axis=1, ddof=1)
    (low, high), (low_percentile, high_percentile) = _intervals(values, "BCa"), _intervals(values, "percentile")
    is_bca = np.isfinite(low) & np.isfinite(high)
    return [
        Spread(
            n,
            float(means[i]),
            float(sds[i]),
            float(low[i] if is_bca[i] else low_percentile[i]),
            float(high[i] if is_bca[i] else high_percentile[i]),
            "BCa" if is_bca[i] else "percentile",
        )
        for i in range(len(values))
    ]


def _intervals(values: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends, (m,) each, the same resamples for every row and every call."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of rows whose values are all equal; BCa says so with NaN
        found = bootstrap(
            (values,),
            _rounded_mean,
            axis=-1,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            batch=1000,  # always: a row has the same resamples beside any other rows
            confidence_level=LEVEL,
            method=method,
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return np.atleast_1d(found.low), np.atleast_1d(found.high)


def _rounded_mean(sample: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean without its last digits: BCa counts ties with it, which must not hang on the order of a sum."""
    return np.asarray(np.mean(sample, axis=axis)).round(12)


@dataclass(frozen=True)
class SignFlip:
    """A paired test over n seeds: the two-sided p-value, and the smallest that n seeds can give, 2/2^n."""

    n: int
    p_value: float
    smallest_p: float
    is_exact: bool


def sign_flip(differences: np.ndarray) -> SignFlip | None:
    """Test whether paired differences (n,) have mean 0, by flipping their signs (Fisher 1935, section 21).

    Under the null hypothesis the two sides of a pair can be exchanged, so every choice of signs is equally likely; all
    2^n are tried. None of fewer than two pairs.
    """
    n = len(differences)
    if n < 2:
        return None
    found = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**MOST_EXACT_SEEDS,
        batch=4096,
        random_state=np.random.default_rng(0),
    )
    return SignFlip(n, float(found.pvalue), 2.0 / 2**n, n <= MOST_EXACT_SEEDS)


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


def on_every_seed(tests: list[McNemar]) -> float:
    """Return the p-value of the claim that one classifier is better on every seed, the same one on all of them.

    The claim is the intersection of one claim a seed, so each has to be shown at the level, and the largest p-value is
    the claim's: no correction for the seeds is due (Berger 1982, intersection-union test). Seeds are not pooled: they
    answer the same examples, whose answers are not independent. 1 where the seeds disagree on which is better.
    """
    signs = {np.sign(test.only_first - test.only_second) for test in tests}
    return max(test.p_value for test in tests) if len(signs) == 1 else 1.0


def holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected for being a family, in the same order (Holm 1979): max over smaller of (m − rank) p."""
    m, corrected, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (m - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

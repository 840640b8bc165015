"""Medians and means with bootstrap intervals, without drawing a single bootstrap sample.

Walks come by the ten thousand, so resampling them a thousand times for each line of a table would
cost minutes; the distribution of what a resample would give is known and drawn from directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Literal["median", "mean", "share"]

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number over n walks with its bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def estimate(
    values: Floats, statistic: Statistic, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Estimate | None:
    """Median or mean of the finite values with a percentile bootstrap interval.

    No sample is ever drawn. The order statistics of a bootstrap sample sit at n U, where U are the
    order statistics of n uniform numbers, which are Beta distributed; and a bootstrap mean needs
    only how often each different value was drawn, a multinomial count.

    Returns:
        None where there is no finite value.
    """
    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    if not n:
        return None
    if statistic == "median":
        draws = _bootstrap_medians(values, rng, resamples)
        value = float(np.median(values))
    else:
        distinct, counts = np.unique(values, return_counts=True)
        draws = rng.multinomial(n, counts / n, size=resamples) @ distinct / n
        value = float(values.mean())
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [edge, 1 - edge])
    return Estimate(value, float(low), float(high), n)


def _bootstrap_medians(values: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    n = len(values)
    k = (n + 1) // 2  # the lower middle, counted from 1
    lower = rng.beta(k, n - k + 1, size=resamples)
    upper = lower
    if n % 2 == 0:
        # Given the k-th order statistic, the next is the smallest of the n - k above it.
        upper = lower + (1 - lower) * rng.beta(1, n - k, size=resamples)
    at = [np.minimum((n * u).astype(np.int64), n - 1) for u in (lower, upper)]
    return (values[at[0]] + values[at[1]]) / 2

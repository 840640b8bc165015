"""Shares with their intervals: how often the right title ranks first, and what chance would give.

It knows numbers alone: no model, no world.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from train_lm.files import Json

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEVEL = 0.95
REPS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Estimate:
    """A mean over items, with an interval over topics.

    Attributes:
        value: The mean.
        low, high: Interval at 95 %.
        items, topics: That it is over.
    """

    value: float
    low: float
    high: float
    items: int
    topics: int

    def to_json(self) -> Json:
        return {
            "value": self.value,
            "interval": [self.low, self.high],
            "items": self.items,
            "topics": self.topics,
        }

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Floats, clusters: Ints, level: float = LEVEL, reps: int = REPS) -> Estimate:
    """The mean of values in -1..1, with an interval from a bootstrap of whole topics.

    Items of one topic are no independent evidence, so topics are drawn and not items (Field & Welsh
    2007, doi:10.1111/j.1467-9868.2007.00593.x). The percentile interval of few topics is too
    narrow; it is stretched about the mean by Student's t over the normal's quantile, times
    sqrt(m / (m - 1)), m being the topics. Where all topics agree a bootstrap sees no spread at all:
    then the interval is Wilson's, of as many independent values as there are topics.

    Args:
        values: (n,) of the items.
        clusters: (n,) the topic that each counts to.

    Raises:
        ValueError: No item.
    """
    if not len(values):
        raise ValueError("expected at least one item to estimate a share from, got none")
    from scipy import special

    _, own = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(own, values), np.bincount(own)
    m, mean = len(sums), float(values.mean())
    upper = (1 + level) / 2
    z = float(special.ndtri(upper))
    if m == 1 or np.ptp(sums / sizes) == 0:
        low, high = _wilson(mean, m, z)
        return Estimate(mean, low, high, len(values), m)
    drawn = _draws(m, reps)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = (float(q) for q in np.quantile(means, [1 - upper, upper]))
    stretch = float(special.stdtrit(m - 1, upper)) / z * float(np.sqrt(m / (m - 1)))
    low, high = mean - stretch * (mean - low), mean + stretch * (high - mean)
    least = -1.0 if values.min() < 0 else 0.0
    return Estimate(mean, max(least, low), min(1.0, high), len(values), m)


@lru_cache(maxsize=4)
def _draws(topics: int, reps: int) -> Ints:
    """(reps, topics) how often each topic is drawn; the same for all that is estimated of them."""
    return np.random.default_rng(0).multinomial(topics, np.full(topics, 1 / topics), size=reps)


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share of n values (1927, doi:10.1080/01621459.1927.10502953).

    A mean below 0, as of differences, has that of its size with the sign of it.
    """
    if share < 0:
        low, high = _wilson(-share, n, z)
        return -high, -low
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def ranks(scores: Floats) -> Ints:
    """(n,) place of the first column among all of a row, 1 for the highest; of equals, by lot.

    The lot is the same each time: a model that finds all alike is right as often as chance is.
    """
    lot = np.random.default_rng(0).random(scores.shape)
    right = scores[:, :1]
    before = (scores > right) | ((scores == right) & (lot < lot[:, :1]))
    return 1 + before[:, 1:].sum(1)


def beyond_chance(share: float, chance: float) -> float:
    """The share that is known, where what is not known is guessed: 0 at chance, 1 at best."""
    return (share - chance) / (1 - chance)

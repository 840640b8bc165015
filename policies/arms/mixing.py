"""Draws a step's windows from pools by weight: what every arm that mixes domains or topics does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Ints, Rng, Turn

Floats = NDArray[np.float64]


def mixed(env: TopicExpansionEnv, pools: Sequence[Ints], weights: Floats, rng: Rng) -> Ints:
    """A step's windows, shuffled: each from a pool drawn by weight, there the least read one.

    Args:
        pools: Windows of each; one of weight 0 may be empty.
        weights: (K,) of the pools, of any sum above 0.
    """
    assert env.episode is not None
    n, times_read = env.settings.windows_per_step, env.episode.reading_list.times_read
    return drawn(pools, weights, n, times_read, rng)


def drawn(
    pools: Sequence[Ints], weights: Floats, n: int, times_read: NDArray[np.int32], rng: Rng
) -> Ints:
    """The same of n windows; `times_read` (W,) is updated in place."""
    counts = rng.multinomial(n, weights / weights.sum())
    found = [
        least_read(pools[k], times_read, int(counts[k]), rng) for k in counts.nonzero()[0].tolist()
    ]
    return rng.permutation(np.concatenate(found))


def least_read(pool: Ints, times_read: NDArray[np.int32], n: int, rng: Rng) -> Ints:
    """n windows of a pool, those read least often first, ties at random; counts them as read.

    The rule of `draw_least_read` with other lots: it shuffles no pool, and a domain's is large.

    Raises:
        ValueError: The pool is empty.
    """
    if not len(pool):
        raise ValueError(
            "expected passages that hold at least one window, got none: give the arm a taste with "
            "a larger share, or none"
        )
    found: list[Ints] = []
    rest, missing = pool, n
    while missing > 0:
        read = times_read[rest]
        least = rest[read == read.min()]
        chosen = least[rng.choice(len(least), min(missing, len(least)), replace=False)]
        times_read[chosen] += 1
        found.append(chosen)
        missing -= len(chosen)
        rest = rest[read > read.min()] if len(least) < len(rest) else pool
    return np.concatenate(found)


def fed(env: TopicExpansionEnv, windows: Ints, seen: Observation, extra_flops: float = 0.0) -> Turn:
    """The turn of an arm that reads these windows, off the graph."""
    reward, over, info = env.feed(windows)
    return Turn(reward, over, info, seen, extra_flops)

"""Draws a step's windows from pools by weight: what every arm that mixes domains or topics does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Ints, Rng, Turn
from train_lm.windows import draw_least_read

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
        draw_least_read(pools[k], times_read, int(counts[k]), rng)
        for k in counts.nonzero()[0].tolist()
    ]
    return rng.permutation(np.concatenate(found))


def fed(env: TopicExpansionEnv, windows: Ints, seen: Observation, extra_flops: float = 0.0) -> Turn:
    """The turn of an arm that reads these windows, off the graph."""
    reward, over, info = env.feed(windows)
    return Turn(reward, over, info, seen, extra_flops)

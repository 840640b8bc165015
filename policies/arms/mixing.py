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
    times_read = env.episode.reading_list.times_read
    counts = rng.multinomial(env.settings.windows_per_step, weights / weights.sum())
    drawn = [
        draw_least_read(pools[k], times_read, int(counts[k]), rng) for k in counts.nonzero()[0]
    ]
    return rng.permutation(np.concatenate(drawn))


def fed(env: TopicExpansionEnv, windows: Ints, seen: Observation, extra_flops: float = 0.0) -> Turn:
    """The turn of an arm that reads these windows, off the graph."""
    reward, over, info = env.feed(windows)
    return Turn(reward, over, info, seen, extra_flops)

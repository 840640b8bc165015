"""Topics by a power of their size: between `uniform` and `proportional`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Ints, Listed, Rng, Stateless, Turn
from policies.arms.mixing import fed, mixed
from policies.arms.shared import windows_by_topic

TAU = 0.5


def tempered(sizes: Ints) -> NDArray[np.float64]:
    """(N,) size^tau, up to a factor: tau is 1 in `proportional` and 0 in `uniform`."""
    return np.where(sizes > 0, sizes.astype(np.float64) ** TAU, 0.0)


class Tempered(Stateless):
    """Draws each window's topic by the root of its windows, there the least read one."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        self.pools = windows_by_topic(env)
        self.weights = tempered(np.array([len(pool) for pool in self.pools]))
        if not self.weights.any():
            raise ValueError(
                "expected passages to the taste that hold a window, got none: give the arm a "
                "taste with a larger share, or none"
            )

    def act(self, seen: Observation) -> Turn:
        return fed(self.env, mixed(self.env, self.pools, self.weights, self.rng), seen)


ARMS = {
    "temperature": Listed(
        Tempered,
        "independent",
        "Topics by the root of the number of their windows, between uniform and proportional.",
        "after arXiv:1907.05019",
    ),
}

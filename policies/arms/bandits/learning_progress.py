"""Bidirectional learning progress: domains whose rate of success is on the move.

    fast <- 0.1 p + 0.9 fast;   slow <- 0.1 fast + 0.9 slow
    f(p)  = (1 - 0.1) p / (p + 0.1 (1 - 2 p))
    LP_k  = |f(fast_k) - f(slow_k)|
    pi_k in proportion to sigmoid((LP_k - mean) / sd)

Kanitscheider et al. 2021, arXiv:2106.14876, without a baseline. Text has no successes: p_k is
2^-L_k, the (geometric mean) probability of the next byte, of the domain's `reward` text on four
windows. All domains are measured at the start and after every step.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, in_proportion
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

RATE = 0.1  # of both moving means
THETA = 0.1  # of f, which stretches small rates


def stretched(p: Floats) -> Floats:
    """f(p)."""
    return np.asarray((1 - THETA) * p / (p + THETA * (1 - 2 * p)))


def progress_shares(fast: Floats, slow: Floats) -> Floats:
    """(K,) shares by learning progress."""
    progress = np.abs(stretched(fast) - stretched(slow))
    spread = progress.std()
    score = (progress - progress.mean()) / (spread if spread > 0 else 1.0)
    return in_proportion(1 / (1 + np.exp(-score)))


class LearningProgress(Rule):
    keeps = ("fast", "slow")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.fast, self.slow = np.zeros(arena.k), np.zeros(arena.k)

    def prepare(self) -> None:
        self.fast = self._rates()
        self.slow = self.fast.copy()

    def mixture(self, open: Bools) -> Floats:
        return progress_shares(self.fast, self.slow)

    def after(self, draw: Draw, gain: float) -> None:
        self.fast = RATE * self._rates() + (1 - RATE) * self.fast
        self.slow = RATE * self.fast + (1 - RATE) * self.slow

    def _rates(self) -> Floats:
        return np.asarray(np.exp2(-self.arena.losses("reward")))


ARMS = both(
    "learning-progress",
    LearningProgress,
    "bandit",
    "Bidirectional, with 2^-loss on a domain's own reward text for its rate of success; all "
    "domains are measured after each step, which is charged.",
    "arXiv:2106.14876",
)

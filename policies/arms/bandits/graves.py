"""Automated curriculum learning: target prediction gain, paid to an Exp3.S bandit.

    r     = 2 (gain - q20) / (q80 - q20) - 1, within [-1, 1];  q of all gains so far
    r~_k  = r / pi_k for the domain that was read, 0 for the others
    w_k  <- ln[(1 - s) exp(w_k + n r~_k) + s / (K - 1) sum_{j != k} exp(w_j + n r~_j)],  s = 1 / t
    pi_k  = (1 - e) exp(w_k) / sum_j exp(w_j) + e / K

Graves et al. 2017, arXiv:1704.03003, with beta = 0, e = 0.05. The gain is the environment's own
loss drop of the target, which costs nothing beside the step; all steps take alike, so no time
divides it. The rate n is sqrt(2 ln K / (K T)), what Exp3's bound asks for over T steps: the paper's
0.001 is one for some hundred thousand.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, softmax
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

EXPLORED = 0.05  # e


def rescaled(gains: Floats) -> float:
    """The latest of the gains, by the 20th and 80th percentile of all of them; 0, if they agree."""
    low, high = np.percentile(gains, [20, 80])
    if not high > low:
        return 0.0
    return float(np.clip(2 * (gains[-1] - low) / (high - low) - 1, -1, 1))


def exp3s(weights: Floats, paid: Floats, share: float) -> Floats:
    """(K,) the next w, from w and what was paid, n r~.

    Args:
        share: s, what each domain gives to the others.
    """
    k = len(weights)
    if k == 1:
        return weights + paid
    top = (weights + paid).max()
    worth = np.exp(weights + paid - top)
    others = (worth.sum() - worth) / (k - 1)
    return np.asarray(top + np.log((1 - share) * worth + share * others))


class Graves(Rule):
    mixes = False
    keeps = ("weights", "gains")
    series = ("gains",)

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.weights = np.zeros(arena.k)
        self.gains = np.zeros(0)
        self.rate = float(np.sqrt(2 * np.log(arena.k) / (arena.k * arena.steps)))

    def mixture(self, open: Bools) -> Floats:
        return (1 - EXPLORED) * softmax(self.weights) + EXPLORED / self.arena.k

    def after(self, draw: Draw, gain: float) -> None:
        self.gains = np.append(self.gains, gain)
        paid = np.zeros(self.arena.k)
        for k in draw.domains:
            paid[k] = self.rate * rescaled(self.gains) / draw.shares[k]
        self.weights = exp3s(self.weights, paid, 1 / (len(self.gains) + 1))


ARMS = both(
    "graves",
    Graves,
    "bandit",
    "Target prediction gain, the environment's own loss drop, with Exp3.S: rescaled by running "
    "20th and 80th percentiles, at a rate of sqrt(2 ln K / (K T)); one domain a step.",
    "arXiv:1704.03003",
)

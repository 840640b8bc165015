"""Online data mixing: an Exp3 bandit over domains, paid with the training loss.

    E_t     = min(1/K, sqrt(ln K / (K t)))
    R_k    <- a R_k + (1 - a) l_k / pi_k           for each domain k in the step
    pi_k(t) = (1 - K E_t) exp(E_{t-1} R_k) / sum_j exp(E_{t-1} R_j) + E_t

Albalak et al. 2023, arXiv:2312.02406, algorithm 1: the Exp3 form with importance weights, a = 0.9.
The class that the authors' code runs by default samples in proportion to a mean of exp(l_k),
without an importance weight: that is another rule. Here l_k is in bits per byte, of up to four
windows of each domain that the step is about to read, and t counts updates of the learner.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.domain_text import MEASURED, mean_losses
from policies.arms.bandits.mixtures import Bools, Floats, softmax
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

KEPT = 0.9  # a: weight of what was earned before


def floor_of(k: int, t: int) -> float:
    """E_t: the least share of each of k domains at turn t; E_0 is 1/k."""
    return min(1 / k, float(np.sqrt(np.log(k) / (k * t)))) if t > 0 else 1 / k


def exp3(rewards: Floats, t: int) -> Floats:
    """(K,) pi(t)."""
    k = len(rewards)
    floor = floor_of(k, t)
    return np.asarray((1 - k * floor) * softmax(floor_of(k, t - 1) * rewards) + floor)


class Odm(Rule):
    looks = True
    keeps = ("rewards", "turn")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.rewards = np.zeros(arena.k)
        self.turn = 1
        self._losses = np.zeros(0)

    def mixture(self, open: Bools) -> Floats:
        return exp3(self.rewards, self.turn)

    def before(self, draw: Draw) -> None:
        self._losses = mean_losses(self.arena.probe, draw.of_each(self.arena.k, MEASURED))

    def after(self, draw: Draw, gain: float) -> None:
        for k in np.flatnonzero(np.isfinite(self._losses)):
            paid = self._losses[k] / draw.shares[k]
            self.rewards[k] = KEPT * self.rewards[k] + (1 - KEPT) * paid
        self.turn += self.arena.updates_per_step


ARMS = both(
    "odm",
    Odm,
    "bandit",
    "Exp3 form of algorithm 1: importance-weighted training loss, moving mean 0.9; not the "
    "linear form that the authors' code runs by default. A forward pass on up to four windows "
    "of each domain is charged.",
    "arXiv:2312.02406",
)

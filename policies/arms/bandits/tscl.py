"""Teacher-student curriculum learning, online: the domain whose loss changes fastest.

    r    = x_k - x_k when k was last read,  x_k = -L_k
    Q_k <- Q_k + a (r - Q_k)
    read argmax |Q|, with probability e any domain

Matiisen et al. 2017, arXiv:1707.00183, algorithm 1 (online) with the absolute value, the paper's
answer to forgetting: the released code leaves it off by default. a = 0.1, e = 0.1. L_k is the
domain's `reward` loss on four windows; all are measured once at the start.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, best, even, restricted
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

RATE = 0.1  # a
ANY = 0.1  # e


class Tscl(Rule):
    mixes = False
    keeps = ("quality", "last")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.quality = np.zeros(arena.k)
        self.last = np.zeros(arena.k)

    def prepare(self) -> None:
        self.last = self.arena.losses("reward")

    def mixture(self, open: Bools) -> Floats:
        by_lot = restricted(even(self.arena.k), open)
        return (1 - ANY) * best(np.abs(self.quality), open) + ANY * by_lot

    def after(self, draw: Draw, gain: float) -> None:
        now = self.arena.losses("reward", draw.domains)
        for k in draw.domains:
            self.quality[k] += RATE * (self.last[k] - now[k] - self.quality[k])
            self.last[k] = now[k]


ARMS = both(
    "tscl",
    Tscl,
    "bandit",
    "Online form, one domain a step: the largest |Q| of its own reward loss, at a rate of 0.1, "
    "and with probability 0.1 any; measurements are charged.",
    "arXiv:1707.00183",
)

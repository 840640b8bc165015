"""UCB1 over domains, paid with the loss drop of the domain that was read.

    r     = L_k before the step - L_k after it
    index = mean(r of k) / max |r| + sqrt(2 ln t / n_k)

Auer, Cesa-Bianchi & Fischer 2002, doi:10.1023/A:1013689704352; rewards have to lie within a unit,
so they are divided by the largest one so far. L_k is the domain's `reward` loss on four windows.
Every domain is read once first, by lot.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, best, restricted
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule


def ucb(total: Floats, plays: Floats, largest: float) -> Floats:
    """(K,) index of each domain; of those never read, infinite.

    Args:
        total: (K,) rewards of each domain, added up.
        plays: (K,) steps that each was read in.
        largest: |reward|, at most so far.
    """
    read = plays > 0
    index = np.full(len(total), np.inf)
    mean = total[read] / plays[read] / (largest or 1.0)
    index[read] = mean + np.sqrt(2 * np.log(plays.sum()) / plays[read])
    return index


class Ucb1(Rule):
    mixes = False
    keeps = ("total", "plays", "largest")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.total, self.plays = np.zeros(arena.k), np.zeros(arena.k)
        self.largest = 0.0
        self._before = np.zeros(0)

    def mixture(self, open: Bools) -> Floats:
        unread = open & (self.plays == 0)
        if unread.any():
            return restricted(np.ones(self.arena.k), unread)
        return best(ucb(self.total, self.plays, self.largest), open)

    def before(self, draw: Draw) -> None:
        self._before = self.arena.losses("reward", draw.domains)

    def after(self, draw: Draw, gain: float) -> None:
        drops = self._before - self.arena.losses("reward", draw.domains)
        for k in draw.domains:
            self.total[k] += drops[k]
            self.plays[k] += 1
            self.largest = max(self.largest, abs(float(drops[k])))


ARMS = both(
    "ucb1",
    Ucb1,
    "bandit",
    "One domain a step, by the loss drop of its own reward text (four windows before and after "
    "the step, charged) as a share of the largest so far.",
    "Auer, Cesa-Bianchi & Fischer 2002",
)

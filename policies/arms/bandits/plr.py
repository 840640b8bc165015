"""Prioritized level replay, domains as levels.

    S_k  = |L_k when k was last read - L_k now|
    P_S  in proportion to (1 / rank of S_k)^(1 / b)
    P_C  in proportion to the steps since k was last read
    pi   = d [(1 - r) P_S + r P_C] + (1 - d) (evenly over domains never read)

Jiang et al. 2020, arXiv:2010.03934, by rank: b = 0.1, r = 0.1. d is the share of domains that were
read, the paper's proportionate annealing. L_k is the domain's `reward` loss on four windows; all
are measured once at the start, and those read after each step.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, in_proportion
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

TEMPERATURE = 0.1  # b
STALE = 0.1  # r


def replay_shares(scores: Floats, used: Floats, step: int) -> Floats:
    """(K,) pi.

    Args:
        scores: (K,) S; of no meaning where a domain was never read.
        used: (K,) step in which each domain was last read; -1 where never.
        step: The one that comes.
    """
    seen = used >= 0
    unseen = in_proportion((~seen).astype(np.float64))
    if not seen.any():
        return unseen
    order = np.argsort(-np.where(seen, scores, -np.inf), kind="stable")
    rank = np.empty(len(scores))
    rank[order] = np.arange(1, len(scores) + 1)
    by_score = in_proportion(np.where(seen, rank ** (-1 / TEMPERATURE), 0.0))
    # Where all were read just now, none is stale.
    waited = np.where(seen, step - 1 - used, 0.0)
    stale = in_proportion(waited) if waited.any() else in_proportion(seen.astype(np.float64))
    replay = (1 - STALE) * by_score + STALE * stale
    share = seen.mean()
    return np.asarray(share * replay + (1 - share) * unseen)


class Plr(Rule):
    keeps = ("scores", "last", "used", "step")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.scores, self.last = np.zeros(arena.k), np.zeros(arena.k)
        self.used = np.full(arena.k, -1.0)
        self.step = 0

    def prepare(self) -> None:
        self.last = self.arena.losses("reward")

    def mixture(self, open: Bools) -> Floats:
        return replay_shares(self.scores, self.used, self.step)

    def after(self, draw: Draw, gain: float) -> None:
        now = self.arena.losses("reward", draw.domains)
        for k in draw.domains:
            self.scores[k] = abs(self.last[k] - now[k])
            self.last[k], self.used[k] = now[k], self.step
        self.step += 1


ARMS = both(
    "plr",
    Plr,
    "bandit",
    "By rank (temperature 0.1, staleness 0.1) of the |loss drop| of a domain's own reward text "
    "since it was last read; measurements are charged.",
    "arXiv:2010.03934",
)

"""Aioli: how domains act on losses is learned anew in every round, on a copy of the learner.

    round:  visit every domain m in random order; read a few updates of p^m (0.625 of it domain m,
            the rest evenly of the others); D[j, m] = drop of loss j meanwhile
            P A[j, :]' = D[j, :]',  rows of P are the p^m
            A is shifted to 0 or more, and divided by its sum
    pi_m <- pi_m exp(n sum_j A[j, m]), normalised

Chen et al. 2024, arXiv:2411.05735, without a moving mean of A; n = 0.5, 4 rounds of one visit of 2
updates. The first step is even, so that no visit falls into the warm-up. The paper takes the visits
out of the budget; here they are on a copy, and charged. Losses are as in `skill_it`.
"""

from __future__ import annotations

import numpy as np

from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, even, in_proportion
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Draw, Rule

RATE = 0.5  # n
ROUNDS = 4
UPDATES = 2  # of a visit
OWN = 0.625  # share of a visit's own domain


def visits(k: int) -> Floats:
    """(K, K) P: row m is the mixture p^m."""
    if k == 1:
        return np.ones((1, 1))
    return np.where(np.eye(k) > 0, OWN, (1 - OWN) / (k - 1))


def solved(mixtures: Floats, drops: Floats) -> Floats:
    """(M, K) A of P A[j] = D[j] for every j, shifted to 0 or more, with a sum of 1.

    Args:
        mixtures: (K, K) P.
        drops: (M, K) D.
    """
    found = np.linalg.solve(mixtures, drops.T).T
    found = found - min(0.0, found.min())
    total = found.sum()
    return np.asarray(found / total if total > 0 else found)


def reweighted(shares: Floats, effect: Floats) -> Floats:
    """(K,) the next pi, from pi and (M, K) A."""
    return in_proportion(shares * np.exp(RATE * effect.sum(axis=0)))


def rounds(steps: int) -> list[int]:
    """Steps before which a round takes place, of so many."""
    return sorted({min(1 + r * steps // ROUNDS, steps - 1) for r in range(ROUNDS)})


class Aioli(Rule):
    keeps = ("shares", "step")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.shares = even(arena.k)
        self.step = 0

    def mixture(self, open: Bools) -> Floats:
        if self.step in rounds(self.arena.steps):
            mixtures = visits(self.arena.k)
            self.shares = reweighted(self.shares, solved(mixtures, self._drops(mixtures)))
        return self.shares

    def after(self, draw: Draw, gain: float) -> None:
        self.step += 1

    def _drops(self, mixtures: Floats) -> Floats:
        """(M, K) D."""
        arena = self.arena
        with arena.probe.copy() as trial:
            before = arena.latest_objective()
            drops = np.zeros((len(before), arena.k))
            for m in arena.rng.permutation(arena.k):
                trial.train(arena.drawn(mixtures[m], UPDATES))
                now = arena.objective()
                drops[:, m] = before - now
                before = now
        return drops


ARMS = both(
    "aioli",
    Aioli,
    "mixture",
    "Four rounds of one visit of 2 updates a domain, on a copy of the learner and charged; rate "
    "0.5, no moving mean; the target's loss where there is a target.",
    "arXiv:2411.05735",
)

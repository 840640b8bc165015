"""Every domain alike, at every step: what the others begin with, and have to beat.

    pi_k = 1 / K

Aioli's authors (Chen et al. 2024, arXiv:2411.05735) found no earlier method that beats it on all of
their data. It tells what learning brings from what the cut into domains does: `uniform` draws
every topic alike, and large domains have many.
"""

from __future__ import annotations

from policies.arms.bandits.mixtures import Bools, Floats, even
from policies.arms.bandits.player import both
from policies.arms.bandits.rule import Rule


class Stratified(Rule):
    def mixture(self, open: Bools) -> Floats:
        return even(self.arena.k)


ARMS = both(
    "stratified",
    Stratified,
    "mixture",
    "Every domain alike, of which the bandits and mixtures choose.",
    "after arXiv:2411.05735",
)

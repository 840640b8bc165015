"""RHO-LOSS, by domain: what is learnable and not yet learnt.

    pi_k in proportion to max(0, L_k - L_k of the irreducible-loss model)

Mindermann et al. 2022, arXiv:2206.07137. The paper scores examples and takes the best tenth of a
pool; here domains are scored and drawn from in proportion. The irreducible-loss model is the
nucleated learner after a quarter of an episode's budget of a holdout: every tenth window of each
domain's training text, which this arm does not draw from (on the frontier it reads what the graph
retrieves, holdout or not). Held-out splits teach it nothing. L_k is in bits per byte, of four
windows of each domain's training text outside of the holdout, measured at the start and after each
step.
"""

from __future__ import annotations

import numpy as np

from kncl_env.stage import Stage
from policies.arms.arm import Ints
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.domain_text import DomainText
from policies.arms.bandits.mixtures import Bools, Floats, in_proportion
from policies.arms.bandits.player import both
from policies.arms.bandits.references import Reference, trained_reference
from policies.arms.bandits.rule import Draw, Rule
from policies.arms.shared import Shared, of_learner

HELD = 10  # one window in so many is of the holdout
BUDGET = 4  # one part in so many of an episode's budget


def learnable(losses: Floats, irreducible: Floats) -> Floats:
    """(K,) pi."""
    return in_proportion(np.maximum(0, losses - irreducible))


def holdout(text: DomainText) -> list[Ints]:
    """Windows of each domain that the irreducible-loss model reads; at least one."""
    every = zip(text.windows("train"), text.measured("train"), strict=True)
    found = [(own, np.setdiff1d(own[HELD // 2 :: HELD], measured)) for own, measured in every]
    return [held if len(held) else own[-1:] for own, held in found]


def _read_holdout(stage: Stage) -> Reference:
    return trained_reference(stage, holdout, max(1, stage.settings.rules.steps // BUDGET))


_irreducible = Shared(_read_holdout, of_learner)


class Rho(Rule):
    keeps = ("irreducible", "losses")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.irreducible, self.losses = np.zeros(arena.k), np.zeros(arena.k)
        kept = [
            np.setdiff1d(pool, held)
            for pool, held in zip(arena.pools, holdout(arena.text), strict=True)
        ]
        if any(len(pool) for pool in kept):
            arena.pools = kept

    def prepare(self) -> None:
        self.arena.probe.need_model()
        found = _irreducible(self.arena.stage)
        self.irreducible = found.losses
        self.arena.probe.charge(found.flops)
        self.losses = self.arena.losses("train")

    def mixture(self, open: Bools) -> Floats:
        return learnable(self.losses, self.irreducible)

    def after(self, draw: Draw, gain: float) -> None:
        self.losses = self.arena.losses("train")


ARMS = both(
    "rho",
    Rho,
    "bandit",
    "Domains in proportion to their loss above that of a model of a tenth of the training text, "
    "trained for a quarter of the budget; it and the measurements are charged.",
    "after arXiv:2206.07137",
)

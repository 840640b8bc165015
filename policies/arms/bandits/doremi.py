"""DoReMi, online: weight goes where the learner loses more than a reference model.

    lam_k    = max(0, l_k - l_k of the reference)
    alpha_k <- alpha_k exp(n lam_k), normalised
    alpha   <- (1 - c) alpha + c / K

Xie et al. 2023, arXiv:2305.10429, algorithm 1 with n = 1, c = 0.001; text is drawn from alpha as it
changes, as Xia et al. 2024 (arXiv:2310.06694) do, in the place of a second run with its mean. The
reference is the nucleated learner after an episode's budget of every domain alike. l_k is in bits
per byte, of four windows of each domain's training text, measured at the start and after each step.
"""

from __future__ import annotations

import numpy as np

from kncl_env.stage import Stage
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools, Floats, even, in_proportion
from policies.arms.bandits.player import both
from policies.arms.bandits.references import Reference, trained_reference
from policies.arms.bandits.rule import Draw, Rule
from policies.arms.shared import Shared, of_learner

RATE = 1.0  # n
SMOOTHED = 1e-3  # c


def reweighted(alpha: Floats, excess: Floats) -> Floats:
    """(K,) the next alpha.

    Args:
        excess: (K,) l_k less the reference's [bits per byte].
    """
    grown = in_proportion(alpha * np.exp(RATE * np.maximum(0, excess)))
    return (1 - SMOOTHED) * grown + SMOOTHED * even(len(alpha))


def _read_evenly(stage: Stage) -> Reference:
    return trained_reference(stage, lambda text: text.windows("train"), stage.settings.rules.steps)


_reference = Shared(_read_evenly, of_learner)


class Doremi(Rule):
    keeps = ("alpha", "reference")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.alpha = even(arena.k)
        self.reference = np.zeros(arena.k)

    def prepare(self) -> None:
        self.arena.probe.need_model()
        found = _reference(self.arena.stage)
        self.reference = found.losses
        self.arena.probe.charge(found.flops)
        self._reweight()

    def mixture(self, open: Bools) -> Floats:
        return self.alpha

    def after(self, draw: Draw, gain: float) -> None:
        self._reweight()

    def _reweight(self) -> None:
        self.alpha = reweighted(self.alpha, self.arena.losses("train") - self.reference)


ARMS = both(
    "doremi",
    Doremi,
    "mixture",
    "Online: text is drawn from the weights as they change. The reference read every domain "
    "alike for a whole episode; it and the measurements are charged.",
    "after arXiv:2305.10429",
)

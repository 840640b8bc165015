"""Skill-It: text goes to the domains that teach what is still lost.

    A[i, j]  how much training on domain i lowers the loss j, >= 0
    pi_i(t)  in proportion to exp(n sum_j A[i, j] sum_{tau in the last w} L_j(tau))

Chen et al. 2023, arXiv:2307.14430: begun anew from even shares in each step, over a window of w = 3
steps; n = 0.2; before the first step every L is 1, which does not stay in the window. (With targets
the authors' code takes the window's mean; here it is the paper's sum.) The losses are the target's
`reward` loss (one column) where a part of the world is the target, and each domain's where every
topic counts.

A is learned by brute force: a copy of the nucleated learner reads a step's budget of domain i
alone, with a schedule of its own; A[i, j] is the loss drop of j, 0 where it rose, as a share of the
largest drop of j. (The authors' graphs are weights or edges of 0 and 1; of the latter, those off
the diagonal count half. Their code to learn A is not released.) It is learned once for all episodes
of a stage, and charged to each.
"""

from __future__ import annotations

import numpy as np

from kncl_env.stage import Stage
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.domain_text import drawn, mean_losses, text_of
from policies.arms.bandits.mixtures import Bools, Floats, softmax
from policies.arms.bandits.player import both
from policies.arms.bandits.probe import Probe, Trial
from policies.arms.bandits.rule import Draw, Rule
from policies.arms.shared import Shared, of_learner

RATE = 0.2  # n
WINDOW = 3  # w


def influence(drops: Floats) -> Floats:
    """(K, M) A as weights, from (K, M) loss drops."""
    kept = np.maximum(0, drops)
    most = kept.max(axis=0)
    return np.asarray(kept / np.where(most > 0, most, 1.0))


def edges(drops: Floats) -> Floats:
    """(K, M) A as edges: 1 where training lowers the loss, and half of that off the diagonal.

    Where M is not K there is no diagonal, and every edge counts whole.
    """
    found = (drops > 0).astype(np.float64)
    return halved(found) if found.shape[0] == found.shape[1] else found


def halved(graph: Floats) -> Floats:
    """A with half of what stands off its diagonal."""
    return np.where(np.eye(*graph.shape) > 0, graph, graph / 2)


def skill_shares(graph: Floats, losses: Floats) -> Floats:
    """(K,) pi.

    Args:
        graph: (K, M) A.
        losses: (t, M) losses so far, of which the last ones count.
    """
    return softmax(RATE * graph @ losses[-WINDOW:].sum(axis=0))


def _learned_graph(stage: Stage) -> tuple[Floats, float]:
    """(K, M) A, and what it took [FLOPs]."""
    probe = Probe(lambda: stage, stage.learner())
    text, rng = text_of(stage), np.random.default_rng(0)
    trial, n = Trial(probe), stage.settings.windows_per_step

    def losses() -> Floats:
        if stage.goal is not None:
            return np.array([probe.target()])
        return mean_losses(probe, text.measured("reward"))

    trial.begin(n)
    before, drops = losses(), []
    for share in np.eye(text.k):
        trial.begin(n)
        trial.train(drawn(text.windows("train"), share, n, rng))
        drops.append(before - losses())
    return influence(np.array(drops)), probe.take()


_graph = Shared(_learned_graph, of_learner)


class SkillIt(Rule):
    keeps = ("graph", "losses", "step")
    series = ("losses",)

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        m = 1 if arena.of_target else arena.k
        self.graph = np.zeros((arena.k, m))
        self.losses = np.ones((1, m))  # a stand-in until the first step
        self.step = 0

    def prepare(self) -> None:
        self.arena.probe.need_model()
        self.graph, flops = _graph(self.arena.stage)
        self.arena.probe.charge(flops)

    def mixture(self, open: Bools) -> Floats:
        return skill_shares(self.graph, self.losses)

    def after(self, draw: Draw, gain: float) -> None:
        before = self.losses if self.step else self.losses[:0]
        self.losses = np.vstack([before, self.arena.latest_objective()])[-WINDOW:]
        self.step += 1


ARMS = both(
    "skill-it",
    SkillIt,
    "mixture",
    "Weights A by brute force, a step's budget of each domain alone on a copy; window of 3 "
    "steps, rate 0.2, begun anew in each; the target's loss where there is a target. All trials "
    "are charged.",
    "arXiv:2307.14430",
)

"""Target-aligned paths: what falls when a copy learns the target (arXiv:2605.09404).

A copy of the learner is warmed up on the target's visible sample alone. A passage scores
(l_0 - l_1) / l_0, its loss before and after: what is learnt along the target's path. Passages with
the highest scores are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from policies.arms.arm import Ints, Listed, Player, Rng
from policies.arms.charges import of_measuring, of_training
from policies.arms.mixing import least_read
from policies.arms.selection.by_loss import losses_of
from policies.arms.selection.chosen import (
    Reader,
    budget_of,
    candidates_of,
    filling,
    learner_of_its_own,
    n_windows,
)
from policies.arms.shared import Shared, of_learner

Floats = NDArray[np.float64]

WARM_UP = 1 / 16  # share of an episode's budget
WIDER = 4  # times the budget that passages are chosen from


def drop(before: Floats, after: Floats) -> Floats:
    """Share of each loss that is gone after the warm-up."""
    return (before - after) / before


@dataclass(frozen=True, eq=False)
class _Scored:
    """Passages that were looked at, best first, and what that cost [FLOPs]."""

    passages: Ints
    flops: float


def _scored(stage: Stage) -> _Scored:
    learner, settings, store = learner_of_its_own(stage), stage.settings, stage.store
    rng = np.random.default_rng(0)
    budget = settings.rules.steps * settings.windows_per_step
    passages = _stratified(stage, WIDER * budget, rng)
    # One window stands for a passage: the first that begins in it.
    windows = store.first_window[passages]
    batch = settings.learner.batch
    n = batch * max(1, int(WARM_UP * budget / batch))
    learner.begin(n * settings.learner.context)
    before = losses_of(learner, windows)
    sample = store.windows_of(stage.sample)
    learner.train(least_read(sample, np.zeros(len(store), dtype=np.int32), n, rng))
    order = np.argsort(-drop(before, losses_of(learner, windows)), kind="stable")
    spent = of_training(settings, learner, n) + of_measuring(settings, learner, 2 * len(windows))
    return _Scored(passages[order], spent)


def _stratified(stage: Stage, n: int, rng: Rng) -> Ints:
    """Training passages that hold n windows, topic after topic; all of them, if they hold fewer."""
    world, store = stage.world, stage.store
    own = [rng.permutation(world.passages_of(t)) for t in rng.permutation(world.n_topics)]
    rounds = [[o[k] for o in own if k < len(o)] for k in range(max(map(len, own)))]
    found = np.array([p for one in rounds for p in one], dtype=np.int64)
    found = found[n_windows(store, found) > 0]
    return filling(store, found, n)


scored = Shared(_scored, key=of_learner)


def _begin(env: TopicExpansionEnv, rng: Rng) -> Player:
    found = scored(env.stage)
    liked = found.passages[candidates_of(env)[found.passages]]
    if not len(liked):
        raise ValueError(
            "expected passages to the taste among those that this arm looks at, got none: give it "
            "a taste with a larger share, or none"
        )
    return Reader(env, filling(env.stage.store, liked, budget_of(env)), rng, found.flops)


ARMS = {
    "target-aligned": Listed(
        _begin,
        "selection",
        "A copy is warmed up on the sample for a sixteenth of the budget, at a schedule of its "
        "own; of passages that hold four times the budget, drawn topic by topic, those whose first "
        "window's loss falls by the largest share are read. Warm-up and two forward passes on each "
        "passage's window are charged.",
        "arXiv:2605.09404",
    ),
}

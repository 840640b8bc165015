"""Losses of a model that was trained beside the episode, to compare the learner with.

It begins where an episode does and is trained once for all episodes of a stage, on text by lot with
a seed of its own. Every episode is charged with the whole of it: who runs one episode needs it all,
and what an episode is charged with must not depend on what was played before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.stage import Stage
from policies.arms.arm import Ints
from policies.arms.bandits.domain_text import DomainText, drawn, mean_losses, text_of
from policies.arms.bandits.mixtures import even
from policies.arms.bandits.probe import Probe, Trial

Floats = NDArray[np.float64]

Text = Callable[[DomainText], list[Ints]]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model beside the episode found.

    Attributes:
        losses: (K,) of each domain's training text [bits per byte].
        flops: What it took.
    """

    losses: Floats
    flops: float


def trained_reference(stage: Stage, read: Text, steps: int) -> Reference:
    """Train the nucleated learner on every domain alike, with a schedule of its own.

    Args:
        read: Windows of each domain that it reads; drawn by lot, again where there are few.
        steps: Budget, in steps of an episode.
    """
    learner = stage.learner()
    probe = Probe(lambda: stage, learner)
    text = text_of(stage)
    pools = read(text)
    n = steps * stage.settings.windows_per_step
    windows = drawn(pools, even(text.k), n, np.random.default_rng(0))
    trial = Trial(probe)
    trial.begin(n)
    trial.train(windows)
    return Reference(mean_losses(probe, text.measured("train")), probe.take())

"""Orders and selections by the learner's own loss (after Bengio et al. 2009)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import Learner
from kncl_env.observation import Observation
from policies.arms.arm import Begin, Ints, Listed, Player, Rng, Stateless, Turn
from policies.arms.charges import of_measuring
from policies.arms.mixing import fed
from policies.arms.selection.chosen import budget_of
from policies.arms.shared import windows_by_topic
from train_lm.files import Json

Floats = NDArray[np.float64]

WIDER = 4  # windows that `highest-loss` measures for each that it reads
AT_ONCE = 512  # [windows] that are measured together


def losses_of(learner: Learner, windows: Ints) -> Floats:
    """(n,) loss on each window [bits per byte]."""
    parts = [learner.losses(windows[i : i + AT_ONCE]) for i in range(0, len(windows), AT_ONCE)]
    return np.concatenate(parts)


def _every_topic(env: TopicExpansionEnv) -> list[Ints]:
    """Windows of each topic that has any, as `uniform` draws from them."""
    found = [pool for pool in windows_by_topic(env) if len(pool)]
    if not found:
        raise ValueError(
            "expected training passages that hold a window, got none: give the arm a taste with a "
            "larger share, or none"
        )
    return found


class _InOrder:
    """Reads what `uniform` would in a whole episode, in the order of its loss when it begins."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng, sign: int) -> None:
        assert env.episode is not None
        self.env = env
        n = budget_of(env)
        drawn = env.episode.reading_list.spread(_every_topic(env), n, rng)
        self.windows = drawn[np.argsort(sign * losses_of(env.learner, drawn), kind="stable")]
        self.spent = of_measuring(env.settings, env.learner, n)
        self.at = 0

    def act(self, seen: Observation) -> Turn:
        n = self.env.settings.windows_per_step
        windows = self.windows[self.at : self.at + n]
        self.at += n
        spent, self.spent = self.spent, 0.0
        return fed(self.env, windows, seen, spent)

    def state(self) -> Json:
        return {"at": self.at, "spent": self.spent}

    def restore(self, state: Json) -> None:
        self.at, self.spent = int(state["at"]), float(state["spent"])


class _Highest(Stateless):
    """Draws more than it reads, and reads what the learner loses most on."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        self.pools = _every_topic(env)

    def act(self, seen: Observation) -> Turn:
        assert self.env.episode is not None
        reading_list, n = self.env.episode.reading_list, self.env.settings.windows_per_step
        drawn = reading_list.spread(self.pools, WIDER * n, self.rng)
        order = np.argsort(-losses_of(self.env.learner, drawn), kind="stable")
        np.subtract.at(reading_list.times_read, drawn[order[n:]], 1)  # these are not read after all
        spent = of_measuring(self.env.settings, self.env.learner, len(drawn))
        return fed(self.env, drawn[order[:n]], seen, spent)


def _in_order(sign: int) -> Begin:
    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return _InOrder(env, rng, sign)

    return begin


ARMS = {
    "easy-to-hard": Listed(
        _in_order(1),
        "selection",
        "What uniform reads in an episode, in ascending order of the nucleated learner's loss on "
        "each window; one forward pass on all of it is charged.",
        "after Bengio et al. 2009",
    ),
    "hard-to-easy": Listed(
        _in_order(-1),
        "selection",
        "The same in descending order.",
        "after Bengio et al. 2009",
    ),
    "highest-loss": Listed(
        _Highest,
        "selection",
        "At each step four times its windows are drawn as uniform draws them, and the quarter with "
        "the learner's highest loss is read; a forward pass on each drawn one is charged.",
        "after arXiv:1910.00762",
    ),
}

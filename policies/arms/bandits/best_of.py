"""The best of M curricula by lot: what a search gets that knows nothing.

    play M whole episodes by lot and undo each; play the one again whose learner ends with the
    lowest loss on `reward`

On the frontier each step expands a candidate by lot; off the graph each curriculum is a mixture by
lot (Dirichlet, 1) of the domains (random search, Bergstra & Bengio 2012). Each episode searches
anew, and all M are charged to it. The control `equal-search` is another thing: it searches once, as
long as a policy's training took, and replays what it found on all seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Begin, Listed, Player, Rng, Turn
from policies.arms.bandits.domain_text import text_of
from policies.arms.bandits.probe import Probe
from policies.arms.bandits.trials import Trials
from policies.arms.mixing import fed, mixed
from train_lm.files import Json

EPISODES = 4  # M

Steps = list[list[int]]  # of each step, one action, or the windows that it reads


class _BestOf(ABC):
    """Searches before its first step, then follows the best plan."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng, episodes: int) -> None:
        self.env, self.rng, self.episodes = env, rng, episodes
        self.probe = Probe(lambda: env.stage, env.learner)
        self.trials = Trials(env, self.probe)
        self.plan: Steps = []
        self.at = 0

    def act(self, seen: Observation) -> Turn:
        if not self.plan:
            self.plan = self._searched()
        turn = self._follow(self.plan[self.at], seen)
        self.at += 1
        return turn

    def _searched(self) -> Steps:
        found: list[tuple[float, Steps]] = []
        for _ in range(self.episodes):
            with self.trials.undone():
                steps = self._played()
                assert self.env.episode is not None
                found.append((self.env.episode.measurements.loss[-1], steps))
        return min(found, key=lambda one: one[0])[1]

    @abstractmethod
    def _played(self) -> Steps:
        """A whole episode by lot."""

    @abstractmethod
    def _follow(self, step: list[int], seen: Observation) -> Turn: ...

    def state(self) -> Json:
        return {"plan": self.plan, "at": self.at}

    def restore(self, state: Json) -> None:
        self.plan, self.at = [list(map(int, step)) for step in state["plan"]], int(state["at"])


class _OnTheFrontier(_BestOf):
    def _played(self) -> Steps:
        steps: Steps = []
        over = False
        while not over:
            steps.append([int(self.rng.integers(len(self.env.state().slots)))])
            _, over = self.trials.step(steps[-1][0])
        return steps

    def _follow(self, step: list[int], seen: Observation) -> Turn:
        found, reward, terminated, truncated, info = self.env.step(step[0])
        over = terminated or truncated
        return Turn(float(reward), over, info, found, self.probe.take())


class _Mixtures(_BestOf):
    def __init__(self, env: TopicExpansionEnv, rng: Rng, episodes: int) -> None:
        super().__init__(env, rng, episodes)
        every = text_of(env.stage).pools(env)
        self.pools = [pool for pool in every if len(pool)]

    def _played(self) -> Steps:
        shares = self.rng.dirichlet(np.ones(len(self.pools)))
        steps: Steps = []
        over = False
        while not over:
            windows = mixed(self.env, self.pools, shares, self.rng)
            steps.append(windows.tolist())
            _, over = self.trials.feed(windows)
        return steps

    def _follow(self, step: list[int], seen: Observation) -> Turn:
        assert self.env.episode is not None
        windows = np.array(step, dtype=np.int64)
        np.add.at(self.env.episode.reading_list.times_read, windows, 1)  # as when it was tried
        return fed(self.env, windows, seen, self.probe.take())


def best_of(episodes: int = EPISODES, *, frontier: bool = True) -> Begin:
    """The best of so many curricula by lot, by the loss on `reward` that each ends with.

    Args:
        episodes: M; all are charged.
        frontier: Whether they expand topics; else each is a mixture of domains.

    Raises:
        ValueError: Fewer than one.
    """
    if episodes < 1:
        raise ValueError(f"expected at least one curriculum to try, got {episodes}")

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return (_OnTheFrontier if frontier else _Mixtures)(env, rng, episodes)

    return begin


ARMS = {
    "best-of": Listed(
        best_of(frontier=False),
        "search",
        "The best of 4 mixtures of domains by lot, each played to the end and undone, by the loss "
        "on reward; all are charged.",
    ),
    "best-of-frontier": Listed(
        best_of(),
        "search",
        "The best of 4 episodes of random expansions, each played to the end and undone, by the "
        "loss on reward; all are charged.",
    ),
}

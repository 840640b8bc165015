"""One-step greedy: some steps are tried on the learner itself, and the best of them is taken.

    choose argmax over M candidates of the target's loss drop, each measured by taking the whole
    step and undoing it

The gain is the true one: the same step from the same state gives the same bytes. It is myopic, a
reference and no bound. M = 4 candidates by lot: of the frontier, or domains a step of whose text is
drawn. All M trials are charged.
"""

from __future__ import annotations

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Begin, Listed, Player, Rng, Stateless, Turn
from policies.arms.bandits.domain_text import text_of
from policies.arms.bandits.probe import Probe
from policies.arms.bandits.trials import Trials
from policies.arms.mixing import fed, mixed

TRIED = 4  # M


class _GreedyOnTheFrontier(Stateless):
    def __init__(self, env: TopicExpansionEnv, rng: Rng, tried: int) -> None:
        self.env, self.rng, self.tried = env, rng, tried
        self.probe = Probe(lambda: env.stage, env.learner)
        self.trials = Trials(env, self.probe)

    def act(self, seen: Observation) -> Turn:
        n = len(self.env.state().slots)
        candidates = self.rng.choice(n, min(self.tried, n), replace=False)
        gains = []
        for action in candidates.tolist():
            with self.trials.undone():
                gains.append(self.trials.step(action)[0])
        best = int(candidates[int(np.argmax(gains))])
        found, reward, terminated, truncated, info = self.env.step(best)
        over = terminated or truncated
        return Turn(float(reward), over, info, found, self.probe.take())


class _GreedyOverDomains(Stateless):
    def __init__(self, env: TopicExpansionEnv, rng: Rng, tried: int) -> None:
        self.env, self.rng, self.tried = env, rng, tried
        self.pools = text_of(env.stage).pools(env)
        self.probe = Probe(lambda: env.stage, env.learner)
        self.trials = Trials(env, self.probe)

    def act(self, seen: Observation) -> Turn:
        open = np.flatnonzero([len(pool) > 0 for pool in self.pools])
        chosen = self.rng.choice(open, min(self.tried, len(open)), replace=False)
        texts, gains = [], []
        for domain in chosen.tolist():
            with self.trials.undone():
                share = np.eye(len(self.pools))[domain]
                texts.append(mixed(self.env, self.pools, share, self.rng))
                gains.append(self.trials.feed(texts[-1])[0])
        best = texts[int(np.argmax(gains))]
        assert self.env.episode is not None
        np.add.at(self.env.episode.reading_list.times_read, best, 1)  # as when it was tried
        return fed(self.env, best, seen, self.probe.take())


def greedy(tried: int = TRIED, *, frontier: bool = True) -> Begin:
    """One-step greedy among so many candidates.

    Args:
        frontier: Whether they are topics; else domains.

    Raises:
        ValueError: Fewer than one.
    """
    if tried < 1:
        raise ValueError(f"expected at least one candidate to try, got {tried}")

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        kind = _GreedyOnTheFrontier if frontier else _GreedyOverDomains
        return kind(env, rng, tried)

    return begin


ARMS = {
    "greedy": Listed(
        greedy(frontier=False),
        "search",
        "A step's text of 4 domains by lot is tried and undone, and the best by the target's true "
        "loss drop is read; trials are charged.",
    ),
    "greedy-frontier": Listed(
        greedy(),
        "search",
        "Four candidates by lot are expanded and taken back, and the best by the target's true "
        "loss drop is expanded; trials are charged.",
    ),
}

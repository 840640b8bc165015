"""Plays a K-armed method in two forms: by mixtures of text, and by topics of the frontier.

Off the graph, a step's windows are drawn from the domains by their shares, there the least read
one. On the frontier, a domain that has candidates is drawn by its share among those, then one of
its candidates by lot. Budget, schedule and measurements are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Begin, Ints, Listed, Player, Rng, Turn, written_with
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.domain_text import MEASURED
from policies.arms.bandits.mixtures import Bools, Floats, restricted
from policies.arms.bandits.rule import Draw, Rule
from policies.arms.mixing import fed, mixed
from train_lm.files import Json

MakeRule = Callable[[Arena], Rule]


class DomainPlayer:
    """A rule in one episode.

    Args:
        make: The rule.
        env: Was reset.
        rng: For the choice of domains, text and topics.
    """

    def __init__(self, make: MakeRule, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        self.arena = Arena(env, rng)
        self.rule = make(self.arena)
        self.ready = False

    def act(self, seen: Observation) -> Turn:
        if not self.ready:
            # Not when it begins: what goes on from a state was prepared before.
            self.rule.prepare()
            self.ready = True
        open = self._open()
        shares = restricted(self.rule.mixture(open), open)
        turn = self._step(shares, seen)
        return replace(turn, extra_flops=self.arena.probe.take())

    def _open(self) -> Bools:
        return self.arena.open

    def _step(self, shares: Floats, seen: Observation) -> Turn:
        weights = shares
        if not self.rule.mixes:
            weights = np.zeros_like(shares)
            weights[self._drawn(shares)] = 1.0
        windows = mixed(self.env, self.arena.pools, weights, self.rng)
        domain = self.arena.domain_of_windows(windows)
        draw = Draw(shares, np.unique(domain), windows, domain)
        self.rule.before(draw)
        turn = fed(self.env, windows, seen)
        self.rule.after(draw, turn.reward)
        return turn

    def _drawn(self, shares: Floats) -> int:
        return int(self.rng.choice(len(shares), p=shares))

    def state(self) -> Json:
        return {"ready": self.ready, "rule": self.rule.state()}

    def restore(self, state: Json) -> None:
        if not isinstance(state.get("rule"), dict):
            raise ValueError(f"expected what a {type(self.rule).__name__} learned, got other JSON")
        self.ready = state.get("ready") is True
        self.rule.restore(state["rule"])


class FrontierPlayer(DomainPlayer):
    """A rule that expands topics."""

    def _open(self) -> Bools:
        open = np.zeros(self.arena.k, dtype=bool)
        open[self.arena.domain_of(self.env.state().slots)] = True
        return open

    def _step(self, shares: Floats, seen: Observation) -> Turn:
        slots, domain = self.env.state().slots, self._drawn(shares)
        mine = np.flatnonzero(self.arena.domain_of(slots) == domain)
        action = int(self.rng.choice(mine))
        windows = self._about_to_be_read(int(slots[action]))
        draw = Draw(shares, np.array([domain]), windows, np.full(len(windows), domain))
        self.rule.before(draw)
        found, reward, terminated, truncated, info = self.env.step(action)
        turn = Turn(float(reward), terminated or truncated, info, found)
        self.rule.after(draw, turn.reward)
        return turn

    def _about_to_be_read(self, topic: int) -> Ints:
        """A few windows of a candidate's neighbourhood, by lot, if the rule looks at any."""
        if not self.rule.looks:
            return np.zeros(0, dtype=np.int64)
        assert self.env.episode is not None
        stage = self.env.stage
        passages = stage.retriever.neighbourhood(topic, self.env.episode.taste)
        pool = stage.store.windows_of(passages)
        return self.rng.permutation(pool)[:MEASURED]


def mixes(make: MakeRule) -> Begin:
    """The unrestricted form: a step's windows are drawn from the domains."""

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return DomainPlayer(make, env, rng)

    return written_with(begin, make)


def grows(make: MakeRule) -> Begin:
    """The form on the frontier: a domain is drawn, then a candidate in it."""

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return FrontierPlayer(make, env, rng)

    return written_with(begin, make)


ON_THE_FRONTIER = (
    "The same on the frontier: a domain that has candidates is drawn by its share, then one of "
    "them by lot."
)


def both(name: str, make: MakeRule, family: str, variant: str, source: str) -> dict[str, Listed]:
    """A rule's two forms, as they are listed: `NAME`, and `NAME-frontier`."""
    return {
        name: Listed(mixes(make), family, variant, source),
        f"{name}-frontier": Listed(grows(make), family, ON_THE_FRONTIER, source),
    }

"""Arms that are made of what another arm did: its text in another order, its average, its topics.

Each is data until it plays, so that a thread, a process or a node of a cluster can play it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from kncl_env.taste import Taste
from kncl_env.world.rewiring import rewired
from policies.arms.arm import Arm, Ints, Player, Rng, Stateless, Turn
from policies.arms.registry import arm_of
from train_lm.files import hash_json
from train_lm.windows import draw_least_read


@dataclass(frozen=True)
class _Made:
    """What a control is made of: it plays where the others do."""

    @property
    def place(self) -> str:
        return ""

    def stage(self, stage: Stage) -> Stage:
        return stage


@dataclass(frozen=True)
class Refed(_Made):
    """Feeds windows that were read before, step by step.

    Attributes:
        name: Of the arm.
        windows: Of each step.
        shuffled: Whether all of them are dealt anew, at random.
    """

    name: str
    windows: tuple[tuple[int, ...], ...]
    shuffled: bool

    def arm(self) -> Arm:
        origin = hash_json([self.windows, self.shuffled])
        return Arm(self.name, self._begin, origin=origin, rewarded=False)

    def _begin(self, env: TopicExpansionEnv, rng: Rng) -> Player:
        steps = [np.array(step, dtype=np.int64) for step in self.windows]
        if self.shuffled:
            dealt = rng.permutation(np.concatenate(steps))
            steps = np.split(dealt, np.cumsum([len(step) for step in steps])[:-1])
        return _Feeder(env, steps)


class _Feeder(Stateless):
    def __init__(self, env: TopicExpansionEnv, steps: Sequence[Ints]) -> None:
        self.env, self.steps, self.done = env, steps, 0

    def act(self, seen: Observation) -> Turn:
        reward, over, info = self.env.feed(self.steps[self.done])
        self.done += 1
        return Turn(reward, over or self.done == len(self.steps), info, seen)


@dataclass(frozen=True)
class Mixture(_Made):
    """Draws windows independently, a topic by its weight, which stays as it is.

    Attributes:
        name: Of the arm.
        weights: By topic; they are shares of what was read.
        taste: Of passages; None for all.
    """

    name: str
    weights: tuple[tuple[int, float], ...]
    taste: Taste | None = None

    def arm(self) -> Arm:
        origin = hash_json(self.weights)
        return Arm(self.name, self._begin, self.taste, origin, rewarded=False)

    def _begin(self, env: TopicExpansionEnv, rng: Rng) -> Player:
        return _Mixer(env, dict(self.weights), rng)


class _Mixer(Stateless):
    def __init__(self, env: TopicExpansionEnv, weights: dict[int, float], rng: Rng) -> None:
        assert env.episode is not None
        self.env, self.rng = env, rng
        own = {t: env.stage.retriever.own(t, env.episode.taste) for t in weights}
        pools = {t: env.stage.store.windows_of(passages) for t, passages in own.items()}
        self.pools = {t: pool for t, pool in pools.items() if len(pool)}
        if not self.pools:
            raise ValueError("expected topics with text of their own in a mixture, got none")
        shares = np.array([weights[t] for t in self.pools])
        self.shares = shares / shares.sum()

    def act(self, seen: Observation) -> Turn:
        assert self.env.episode is not None
        read = self.env.episode.reading_list.times_read
        counts = self.rng.multinomial(self.env.settings.windows_per_step, self.shares)
        drawn = [
            draw_least_read(pool, read, int(count), self.rng)
            for pool, count in zip(self.pools.values(), counts, strict=True)
            if count
        ]
        windows = self.rng.permutation(np.concatenate(drawn))
        reward, over, info = self.env.feed(windows)
        return Turn(reward, over, info, seen)


@dataclass(frozen=True)
class Retraced(_Made):
    """Expands topics in an order that was recorded, with slots and text of its own episode.

    A topic that is on no slot is read all the same, off the graph: what counts is the order.

    Attributes:
        name: Of the arm.
        topics: Of each step; -1 rehearses the nucleus.
        taste: Of passages; None for all.
    """

    name: str
    topics: tuple[int, ...]
    taste: Taste | None = None

    def arm(self) -> Arm:
        origin = hash_json(self.topics)
        return Arm(self.name, self._begin, self.taste, origin, rewarded=False)

    def _begin(self, env: TopicExpansionEnv, rng: Rng) -> Player:
        return _Tracer(env, self.topics)


class _Tracer(Stateless):
    def __init__(self, env: TopicExpansionEnv, topics: Sequence[int]) -> None:
        self.env, self.topics, self.done = env, topics, 0

    def act(self, seen: Observation) -> Turn:
        topic, env = self.topics[self.done], self.env
        self.done += 1
        last = self.done == len(self.topics)
        assert env.episode is not None
        slot = np.flatnonzero(env.episode.slots == topic)
        if topic < 0 or len(slot):
            action = env.rules.slots if topic < 0 else int(slot[0])
            seen, reward, ended, cut, info = env.step(action)
            return Turn(float(reward), ended or cut or last, info, seen)
        passages = env.stage.retriever.neighbourhood(topic, env.episode.taste)
        windows = env.episode.reading_list.expand(
            passages, env.settings.windows_per_step, env.np_random
        )
        gain, over, info = env.feed(windows)
        return Turn(gain, over or last, {**info, "topic": topic}, seen)


@dataclass(frozen=True)
class Again(_Made):
    """The same arm, with a difference.

    Attributes:
        name: Of the arm.
        spec: As `arm_of` takes it.
        tasteless: Whether it reads anything, whatever its taste.
        rewired: Seed of a random graph with the same degrees that it plays on; None for the
            world's own.
    """

    name: str
    spec: str
    tasteless: bool = False
    rewired: int | None = None

    def arm(self) -> Arm:
        found = arm_of(self.spec)
        return replace(found, name=self.name, taste=None if self.tasteless else found.taste)

    @property
    def place(self) -> str:
        return "" if self.rewired is None else f"rewired {self.rewired}"

    def stage(self, stage: Stage) -> Stage:
        if self.rewired is None:
            return stage
        return stage.with_graph(rewired(stage.world.graph, self.rewired))

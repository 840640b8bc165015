"""An arm: one way of spending an episode's budget; it begins anew in every episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.taste import Taste
from train_lm.files import Json, hash_json

Ints = NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Turn:
    """What came of one step.

    Attributes:
        reward: Share of the reducible loss that it removed.
        over: Whether the episode is over.
        info: As of `env.step`.
        observation: What is seen after it.
    """

    reward: float
    over: bool
    info: Json
    observation: Observation


class Player(Protocol):
    """An arm in the middle of one episode; it may keep what it learns there."""

    def act(self, seen: Observation) -> Turn:
        """Spend one step's budget; called until the episode is over."""

    def state(self) -> Json:
        """What it has learned so far, JSON-able, so that a stopped episode can go on."""

    def restore(self, state: Json) -> None:
        """Return to a state of its own."""


class Begin(Protocol):
    """Begins an episode: the environment was reset, `rng` is for the arm's own choices."""

    def __call__(self, env: TopicExpansionEnv, rng: Rng) -> Player: ...


@dataclass(frozen=True)
class Arm:
    """An arm with what it brings to an episode.

    Attributes:
        name: In tables and files.
        begin: Gives a player for one episode.
        taste: What passages it reads; None for all.
        origin: Digest of the weights or of the source that it plays by.
    """

    name: str
    begin: Begin
    taste: Taste | None = None
    origin: str = ""

    @property
    def digest(self) -> str:
        """Tells two trainings of the same name apart, two tastes, and two versions of a source."""
        taste = hash_json(self.taste.to_json())[:8] if self.taste else ""
        return "-".join(part for part in (self.origin[:8], taste) if part) or "base"

    @property
    def options(self) -> Json:
        """For `reset`."""
        return {"taste": self.taste}


class Stateless:
    """A player that learns nothing in an episode; for arms to build on."""

    def state(self) -> Json:
        return {}

    def restore(self, state: Json) -> None:
        pass


Choose = Callable[[TopicExpansionEnv, Observation, Rng], int]


class _Chooser(Stateless):
    def __init__(self, choose: Choose, env: TopicExpansionEnv, rng: Rng) -> None:
        self.choose, self.env, self.rng = choose, env, rng

    def act(self, seen: Observation) -> Turn:
        action = self.choose(self.env, seen, self.rng)
        observation, reward, terminated, truncated, info = self.env.step(action)
        return Turn(float(reward), terminated or truncated, info, observation)


def expands(choose: Choose) -> Begin:
    """An arm that plays by the rules: it picks an action of the environment."""
    return lambda env, rng: _Chooser(choose, env, rng)


Groups = Callable[[TopicExpansionEnv], list[Ints]]


class _Drawer(Stateless):
    def __init__(self, groups: Groups, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        pools = [env.stage.store.windows_of(group) for group in groups(env)]
        self.pools = [pool for pool in pools if len(pool)]
        if not self.pools:
            raise ValueError(
                "expected passages to the taste among those that this arm draws from, got none: "
                "give it a taste with a larger share, or none"
            )

    def act(self, seen: Observation) -> Turn:
        assert self.env.episode is not None
        n = self.env.settings.windows_per_step
        windows = self.env.episode.reading_list.spread(self.pools, n, self.rng)
        reward, over, info = self.env.feed(windows)
        return Turn(reward, over, info, seen)


def draws(groups: Groups) -> Begin:
    """An arm that ignores the graph: windows are drawn independently, a group of passages evenly.

    Groups too short for a window of their own are passed over.
    """
    return lambda env, rng: _Drawer(groups, env, rng)

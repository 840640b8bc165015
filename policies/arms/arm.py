"""An arm: one way of spending an episode's budget; it begins anew in every episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
        extra_flops: What the arm spent on it beside the budget: probes, reference models, trial
            runs [FLOPs]. What it spent when it began counts with its first step.
    """

    reward: float
    over: bool
    info: Json
    observation: Observation
    extra_flops: float = 0.0


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
        search_flops: What was spent once for all its episodes, such as a policy's training [FLOPs].
        rewarded: Whether it looks at rewards, or at anything else that is made of the target's
            held-out loss; where neither it nor the meter does, an episode goes without.
    """

    name: str
    begin: Begin
    taste: Taste | None = None
    origin: str = ""
    search_flops: float = 0.0
    rewarded: bool = True

    @property
    def digest(self) -> str:
        """Tells two trainings of the same name apart, two tastes, and two versions of a source."""
        taste = hash_json(self.taste.to_json())[:8] if self.taste else ""
        return "-".join(part for part in (self.origin[:8], taste) if part) or "base"

    @property
    def options(self) -> Json:
        """For `reset`."""
        return {"taste": self.taste}


# What arms are told apart by, in the order in which they are listed.
FAMILIES = (
    "independent",
    "frontier rule",
    "selection",
    "mixture",
    "bandit",
    "search",
    "learned",
    "reference",
    "control",
)


@dataclass(frozen=True)
class Listed:
    """An arm that has a name of its own.

    Attributes:
        begin: Gives a player for one episode.
        family: One of `FAMILIES`.
        variant: Which of the forms that its name could stand for, in one sentence.
        source: Where it is from, such as a paper; empty where it is our own or nobody's.
        of_file: The same with a file of the user's, named as `ARM@FILE`; None where it takes none.

    Raises:
        ValueError: A family of another name, or no sentence.
    """

    begin: Begin
    family: str
    variant: str
    source: str = ""
    of_file: Callable[[Path], Begin] | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"expected a family among {', '.join(FAMILIES)}, got {self.family!r}")
        if not self.variant.strip():
            raise ValueError("expected a sentence that says which variant an arm is, got none")


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

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return _Chooser(choose, env, rng)

    return written_with(begin, choose)


Groups = Callable[[TopicExpansionEnv], list[Ints]]


class _Drawer(Stateless):
    def __init__(self, pools: Sequence[Ints], env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
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

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return _Drawer([env.stage.store.windows_of(group) for group in groups(env)], env, rng)

    return written_with(begin, groups)


def draws_windows(pools: Groups) -> Begin:
    """The same of groups that are windows already."""

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return _Drawer(pools(env), env, rng)

    return written_with(begin, pools)


def written_with(begin: Begin, part: Callable[..., object]) -> Begin:
    """`begin`, made out of a part whose source it is told apart by."""
    begin.__module__ = part.__module__
    return begin

"""A recorded path played in the real environment, so that the learner's features are present."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from rabbit_holes.path import Path


@dataclass(frozen=True)
class Replayed:
    """A path as an episode: T actions, T + 1 observations.

    Attributes:
        observations: T + 1 observations, the last after the last action.
        masks: T + 1 action masks (K + 1,).
        actions: (T,) slots taken.
        rewards: (T,) what the environment paid.
        terminated: Whether the frontier was empty at the end.
        skipped: Visits that could not be played, by reason.
    """

    observations: tuple[Observation, ...]
    masks: tuple[NDArray[np.bool_], ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    terminated: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        n = len(self.actions)
        if not len(self.observations) == len(self.masks) == n + 1 or len(self.rewards) != n:
            raise ValueError(
                f"expected {n + 1} observations and masks and {n} rewards for {n} actions, got "
                f"{len(self.observations)}, {len(self.masks)} and {len(self.rewards)}"
            )


def replay(path: Path, env: TopicExpansionEnv, seed: int) -> Replayed:
    """Expand a path's topics in their order, as far as the rules allow.

    A walker may click on what the frontier does not hold (the nucleus had it, or the page before
    is not solid yet): such visits are skipped and counted.
    """
    number = {title: topic for topic, title in enumerate(env.titles)}
    observation, info = env.reset(seed=seed)
    observations, masks = [observation], [info["action_mask"]]
    actions: list[int] = []
    rewards: list[float] = []
    skipped: Counter[str] = Counter()
    terminated = truncated = False
    for visit in path.visits:
        topic = number.get(visit.title)
        if topic is None:
            skipped["a page is no topic of the world"] += 1
            continue
        if terminated or truncated:
            skipped["the budget was spent"] += 1
            continue
        assert env.episode is not None
        if env.episode.nucleus.inside[topic]:
            skipped["the nucleus has it"] += 1
            continue
        if not env.episode.nucleus.on_frontier(topic):
            skipped["it is not on the frontier"] += 1
            continue
        slot = env.offer(topic)
        # The slots may have changed so that the topic is among them: this is what a policy saw.
        observations[-1], masks[-1] = env.look(), env.action_masks()
        observation, reward, terminated, truncated, info = env.step(slot)
        observations.append(observation)
        masks.append(info["action_mask"])
        actions.append(slot)
        rewards.append(float(reward))
    return Replayed(
        tuple(observations), tuple(masks), tuple(actions), tuple(rewards), terminated, skipped
    )

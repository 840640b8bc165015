"""Arms of an evaluation: baselines without learning, and how a policy becomes an arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import CANDIDATE_FEATURES, Observation

Ints = NDArray[np.int64]

_COLUMN = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}


class Arm(Protocol):
    """Spends one step's budget of an environment.

    Returns reward, whether the episode is over, and `info`; it is called until it is over.
    """

    def __call__(
        self, env: TopicExpansionEnv, observation: Observation, rng: np.random.Generator
    ) -> tuple[float, bool, dict[str, Any], Observation]: ...


def expands(
    choose: Callable[[TopicExpansionEnv, Observation, np.random.Generator], int],
) -> Arm:
    """An arm that plays by the rules: it picks an action of the environment."""

    def arm(
        env: TopicExpansionEnv, observation: Observation, rng: np.random.Generator
    ) -> tuple[float, bool, dict[str, Any], Observation]:
        observation, reward, terminated, truncated, info = env.step(choose(env, observation, rng))
        return float(reward), terminated or truncated, info, observation

    return arm


def draws(groups: Callable[[TopicExpansionEnv], list[Ints]]) -> Arm:
    """An arm that ignores the graph: windows are drawn independently, a group of passages evenly.

    Groups too short for a window of their own are passed over.
    """
    # Weak: an environment's address may be another one's after it is gone.
    pools_of: WeakKeyDictionary[TopicExpansionEnv, list[Ints]] = WeakKeyDictionary()

    def arm(
        env: TopicExpansionEnv, observation: Observation, rng: np.random.Generator
    ) -> tuple[float, bool, dict[str, Any], Observation]:
        assert env.episode is not None
        reading = env.episode.reading
        if env not in pools_of:
            pools = [reading.store.windows_of(group) for group in groups(env)]
            pools_of[env] = [pool for pool in pools if len(pool)]
        windows = reading.spread(pools_of[env], env.config.windows_per_step, rng)
        reward, over, info = env.read(windows)
        return reward, over, info, observation

    return arm


def _every_topic(env: TopicExpansionEnv) -> list[Ints]:
    return [env.retriever.own(topic) for topic in range(len(env.table))]


def _all_text(env: TopicExpansionEnv) -> list[Ints]:
    return [np.concatenate(_every_topic(env))]


def _target_topics(env: TopicExpansionEnv) -> list[Ints]:
    return [env.retriever.own(int(topic)) for topic in env.target]


def _random(env: TopicExpansionEnv, seen: Observation, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(seen["candidates"][:, 0])))


def _breadth_first(env: TopicExpansionEnv, seen: Observation, rng: np.random.Generator) -> int:
    """The candidate next to the nucleus member that has waited longest."""
    state = env.state()
    arrival = np.full(len(env.table), len(state.members))
    arrival[state.members] = np.arange(len(state.members))
    oldest = [arrival[env.table.graph.around(int(t))].min() for t in state.slots]
    return int(np.argmin(oldest))


def _by_score(weights: dict[str, float]) -> Arm:
    def choose(env: TopicExpansionEnv, seen: Observation, rng: np.random.Generator) -> int:
        rows = seen["candidates"]
        score = sum(w * rows[:, _COLUMN[name]] for name, w in weights.items())
        return int(np.argmax(np.where(rows[:, 0] > 0, score, -np.inf)))

    return expands(choose)


BASELINES: dict[str, Arm] = {
    # Independent draws, no graph.
    "uniform": draws(_every_topic),
    "proportional": draws(_all_text),
    # Not a competitor: it is told the target and spends everything there.
    "oracle": draws(_target_topics),
    # On the frontier.
    "random": expands(_random),
    "breadth-first": expands(_breadth_first),
    "nearest": _by_score({"similarity_nucleus": 1.0}),
    "degree": _by_score({"in_degree_rank": 1.0}),
    "goal": _by_score({"goal_similarity": 1.0}),
    # What brings most of the goal's topics closest to something read: greedy facility location.
    "coverage": _by_score({"goal_gain": 1.0}),
    # Close to the goal, unlike what was read: the best hand-made rule so far.
    "rule": _by_score({"goal_similarity": 1.0, "similarity_expanded": -0.5}),
}


def arm_of(name: str) -> Arm:
    """A baseline by its name, or the policy in a directory.

    Raises:
        ValueError: Neither a baseline nor a policy directory.
    """
    if name in BASELINES:
        return BASELINES[name]
    if not Path(name).is_dir():
        raise ValueError(
            f"expected a policy directory or one of {', '.join(BASELINES)}, got {name!r}"
        )
    from policies.curiosity import CuriosityPolicy

    policy = CuriosityPolicy.load(name)

    def choose(env: TopicExpansionEnv, seen: Observation, rng: np.random.Generator) -> int:
        return policy.predict(seen, action_masks=env.action_masks())[0]

    return expands(choose)

"""Arms of an evaluation: baselines without learning, and how a policy becomes an arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import CANDIDATE_FEATURES, Observation
from kncl_env.taste import Taste, load_taste
from train_lm.files import hash_file, hash_json

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
    pools_of: WeakKeyDictionary[TopicExpansionEnv, dict[Taste | None, list[Ints]]]
    pools_of = WeakKeyDictionary()

    def arm(
        env: TopicExpansionEnv, observation: Observation, rng: np.random.Generator
    ) -> tuple[float, bool, dict[str, Any], Observation]:
        assert env.episode is not None
        reading = env.episode.reading
        known, taste = pools_of.setdefault(env, {}), env.episode.taste
        if taste not in known:
            pools = [reading.store.windows_of(group) for group in groups(env)]
            known[taste] = [pool for pool in pools if len(pool)]
        if not known[taste]:
            raise ValueError(
                "expected passages to the taste among those that this arm draws from, got none: "
                "give it a taste with a larger share, or none"
            )
        windows = reading.spread(known[taste], env.config.windows_per_step, rng)
        reward, over, info = env.read(windows)
        return reward, over, info, observation

    return arm


def _every_topic(env: TopicExpansionEnv) -> list[Ints]:
    return _own_passages(env, range(len(env.table)))


def _all_text(env: TopicExpansionEnv) -> list[Ints]:
    return [np.concatenate(_every_topic(env))]


def _target_topics(env: TopicExpansionEnv) -> list[Ints]:
    return _own_passages(env, env.target.tolist())


def _own_passages(env: TopicExpansionEnv, topics: Iterable[int]) -> list[Ints]:
    assert env.episode is not None
    return [env.retriever.own(topic, env.episode.taste) for topic in topics]


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


@dataclass(frozen=True)
class Reader:
    """An arm with what it brings to an episode.

    Attributes:
        name: In tables and files.
        act: Spends the budget.
        taste: What passages it reads; None for all.
        weights: Digest of a policy's weights.
    """

    name: str
    act: Arm
    taste: Taste | None = None
    weights: str = ""

    @property
    def digest(self) -> str:
        """Tells two trainings of the same name apart, and two tastes; plain baselines have none."""
        taste = hash_json(self.taste.to_json())[:8] if self.taste else ""
        return "-".join(part for part in (self.weights[:8], taste) if part) or "base"

    @property
    def options(self) -> dict[str, Any]:
        """For `reset`."""
        return {"taste": self.taste}


def reader_of(arm: str) -> Reader:
    """A baseline by its name, or the policy in a directory, with its taste.

    `NAME+PLACE` is a baseline with the taste of another place: a policy directory or the file of a
    taste. It tells what a policy's taste does from what its choice of topics does.

    Raises:
        ValueError: Neither a baseline nor a policy directory, or a place without a taste.
    """
    from policies.curiosity import CuriosityPolicy

    if arm in BASELINES:
        return Reader(arm, BASELINES[arm])
    if Path(arm).is_dir():
        policy = CuriosityPolicy.load(arm)

        def choose(env: TopicExpansionEnv, seen: Observation, rng: np.random.Generator) -> int:
            return policy.predict(seen, action_masks=env.action_masks())[0]

        weights = hash_file(Path(arm) / "policy.safetensors")
        return Reader(Path(arm).name, expands(choose), policy.taste, weights)
    name, plus, place = arm.partition("+")
    if not plus or name not in BASELINES:
        raise ValueError(
            f"expected a policy directory or one of {', '.join(BASELINES)}, alone or with the "
            f"taste of another place (random+POLICY), got {arm!r}"
        )
    taste = CuriosityPolicy.load(place).taste if Path(place).is_dir() else load_taste(Path(place))
    if taste is None:
        raise ValueError(f"expected a policy with a taste in {place}, got one that reads anything")
    return Reader(f"{name}+{Path(place).stem}", BASELINES[name], taste)


def place_of(arm: str) -> Path:
    """The policy directory, or the file, that an arm is read from; nothing's, for a plain name."""
    return Path(arm if Path(arm).is_dir() else arm.partition("+")[2] or arm)

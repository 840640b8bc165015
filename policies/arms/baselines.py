"""Arms without learning: independent draws, and hand-made rules on the frontier."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import CANDIDATE_FEATURES, Observation
from kncl_env.world.world import World
from policies.arms.arm import Begin, Ints, Listed, Rng, Stateless, Turn, draws, expands
from policies.arms.domains import pools_of
from policies.arms.mixing import fed, mixed

TAU = 0.5  # of `temperature`

_COLUMN = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}


def _every_topic(env: TopicExpansionEnv) -> list[Ints]:
    return _own_passages(env, range(len(env.stage.table)))


def _all_text(env: TopicExpansionEnv) -> list[Ints]:
    return [np.concatenate(_every_topic(env))]


def _target_topics(env: TopicExpansionEnv) -> list[Ints]:
    check_target_text(["target-text"], env.stage.world)
    return _own_passages(env, env.stage.target.tolist())


def check_target_text(names: Iterable[str], world: World) -> None:
    """Raises: ValueError where the arm that reads the target's own text is to play without it."""
    if "target-text" in names and world.is_distant:
        raise ValueError(
            "expected arms for a distant world, got target-text, which reads the target's own "
            "text: none of it is trained on here, leave it out"
        )


class _Tempered(Stateless):
    """Topics by a power of their size."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        topics = [np.array([t]) for t in range(len(env.stage.table))]
        self.pools = pools_of(env, topics)
        self.weights = tempered(np.array([len(pool) for pool in self.pools]))
        if not self.weights.any():
            raise ValueError(
                "expected passages to the taste that hold a window, got none: give the arm a "
                "taste with a larger share, or none"
            )

    def act(self, seen: Observation) -> Turn:
        return fed(self.env, mixed(self.env, self.pools, self.weights, self.rng), seen)


def tempered(sizes: Ints) -> NDArray[np.float64]:
    """(N,) size^tau, up to a factor: tau is 1 in `proportional` and 0 in `uniform`."""
    return np.where(sizes > 0, sizes.astype(np.float64) ** TAU, 0.0)


def _own_passages(env: TopicExpansionEnv, topics: Iterable[int]) -> list[Ints]:
    assert env.episode is not None
    return [env.stage.retriever.own(topic, env.episode.taste) for topic in topics]


def _random(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    return int(rng.choice(np.flatnonzero(seen["candidates"][:, 0])))


def _breadth_first(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    """The candidate next to the nucleus member that has waited longest."""
    state, graph = env.state(), env.stage.table.graph
    arrival = np.full(len(graph), len(state.members))
    arrival[state.members] = np.arange(len(state.members))
    oldest = [arrival[graph.around(int(t))].min() for t in state.slots]
    return int(np.argmin(oldest))


def _by_score(weights: dict[str, float]) -> Begin:
    def choose(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
        rows = seen["candidates"]
        score = sum(w * rows[:, _COLUMN[name]] for name, w in weights.items())
        return int(np.argmax(np.where(rows[:, 0] > 0, score, -np.inf)))

    return expands(choose)


_INDEPENDENT = {
    "uniform": Listed(
        draws(_every_topic),
        "independent",
        "Every topic alike, and of a topic the windows read least often.",
    ),
    "proportional": Listed(
        draws(_all_text),
        "independent",
        "All windows alike, so that a topic counts by its size.",
    ),
    "temperature": Listed(
        _Tempered,
        "independent",
        "Topics by the root of the number of their windows, between uniform and proportional.",
        "after arXiv:1907.05019",
    ),
}

_FRONTIER = {
    "random": Listed(expands(_random), "frontier rule", "One of the candidates by lot."),
    "breadth-first": Listed(
        expands(_breadth_first),
        "frontier rule",
        "The candidate next to the member of the nucleus that has waited longest.",
    ),
    "nearest": Listed(
        _by_score({"similarity_nucleus": 1.0}),
        "frontier rule",
        "The candidate closest to the centroid of the nucleus.",
    ),
    "degree": Listed(
        _by_score({"in_degree_rank": 1.0}),
        "frontier rule",
        "The candidate that most topics link to.",
    ),
    "least-degree": Listed(
        _by_score({"in_degree_rank": -1.0}),
        "frontier rule",
        "The candidate that fewest topics link to.",
    ),
    "goal": Listed(
        _by_score({"goal_similarity": 1.0}),
        "frontier rule",
        "The candidate closest to the centroid of the goal.",
    ),
    "coverage": Listed(
        _by_score({"goal_gain": 1.0}),
        "frontier rule",
        "What brings most of the goal's topics closest to something read: greedy facility "
        "location.",
        "Nemhauser, Wolsey & Fisher 1978",
    ),
    # The best hand-made rule so far.
    "rule": Listed(
        _by_score({"goal_similarity": 1.0, "similarity_expanded": -0.5}),
        "frontier rule",
        "Close to the goal, and half as much unlike the closest topic expanded so far.",
    ),
}

_REFERENCE = {
    # Not a competitor: it spends everything on the target's own training text. It needs no secret,
    # the goal's topics are known; where that text is withheld (`distant`), there is no such arm.
    "target-text": Listed(
        draws(_target_topics),
        "reference",
        "Reads the target's own training text, every target topic alike.",
    ),
}

BASELINES: dict[str, Listed] = {**_INDEPENDENT, **_REFERENCE, **_FRONTIER}

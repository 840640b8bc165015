"""Arms without learning: independent draws, and hand-made rules on the frontier."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import CANDIDATE_FEATURES, Observation
from kncl_env.world.world import World
from policies.arms.arm import (
    Begin,
    Ints,
    Listed,
    Rng,
    Stateless,
    Turn,
    draws,
    draws_windows,
    expands,
)
from policies.arms.mixing import fed, mixed
from policies.arms.shared import windows_by_topic

_COLUMN = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}


def _every_topic(env: TopicExpansionEnv) -> list[Ints]:
    return windows_by_topic(env)


class _Proportional(Stateless):
    """Draws from all windows at once, and shuffles none of them: they can be very many."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng = env, rng
        self.pool = np.concatenate(windows_by_topic(env))

    def act(self, seen: Observation) -> Turn:
        return fed(self.env, mixed(self.env, [self.pool], np.ones(1), self.rng), seen)


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
        draws_windows(_every_topic),
        "independent",
        "Every topic alike, and of a topic the windows read least often.",
    ),
    "proportional": Listed(
        _Proportional,
        "independent",
        "All windows alike, so that a topic counts by its size.",
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

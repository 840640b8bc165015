"""Selection by vectors: what lies nearest to the target's sample in the world's space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from kncl_env.topic_table import centroid
from policies.arms.arm import Ints, Listed, Rng, expands
from policies.arms.selection.chosen import (
    budget_of,
    candidates_of,
    filling,
    n_windows,
    sample_vectors,
    selects,
)
from policies.arms.shared import Shared

QUERIES = 1024  # passages of the sample that are looked around, at most
WIDER = 4  # times the budget that `centroid` draws from

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Sample:
    """The sample's passages as unit rows (n, D), and their centroid (D,)."""

    vectors: Vectors
    middle: Vectors

    @classmethod
    def of(cls, stage: Stage) -> _Sample:
        vectors = sample_vectors(stage, QUERIES)
        return cls(vectors, centroid(vectors))


_sample = Shared(_Sample.of)


class _Found:
    """Passages around queries; searched further when asked for more than was found."""

    def __init__(self, stage: Stage, queries: Vectors) -> None:
        self.index, self.queries = stage.world.index, queries
        self.at = np.zeros((len(queries), 0), dtype=np.int64)

    def up_to(self, k: int) -> Ints:
        """(n, min(k, size)) passages, the nearest of each query first."""
        found = self.at
        if found.shape[1] < min(k, self.index.size):
            found = self.index.search(self.queries, k)
            self.at = found  # by one assignment: another thread sees what was there, or all of it
        return found[:, :k]


_around = Shared(lambda stage: _Found(stage, _sample(stage).vectors))
_middle = Shared(lambda stage: _Found(stage, _sample(stage).middle[None]))


def by_rounds(found: Ints, order: Ints) -> Ints:
    """Each passage once: the nearest of every query, then the second nearest, and so on.

    Args:
        found: (n, k) passages, the nearest of each query first.
        order: (n,) in which queries come within a round.
    """
    flat = found[order].T.ravel()
    return flat[np.sort(np.unique(flat, return_index=True)[1])]


def _enough(env: TopicExpansionEnv, around: _Found, n: int, order: Ints) -> Ints:
    """Candidates by rounds, enough of them to hold n windows, if there are."""
    allowed = candidates_of(env)
    k = max(1, n // max(1, 4 * len(around.queries)))
    while True:
        found = by_rounds(around.up_to(k), order)
        found = found[allowed[found]]
        if n_windows(env.stage.store, found).sum() >= n or k >= around.index.size:
            break
        k *= 2
    if not len(found):
        raise ValueError(
            "expected passages near to the target's sample that hold a window, got none: give "
            "the arm a taste with a larger share, or none"
        )
    return filling(env.stage.store, found, n)


def _knn(env: TopicExpansionEnv, rng: Rng) -> Ints:
    around = _around(env.stage)
    return _enough(env, around, budget_of(env), rng.permutation(len(around.queries)))


def _centroid(env: TopicExpansionEnv, rng: Rng) -> Ints:
    return _enough(env, _middle(env.stage), WIDER * budget_of(env), np.zeros(1, dtype=np.int64))


# (N,) cosine of each topic with the closest passage of the sample, and with its centroid.
_closest = Shared(lambda stage: (stage.table.vectors @ _sample(stage).vectors.T).max(1))
_central = Shared(lambda stage: stage.table.vectors @ _sample(stage).middle)


def _knn_slot(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    return int(np.argmax(_closest(env.stage)[env.state().slots]))


def _centroid_slot(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    return int(np.argmax(_central(env.stage)[env.state().slots]))


ARMS = {
    "knn": Listed(
        selects(_knn),
        "selection",
        "The passage nearest to each passage of the sample, then the second nearest, and so on, "
        "until they hold the episode's windows; of a sample of more than 1,024 passages an even "
        "part.",
    ),
    "centroid": Listed(
        selects(_centroid),
        "selection",
        "Drawn evenly from the passages nearest to the sample's centroid that hold four times the "
        "episode's windows.",
    ),
    "knn-frontier": Listed(
        expands(_knn_slot),
        "selection",
        "The candidate whose vector is closest to any passage of the sample.",
    ),
    "centroid-frontier": Listed(
        expands(_centroid_slot),
        "selection",
        "The candidate whose vector is closest to the sample's centroid.",
    ),
}

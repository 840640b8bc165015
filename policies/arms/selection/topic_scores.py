"""From scores of passages to scores of topics, for the frontier forms of selection methods."""

from __future__ import annotations

import threading
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from policies.arms.shared import of_text
from train_lm.token_files import TRAIN

Floats = NDArray[np.float64]


def of_retrieval(stage: Stage) -> Hashable:
    """All that scores of topics depend on: text, and what is read in the place of withheld text."""
    return of_text(stage), id(stage.world.graph), stage.settings.reading.breadth


class TopicScores:
    """Mean score of each topic's own training passages.

    A topic whose text is withheld has none: the passages that are read in its place count,
    those of its neighbourhood, and they are looked for when it is first a candidate.

    Args:
        scores: (P,) of passages; higher is better.
    """

    def __init__(self, stage: Stage, scores: Floats) -> None:
        self.scores = scores
        world = stage.world
        self._graph = world.graph  # kept, so that no other one gets its id
        train = np.flatnonzero(world.passage_split == TRAIN)
        topic, n = world.passage_topic[train], world.n_topics
        count = np.bincount(topic, minlength=n)
        total = np.bincount(topic, scores[train], minlength=n)
        self.of = np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
        self._lock = threading.Lock()

    def __call__(self, env: TopicExpansionEnv, topics: NDArray[np.int64]) -> Floats:
        with self._lock:
            for topic in topics[np.isnan(self.of[topics])].tolist():
                around = env.stage.retriever.neighbourhood(topic)
                self.of[topic] = self.scores[around].mean() if len(around) else -np.inf
        return np.asarray(self.of[topics])


def best_slot(env: TopicExpansionEnv, scores: TopicScores) -> int:
    """The slot of the candidate with the highest score."""
    return int(np.argmax(scores(env, env.state().slots)))

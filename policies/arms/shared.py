"""What all episodes of a stage share, made once, whichever of a bank's threads asks first.

Whoever makes it holds a lock, and a bank serves its learners only when all of them wait. So it must
not ask the episode's own learner anything: it takes one of its own, `stage.learner()`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from train_lm.files import hash_json
from train_lm.token_files import TRAIN

Ints = NDArray[np.int64]

T = TypeVar("T")


def of_text(stage: Stage) -> Hashable:
    """All that text statistics depend on: the world, the target's sample, the windows."""
    return stage.world.hash, hash_json(stage.target.tolist()), len(stage.store)


def of_learner(stage: Stage) -> Hashable:
    """... and all that the nucleated learner does."""
    return of_text(stage), hash_json(stage.settings.to_json())


class Shared(Generic[T]):
    """Makes a thing once for every key; the latest few are kept.

    Args:
        make: Makes it; what it raises, everybody who asks is told.
        key: What it depends on.
        most: Things that are kept.
    """

    def __init__(
        self, make: Callable[[Stage], T], key: Callable[[Stage], Hashable] = of_text, most: int = 4
    ) -> None:
        self.make, self.key, self.most = make, key, most
        self._made: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: Stage) -> T:
        key = self.key(stage)
        with self._lock:
            if key not in self._made:
                self._made[key] = self.make(stage)
                for old in list(self._made)[: -self.most]:
                    del self._made[old]
            return self._made[key]


def _by_topic(stage: Stage) -> list[Ints]:
    world, documents = stage.world, stage.store.document
    train = np.flatnonzero(world.passage_split[documents] == TRAIN)
    topics = world.passage_topic[documents[train]]
    order = np.argsort(topics, kind="stable")  # a world that grows has them in another order
    return np.split(train[order], np.searchsorted(topics[order], np.arange(1, len(stage.table))))


_windows_by_topic = Shared(_by_topic)


def windows_by_topic(env: TopicExpansionEnv) -> list[Ints]:
    """Windows of each topic's training text, perhaps none; with a taste, those that begin in what
    it likes. Nobody writes to them.
    """
    assert env.episode is not None
    taste, stage = env.episode.taste, env.stage
    if taste is None:
        return _windows_by_topic(stage)
    own, windows_of = stage.retriever.own, stage.store.windows_of
    return [windows_of(own(topic, taste)) for topic in range(len(stage.table))]

"""Which passages belong to the neighbourhood of a topic, and which of them are to a taste."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kncl_env.passage_traits import PassageTraits
from kncl_env.taste import Taste

if TYPE_CHECKING:
    from kncl_env.topic_table import Goal
    from kncl_env.world.world import World
    from train_lm.windows import TokenStore

# Raised whenever a neighbourhood would come out with other passages.
RETRIEVAL_VERSION = 1

AT_ONCE = 64  # [passages] of a topic that are looked for together

# Of each world: by topics, windows and their length, what `nearest_passages` found. It is the same
# for all initial learners, and compares each of the topics with every passage.
_Found = dict[tuple[bytes, int, int], NDArray[np.int64]]
_NEAREST: WeakKeyDictionary[World, _Found] = WeakKeyDictionary()


class NeighbourhoodRetriever:
    """The passages of a topic's neighbourhood: nearest to the topic and what it is linked with.

    Args:
        world: Where the passages come from.
        breadth: Passages per neighbourhood. Narrow neighbourhoods overfit and forget.
        pull: Weight of the linked topics' centroid in the query.
        goal: What a taste may prefer passages to be close to.
    """

    def __init__(
        self, world: World, breadth: int, pull: float = 0.25, goal: Goal | None = None
    ) -> None:
        if breadth < 1:
            raise ValueError(f"expected a breadth of at least one passage, got {breadth}")
        self.world = world
        self.breadth = breadth
        self.pull = pull
        self.traits = PassageTraits(world, goal)
        self._likes: dict[Taste, NDArray[np.bool_]] = {}
        self._found: dict[tuple[int, Taste | None], NDArray[np.int64]] = {}

    def likes(self, taste: Taste) -> NDArray[np.bool_]:
        """(P,) whether a passage is to the taste."""
        if taste not in self._likes:
            self._likes[taste] = self.traits.best(np.array(taste.worth), taste.share)
        return self._likes[taste]

    def own(self, topic: int, taste: Taste | None = None) -> NDArray[np.int64]:
        """The topic's own training passages; with a taste, those that it likes, perhaps none."""
        own = self.world.passages_of(topic)
        return own if taste is None else own[self.likes(taste)[own]]

    def neighbourhood(self, topic: int, taste: Taste | None = None) -> NDArray[np.int64]:
        """The topic's own training passages and the nearest others, `breadth` in all.

        With a taste, only passages that it likes; more distant ones make up for those left out.
        """
        key = (topic, taste)
        if key not in self._found:
            self._found[key] = self.retrieve(topic, taste)
        return self._found[key]

    def retrieve(self, topic: int, taste: Taste | None) -> NDArray[np.int64]:
        """A neighbourhood, ascending, whatever was found before."""
        own = self.own(topic, taste)
        others = self._nearest(topic, own, taste)[: max(0, self.breadth - len(own))]
        return np.sort(np.concatenate([own, others]))

    def _nearest(
        self, topic: int, own: NDArray[np.int64], taste: Taste | None
    ) -> NDArray[np.int64]:
        """At least `breadth` passages but for `own`, nearest first, or all that there are."""
        world = self.world
        query = world.topic_vectors[topic].astype(np.float64)
        linked = world.graph.out(topic)
        if len(linked):
            query = query + self.pull * world.topic_vectors[linked].mean(0)
        n = self.breadth if taste is None else 2 * self.breadth
        while True:
            found = world.index.search(query[None].astype(np.float32), n)[0]
            others = found[~np.isin(found, own)]
            if taste is not None:
                others = others[self.likes(taste)[others]]
            # Without a taste the topic's own passages fill what they take from the others.
            if taste is None or len(own) + len(others) >= self.breadth or n >= world.index.size:
                return others
            n *= 2


def nearest_passages(
    world: World, topics: NDArray[np.int64], windows: int, store: TokenStore
) -> NDArray[np.int64]:
    """The training passages nearest to any of some topics, ascending: the same number for each
    topic, the least power of two that brings so many windows, or all that there are.
    """
    known = _NEAREST.setdefault(world, {})
    key = (topics.tobytes(), windows, store.context)
    if key not in known:
        known[key] = _nearest_passages(world, topics, windows, store)
        known[key].setflags(write=False)  # everybody has the same one
    return known[key]


def _nearest_passages(
    world: World, topics: NDArray[np.int64], windows: int, store: TokenStore
) -> NDArray[np.int64]:
    vectors, size = world.topic_vectors[topics], world.index.size
    found, n = world.index.search(vectors, AT_ONCE), 1
    while True:
        if n > found.shape[1] and found.shape[1] < size:
            found = world.index.search(vectors, 4 * n)
        own = np.unique(found[:, :n])
        if n >= size or len(store.windows_of(own)) >= windows:
            return own
        n *= 2

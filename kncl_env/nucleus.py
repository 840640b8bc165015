"""What the learner has expanded so far, what of it is solid, and where it can grow from there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.graph import TopicGraph

# A topic is solid once an expansion or rehearsal improves its held-out loss by less than this
# share of what its own expansion brought.
SOLID_SHARE = 0.25


def is_solid(first_drop: float, latest_drop: float, noise_floor: float) -> bool:
    """Whether a topic's held-out loss has stopped improving.

    Learning progress (Oudeyer, Kaplan & Hafner 2007, doi:10.1109/TEVC.2006.890271) has died down
    relative to a stated reference: the loss drop that the topic's own expansion brought.

    Args:
        first_drop: Loss drop of the topic's expansion [bits per byte].
        latest_drop: Loss drop between its two latest measurements [bits per byte].
        noise_floor: Drops below this cannot be told from nothing [bits per byte].
    """
    return latest_drop <= max(SOLID_SHARE * first_drop, noise_floor)


class Nucleus:
    """Topics expanded so far, in order, each solid or not yet; the frontier grows from solid ones.

    Args:
        graph: The topic graph; links count in both directions.
        seeds: Topics of the nucleus phase; solid from the start, because the nucleus phase ends
            when they are learnt.
    """

    def __init__(self, graph: TopicGraph, seeds: Iterable[int]) -> None:
        self.graph = graph
        self.seeds = tuple(int(t) for t in seeds)
        self.expanded: list[int] = []
        self.inside = np.zeros(len(graph), dtype=bool)
        self.solid = np.zeros(len(graph), dtype=bool)
        self._touched = np.zeros(len(graph), dtype=bool)  # next to a solid topic, or one itself
        for seed in self.seeds:
            self.inside[seed] = True
            self.make_solid(seed)

    def expand(self, topic: int) -> None:
        """Take a frontier topic in. Raises: ValueError where it is not on the frontier."""
        if not self.on_frontier(topic):
            raise ValueError(f"expected a topic of the frontier, got topic {topic}")
        self.expanded.append(topic)
        self.inside[topic] = True

    def make_solid(self, topic: int) -> None:
        """From now on the frontier also grows from this topic."""
        if not self.inside[topic]:
            raise ValueError(f"expected a topic of the nucleus, got topic {topic}")
        self.solid[topic] = True
        self._touched[topic] = True
        self._touched[self.graph.around(topic)] = True

    def on_frontier(self, topic: int) -> bool:
        return bool(self._touched[topic] and not self.inside[topic])

    @property
    def frontier(self) -> NDArray[np.int64]:
        """Topics next to a solid topic and outside the nucleus, ascending."""
        return np.flatnonzero(self._touched & ~self.inside)

    @property
    def members(self) -> NDArray[np.int64]:
        """Seeds, then expanded topics, in order."""
        return np.array([*self.seeds, *self.expanded], dtype=np.int64)

    @property
    def unsolid(self) -> list[int]:
        """Expanded topics that are not solid yet, oldest first."""
        return [t for t in self.expanded if not self.solid[t]]

    def grown(self, graph: TopicGraph) -> Nucleus:
        """The same nucleus on a graph with further topics, and links among all of them."""
        twin, more = self.copy(), len(graph) - len(self.graph)
        twin.graph = graph
        twin.inside, twin.solid = np.pad(self.inside, (0, more)), np.pad(self.solid, (0, more))
        twin._touched = twin.solid.copy()
        for topic in np.flatnonzero(twin.solid).tolist():
            twin._touched[graph.around(topic)] = True
        return twin

    def copy(self) -> Nucleus:
        twin = Nucleus.__new__(Nucleus)
        twin.graph, twin.seeds, twin.expanded = self.graph, self.seeds, list(self.expanded)
        twin.inside, twin.solid = self.inside.copy(), self.solid.copy()
        twin._touched = self._touched.copy()
        return twin

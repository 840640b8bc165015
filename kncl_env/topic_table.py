"""What is fixed of a world's topics and of a goal, computed once and shared by all observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.graph import TopicGraph

if TYPE_CHECKING:
    from kncl_env.world.world import World

# Text vectors are ordered by how much of the corpus each direction explains: from what separates
# whole fields to what tells close topics apart. Cosines within stretches of them, coarse to fine,
# let a policy weigh the two. Ends of the stretches, as shares of the dimensions.
BANDS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)

# Links that a random surfer follows in search of the goal.
MAX_HOPS = 4

# Topics that stand for the world where its coverage is measured.
SAMPLE = 512

Topics = NDArray[np.int64]
Floats = NDArray[np.float64]


class TopicTable:
    """What is fixed about a world's topics; shared by all observations.

    Args:
        graph: Links between N topics.
        vectors: (N, D) unit rows.
        tokens: (N,) training tokens of each topic.
        titles: (N, D) titles in the space of `vectors`: unit rows, or zero where no word of a
            title is known; the topics' own vectors, if not stated.
    """

    def __init__(
        self,
        graph: TopicGraph,
        vectors: NDArray[np.float32],
        tokens: NDArray[np.int64],
        titles: NDArray[np.float32] | None = None,
    ) -> None:
        titles = vectors if titles is None else titles
        if not len(graph) == len(vectors) == len(tokens) == len(titles):
            raise ValueError(
                f"expected one vector, size and title per topic, got {len(graph)} topics, "
                f"{len(vectors)} vectors, {len(tokens)} sizes and {len(titles)} titles"
            )
        self.graph = graph
        self.vectors = vectors
        self.titles = titles
        ends = [max(1, round(share * vectors.shape[1])) for share in BANDS]
        # One after another: (N, D) text by bands, each of unit length, then graph coordinates.
        self.parts = [
            *(_unit(vectors[:, i:j]) for i, j in zip([0, *ends[:-1]], ends, strict=True)),
            graph.coordinates,
        ]
        self.static = np.stack(
            [
                rank_of(graph.in_degree),
                rank_of(graph.out_degree),
                rank_of(graph.pagerank),
                rank_of(tokens),
                np.log1p(graph.in_degree) / np.log(max(2, len(graph))),
                np.log1p(graph.out_degree) / np.log(max(2, len(graph))),
                (titles * vectors).sum(1),
                (_unit(graph.undirected @ vectors) * vectors).sum(1),
            ],
            axis=1,
        )  # (N, 8), in the order of the features that they are

        some = np.random.default_rng(0).permutation(len(graph))[:SAMPLE]
        self.sample = vectors[some]  # (S, D)

    @classmethod
    def of(cls, world: World) -> TopicTable:
        """The topics of a world."""
        return cls(world.graph, world.topic_vectors, world.train_tokens_of, world.title_vectors)

    def __len__(self) -> int:
        return len(self.graph)


class Goal:
    """Topics that someone looks for: a person's target page, or a region to learn.

    Args:
        topics: Goal topics; at least one.
    """

    def __init__(self, table: TopicTable, topics: Topics) -> None:
        if not len(topics):
            raise ValueError("expected at least one goal topic, got none: pass goal=None instead")
        self.topics = np.asarray(topics, dtype=np.int64)
        self.vectors = table.vectors[self.topics]
        self.centroid = centroid(self.vectors)
        self.title = centroid(table.titles[self.topics])
        self.parts = [centroid(part[self.topics]) for part in table.parts]
        self.member = mask_of(self.topics, len(table))
        into = [table.graph.into(int(t)) for t in self.topics]
        self.one_link = mask_of(
            np.concatenate(into), len(table)
        )  # topics that link to a goal topic
        n_from, self.early = np.zeros(len(table)), np.zeros(len(table))
        for topic in self.topics.tolist():
            out = table.graph.out(topic)
            n_from[out] += 1
            self.early[out] = np.maximum(
                self.early[out], 1 - np.arange(len(out)) / max(1, len(out))
            )
        self.linked_from = np.log1p(n_from) / np.log1p(len(self.topics))
        gates = np.flatnonzero(self.one_link)
        self.gate = centroid(table.vectors[gates]) if len(gates) else self.centroid
        self.hops, self.reach = _reach(table.graph, self.member)
        # Direction of the goal topics' links, as `shared_last` is of one topic's.
        links = table.graph.undirected @ self.member.astype(np.float64)
        self.links = links / max(1e-12, float(np.linalg.norm(links)))


def _reach(graph: TopicGraph, goal: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(N,) `goal_hops` and (N,) `goal_reach` of every topic."""
    meets = goal.astype(np.float64)  # of a surfer who has so many links left
    total, hops = meets.copy(), meets.copy()
    for n in range(1, MAX_HOPS + 1):
        meets = graph.transition @ meets
        total += meets
        hops[(hops == 0) & (meets > 0)] = 1 / (1 + n)
    lift = total / goal.mean()
    return hops, np.log1p(lift) / np.log1p(1 / goal.mean())


def mask_of(topics: Topics, n: int) -> NDArray[np.bool_]:
    """(n,) True at the topics."""
    mask = np.zeros(n, dtype=bool)
    mask[topics] = True
    return mask


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-12)


def centroid(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) unit vector in the direction of the mean; zero where the mean is zero."""
    mean = vectors.mean(0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    return (mean / norm if norm > 1e-12 else np.zeros_like(mean)).astype(np.float32)


def rank_of(values: NDArray[np.int64] | Floats) -> Floats:
    """Average rank of each value among all, scaled to 0..1."""
    from scipy.stats import rankdata

    return (rankdata(values) - 1) / max(1, len(values) - 1)

"""Topics as the world's map has them: links and regions of its own, a target, choice of seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.embedding import unit_rows
from kncl_env.world.graph import LINK_TYPES, TopicGraph

if TYPE_CHECKING:
    from kncl_env.world.world import World


def nearest_neighbours(vectors: NDArray[np.float32], k: int) -> TopicGraph:
    """Links of type `similar` to the k nearest topics, for a corpus without links."""
    kind = LINK_TYPES.index("similar")
    rows = []
    for topic in range(len(vectors)):
        similarity = vectors @ vectors[topic]
        similarity[topic] = -np.inf
        nearest = np.argsort(-similarity, kind="stable")[: min(k, len(vectors) - 1)]
        rows.append([(int(t), kind) for t in nearest])
    return TopicGraph.from_links(len(vectors), rows)


def clusters(vectors: NDArray[np.float32], seed: int) -> list[list[str]]:
    """One region label per topic by k-means, for a corpus without labels."""
    from sklearn.cluster import KMeans

    k = int(np.clip(len(vectors) // 20, 1, 100))
    found = KMeans(k, n_init=3, random_state=seed).fit_predict(unit_rows(vectors))
    return [[f"cluster.{c:02d}"] for c in found]


def _fitting_regions(world: World) -> dict[str, NDArray[np.int64]]:
    """Regions that can be a target: neither a handful of topics nor a quarter of the world."""
    usable = world.has_held_out & ~world.topic_is_noise
    least = max(8, world.n_topics // 40)
    return {
        name: topics
        for name, topics in world.regions.items()
        if usable[topics].sum() >= least and len(topics) <= world.n_topics // 4
    }


def farthest_region(world: World) -> str:
    """The fitting region with the greatest mean number of links from the seed topics.

    Raises:
        ValueError: No region has enough topics with held-out text.
    """
    fitting = _fitting_regions(world)
    if not fitting:
        raise ValueError(
            "expected a region of 8 or more topics with held-out text, up to a quarter of the "
            "world, for the focused scenario, got none: use --scenario broad"
        )
    n = max(1, world.n_topics // 20)
    seeds = nucleate(world.graph, world.topic_vectors, n, world.train_tokens_of > 0)
    distance = world.graph.distances(seeds).astype(float)
    distance[distance < 0] = distance.max() + 1
    return max(sorted(fitting), key=lambda name: float(distance[fitting[name]].mean()))


def transfer_regions(world: World, target: str | None, share: float = 0.2) -> list[str]:
    """Regions on which no policy may be trained: about a share of the fitting ones, seeded."""
    taken = set(world.regions[target].tolist()) if target else set()
    free = [n for n, t in sorted(_fitting_regions(world).items()) if not taken & set(t.tolist())]
    rng = np.random.default_rng(world.card["settings"]["seed"])
    n = round(share * len(free))
    return sorted(str(name) for name in rng.choice(free, n, replace=False)) if n else []


def nucleate(
    graph: TopicGraph,
    vectors: NDArray[np.float32],
    n: int,
    allowed: NDArray[np.bool_],
    diversity: float = 0.5,
) -> NDArray[np.int64]:
    """Choose n seed topics that are central and cover the space.

    Greedy: the next seed has the highest `log PageRank percentile - diversity * similarity to the
    closest seed so far` (maximal marginal relevance, Carbonell & Goldstein 1998). PageRank rather
    than k-core, because cores of hyperlink graphs are nested cliques of one subject.

    Args:
        vectors: (N, D) unit rows.
        allowed: (N,) topics that may be seeds.
    """
    candidates = np.flatnonzero(allowed)
    if not 1 <= n <= len(candidates):
        raise ValueError(
            f"expected a nucleus of 1 to {len(candidates)} topics, got {n}: "
            "name fewer, or build a larger world"
        )
    rank = graph.pagerank[candidates]
    central = np.argsort(np.argsort(rank, kind="stable")) / max(1, len(candidates) - 1)
    # Only the best-linked half competes: variety must not buy a topic that leads nowhere.
    pool = central >= 0.5 if 2 * n <= len(candidates) else np.ones(len(candidates), dtype=bool)
    closest = np.zeros(len(candidates))
    chosen: list[int] = []
    free = pool.copy()
    for _ in range(n):
        score = np.where(free, central - diversity * closest, -np.inf)
        if not np.isfinite(score).any():
            free = ~np.isin(np.arange(len(candidates)), chosen)
            score = np.where(free, central - diversity * closest, -np.inf)
        best = int(np.argmax(score))
        chosen.append(best)
        free[best] = False
        closest = np.maximum(closest, vectors[candidates] @ vectors[candidates[best]])
    return candidates[chosen]

"""Topics as the world's map has them: links and regions of its own, a target, choice of seeds."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.embedding import unit_rows
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.splits import HELD_OUT, SPLITS

Regions = dict[str, NDArray[np.int64]]  # name -> topics, ascending


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


def regions_of(labels: Sequence[Sequence[str]]) -> Regions:
    """Topics of every named region: each label of the N topics and every dotted prefix of it."""
    members: dict[str, list[int]] = {}
    for topic, own in enumerate(labels):
        names = {
            label[:end]
            for label in own
            for end in [i for i, c in enumerate(label) if c == "."] + [len(label)]
        }
        for name in names:
            members.setdefault(name, []).append(topic)
    return {name: np.array(members[name]) for name in sorted(members)}


def region_of(regions: Regions, name: str, place: object) -> NDArray[np.int64]:
    """Topics of a region. Raises: ValueError naming close ones of `place`, if there is none."""
    if name not in regions:
        close = difflib.get_close_matches(name, regions, n=3, cutoff=0.3)
        raise ValueError(f"expected a region of {place}, got {name!r}: try {close}")
    return regions[name]


def has_held_out(
    passage_topic: NDArray[np.int64], passage_split: NDArray[np.int64], n: int
) -> NDArray[np.bool_]:
    """(N,) whether a topic has text in every held-out split."""
    has = np.ones(n, dtype=bool)
    for split in HELD_OUT:
        here = passage_topic[passage_split == SPLITS.index(split)]
        has &= np.bincount(here, minlength=n) > 0
    return has


def target_of(
    regions: Regions, usable: NDArray[np.bool_], name: str | None, place: object
) -> NDArray[np.int64]:
    """Topics of the target mix: the usable ones of a region, or of the world.

    Args:
        usable: (N,) topics with text in every held-out split that are no junk.

    Raises:
        ValueError: No such region in `place`, or none of its topics is usable.
    """
    if name is not None:
        inside = np.zeros(len(usable), dtype=bool)
        inside[region_of(regions, name, place)] = True
        usable = usable & inside
    if not usable.any():
        raise ValueError(
            f"expected topics with held-out text in {name or 'the world'}, got none: "
            "its articles are too short, or --passage-bytes is too large"
        )
    return np.flatnonzero(usable)


def fitting_regions(regions: Regions, usable: NDArray[np.bool_]) -> Regions:
    """Regions that can be a target: neither a handful of topics nor a quarter of the world."""
    n = len(usable)
    least = max(8, n // 40)
    return {
        name: topics
        for name, topics in regions.items()
        if usable[topics].sum() >= least and len(topics) <= n // 4
    }


def check_target(
    regions: Regions, usable: NDArray[np.bool_], name: str | None, place: object
) -> None:
    """Refuse a focused scenario without a target.

    Args:
        name: The region that was asked for; any that fits, if None.

    Raises:
        ValueError: The region is unknown or has no held-out text, or none fits.
    """
    if name is not None:
        target_of(regions, usable, name, place)
    elif not fitting_regions(regions, usable):
        raise ValueError(
            "expected a region of 8 or more topics with held-out text, up to a quarter of the "
            f"world, for the focused scenario, got none among {len(regions)} regions: "
            "use --scenario broad"
        )


def farthest_region(
    fitting: Regions,
    graph: TopicGraph,
    vectors: NDArray[np.float32],
    has_training: NDArray[np.bool_],
) -> str:
    """The region with the greatest mean number of links from the seed topics.

    Args:
        fitting: Regions that can be a target; at least one.
        vectors: (N, D) unit rows.
        has_training: (N,) topics that may be seeds.
    """
    n = max(1, len(graph) // 20)
    seeds = nucleate(graph, vectors, n, has_training)
    distance = graph.distances(seeds).astype(float)
    distance[distance < 0] = distance.max() + 1
    return max(sorted(fitting), key=lambda name: float(distance[fitting[name]].mean()))


def transfer_regions(
    fitting: Regions, target: NDArray[np.int64], seed: int, share: float = 0.2
) -> list[str]:
    """Regions on which no policy may be trained: about a share of the fitting ones, seeded.

    Args:
        target: Topics of the target region, which none of them touches.
    """
    taken = set(target.tolist())
    free = [n for n, t in sorted(fitting.items()) if not taken & set(t.tolist())]
    rng = np.random.default_rng(seed)
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

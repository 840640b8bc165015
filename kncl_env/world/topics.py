"""Topics as the world's map has them: links and regions of its own, a target, choice of seeds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import BuildConfig
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import PassageIndex, k_means
from kncl_env.world.splits import HELD_OUT, SPLITS
from kncl_env.world.text.mentions import mentions
from kncl_env.world.text.names import group_names

TOGETHER = 4096  # [topics] whose neighbours are looked for at a time

Regions = dict[str, NDArray[np.int64]]  # name -> topics, ascending


def connected(
    own: TopicGraph,
    titles: Sequence[str],
    vectors: NDArray[np.float32],
    training: Iterable[tuple[int, str]],
    config: BuildConfig,
) -> TopicGraph:
    """The graph: the corpus's own links, titles mentioned in training text, nearest neighbours.

    Args:
        own: Links that the corpus states, between N topics.
        titles: (N,) of the topics.
        vectors: (N, D) unit rows; zero where nothing is known of a topic.
        training: `(topic, text)` of the training passages, in reading order.

    Raises:
        ValueError: The connections that were asked for are none.
    """
    kinds = config.connect or (("links",) if own.n_edges else ("mentions", "similar"))
    if kinds == ("links",):
        graph = own
    else:
        rows = own.rows() if "links" in kinds else [[] for _ in titles]
        if "mentions" in kinds:
            mention = LINK_TYPES.index("mention")
            for row, mentioned in zip(rows, mentions(titles, training), strict=True):
                row += [(target, mention) for target in mentioned]
        if "similar" in kinds:
            similar = LINK_TYPES.index("similar")
            for row, nearest in zip(rows, nearest_topics(vectors, config.neighbours), strict=True):
                row += [(int(target), similar) for target in nearest]
        graph = TopicGraph.from_links(len(titles), rows)
    if config.connect and graph.n_edges == 0:
        raise ValueError(
            f"expected topics connected by {', '.join(kinds)}, got not one link: add similar to "
            "--connect"
        )
    return graph


def nearest_topics(vectors: NDArray[np.float32], k: int) -> list[NDArray[np.int64]]:
    """(N,) the k nearest other topics of each, nearest first; none of a topic that is zero."""
    n = len(vectors)
    known = np.flatnonzero(np.any(vectors, axis=1))
    rows = [np.empty(0, dtype=np.int64)] * n
    if len(known) < 2:
        return rows
    index = PassageIndex.build(vectors[known], known, corpus_hash="")
    for i in range(0, len(known), TOGETHER):
        topics = known[i : i + TOGETHER]
        found = index.search(vectors[topics], k + 1)
        for topic, nearest in zip(topics.tolist(), found, strict=True):
            rows[topic] = nearest[nearest != topic][:k]  # a copy may come before the topic itself
    return rows


def cluster_labels(
    vectors: NDArray[np.float32], training: Iterable[tuple[int, str]], seed: int
) -> list[tuple[str, ...]]:
    """One region label per topic by k-means, for a corpus without labels; named by its words.

    Args:
        training: `(topic, text)` of the training passages; read twice.
    """
    cluster = k_means(vectors, int(np.clip(len(vectors) // 20, 1, 100)), seed)
    names = group_names(_Whole(training, cluster), int(cluster.max()) + 1)
    # A dot would make a region of its own of what stands before it.
    return [(f"cluster.{names[c].replace('.', '_')}",) for c in cluster]


@dataclass(frozen=True)
class _Whole:
    """`(group, text)` of each topic, whose passages stand together."""

    texts: Iterable[tuple[int, str]]
    group: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for topic, own in groupby(self.texts, key=itemgetter(0)):
            yield int(self.group[topic]), "\n".join(text for _, text in own)


def regions_of(labels: Sequence[Sequence[str]]) -> Regions:
    """Topics of every named region: each label of the N topics and every dotted prefix of it."""
    members: dict[str, list[int]] = {}
    names_of: dict[tuple[str, ...], set[str]] = {}  # most topics have the labels of another
    for topic, own in enumerate(map(tuple, labels)):
        names = names_of.get(own)
        if names is None:
            names = names_of[own] = {
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
    own = vectors[candidates]
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
        closest = np.maximum(closest, own @ own[best])
    return candidates[chosen]

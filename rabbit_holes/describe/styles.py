"""How a walk knits its pages together: hunter, busybody or dancer, gaps and compressibility.

Lydon-Staley et al. 2021 (Nat. Hum. Behav. 5, 327) and Zhou et al. 2024 (Sci. Adv. 10, eadn3268)
describe readers by the knowledge network of what they read: a hunter's is tight (clustered), a
busybody's loose (long paths between its pages), a dancer's holds leaps between areas that have
little in common. Here the network of a walk has its distinct pages as nodes and joins two of them
where one was clicked on from the other or links to it; the similarity of two pages is the cosine
of their text vectors. Which style a walk has is judged against random walks over the same world
that saw equally many pages, so that length alone decides nothing.

It describes walks one by one; it compares no groups and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.network_measures import betti_1, compressibility
from rabbit_holes.link_map import LinkMap
from rabbit_holes.path import Path, Visit

if TYPE_CHECKING:
    from kncl_env.world.world import World

Floats = NDArray[np.float64]
Stack = NDArray[np.bool_]

STYLES = ("hunter", "busybody", "dancer")
CAP = 24  # [pages] the measures look at the first so many distinct pages of a walk
SHORTEST = 4  # [pages] a smaller network has no style to speak of
LEAP_SHARE = 0.1  # a leap is less similar than this share of the world's links
REFERENCE_WALKS = 400


@dataclass(frozen=True)
class Landscape:
    """What a walk is held against: the links of a world, its texts, and random walks over it.

    Attributes:
        link_map: Pages and links.
        vectors: Unit vector of each title.
        leap_below: [cosine] a click between pages less similar than this is a leap.
        means: (CAP + 1, 3) clustering, path length and share of leaps of random walks, by number of
            distinct pages; NaN where too few walks got that far.
        deviations: (CAP + 1, 3) their standard deviations.
    """

    link_map: LinkMap
    vectors: dict[str, NDArray[np.float32]]
    leap_below: float
    means: Floats
    deviations: Floats

    @classmethod
    def of_world(cls, world: World, rng: np.random.Generator) -> Landscape:
        """Walk at random over a world to learn what is usual there."""
        link_map = LinkMap.of_world(world)
        vectors = dict(zip(world.titles, world.topic_vectors, strict=True))
        leap_below = leap_threshold(world)
        nothing = np.full((CAP + 1, 3), np.nan)
        blank = cls(link_map, vectors, leap_below, nothing, nothing)
        walks = [_random_walk(world, rng) for _ in range(REFERENCE_WALKS)]
        means, deviations = nothing.copy(), nothing.copy()
        for pages in range(SHORTEST, min(CAP, world.n_topics) + 1):
            seen = describe(
                [cut for walk in walks if (cut := _until(walk, pages))], blank, curves=False
            )
            if len(seen.pages) >= REFERENCE_WALKS // 10:
                rows = seen.style_measures
                means[pages], deviations[pages] = rows.mean(axis=0), rows.std(axis=0)
        return cls(link_map, vectors, leap_below, means, deviations)


@dataclass(frozen=True)
class WalkStyles:
    """Measures of P walks; NaN where a walk is too short or a world is missing.

    Attributes:
        pages: (P,) distinct pages, at most `CAP`.
        clustering: (P,) mean local clustering coefficient (Watts & Strogatz 1998).
        path_length: (P,) mean links between two pages of the network.
        efficiency: (P,) mean of 1 / links between two pages.
        similarity: (P,) mean cosine between a page and the one clicked on from it.
        leaps: (P,) share of clicks that are leaps.
        betti_1: (P, CAP) open gaps after the first, second, … distinct page.
        compressibility: (P, CAP) [bits] likewise.
        style: Name of each walk's style; None where it has none to speak of.
    """

    pages: NDArray[np.int64]
    clustering: Floats
    path_length: Floats
    efficiency: Floats
    similarity: Floats
    leaps: Floats
    betti_1: Floats
    compressibility: Floats
    style: tuple[str | None, ...]

    @property
    def style_measures(self) -> Floats:
        """(P, 3): what speaks for each of `STYLES`."""
        return np.stack([self.clustering, self.path_length, self.leaps], axis=1)


def knowledge_network(path: Path, link_map: LinkMap | None = None) -> tuple[tuple[str, ...], Stack]:
    """Distinct pages in order of first visit, and which of them are joined.

    Args:
        link_map: Where other links between them are looked up; the links that the visits recorded
            as offered count in any case.

    Returns:
        The first n <= CAP titles, and their (n, n) symmetric adjacency without self-links.
    """
    titles = tuple(dict.fromkeys(path.titles))[:CAP]
    place = {title: i for i, title in enumerate(titles)}
    joined = np.zeros((len(titles), len(titles)), dtype=bool)
    all_titles = path.titles
    pairs = [(all_titles[parent], all_titles[child]) for parent, child in path.clicks()]
    pairs += [(visit.title, target) for visit in path.visits for target in visit.offered]
    for source, target in pairs:
        if source in place and target in place:
            joined[place[source], place[target]] = True
    if link_map is not None:
        for source, i in place.items():
            if source in link_map.titles:
                for target in link_map.offered(source) & place.keys():
                    joined[i, place[target]] = True
    joined |= joined.T
    np.fill_diagonal(joined, False)
    return titles, joined


def describe(
    paths: Sequence[Path], landscape: Landscape | None = None, *, curves: bool = True
) -> WalkStyles:
    """Measure every walk.

    Args:
        landscape: The world they walked in; without it similarity, leaps and style are unknown.
        curves: Also compute Betti-1 and compressibility, which costs most.
    """
    link_map = landscape.link_map if landscape else None
    networks = [knowledge_network(path, link_map)[1] for path in paths]
    similarity, leaps = _click_similarity(paths, landscape)
    whole = _per_network(networks, _tightness, width=3)
    pages = np.array([len(network) for network in networks], dtype=np.int64)
    measures = np.column_stack([whole[:, :2], leaps])
    empty = np.full((len(paths), CAP), np.nan)
    return WalkStyles(
        pages,
        whole[:, 0],
        whole[:, 1],
        whole[:, 2],
        similarity,
        leaps,
        _curve(networks, betti_1) if curves else empty,
        _curve(networks, compressibility) if curves else empty,
        _styles(pages, measures, landscape),
    )


def leap_threshold(world: World, share: float = LEAP_SHARE) -> float:
    """The cosine that `share` of the world's links stay below; a random click leaps as often."""
    graph, vectors = world.graph, world.topic_vectors
    sources = np.repeat(np.arange(len(graph)), np.diff(graph.indptr))
    if not len(sources):
        return -1.0
    cosines = np.concatenate(
        [
            np.einsum("ed,ed->e", vectors[sources[at]], vectors[graph.indices[at]])
            for at in np.array_split(np.arange(len(sources)), 1 + len(sources) // 100_000)
        ]
    )
    return float(np.quantile(cosines, share))


def clustering(stack: Stack) -> Floats:
    """(B,) mean local clustering of (B, n, n) graphs; a page with fewer than two links counts 0."""
    links = stack.astype(np.float64)
    degree = links.sum(axis=2)
    triangles = np.einsum("bij,bjk,bki->bi", links, links, links, optimize=True)
    possible = degree * (degree - 1)
    local = np.divide(triangles, possible, out=np.zeros_like(degree), where=possible > 0)
    return local.mean(axis=1)


def distances(stack: Stack) -> Floats:
    """(B, n, n) links between pages of (B, n, n) graphs; infinite where no way leads."""
    n = stack.shape[-1]
    reached = np.broadcast_to(np.eye(n, dtype=bool), stack.shape).copy()
    result = np.where(reached, 0.0, np.inf)
    step = stack.astype(np.float32)
    for distance in range(1, n):
        fresh = ((reached.astype(np.float32) @ step) > 0) & ~reached
        if not fresh.any():
            break
        result[fresh] = distance
        reached |= fresh
    return result


def _tightness(stack: Stack) -> Floats:
    """(B, 3): clustering, path length, efficiency; NaN for a single page."""
    n = stack.shape[-1]
    if n < 2:
        return np.full((len(stack), 3), np.nan)
    apart = distances(stack)[:, ~np.eye(n, dtype=bool)]  # (B, n (n - 1))
    near = np.isfinite(apart)
    joined = near.sum(axis=1)
    total = np.where(near, apart, 0.0).sum(axis=1)
    length = np.divide(total, joined, out=np.full(len(stack), np.nan), where=joined > 0)
    return np.column_stack([clustering(stack), length, (1.0 / apart).mean(axis=1)])


def _per_network(networks: Sequence[Stack], measure: Callable[[Stack], Any], width: int) -> Floats:
    """(P, width): a measure of stacks, applied once to each different network."""
    result = np.full((len(networks), width), np.nan)
    sizes = np.array([len(network) for network in networks], dtype=np.int64)
    for n in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == n).tolist()
        # Walks are short and alike: a thousand walks of four pages know a few dozen networks.
        packed = np.packbits(np.stack([networks[i] for i in rows]).reshape(len(rows), -1), axis=1)
        _, first, which = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        values = np.asarray(measure(np.stack([networks[rows[i]] for i in first.tolist()])))
        result[rows] = values.reshape(len(first), width)[which.reshape(-1)]
    return result


def _curve(networks: Sequence[Stack], measure: Callable[[Stack], Any]) -> Floats:
    curve = np.full((len(networks), CAP), np.nan)
    for n in range(1, CAP + 1):
        rows = [i for i, network in enumerate(networks) if len(network) >= n]
        if rows:
            prefixes = [networks[i][:n, :n] for i in rows]
            curve[rows, n - 1] = _per_network(prefixes, measure, width=1)[:, 0]
    return curve


def _click_similarity(paths: Sequence[Path], landscape: Landscape | None) -> tuple[Floats, Floats]:
    """(P,) mean cosine over the clicks of each walk, and share of leaps among them."""
    mean, leaps = np.full((2, len(paths)), np.nan)
    if landscape is None:
        return mean, leaps
    sources, targets, owner = [], [], []
    for number, path in enumerate(paths):
        for parent, child in path.clicks():
            source = landscape.vectors.get(path.visits[parent].title)
            target = landscape.vectors.get(path.visits[child].title)
            if source is not None and target is not None:
                sources.append(source)
                targets.append(target)
                owner.append(number)
    if owner:
        cosine = np.array([float(a @ b) for a, b in zip(sources, targets, strict=True)])
        count = np.bincount(owner, minlength=len(paths))
        known = count > 0
        total = np.bincount(owner, weights=cosine, minlength=len(paths))
        far = np.bincount(owner, weights=cosine < landscape.leap_below, minlength=len(paths))
        mean[known], leaps[known] = total[known] / count[known], far[known] / count[known]
    return mean, leaps


def _styles(
    pages: NDArray[np.int64], measures: Floats, landscape: Landscape | None
) -> tuple[str | None, ...]:
    """The style whose measure stands out most against random walks that saw as many pages."""
    if landscape is None:
        return (None,) * len(pages)
    # Where random walks never differ, any difference stands out.
    deviation = np.maximum(landscape.deviations, 1e-6)[pages]
    scores = (measures - landscape.means[pages]) / deviation  # (P, 3)
    known = np.isfinite(scores).all(axis=1)
    best = np.where(known, np.nan_to_num(scores, nan=-np.inf).argmax(axis=1), -1)
    return tuple(STYLES[i] if i >= 0 else None for i in best)


def _random_walk(world: World, rng: np.random.Generator) -> list[str]:
    """Titles of a walk that has seen `CAP` pages or all there are, or got stuck, or took long."""
    linking = np.flatnonzero(world.graph.out_degree)
    if not len(linking):
        return []
    walk = [int(rng.choice(linking))]
    seen = set(walk)
    while len(seen) < min(CAP, world.n_topics) and len(walk) < 4 * CAP:
        links = world.graph.out(walk[-1])
        if not len(links):
            break
        walk.append(int(rng.choice(links)))
        seen.add(walk[-1])
    return [world.titles[topic] for topic in walk]


def _until(walk: Sequence[str], pages: int) -> Path | None:
    """The walk up to its `pages`-th distinct page; None where it never got there."""
    seen: set[str] = set()
    for length, title in enumerate(walk, start=1):
        seen.add(title)
        if len(seen) == pages:
            visits = tuple(Visit(t, i - 1 if i else None) for i, t in enumerate(walk[:length]))
            return Path("reference", visits, "world", "random", "none")
    return None

"""The typed topic graph in compressed sparse rows, and the few measures the game needs of it.

It knows topics as integers only: no text, no learner, no reward.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from train_lm.files import replacing

# `link`: a hyperlink of the text; `import`, `base`, `member`: relations that documentation states;
# `similar`: a nearest neighbour in text space, and `mention`: a topic whose title stands in the
# text, where a corpus has no links. Graphs on disk hold the numbers: new types come last.
LINK_TYPES = ("link", "import", "base", "member", "similar", "mention")

TYPES = len(LINK_TYPES)

# Dimensions of `TopicGraph.coordinates`, at most.
COORDINATES = 64

# A graph is nearly empty where topics have fewer links than this on average, or where fewer than
# half of them hang together; nearly complete where more than half of all pairs are linked.
FEW_LINKS = 1.0
MOST_APART, MOST_LINKED = 0.5, 0.5

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class GraphShape:
    """How a graph hangs together; links count in both directions, but for `links` and `density`.

    Attributes:
        topics: N.
        links: Directed links E.
        by_type: Links of each type that occurs.
        density: E as a share of N (N - 1).
        components: Parts without a link between them.
        largest: Share of the topics in the largest part.
        alone: Topics without any link.
        mean_degree: Mean number of topics joined with a topic.
        median_degree: Median of the same.
        most_degree: Greatest of the same.
    """

    topics: int
    links: int
    by_type: dict[str, int]
    density: float
    components: int
    largest: float
    alone: int
    mean_degree: float
    median_degree: float
    most_degree: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self.by_type.items())
        return (
            f"{self.links:,} links{f' ({kinds})' if kinds else ''}, density {self.density:.2g}; "
            f"joined topics: {self.mean_degree:.1f} on average, median {self.median_degree:g}, "
            f"{self.most_degree:,} at most; {self.components:,} "
            f"{'part' if self.components == 1 else 'parts'}, the largest of "
            f"{100 * self.largest:.1f} % of the topics, {self.alone:,} topics alone"
        )

    @property
    def warning(self) -> str:
        """What is wrong with a graph that leaves nothing to choose; empty where it is fine.

        Chen et al. 2023 (Skill-It, arXiv:2307.14430) expect little of a skills graph that is nearly
        empty or nearly complete; so do we.
        """
        pairs = self.mean_degree / max(1, self.topics - 1)
        if self.mean_degree < FEW_LINKS or self.largest < MOST_APART:
            return (
                "the graph is nearly empty: an episode soon finds no frontier; link more topics "
                "(--connect, --neighbours), or bring links of your own"
            )
        if pairs > MOST_LINKED and self.topics > 2:
            return (
                f"the graph is nearly complete ({100 * pairs:.0f} % of all pairs are linked): the "
                "frontier is the world, and its links tell nothing; link fewer topics"
            )
        return ""


class TopicGraph:
    """A directed graph over topics `0..N-1` with one type per edge.

    Args:
        indptr: (N + 1,) CSR row pointers.
        indices: (E,) link targets, in reading order within a row, no repetition, no self-link.
        types: (E,) index into `LINK_TYPES`.
    """

    def __init__(self, indptr: IntArray, indices: IntArray, types: NDArray[np.int8]) -> None:
        if not len(indptr) or indptr[-1] != len(indices) or len(indices) != len(types):
            claimed = indptr[-1] if len(indptr) else "no"
            raise ValueError(
                f"expected {claimed} edges by the row pointers, got {len(indices)} targets and "
                f"{len(types)} types: the graph file is truncated or mixed up"
            )
        self.indptr = np.asarray(indptr, dtype=np.int64)
        self.indices = np.asarray(indices, dtype=np.int64)
        self.types = np.asarray(types, dtype=np.int8)
        self._check()

    def _check(self) -> None:
        n = len(self)
        if self.indptr[0] != 0 or (np.diff(self.indptr) < 0).any():
            raise ValueError("expected row pointers that ascend from 0, got others")
        for name, found, end in (("targets", self.indices, n), ("types", self.types, TYPES)):
            if len(found) and not 0 <= found.min() <= found.max() < end:
                raise ValueError(
                    f"expected {name} of links from 0 to {end - 1}, got {found.min()} to "
                    f"{found.max()}: the graph file is damaged"
                )
        if (self.indices == np.repeat(np.arange(n), np.diff(self.indptr))).any():
            raise ValueError("expected no topic that links to itself, got one")

    @classmethod
    def from_links(cls, n_topics: int, rows: Iterable[Iterable[tuple[int, int]]]) -> TopicGraph:
        """Build from `(target, type index)` of each topic; drops self-links and repeats."""
        indptr = np.zeros(n_topics + 1, dtype=np.int64)
        indices, types = array("q"), array("b")  # a number of Python's takes five times as much
        for topic, row in enumerate(rows):
            seen = {topic}
            for target, kind in row:
                if target not in seen:
                    seen.add(target)
                    indices.append(target)
                    types.append(kind)
            indptr[topic + 1] = len(indices)
        return cls(indptr, np.array(indices, dtype=np.int64), np.array(types, dtype=np.int8))

    def save(self, file: Path) -> None:
        """Write `graph.npz`, whole or not at all."""
        with replacing(file, durable=False) as part, part.open("wb") as stream:
            np.savez(stream, indptr=self.indptr, indices=self.indices, types=self.types)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_edges(self) -> int:
        return len(self.indices)

    def out(self, topic: int) -> IntArray:
        """Topics that `topic` links to, in reading order."""
        return self.indices[self.indptr[topic] : self.indptr[topic + 1]]

    def into(self, topic: int) -> IntArray:
        """Topics that link to `topic`, ascending."""
        indptr, indices = self._transposed
        return indices[indptr[topic] : indptr[topic + 1]]

    def around(self, topic: int) -> IntArray:
        """Topics joined with `topic` by a link in either direction, ascending."""
        indptr, indices = self._undirected
        return indices[indptr[topic] : indptr[topic + 1]]

    def rows(self) -> list[list[tuple[int, int]]]:
        """`(target, type index)` of each topic's links, as `from_links` takes them."""
        links = list(zip(self.indices.tolist(), self.types.tolist(), strict=True))
        ends = self.indptr.tolist()
        return [links[i:j] for i, j in pairwise(ends)]

    def has_edge(self, source: int, target: int) -> bool:
        return bool(np.any(self.out(source) == target))

    @cached_property
    def in_degree(self) -> IntArray:
        return np.bincount(self.indices, minlength=len(self)).astype(np.int64)

    @cached_property
    def out_degree(self) -> IntArray:
        return np.diff(self.indptr)

    @cached_property
    def degree(self) -> IntArray:
        """(N,) number of distinct topics joined by a link in either direction."""
        return np.diff(self._undirected[0])

    @cached_property
    def adjacency(self) -> sparse.csr_array:
        """(N, N) 0/1 matrix of the directed links."""
        data = np.ones(self.n_edges, dtype=np.float64)
        # A copy: sorting would turn the links of the graph itself out of their reading order.
        indices = self.indices.copy()
        matrix = sparse.csr_array((data, indices, self.indptr), shape=(len(self), len(self)))
        matrix.sort_indices()
        return matrix

    @cached_property
    def undirected(self) -> sparse.csr_array:
        """(N, N) symmetric 0/1 matrix."""
        both = self.adjacency + self.adjacency.T
        both.data[:] = 1.0
        result = sparse.csr_array(both)
        result.sort_indices()
        return result

    @cached_property
    def transition(self) -> sparse.csr_array:
        """(N, N) chance that a random surfer on a row's topic follows the link to a column's."""
        matrix = self.adjacency.copy()
        matrix.data /= np.repeat(self.out_degree, self.out_degree)
        return matrix

    @cached_property
    def _transposed(self) -> tuple[IntArray, IntArray]:
        matrix = sparse.csr_array(self.adjacency.T)
        matrix.sort_indices()
        return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)

    @cached_property
    def _undirected(self) -> tuple[IntArray, IntArray]:
        return self.undirected.indptr.astype(np.int64), self.undirected.indices.astype(np.int64)

    @cached_property
    def coordinates(self) -> NDArray[np.float32]:
        """(N, D) unit rows, D <= 64: topics with alike neighbourhoods lie close together.

        The leading eigenvectors of the undirected graph, normalised by degree and scaled by their
        eigenvalues (Belkin & Niyogi 2003); topics without links are zero.
        """
        from scipy.sparse.linalg import eigsh

        n = len(self)
        root = 1.0 / np.sqrt(np.maximum(1, self.degree))
        normal = sparse.csr_array(self.undirected * root[:, None] * root[None, :])
        if n <= 2 * COORDINATES:
            values, vectors = np.linalg.eigh(normal.toarray())
        else:
            # A fixed start: the same coordinates each time.
            start = np.random.default_rng(0).normal(size=n)
            values, vectors = eigsh(normal, k=COORDINATES, which="LM", v0=start)
        largest = np.argsort(-np.abs(values), kind="stable")[:COORDINATES]
        rows = vectors[:, largest] * np.abs(values[largest])
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        length[self.degree == 0] = np.inf
        return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)

    @cached_property
    def pagerank(self) -> FloatArray:
        """(N,) PageRank with damping 0.85 (Page et al. 1999); dangling topics spread evenly."""
        n = len(self)
        out = self.out_degree
        scale = np.divide(1.0, out, out=np.zeros(n), where=out > 0)
        back = sparse.csr_array(self.adjacency.T)
        to = np.repeat(np.arange(n), np.diff(back.indptr))
        dangling = np.flatnonzero(out == 0)
        rank = np.full(n, 1.0 / n)
        for _ in range(100):
            pushed = np.bincount(to, (scale * rank)[back.indices], n)
            moved = 0.85 * (pushed + rank[dangling].sum() / n) + 0.15 / n
            if np.abs(moved - rank).sum() < 1e-10:
                return moved
            rank = moved
        return rank

    def distances(self, sources: Iterable[int]) -> IntArray:
        """(N,) links to cross, in either direction, from the nearest source; -1 if unreachable."""
        distance = np.full(len(self), -1, dtype=np.int64)
        shell = np.unique(np.fromiter(sources, dtype=np.int64))
        distance[shell] = 0
        step = 0
        while len(shell):
            step += 1
            reached = np.unique(self.undirected[shell].indices)
            shell = reached[distance[reached] < 0].astype(np.int64)
            distance[shell] = step
        return distance

    def shape(self) -> GraphShape:
        """Density, parts and degrees."""
        from scipy.sparse.csgraph import connected_components

        n = len(self)
        parts, part = connected_components(self.undirected, directed=False)
        counts = np.bincount(self.types, minlength=TYPES).tolist()
        return GraphShape(
            topics=n,
            links=self.n_edges,
            by_type={kind: k for kind, k in zip(LINK_TYPES, counts, strict=True) if k},
            density=self.n_edges / max(1, n * (n - 1)),
            components=int(parts),
            largest=float(np.bincount(part).max() / n),
            alone=int((self.degree == 0).sum()),
            mean_degree=float(self.degree.mean()),
            median_degree=float(np.median(self.degree)),
            most_degree=int(self.degree.max()),
        )

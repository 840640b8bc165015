"""Two numbers for how curious a network of visited topics is: open gaps, and compressibility.

Information-gap theory (Loewenstein 1994) sees curiosity in gaps that open and close: independent
loops of links that no triangle fills. Compression-progress theory (Schmidhuber 2008) sees it in a
network that becomes easier to sum up. Both are graph functions as Patankar et al. 2023
(arXiv:2307.04962) and Lynn & Bassett 2021 (PNAS 118 e2023473118) define them; this file knows
adjacency matrices only: no topic, no walk, no learner.

Both take one graph (n, n) or a stack of graphs of one size (..., n, n); a stack is far cheaper than
a loop. Any non-zero entry is a link; direction and self-links are ignored. Cost grows as n³ per
graph: about 1 ms at n = 24 within a stack, 5 ms alone, so callers cap n.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

# Cells of the largest array that a stack may need at once; larger stacks are cut.
MEMORY_CELLS = 2**22


def betti_1(adjacency: ArrayLike) -> Any:
    """First Betti number of the clique complex: loops that no filled triangle closes.

    Over GF(2), `b1 = |E| - (|V| - b0) - rank d2`, d2 being the triangle-to-edge boundary.

    Args:
        adjacency: (..., n, n).

    Returns:
        (...) int64; one number for one graph; 0 for a graph without topics.

    Raises:
        ValueError: If the matrix is not square.
    """
    linked = _symmetric(adjacency)
    cores = _collapse(_stacked(linked))
    result = np.array([_betti_1_of_core(core) for core in cores], dtype=np.int64)
    return result.reshape(linked.shape[:-2])[()]


def compressibility(adjacency: ArrayLike) -> Any:
    """Mean information [bits] that the best clusterings at every scale save.

    Self-links are added; a random walker on the graph has entropy rate S(n) [bits per step] when
    its topics are lumped into n clusters. Clusters are merged greedily, always the pair that leaves
    the lowest entropy rate, from n = N to S(1) = 0; compressibility is the mean over n of
    S(N) - S(n). Pairs that tie (within 1e-9 bits) are merged in order of their index.

    Args:
        adjacency: (..., n, n).

    Returns:
        (...) float64; one number for one graph; 0 for fewer than two topics.

    Raises:
        ValueError: If the matrix is not square.
    """
    linked = _symmetric(adjacency)
    n = linked.shape[-1]
    if n < 2:
        return np.zeros(linked.shape[:-2])[()]
    stack = _stacked(linked)
    at_once = max(1, MEMORY_CELLS // n**3)
    bits = [
        _total(_entropy_saved(stack[first : first + at_once])) / n
        for first in range(0, len(stack), at_once)
    ]
    return np.concatenate([*bits, np.zeros(0)]).reshape(linked.shape[:-2])[()]


def _symmetric(adjacency: ArrayLike) -> NDArray[np.bool_]:
    matrix = np.asarray(adjacency) != 0
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"expected square adjacency matrices, got shape {matrix.shape}")
    return matrix | matrix.swapaxes(-1, -2)


def _stacked(linked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(B, n, n) with self-links."""
    n = linked.shape[-1]
    return linked.reshape(math.prod(linked.shape[:-2]), n, n) | np.eye(n, dtype=bool)


def _collapse(stack: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Strong collapse of each clique complex (Barmak & Minian 2012): (B, n, n) with self-links.

    A topic whose closed neighbourhood lies within another's can go without changing any loop.
    Removing, in one go, every topic that is dominated leaves its dominator standing as long as
    twins are ordered by index. Removed topics lose their self-link. Most real graphs vanish.
    """
    stack = stack.copy()
    n = stack.shape[-1]
    earlier = np.arange(n)[None, :] < np.arange(n)[:, None]  # [v, w]: w comes before v
    active = np.arange(len(stack))
    while len(active):
        graphs = stack[active]
        present = graphs.diagonal(axis1=1, axis2=2)
        as_float = graphs.astype(np.float32)
        outside = as_float @ (1.0 - as_float).swapaxes(1, 2)  # (B, v, w): |N[v] \ N[w]|
        within = (outside == 0) & present[:, :, None] & present[:, None, :]
        dominated = (within & (~within.swapaxes(1, 2) | earlier)).any(axis=2)
        graphs &= ~dominated[:, :, None] & ~dominated[:, None, :]
        stack[active] = graphs
        active = active[dominated.any(axis=1)]
    return stack


def _betti_1_of_core(core: NDArray[np.bool_]) -> int:
    present = np.flatnonzero(core.diagonal())
    graph = core[np.ix_(present, present)] & ~np.eye(len(present), dtype=bool)
    rows, columns = np.nonzero(np.triu(graph))
    if not len(rows):
        return 0
    b0, _ = connected_components(graph, directed=False)
    loops = len(rows) - len(present) + int(b0)
    return loops - _rank_of_triangles(graph, rows, columns, at_most=loops)


def _rank_of_triangles(
    graph: NDArray[np.bool_], rows: NDArray[Any], columns: NDArray[Any], at_most: int
) -> int:
    """GF(2) rank of the boundary matrix d2; a column is an integer whose bits are edges."""
    edge = {
        pair: 1 << i for i, pair in enumerate(zip(rows.tolist(), columns.tolist(), strict=True))
    }
    pivots: dict[int, int] = {}
    for i, j in edge:
        for k in np.flatnonzero(graph[i] & graph[j]).tolist():
            if k < j:
                continue
            column = edge[i, j] ^ edge[i, k] ^ edge[j, k]
            while column and (pivot := pivots.get(column.bit_length())) is not None:
                column ^= pivot
            if column:
                pivots[column.bit_length()] = column
                if len(pivots) == at_most:
                    return at_most
    return len(pivots)


def _bits(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p log2 p, 0 at p = 0."""
    return -p * np.log2(p + (p <= 0))


def _joined(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change of entropy when two entries become one."""
    return _bits(p + q) - _bits(p) - _bits(q)


def _total(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the last axis, in one order of addition whatever the size of the stack."""
    return np.ascontiguousarray(values).sum(axis=-1)


def _entropy_saved(stack: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B, N): S(N) - S(n) for n = N, …, 1.

    With F the symmetric matrix of flows π_i P_ij, the entropy rate of a lumped chain is
    H(F) - H(π), so the gain of a merge follows from two rows of F. `shared[a, c]` keeps the sum
    over k of what joining F[a, k] and F[c, k] changes, and is mended after a merge instead of
    recomputed.
    """
    B, N, _ = stack.shape
    each = np.arange(B)
    flow = stack / stack.sum(axis=(1, 2), keepdims=True)
    share = _total(flow)  # (B, n): stationary distribution
    shared = _total(_joined(flow[:, :, None, :], flow[:, None, :, :]))  # (B, n, n)
    saved = np.zeros((B, N))
    for n in range(N, 1, -1):
        own = flow.diagonal(axis1=1, axis2=2)
        within = own[:, :, None] + own[:, None, :] + 2 * flow
        own_bits = _bits(own)
        to_self = _joined(own[:, :, None], flow)
        change = (
            2 * (shared - to_self - to_self.swapaxes(1, 2))
            + (_bits(within) - own_bits[:, :, None] - own_bits[:, None, :] - 2 * _bits(flow))
            - _joined(share[:, :, None], share[:, None, :])
        )
        # Rounded, or floating-point noise would decide between equals.
        first, second = np.triu_indices(n, k=1)
        choice = np.round(change[:, first, second], 9).argmin(axis=1)
        a, c = first[choice], second[choice]
        saved[:, N - n + 1] = saved[:, N - n] - change[each, a, c]

        row_a, row_c = flow[each, a], flow[each, c]  # (B, n)
        shared -= _joined(row_a[:, :, None], row_a[:, None, :])
        shared -= _joined(row_c[:, :, None], row_c[:, None, :])
        merged = row_a + row_c
        merged[each, a] += merged[each, c]
        flow[each, a] = flow[each, :, a] = merged
        share[each, a] += share[each, c]

        kept = np.arange(n - 1)[None, :] + (np.arange(n - 1)[None, :] >= c[:, None])  # all but c
        merged = np.take_along_axis(merged, kept, axis=1)
        share = np.take_along_axis(share, kept, axis=1)
        square = each[:, None, None], kept[:, :, None], kept[:, None, :]
        flow, shared = flow[square], shared[square]
        shared += _joined(merged[:, :, None], merged[:, None, :])
        with_merged = _total(_joined(flow, merged[:, None, :]))  # (B, n - 1)
        shared[each, a] = shared[each, :, a] = with_merged
    return saved

"""The two measures against values computed by hand and by plain, slow references."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kncl_env.network_measures import betti_1, compressibility


def graph(n: int, edges: object) -> NDArray[np.int64]:
    adjacency = np.zeros((n, n), dtype=np.int64)
    for i, j in edges:  # type: ignore[attr-defined]
        adjacency[i, j] = 1
    return adjacency


def cycle(n: int) -> NDArray[np.int64]:
    return graph(n, [(i, (i + 1) % n) for i in range(n)])


# Graph, b1, compressibility to 4 decimals.
ORACLE = {
    "P2": (graph(2, [(0, 1)]), 0, 0.5000),
    "P4": (graph(4, [(0, 1), (1, 2), (2, 3)]), 0, 0.5954),
    "C4": (cycle(4), 1, 0.6751),
    "star on 4": (graph(4, [(0, 1), (0, 2), (0, 3)]), 0, 0.6035),
    "octahedron": (graph(6, [p for p in combinations(range(6), 2) if p[1] - p[0] != 3]), 0, 1.0098),
    "C5": (cycle(5), 1, 0.5999),
    "K3,3": (graph(6, [(i, j) for i in range(3) for j in range(3, 6)]), 4, 0.8409),
    "two triangles and a bridge": (
        graph(6, [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]), 0, 0.8192,
    ),
    "K4": (graph(4, combinations(range(4), 2)), 0, 0.9222),
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLE)
def test_the_measures_match_the_known_values_to_four_decimals(name: str) -> None:
    adjacency, b1, bits = ORACLE[name]
    assert betti_1(adjacency) == b1
    assert round(float(compressibility(adjacency)), 4) == bits


def slow_betti_1(adjacency: NDArray[np.bool_]) -> int:
    """dim ker d1 - rank d2 by plain elimination over GF(2), no collapse."""
    n = len(adjacency)
    edges = [pair for pair in combinations(range(n), 2) if adjacency[pair]]
    triangles = [
        t for t in combinations(range(n), 3) if all(adjacency[p] for p in combinations(t, 2))
    ]
    d1 = np.zeros((n, len(edges)), dtype=bool)
    for column, pair in enumerate(edges):
        d1[list(pair), column] = True
    d2 = np.zeros((len(edges), len(triangles)), dtype=bool)
    for column, triangle in enumerate(triangles):
        d2[[edges.index(pair) for pair in combinations(triangle, 2)], column] = True
    return len(edges) - slow_rank(d1) - slow_rank(d2)


def slow_rank(matrix: NDArray[np.bool_]) -> int:
    matrix = matrix.copy()
    rank = 0
    for column in range(matrix.shape[1]):
        rows = np.flatnonzero(matrix[rank:, column]) + rank
        if len(rows):
            matrix[[rank, rows[0]]] = matrix[[rows[0], rank]]
            for row in np.flatnonzero(matrix[:, column]):
                if row != rank:
                    matrix[row] ^= matrix[rank]
            rank += 1
    return rank


def slow_compressibility(adjacency: NDArray[np.bool_]) -> float:
    """Every merge tried and its entropy rate computed from the lumped chain itself."""
    weights = (adjacency | np.eye(len(adjacency), dtype=bool)).astype(float)

    def entropy_rate(clusters: list[list[int]]) -> float:
        flow = np.array([[weights[np.ix_(a, b)].sum() for b in clusters] for a in clusters])
        share = flow.sum(axis=1)
        step = flow / share[:, None]
        bits = np.where(step > 0, -step * np.log2(np.where(step > 0, step, 1)), 0)
        return float((share / share.sum()) @ bits.sum(axis=1))

    clusters = [[i] for i in range(len(adjacency))]
    rates = [entropy_rate(clusters)]
    while len(clusters) > 1:
        options = [
            [*[c for k, c in enumerate(clusters) if k not in (i, j)], clusters[i] + clusters[j]]
            for i, j in combinations(range(len(clusters)), 2)
        ]
        clusters = min(options, key=entropy_rate)
        rates.append(entropy_rate(clusters))
    return float(np.mean(rates[0] - np.array(rates)))


@st.composite
def random_graphs(draw: st.DrawFn, size: int) -> NDArray[np.bool_]:
    n = draw(st.integers(1, size))
    density = draw(st.sampled_from([0.2, 0.4, 0.6, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    upper = np.triu(rng.random((n, n)) < density, k=1)
    return upper | upper.T


@given(random_graphs(size=11))
@settings(max_examples=80, deadline=None)
def test_betti_1_equals_plain_elimination(adjacency: NDArray[np.bool_]) -> None:
    assert betti_1(adjacency) == slow_betti_1(adjacency)


def test_compressibility_equals_trying_every_merge_where_no_two_merges_tie() -> None:
    # Weighted by nothing, small graphs often tie; with ties any greedy order is right.
    rng = np.random.default_rng(7)
    agree = 0
    for _ in range(40):
        n = int(rng.integers(2, 8))
        upper = np.triu(rng.random((n, n)) < 0.5, k=1)
        fast = float(compressibility(upper | upper.T))
        agree += abs(fast - slow_compressibility(upper | upper.T)) < 1e-9
        assert -1e-12 <= fast <= np.log2(n)
    assert agree >= 36


@given(random_graphs(size=9))
@settings(max_examples=40, deadline=None)
def test_a_topic_linked_to_everything_fills_every_gap(adjacency: NDArray[np.bool_]) -> None:
    cone = np.pad(adjacency, (0, 1), constant_values=True)
    assert betti_1(cone) == 0


@given(random_graphs(size=7), random_graphs(size=7), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_gaps_of_separate_parts_add_whatever_the_order_of_topics(a, b, random) -> None:
    both = np.zeros((len(a) + len(b),) * 2, dtype=bool)
    both[: len(a), : len(a)] = a
    both[len(a) :, len(a) :] = b
    order = list(range(len(both)))
    random.shuffle(order)
    assert betti_1(both[np.ix_(order, order)]) == betti_1(a) + betti_1(b)


def test_a_stack_gives_what_its_graphs_give_one_by_one() -> None:
    rng = np.random.default_rng(3)
    stack = rng.random((3, 4, 13, 13)) < 0.2
    for measure in (betti_1, compressibility):
        one_by_one = np.array([[measure(graph) for graph in row] for row in stack])
        np.testing.assert_array_equal(measure(stack), one_by_one)


@pytest.mark.parametrize("measure", [betti_1, compressibility])
def test_direction_weights_and_self_links_do_not_matter(measure) -> None:
    rng = np.random.default_rng(4)
    adjacency = (rng.random((8, 8)) < 0.25).astype(float)
    both_ways = 5.0 * (adjacency + adjacency.T) + np.eye(8)
    assert measure(adjacency) == measure(both_ways)


@pytest.mark.parametrize("measure", [betti_1, compressibility])
def test_fewer_than_two_topics_hold_nothing(measure) -> None:
    assert measure(np.zeros((0, 0))) == 0
    assert measure(np.ones((1, 1))) == 0
    assert measure(np.zeros((0, 5, 5))).shape == (0,)


@pytest.mark.parametrize("measure", [betti_1, compressibility])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 3, 2)])
def test_a_matrix_that_is_not_square_is_refused(measure, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="square"):
        measure(np.zeros(shape))


def test_the_input_is_left_as_it_was() -> None:
    adjacency = cycle(6)
    before = adjacency.copy()
    betti_1(adjacency)
    compressibility(adjacency)
    np.testing.assert_array_equal(adjacency, before)

"""The graph's measures against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import ring

from kncl_env.world.graph import TopicGraph


def test_links_keep_their_order_and_lose_repeats_and_self_links() -> None:
    graph = TopicGraph.from_links(3, [[(2, 0), (0, 0), (1, 1), (2, 1)], [], [(0, 0)]])
    assert graph.out(0).tolist() == [2, 1]
    assert graph.types.tolist() == [0, 1, 0]
    assert graph.into(0).tolist() == [2]
    assert graph.around(0).tolist() == [1, 2]
    assert graph.in_degree.tolist() == [1, 1, 1]
    assert graph.degree.tolist() == [2, 1, 1]
    assert graph.has_edge(0, 2)
    assert not graph.has_edge(1, 0)


def test_pagerank_against_networkx() -> None:
    import networkx as nx

    rng = np.random.default_rng(0)
    rows = [[(int(t), 0) for t in rng.choice(30, rng.integers(0, 6))] for _ in range(30)]
    graph = TopicGraph.from_links(30, rows)
    reference = nx.DiGraph()
    reference.add_nodes_from(range(30))
    reference.add_edges_from((i, int(t)) for i in range(30) for t in graph.out(i))
    expected = nx.pagerank(reference, alpha=0.85, tol=1e-12, max_iter=500)
    assert graph.pagerank == pytest.approx([expected[i] for i in range(30)], abs=1e-8)
    assert graph.pagerank.sum() == pytest.approx(1.0)


def test_distances_count_links_in_either_direction() -> None:
    assert ring(10).distances([0]).tolist() == [0, 1, 1, 2, 2, 3, 2, 2, 1, 1]
    apart = TopicGraph.from_links(4, [[(1, 0)], [], [(3, 0)], []])
    assert apart.distances([1]).tolist() == [1, 0, -1, -1]


def test_a_truncated_graph_is_refused() -> None:
    graph = ring(5)
    with pytest.raises(ValueError, match="expected 10 edges by the row pointers, got 9"):
        TopicGraph(graph.indptr, graph.indices[:-1], graph.types[:-1])


def test_links_stay_in_reading_order_whatever_is_computed_of_the_graph() -> None:
    graph = TopicGraph.from_links(4, [[(3, 0), (1, 0), (2, 0)], [(0, 0)], [(1, 0), (0, 0)], []])
    assert graph.coordinates.shape == (4, 4)
    assert graph.pagerank.sum() == pytest.approx(1)
    assert graph.transition.shape == graph.undirected.shape
    assert graph.out(0).tolist() == [3, 1, 2]
    assert graph.out(2).tolist() == [1, 0]

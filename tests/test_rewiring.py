"""A rewired world: the same degrees, few of the same links, and all else as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import ring

from kncl_env.cli import main
from kncl_env.world.graph import TopicGraph
from kncl_env.world.leaks import faults
from kncl_env.world.rewiring import kept, rewired
from kncl_env.world.world import World


def a_graph(n: int = 120, seed: int = 0) -> TopicGraph:
    """Links of uneven degrees, of three types, a third of them answered."""
    rng = np.random.default_rng(seed)
    popular = rng.integers(1, 6, n).astype(float)
    rows: list[list[tuple[int, int]]] = [
        [
            (int(t), int(rng.integers(3)))
            for t in rng.choice(n, rng.integers(1, 9), p=popular / popular.sum())
        ]
        for _ in range(n)
    ]
    for topic in range(n):
        for target, kind in list(rows[topic]):
            if rng.random() < 0.3:
                rows[target].append((topic, kind))
    return TopicGraph.from_links(n, rows)


def answered(graph: TopicGraph) -> np.ndarray:
    """(N,) links of each topic that are answered by one back."""
    back = graph.adjacency.multiply(graph.adjacency.T)
    return np.asarray(back.sum(1)).ravel()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_degree_is_exactly_as_it_was_and_few_links_are(seed: int) -> None:
    graph = a_graph()
    other = rewired(graph, seed)  # refuses self-links itself
    assert np.array_equal(other.out_degree, graph.out_degree)
    assert np.array_equal(other.in_degree, graph.in_degree)
    assert np.array_equal(other.degree, graph.degree)
    assert np.array_equal(answered(other), answered(graph))
    assert answered(graph).sum() > 50
    assert np.array_equal(other.types, graph.types)
    for topic in range(len(graph)):
        assert len(set(other.out(topic).tolist())) == len(other.out(topic))
    # By chance two topics of degrees a and b are joined in about a * b / 2E of the copies.
    degree = graph.degree / np.sqrt(graph.degree.sum())
    source = np.repeat(np.arange(len(graph)), graph.out_degree)
    chance = np.minimum(1, degree[source] * degree[graph.indices]).mean()
    assert kept(graph, other) < 1.5 * chance
    assert kept(graph, graph) == 1


def test_the_same_seed_gives_the_same_links_and_another_seed_others() -> None:
    graph = a_graph()
    assert np.array_equal(rewired(graph, 5).indices, rewired(graph, 5).indices)
    assert not np.array_equal(rewired(graph, 5).indices, rewired(graph, 6).indices)


@pytest.mark.parametrize(
    "graph",
    [
        TopicGraph.from_links(3, [[(1, 0)], [(2, 0)], []]),
        TopicGraph.from_links(5, [[(j, 0) for j in range(5) if j != i] for i in range(5)]),
        TopicGraph.from_links(4, [[], [], [], []]),
    ],
)
def test_a_graph_that_is_too_small_or_too_dense_is_refused(graph: TopicGraph) -> None:
    with pytest.raises(ValueError, match="too small or too dense to rewire"):
        rewired(graph, 0)


def test_a_ring_that_can_be_rewired_is() -> None:
    assert kept(ring(40), rewired(ring(40), 0)) < 0.3


def test_a_rewired_world_is_whole_and_differs_by_its_links_alone(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rewired"
    assert main(["rewire", str(small_world.path), "--out", str(out), "--seed", "3"]) == 0
    assert "of 120 links" in capsys.readouterr().out
    world = World.open(out)
    assert faults(world) == []
    assert world.hash != small_world.hash
    assert world.corpus_hash == small_world.corpus_hash
    assert world.card["rewired"]["of"] == small_world.hash
    assert np.array_equal(world.graph.in_degree, small_world.graph.in_degree)
    assert world.card["graph"] == world.graph.shape().to_json()
    files = {
        name
        for name in world.card["files"]
        if world.card["files"][name] != small_world.card["files"][name]
    }
    assert files == {"graph.npz"}
    assert np.array_equal(world.target_topics(), small_world.target_topics())
    again = tmp_path / "again"
    assert main(["rewire", str(small_world.path), "--out", str(again), "--seed", "3"]) == 0
    assert World.open(again).hash == world.hash
    assert (again / "world.json").read_bytes() == (out / "world.json").read_bytes()
    assert main(["rewire", str(small_world.path), "--out", str(again)]) == 2
    assert main(["rewire", str(small_world.path), "--out", str(small_world.path), "--force"]) == 2
    assert "inputs outside of" in capsys.readouterr().err

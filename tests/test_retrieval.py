"""Retrieval: exact, bound to its corpus, wide enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kncl_env import retrieval
from kncl_env.retrieval import NeighbourhoodRetriever, nearest_passages
from kncl_env.world import index as door
from kncl_env.world.index import PassageIndex
from kncl_env.world.world import World
from rabbit_holes.walkers.over_world import WALKERS, simulate
from train_lm.checked.rows import RowFile


def unit(n: int, d: int, seed: int) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_search_agrees_with_a_plain_product(tmp_path: Path) -> None:
    vectors, queries = unit(500, 16, 0), unit(7, 16, 1)
    passages = np.arange(1000, 1500)
    index = PassageIndex.build(vectors, passages, "abc")
    index.save(tmp_path)
    index = PassageIndex.open(tmp_path, "abc")
    expected = passages[np.argsort(-(queries @ vectors.T), axis=1)[:, :10]]
    assert np.array_equal(index.search(queries, 10), expected)
    assert index.search(queries, 9999).shape == (7, 500)


def test_an_inverted_file_finds_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit(3000, 16, 0), unit(5, 16, 1)
    exact = PassageIndex.build(vectors, np.arange(3000), "abc")
    for limit in ("EXACT", "EXACT_PAIRS"):
        monkeypatch.setattr(door, limit, 100)
    monkeypatch.setattr(door, "PROBED", (1,))
    coarse = PassageIndex.build(vectors, np.arange(3000), "abc")
    assert np.allclose(coarse.vectors(), vectors, atol=1e-2)  # of a byte each
    few = coarse.search(queries, 5)
    assert few.shape == (5, 5)
    assert (few == exact.search(queries, 5)).mean() < 1  # it does not look everywhere
    for k in (500, 2900, 9999):  # one cell holds about fourteen
        found = coarse.search(queries, k)
        assert found.shape == (5, min(k, 3000))
        assert all(len(set(row)) == len(row) for row in found.tolist())
    assert coarse.made_as is not None
    assert coarse.made_as["cells_searched"] == 1
    assert coarse.made_as["recall_at_10"] < 0.9
    assert not coarse.made_as["finds_enough"]


def test_an_inverted_file_looks_into_as_many_cells_as_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors, queries = unit(3000, 16, 0), unit(200, 16, 1)
    exact = PassageIndex.build(vectors, np.arange(3000), "abc")
    monkeypatch.setattr(door, "EXACT", 100)
    monkeypatch.setattr(door, "RECALL", {10: 0.96, 100: 0.95})
    np.save(tmp_path / "rows.npy", vectors)
    monkeypatch.setattr(door, "ADDED", 700)
    index = PassageIndex.build(RowFile(tmp_path / "rows.npy"), np.arange(3000), "abc", queries)
    index.save(tmp_path)
    opened = PassageIndex.open(tmp_path, "abc", 16, 3000)
    assert opened.made_as == index.made_as
    assert opened.made_as is not None
    assert 1 < opened.made_as["cells_searched"] < 219  # of all 219
    wanted, found = exact.search(queries, 10), opened.search(queries, 10)
    share = np.mean([len(set(a) & set(b)) for a, b in zip(wanted, found, strict=True)]) / 10
    assert share == pytest.approx(opened.made_as["recall_at_10"], abs=0.01)
    assert share >= 0.96
    wanted, found = exact.search(queries, 100), opened.search(queries, 100)
    share = np.mean([len(set(a) & set(b)) for a, b in zip(wanted, found, strict=True)]) / 100
    assert share == pytest.approx(opened.made_as["recall_at_100"], abs=0.01)
    assert share >= 0.95
    assert opened.made_as["finds_enough"]
    again = PassageIndex.build(vectors, np.arange(3000), "abc", queries)
    (tmp_path / "again").mkdir()
    again.save(tmp_path / "again")
    first = (tmp_path / "passages.faiss").read_bytes()
    assert (tmp_path / "again/passages.faiss").read_bytes() == first


def test_the_trial_takes_the_quickest_cells_and_list_that_find_enough_else_what_finds_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crowds whose order short codes cannot tell: a longer list finds it, more cells do not."""
    centres, noise = unit(40, 16, 1), np.random.default_rng(0).normal(size=(4000, 16))
    crowds = np.repeat(centres, 100, axis=0) + 0.05 * noise
    vectors = (crowds / np.linalg.norm(crowds, axis=1, keepdims=True)).astype(np.float32)
    plain = PassageIndex.build(vectors, np.arange(4000), "abc").search(centres, 10)
    monkeypatch.setattr(door, "EXACT", 100)
    monkeypatch.setattr(door, "RECALL", {10: 0.96})
    told = {}
    for listed in ((50,), (50, 100, 200)):
        monkeypatch.setattr(door, "LISTED", listed)
        index = PassageIndex.build(vectors, np.arange(4000), "abc", centres)
        assert index.made_as is not None
        told[listed] = index.made_as
        found = zip(index.search(centres, 10), plain, strict=True)
        share = float(np.mean([len(set(a) & set(b)) for a, b in found])) / 10
        assert share == pytest.approx(index.made_as["recall_at_10"], abs=1e-4)
    enough, most = told[50, 100, 200], told[(50,)]
    assert (enough["cells_searched"], enough["listed"]) == (16, 100)
    assert enough["recall_at_10"] >= 0.96
    assert (enough["finds_enough"], most["finds_enough"]) == (True, False)
    assert most["cells_searched"] > 16
    assert most["listed"] == 50
    assert 0.7 < most["recall_at_10"] < 0.96


def test_copies_that_are_as_near_as_the_nearest_are_all_true() -> None:
    vectors = unit(300, 16, 0)
    vectors[100:120] = vectors[0]  # 21 of a kind, more than are asked for
    vectors[200:] = -vectors[:100]
    true = door._nearest(vectors, vectors[:1], (10, 200))
    assert true[10].tolist() == [0, *range(100, 120)]
    plain = np.argsort(-(vectors @ vectors[0]), kind="stable")[:200]
    assert true[200].tolist() == sorted(plain.tolist())
    rows = np.array([[119, 100, 0, 5, -1]])
    assert door._is_true(rows, 300, true[10]).tolist() == [[True, True, True, False, False]]


def test_a_copy_is_the_nearest_other_in_an_inverted_file_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = unit(2000, 16, 0)
    vectors[1500:] = vectors[:500]
    index = PassageIndex.build(vectors, np.arange(3, 2003), "abc")
    exact = index.nearest_other(2010)
    assert exact[3:503] == pytest.approx(1, abs=1e-6)
    assert not exact[:3].any()
    assert not exact[2003:].any()
    monkeypatch.setattr(door, "EXACT_PAIRS", 100)
    found = index.nearest_other(2010)
    assert found[3:503] == pytest.approx(1, abs=1e-6)
    assert (found <= exact + 1e-6).all()
    assert np.mean(np.isclose(found, exact, atol=1e-6)) > 0.8


def test_a_neighbourhood_holds_the_own_text_and_the_nearest_of_the_rest(
    small_world: World,
) -> None:
    retriever = NeighbourhoodRetriever(small_world, breadth=60)
    found = retriever.neighbourhood(5)
    assert len(found) == 60
    assert set(retriever.own(5)) <= set(found)
    assert (small_world.passage_split[found] == 0).all()
    # Regions have vocabularies of their own, so what is near is of the same region.
    region = small_world.passage_topic[found] // 10
    assert (region == 0).mean() > 0.9


def test_a_breadth_below_one_is_refused(small_world: World) -> None:
    with pytest.raises(ValueError, match="at least one passage, got 0"):
        NeighbourhoodRetriever(small_world, breadth=0)


@pytest.mark.parametrize("walker", WALKERS)
def test_simulated_walkers_follow_links_and_never_revisit(small_world: World, walker: str) -> None:
    rng = np.random.default_rng(0)
    paths = list(simulate(small_world, walker, 50, 6, rng))
    assert len({p.id for p in paths}) == 50
    for path in paths:
        topics = [small_world.topic_of(v.title) for v in path.visits]
        assert len(set(topics)) == len(topics)
        for a, b in path.clicks():
            assert small_world.graph.has_edge(topics[a], topics[b])


def test_a_wayfinder_finds_its_goal_more_often_than_a_random_walker(small_world: World) -> None:
    reached = {}
    for walker in ("random", "wayfinder"):
        rng = np.random.default_rng(1)
        paths = list(simulate(small_world, "wayfinder", 200, 8, rng))
        if walker == "random":
            walks = list(simulate(small_world, "random", 200, 8, np.random.default_rng(1)))
            goals = [p.goal for p in paths]
            reached[walker] = sum(
                g in {v.title for v in w.visits} for g, w in zip(goals, walks, strict=True)
            )
        else:
            reached[walker] = sum(p.status == "finished" for p in paths)
    assert reached["wayfinder"] > reached["random"] + 20


@pytest.mark.parametrize("n", [1, 4, 10**6])
def test_the_nearest_passages_of_topics_are_as_many_as_bring_so_many_windows(
    n: int, small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "AT_ONCE", 2)
    topics, store = np.arange(0, 40, 8), small_world.windows(32)
    near = small_world.index.vectors() @ small_world.topic_vectors[topics].T
    order = small_world.index.passages[np.argsort(-near, axis=0, kind="stable")]
    wanted = np.unique(order[:n])
    windows = len(store.windows_of(wanted)) + (n > len(order))
    assert nearest_passages(small_world, topics, windows, store).tolist() == wanted.tolist()

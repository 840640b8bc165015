"""Styles of walks: networks with a known shape, and what random walks are for."""

import numpy as np
import pytest
from rabbit_hole_fakes import TITLES, FakeWorld, walk_of

from kncl_env.network_measures import betti_1, compressibility
from rabbit_holes.describe.styles import (
    CAP,
    Landscape,
    clustering,
    describe,
    distances,
    knowledge_network,
    leap_threshold,
)
from rabbit_holes.path import Path, Visit

TRIANGLE = np.ones((3, 3), dtype=bool) & ~np.eye(3, dtype=bool)
CHAIN = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
# A triangle with a page hanging on it: local clustering 1, 1, 1/3 and 0.
PAN = np.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]], dtype=bool)


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape.of_world(FakeWorld(), np.random.default_rng(0))  # type: ignore[arg-type]


def test_clustering_has_its_known_values() -> None:
    np.testing.assert_allclose(clustering(np.stack([TRIANGLE, CHAIN])), [1.0, 0.0])
    np.testing.assert_allclose(clustering(PAN[None]), [(1 + 1 + 1 / 3 + 0) / 4])


def test_distances_are_the_fewest_links_and_infinite_where_no_way_leads() -> None:
    expected = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    np.testing.assert_array_equal(distances(CHAIN[None])[0], expected)
    apart = distances(np.zeros((1, 2, 2), dtype=bool))[0]
    np.testing.assert_array_equal(apart, [[0, np.inf], [np.inf, 0]])


def test_a_network_joins_pages_by_clicks_by_offered_links_and_by_the_world() -> None:
    visits = (Visit("Ant", None), Visit("Hen", 0, offered=("Ibis", "Zebu")), Visit("Ibis", 0))
    path = Path("w", visits, "test", "person", "CC0")
    titles, joined = knowledge_network(path)
    assert titles == ("Ant", "Hen", "Ibis")
    np.testing.assert_array_equal(joined, TRIANGLE)

    chain = walk_of("Ant", "Bee", "Cat")  # Ant links to Cat in the world
    np.testing.assert_array_equal(knowledge_network(chain)[1], CHAIN)
    world = Landscape.of_world(FakeWorld(), np.random.default_rng(0)).link_map  # type: ignore[arg-type]
    np.testing.assert_array_equal(knowledge_network(chain, world)[1], TRIANGLE)


def test_a_page_seen_twice_is_one_page_and_pages_beyond_the_cap_are_left_out() -> None:
    titles, joined = knowledge_network(walk_of("A", "B", "A", "C"))
    assert titles == ("A", "B", "C")
    assert not joined.diagonal().any()
    titles, joined = knowledge_network(walk_of(*(f"P{i}" for i in range(CAP + 9))))
    assert joined.shape == (CAP, CAP)
    assert titles[-1] == f"P{CAP - 1}"


def test_a_chain_without_a_world_has_its_known_measures() -> None:
    styles = describe([walk_of("A", "B", "C"), walk_of("A"), walk_of("A", "B")])
    np.testing.assert_array_equal(styles.pages, [3, 1, 2])
    np.testing.assert_allclose(styles.path_length, [4 / 3, np.nan, 1.0])
    np.testing.assert_allclose(styles.efficiency, [2.5 / 3, np.nan, 1.0])
    np.testing.assert_allclose(styles.clustering, [0.0, np.nan, 0.0])
    assert np.isnan(styles.similarity).all()
    assert np.isnan(styles.leaps).all()
    assert styles.style == (None, None, None)


def test_curves_follow_the_network_as_it_grows_and_end_with_it() -> None:
    # A ring of five pages: the gap opens with the last page.
    ring = Path(
        "w", (*walk_of("A", "B", "C", "D").visits, Visit("E", 3, offered=("A",))), "t", "p", "CC0"
    )
    styles = describe([ring, walk_of("A", "B")])
    joined = knowledge_network(ring)[1]
    np.testing.assert_array_equal(styles.betti_1[0, :5], [0, 0, 0, 0, 1])
    expected = [compressibility(joined[:n, :n]) for n in range(1, 6)]
    np.testing.assert_allclose(styles.compressibility[0, :5], expected)
    assert np.isnan(styles.betti_1[0, 5:]).all()
    np.testing.assert_array_equal(np.isfinite(styles.betti_1[1]), np.arange(CAP) < 2)


def test_many_walks_at_once_give_what_each_gives_alone(landscape: Landscape) -> None:
    rng = np.random.default_rng(5)
    paths = [
        walk_of(*rng.choice(TITLES, size=rng.integers(1, 9)).tolist(), id=str(i)) for i in range(60)
    ]
    together = describe(paths, landscape)
    for i, path in enumerate(paths):
        alone = describe([path], landscape)
        for name in ("clustering", "path_length", "similarity", "leaps", "betti_1"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i])
        assert alone.style[0] == together.style[i]
        assert (
            betti_1(knowledge_network(path, landscape.link_map)[1])
            == (together.betti_1[i, together.pages[i] - 1])
        )


def test_a_leap_is_a_click_less_similar_than_nine_of_ten_links(landscape: Landscape) -> None:
    # A third of the links lead to the opposite side, where the cosine is -1.
    assert leap_threshold(FakeWorld()) == pytest.approx(-1.0, abs=1e-6)  # type: ignore[arg-type]
    assert leap_threshold(FakeWorld(), share=0.9) > 0.7  # type: ignore[arg-type]
    near = Landscape(
        landscape.link_map, landscape.vectors, 0.0, landscape.means, landscape.deviations
    )
    styles = describe([walk_of("Ant", "Bee", "Gnu"), walk_of("Ant", "Zebu")], near)
    np.testing.assert_allclose(styles.leaps, [0.5, np.nan])
    cosines = [np.cos(2 * np.pi / 10), -1.0]
    np.testing.assert_allclose(styles.similarity[0], np.mean(cosines), rtol=1e-5)


def test_the_style_is_what_stands_out_against_random_walks() -> None:
    blank = Landscape.of_world(FakeWorld(), np.random.default_rng(0))  # type: ignore[arg-type]
    means = np.tile([0.5, 1.5, 0.2], (CAP + 1, 1))
    reference = Landscape(
        blank.link_map, blank.vectors, -0.5, means, np.tile([0.2, 0.2, 0.2], (CAP + 1, 1))
    )
    walks = [
        walk_of("Ant", "Bee", "Cat", "Dog"),  # tight
        walk_of("Ant", "Fox", "Bee", "Gnu"),  # every other click leads to the other side
        walk_of("Ant", "Cat", "Elk", "Gnu"),  # a chain
    ]
    assert describe(walks, reference).style == ("hunter", "dancer", "busybody")


def test_short_walks_and_sizes_no_random_walk_reached_have_no_style(landscape: Landscape) -> None:
    short = walk_of("Ant", "Bee", "Cat")
    assert describe([short], landscape).style == (None,)
    assert np.isnan(landscape.means[11:]).all(), "the fake world has ten pages"
    assert np.isfinite(landscape.means[4:9]).all()


def test_the_same_seed_gives_the_same_reference() -> None:
    first, second, other = (
        Landscape.of_world(FakeWorld(), np.random.default_rng(seed))  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.means, second.means)
    assert not np.array_equal(first.means, other.means, equal_nan=True)

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from rabbit_holes.path import Visit
from rabbit_holes.walkers.walkers import (
    LmWalker,
    MarkovWalker,
    RandomWalker,
    SimilarWalker,
    Walker,
    WalkState,
    hashed_tfidf,
    next_click,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def chain(*titles: str, offered: tuple[str, ...] = ()) -> list[Visit]:
    """A chain of visits; every page offers the same links."""
    return [
        Visit(title, None if i == 0 else i - 1, offered=offered) for i, title in enumerate(titles)
    ]


def state(*titles: str) -> WalkState:
    return WalkState(tuple(chain(*titles)), len(titles) - 1)


def draws(walker: Walker, at: WalkState, offered: Sequence[str], n: int = 400) -> Counter[str]:
    generator = rng()
    return Counter(str(walker.choose(at, offered, generator)) for _ in range(n))


class Scripted:
    """Picks what the script says, None included; falls back to the first link."""

    name = "scripted"

    def __init__(self, *script: str | None) -> None:
        self.script = list(script)
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        self.seen.append((state.page.title, tuple(offered)))
        return self.script.pop(0) if self.script else offered[0]


def test_random_walker_picks_every_link_about_equally_often() -> None:
    counts = draws(RandomWalker(), state("A"), ["B", "C", "D", "E"], n=2000)
    assert set(counts) == {"B", "C", "D", "E"}
    assert max(counts.values()) - min(counts.values()) < 150


def test_a_walker_never_goes_back_from_the_root() -> None:
    assert "None" not in draws(RandomWalker(back=0.9), state("A"), ["B"])
    assert draws(RandomWalker(back=0.9), state("A", "B"), ["C"])["None"] > 300


def test_equal_generators_make_equal_choices() -> None:
    walkers: list[Walker] = [
        RandomWalker(0.3),
        SimilarWalker(hashed_tfidf, back=0.3),
        MarkovWalker({"B": {"C": 3}}, back=0.3),
        LmWalker(lambda trail, options: np.zeros(len(options)), "m", back=0.3),
    ]
    for walker in walkers:
        assert draws(walker, state("A", "B"), ["C", "D"]) == draws(
            walker, state("A", "B"), ["C", "D"]
        )


def test_similar_walker_prefers_a_link_near_the_open_page() -> None:
    offered = ["Mercury (element)", "Basket weaving", "History of football"]
    counts = draws(SimilarWalker(hashed_tfidf), state("Mercury (planet)"), offered)
    assert counts.most_common(1)[0][0] == "Mercury (element)"


def test_novelty_drives_the_similar_walker_away_from_what_it_has_seen() -> None:
    at = state("Mercury (element)", "Mercury planet orbit")
    offered = ["Mercury (element) symbol", "Planet orbit"]
    tame = draws(SimilarWalker(hashed_tfidf, novelty=0.0), at, offered)
    curious = draws(SimilarWalker(hashed_tfidf, novelty=2.0), at, offered)
    assert curious["Planet orbit"] > tame["Planet orbit"]


def test_similar_walker_uses_the_lead_text_where_it_is_recorded() -> None:
    visit = Visit("Q42", None, text="a novel about football, football clubs and football fans")
    counts = draws(SimilarWalker(hashed_tfidf), WalkState((visit,), 0), ["Football club", "Cheese"])
    assert counts["Football club"] > counts["Cheese"]


def test_markov_walker_follows_the_counts_and_leaves_no_link_impossible() -> None:
    counts = draws(MarkovWalker({"A": {"B": 90, "C": 9}}), state("A"), ["B", "C", "D"], n=2000)
    assert counts["B"] > counts["C"] > counts["D"]
    assert draws(MarkovWalker({}), state("A"), ["B", "C"])["B"] > 100


def test_markov_walker_takes_a_function_as_well() -> None:
    walker = MarkovWalker(lambda title: {"C": 10**9} if title == "A" else {})
    assert set(draws(walker, state("A"), ["B", "C"])) == {"C"}


def test_lm_walker_passes_the_trail_along_the_tree_and_obeys_the_scores() -> None:
    trails: list[list[str]] = []

    def score(trail: Sequence[str], options: Sequence[str]) -> np.ndarray:
        trails.append(list(trail))
        return np.array([-1000.0 if option == "bad" else -1.0 for option in options])

    visits = (Visit("A", None), Visit("B", 0), Visit("C", 0))
    walker = LmWalker(score, "tiny")
    assert walker.choose(WalkState(visits, 2), ["bad", "good"], rng()) == "good"
    assert trails == [["A", "C"]]
    assert walker.name == "lm:tiny"


def test_lm_scores_that_are_no_numbers_are_refused() -> None:
    walker = LmWalker(lambda trail, options: [float("nan")] * len(options), "m")
    with pytest.raises(ValueError, match="finite score"):
        walker.choose(state("A"), ["B", "C"], rng())


def test_next_click_does_not_offer_what_was_visited_or_is_dead() -> None:
    walker = Scripted()
    visits = chain("A", "B", offered=("A", "B", "C", "D"))
    click = next_click(walker, visits, rng(), branching=False, dead=frozenset({"C"}))
    assert click == ("D", 1)
    assert walker.seen == [("B", ("D",))]


def test_going_back_moves_up_the_tree_until_a_link_is_picked() -> None:
    walker = Scripted(None, None, "E")
    visits = chain("A", "B", "C", offered=("D", "E"))
    assert next_click(walker, visits, rng(), branching=True) == ("E", 0)
    assert [title for title, _ in walker.seen] == ["C", "B", "A"]


def test_a_dead_end_is_left_by_going_back_only_where_walks_may_branch() -> None:
    visits = [Visit("A", None, offered=("B", "C")), Visit("B", 0)]
    assert next_click(Scripted(), visits, rng(), branching=True) == ("C", 0)
    assert next_click(Scripted(), visits, rng(), branching=False) is None


def test_a_walk_ends_where_nothing_is_left_to_click() -> None:
    visits = chain("A", "B", offered=("A", "B"))
    assert next_click(Scripted(), visits, rng(), branching=True) is None


def test_a_walker_that_picks_what_was_not_offered_is_named() -> None:
    with pytest.raises(ValueError, match=r"'scripted' to pick one of 1 links of 'A', got 'Z'"):
        next_click(Scripted("Z"), chain("A", offered=("B",)), rng(), branching=True)


def test_hashed_tfidf_gives_unit_rows_that_depend_on_nothing_but_the_texts() -> None:
    rows = hashed_tfidf(["Alan Turing", "alan turing", "北京", "", "..."])
    assert rows.shape == (5, 512)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows[:3], axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not rows[3:].any()
    np.testing.assert_array_equal(
        rows, hashed_tfidf(["Alan Turing", "alan turing", "北京", "", "..."])
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandomWalker(back=1.0),
        lambda: SimilarWalker(hashed_tfidf, temperature=0.0),
        lambda: MarkovWalker({}, smoothing=0.0),
        lambda: WalkState(tuple(chain("A")), 1),
    ],
)
def test_settings_out_of_range_are_refused(build: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        build()  # type: ignore[operator]

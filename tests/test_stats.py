"""Groups of walks summed up: known values, honest intervals, a page that stands alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rabbit_hole_fakes import TITLES, FakeWorld, walk_of

from rabbit_holes.describe.estimates import estimate
from rabbit_holes.describe.page import render_page
from rabbit_holes.describe.stats import MEASURES, dwell, in_a_loop, steps_back, summarise
from rabbit_holes.describe.styles import Landscape


def walks(kind: str, n: int, seed: int) -> list:
    rng = np.random.default_rng(seed)
    return [
        walk_of(*rng.choice(TITLES, size=rng.integers(1, 9)).tolist(), id=f"{kind}{i}", walker=kind)
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape.of_world(FakeWorld(), np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def groups(landscape: Landscape):
    everyone = walks("random", 60, 0) + walks("person", 80, 1) + walks("lm:tiny", 40, 2)
    return summarise(everyone, landscape, np.random.default_rng(0))


def only(path, **options):
    (group,) = summarise([path], None, np.random.default_rng(0), **options)
    return {key: estimate.value for key, estimate in group.estimates.items()}


def test_a_walk_with_a_branch_has_its_known_measures() -> None:
    # A > B > C, back twice, A > D > A again.
    path = walk_of("A", "B", "C", "D", "A", parents=[0, 1, 0, 3], goal="D", status="loop")
    values = only(path)
    assert values["visits"] == 5
    assert values["distinct"] == 4
    assert values["depth"] == 2
    assert values["branches"] == 1
    assert values["back_clicks"] == 2
    assert values["revisits"] == 1
    assert values["loop"] == 1
    assert values["reached"] == 1
    assert "dwell" not in values
    assert "off_graph" not in values


@pytest.mark.parametrize(
    ("parents", "steps"),
    [([0, 1, 2], 0), ([0, 1, 1], 1), ([0, 1, 0], 2), ([0, 0, 1], 2), ([0, 0, 0], 2)],
)
def test_steps_back_are_counted_up_the_tree(parents: list[int], steps: int) -> None:
    assert steps_back(walk_of("A", "B", "C", "D", parents=parents)) == steps


def test_recorded_back_clicks_win_over_those_that_left_a_trace() -> None:
    assert only(walk_of("A", "B", meta={"back_clicks": 3}))["back_clicks"] == 3


def test_a_loop_is_a_page_that_leads_back_to_itself_along_the_tree() -> None:
    assert in_a_loop(walk_of("A", "B", "A"))
    assert not in_a_loop(walk_of("A", "B", "B", parents=[0, 0])), "siblings, not a circle"


def test_dwell_is_time_per_page_of_walks_that_were_timed_to_the_end() -> None:
    assert dwell(walk_of("A", "B", "C", meta={"duration": 12, "back_clicks": 1})) == 4.0
    assert np.isnan(dwell(walk_of("A", "B", meta={"duration": 1804}, status="unfinished")))
    assert np.isnan(dwell(walk_of("A", meta={"duration": 5})))
    assert np.isnan(dwell(walk_of("A", "B")))


def test_clicks_off_the_graph_need_a_world(landscape: Landscape) -> None:
    (group,) = summarise([walk_of("Ant", "Bee", "Hen")], landscape, np.random.default_rng(0))
    assert group.estimates["off_graph"].value == 0.5


def test_people_models_and_random_walks_stand_side_by_side_in_this_order(groups) -> None:
    assert [group.name for group in groups] == ["people", "language models", "random walks"]
    assert [group.n_walks for group in groups] == [80, 40, 60]
    for group in groups:
        assert group.depths.sum() == group.n_walks
        shares = [group.estimates[style].value for style in ("hunter", "busybody", "dancer")]
        assert sum(shares) == pytest.approx(1.0)
        for found in group.estimates.values():
            assert found.low <= found.value <= found.high


def test_walks_can_be_grouped_by_walker() -> None:
    mixed = [*walks("lm:a", 3, 0), *walks("lm:b", 4, 1), *walks("person", 2, 2)]
    found = summarise(mixed, None, np.random.default_rng(0), by="walker")
    assert {group.name: group.n_walks for group in found} == {"lm:a": 3, "lm:b": 4, "person": 2}


def test_nothing_to_describe_and_an_unknown_grouping_are_refused() -> None:
    with pytest.raises(ValueError, match="expected paths"):
        summarise([], None, np.random.default_rng(0))
    with pytest.raises(ValueError, match="grouping among"):
        summarise(walks("person", 1, 0), None, np.random.default_rng(0), by="colour")


def test_the_same_seed_gives_the_same_numbers(landscape: Landscape) -> None:
    first, second = (
        json.dumps([g.to_json() for g in summarise(walks("person", 30, 0), landscape, rng)])
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second


@pytest.mark.parametrize("n", [1, 2, 7, 8, 40])
@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_intervals_agree_with_drawing_bootstrap_samples(n: int, statistic: str) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    drawn = getattr(np, statistic)(rng.choice(values, size=(20_000, n)), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = estimate(values, statistic, rng, resamples=20_000)  # type: ignore[arg-type]
    assert found is not None
    assert found.value == pytest.approx(getattr(np, statistic)(values))
    # Medians of few values jump from one to the next: allow a neighbour's distance.
    spread = 0.06 if statistic == "mean" else 0.12
    assert found.low == pytest.approx(low, abs=spread)
    assert found.high == pytest.approx(high, abs=spread)


def test_the_interval_of_a_median_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        found = estimate(rng.exponential(size=60), "median", rng, resamples=300)
        assert found is not None
        covered += found.low <= np.log(2) <= found.high
    assert 0.91 < covered / 400 < 0.985


def test_missing_values_are_left_out_and_all_missing_gives_no_estimate() -> None:
    rng = np.random.default_rng(0)
    found = estimate(np.array([np.nan, 2.0, np.inf, 4.0]), "mean", rng)
    assert found is not None
    assert (found.value, found.n) == (3.0, 2)
    assert estimate(np.array([np.nan]), "median", rng) is None


class Outline(HTMLParser):
    """Checks that tags nest, and remembers addresses that a browser would fetch."""

    VOID = frozenset({"meta", "line", "circle", "polyline", "polygon", "rect", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID or tag == "circle":
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID and tag != "circle":
            return
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def test_the_page_is_whole_and_fetches_nothing(groups) -> None:
    page = render_page(groups, ["people.jsonl"], "the fake world")
    found = outline(page)
    assert not found.open
    assert not found.fetched
    assert not found.seen & {"script", "link", "img", "iframe"}
    assert not re.search(r"https?://|url\(|@import", page)
    assert page.count("<svg") == 5
    assert "nan" not in page.replace("nanmedian", "").lower().split("what the words mean")[0]


def test_the_page_shows_every_group_and_every_measure_that_was_found(groups) -> None:
    page = render_page(groups, ["people.jsonl"], "the fake world")
    for name in ("people", "language models", "random walks"):
        assert name in page
    for measure in MEASURES:
        found = any(measure.key in group.estimates for group in groups)
        row = f"{measure.title} <span" in page
        assert row == found or measure.key.startswith("depth")


def test_titles_that_look_like_markup_are_shown_as_text() -> None:
    path = walk_of("A", "B", walker="<script>alert(1)</script>")
    found = summarise([path], None, np.random.default_rng(0))
    page = render_page(found, ["<b>.jsonl"], None)
    assert "<script>" not in page
    assert "<b>" not in page
    assert not outline(page).open


@pytest.mark.parametrize("length", [1, 2, 30])
def test_a_page_of_one_walk_of_any_length_can_be_drawn(length: int) -> None:
    path = walk_of(*(f"P{i}" for i in range(length)))
    page = render_page(summarise([path], None, np.random.default_rng(0)), ["a.jsonl"], None)
    assert not outline(page).open
    assert ">Style<" not in page, "no heading without a line below it"
    assert "nan" not in page.lower().split("what the words mean")[0]


def test_plots_show_the_largest_groups_and_the_table_all_of_them() -> None:
    everyone = [path for i in range(11) for path in walks(f"lm:model{i}", 2 + i, i)]
    found = summarise(everyone, None, np.random.default_rng(0), by="walker")
    page = render_page(found, ["models.jsonl"], None)
    table, rest = page.split("</table>")
    plots = rest.split("What the words mean")[0]
    assert "8 largest groups" in page
    for i in range(11):
        assert f"lm:model{i}<" in table
        assert (f"lm:model{i}<" in plots) == (i >= 3)

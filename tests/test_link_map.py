"""Pruning: what cannot have happened in a world goes, with all that came after it."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rabbit_hole_fakes import TITLES, FakeWorld, walk_of

from rabbit_holes.link_map import LinkMap

# In the fake world Ant links to Bee, Cat and Fox; Bee to Cat, Dog and Gnu.
LINKS = LinkMap.of_world(FakeWorld())  # type: ignore[arg-type]


def test_a_path_that_can_have_happened_is_given_back_as_it_is() -> None:
    path = walk_of("Ant", "Bee", "Cat", parents=[0, 0])
    kept, dropped = LINKS.prune(path)
    assert kept is path
    assert not dropped


def test_a_visit_reached_by_going_back_to_a_kept_page_stays() -> None:
    path = walk_of("Ant", "Zebu", "Bee", "Dog", "Cat", parents=[0, 1, 2, 0])
    kept, dropped = LINKS.prune(path)
    assert kept is not None
    assert kept.titles == ("Ant", "Cat")
    assert [visit.parent for visit in kept.visits] == [None, 0]
    assert dropped == {"page unknown to the world": 1, "reached through a dropped visit": 2}
    assert kept.meta["dropped_visits"] == 3


def test_clicks_off_the_graph_go_unless_they_are_to_be_kept() -> None:
    path = walk_of("Ant", "Hen", "Ibis", meta={"dropped_visits": 4})
    assert LINKS.off_graph(path) == 1
    kept, dropped = LINKS.prune(path)
    assert kept is not None
    assert kept.titles == ("Ant",)
    assert dropped == {"click not in the world": 1, "reached through a dropped visit": 1}
    assert kept.meta["dropped_visits"] == 6, "losses add up"
    assert LINKS.prune(path, keep_off_graph=True) == (path, Counter())


def test_a_path_whose_root_is_unknown_is_lost_with_every_visit_counted() -> None:
    kept, dropped = LINKS.prune(walk_of("Zebu", "Ant", "Bee"))
    assert kept is None
    assert dropped.total() == 3


@given(st.lists(st.sampled_from([*TITLES, "Zebu"]), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_uncounted_and_pruning_twice_changes_nothing(titles, data) -> None:
    parents = [data.draw(st.integers(0, i)) for i in range(len(titles) - 1)]
    path = walk_of(*titles, parents=parents)
    kept, dropped = LINKS.prune(path)
    if kept is None:
        assert dropped.total() == len(path)
        return
    assert len(kept) + dropped.total() == len(path)
    assert LINKS.prune(kept) == (kept, Counter())
    assert LINKS.off_graph(kept) == 0


@pytest.mark.parametrize("title", TITLES)
def test_the_links_of_a_world_are_those_of_its_graph(title: str) -> None:
    world = FakeWorld()
    assert LINKS.offered(title) == {TITLES[t] for t in world.graph.out(world.topic_of(title))}

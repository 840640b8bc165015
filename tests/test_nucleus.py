"""Nucleation, solidity and the frontier."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import ring, table_of

from kncl_env.nucleus import SOLID_SHARE, Nucleus, is_solid
from kncl_env.world.topics import nucleate


def test_a_topic_is_solid_once_it_improves_by_less_than_a_quarter_of_its_first_drop() -> None:
    assert SOLID_SHARE == 0.25
    assert not is_solid(first_drop=0.4, latest_drop=0.11, noise_floor=0.02)
    assert is_solid(first_drop=0.4, latest_drop=0.09, noise_floor=0.02)
    assert is_solid(first_drop=0.01, latest_drop=0.015, noise_floor=0.02)
    assert is_solid(first_drop=0.4, latest_drop=-0.3, noise_floor=0.02)


def test_the_frontier_grows_from_solid_topics_in_both_directions() -> None:
    nucleus = Nucleus(ring(10), [0])
    assert nucleus.frontier.tolist() == [1, 2, 8, 9]
    nucleus.expand(1)
    assert nucleus.frontier.tolist() == [2, 8, 9]
    nucleus.make_solid(1)
    assert nucleus.frontier.tolist() == [2, 3, 8, 9]
    assert nucleus.members.tolist() == [0, 1]
    assert nucleus.unsolid == []


def test_only_frontier_topics_can_be_expanded_and_only_members_made_solid() -> None:
    nucleus = Nucleus(ring(10), [0])
    for topic in (0, 5):
        with pytest.raises(ValueError, match="of the frontier"):
            nucleus.expand(topic)
    with pytest.raises(ValueError, match="of the nucleus"):
        nucleus.make_solid(5)


def test_a_copy_goes_its_own_way() -> None:
    nucleus = Nucleus(ring(10), [0])
    twin = nucleus.copy()
    twin.expand(1)
    twin.make_solid(1)
    assert nucleus.expanded == []
    assert nucleus.frontier.tolist() == [1, 2, 8, 9]


def test_seeds_are_central_allowed_and_unlike_each_other() -> None:
    table = table_of(60, dimensions=4)
    allowed = np.ones(60, dtype=bool)
    allowed[:10] = False
    seeds = nucleate(table.graph, table.vectors, 8, allowed)
    assert len(set(seeds.tolist())) == 8
    assert (seeds >= 10).all()
    near = nucleate(table.graph, table.vectors, 8, allowed, diversity=0.0)

    def likeness(topics: np.ndarray) -> float:
        cosine = table.vectors[topics] @ table.vectors[topics].T
        return float(cosine[~np.eye(8, dtype=bool)].mean())

    assert likeness(seeds) < likeness(near)


def test_a_nucleus_larger_than_what_is_allowed_is_refused() -> None:
    table = table_of(10)
    with pytest.raises(ValueError, match="1 to 10 topics, got 11"):
        nucleate(table.graph, table.vectors, 11, np.ones(10, dtype=bool))

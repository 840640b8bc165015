"""The Markov rung: measured on the clicks of the other rungs, counted on other paths."""

from __future__ import annotations

import numpy as np
import pytest
from rabbit_hole_fakes import TITLES, FakeWorld

from kncl_env.topic_table import TopicTable
from policies.curiosity import CuriosityConfig, CuriosityNetwork
from policies.learn.prediction import markov_places, predict
from rabbit_holes.demonstrations import Showing, demonstrate
from rabbit_holes.path import Path, Visit


def path_of(*titles: str, number: int = 0) -> Path:
    visits = tuple(Visit(t, parent=i - 1 if i else None) for i, t in enumerate(titles))
    return Path(f"p{number}", visits, source="test", walker="test", licence="CC0")


def test_the_chain_takes_what_was_taken_most_and_shares_what_it_never_saw() -> None:
    world = FakeWorld()  # every topic links to the next two and to the opposite one
    train = [path_of("Ant", "Cat"), path_of("Ant", "Cat", "Elk"), path_of("Ant", "Bee")]
    measured = [path_of("Ant", "Cat", "Dog"), path_of("Ant", "Bee"), path_of("Ant", "Fox", "Gnu")]
    found = markov_places(train, measured, world, 5)  # type: ignore[arg-type]
    assert found.tolist() == [
        [0, 1],  # Ant to Cat: two of three
        [1, 2],  # Cat to Dog: Elk was taken, this one and Hen never
        [1, 1],  # Ant to Bee: one of three
        [2, 1],  # Ant to Fox: never
        [0, 3],  # from Fox: nothing is known
    ]


def test_the_chain_stands_beside_the_ladder_on_the_same_clicks() -> None:
    world = FakeWorld()
    table = TopicTable(world.graph, world.topic_vectors, np.ones(10, dtype=np.int64))
    rng = np.random.default_rng(0)

    def habit(start: int) -> Path:  # always the opposite topic, then the next
        steps = [start % 10, (start + 5) % 10, (start + 6) % 10]
        return path_of(*(TITLES[i] for i in steps), number=start)

    paths = [habit(i) for i in range(20)]
    clicks = demonstrate(paths, world, table, rng, Showing(slots=None))  # type: ignore[arg-type]
    places = markov_places(paths, paths, world, len(clicks))  # type: ignore[arg-type]
    found = predict(CuriosityNetwork(CuriosityConfig()), clicks, rng, {"Markov": places})
    assert found.predictors["uniform"].top1 == pytest.approx(1 / 3)
    markov = found.predictors["Markov"]
    assert markov.top1 == pytest.approx(0.5)  # two habits per topic
    assert markov.mrr == pytest.approx(0.75)
    assert markov.top1_interval[0] <= 0.5 <= markov.top1_interval[1]


def test_clicks_of_other_paths_are_noticed() -> None:
    with pytest.raises(AssertionError, match="other paths"):
        markov_places([], [path_of("Ant", "Cat")], FakeWorld(), 3)  # type: ignore[arg-type]

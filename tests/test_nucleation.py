"""A nucleus by title, by text or by itself, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kncl_env.cli import main
from kncl_env.settings import Settings
from kncl_env.stage import seed_topics
from kncl_env.world.nucleation import NucleusReport, Wanted, seeds_of
from kncl_env.world.topics import nucleate
from kncl_env.world.world import World


def words_of_region(world: World, region: int, n: int = 3) -> list[str]:
    """Words that stand in the text of one region alone."""
    topics = world.region(f"region.{region}")
    text = world.passage_text(int(world.passages_of(int(topics[0]))[0]))
    return [word.strip(".") for word in text.split()][:n]


def region_of(world: World, topic: int) -> int:
    return next(i for i in range(4) if topic in world.region(f"region.{i}"))


def test_a_text_finds_the_topics_nearest_to_each_of_its_phrases_in_turn(small_world: World) -> None:
    first, other = (" ".join(words_of_region(small_world, r)) for r in (0, 2))
    seeds = seeds_of(small_world, Wanted(text=f"{first}, {other}", topics=6), None, 64)
    assert [region_of(small_world, int(t)) for t in seeds] == [0, 2, 0, 2, 0, 2]
    assert len(set(seeds.tolist())) == 6
    likeness = small_world.topic_vectors @ small_world.embed([first])[0]
    assert seeds[0] == likeness.argmax()


def test_a_phrase_that_is_a_title_takes_its_own_topic_first(small_world: World) -> None:
    seeds = seeds_of(small_world, Wanted(text="topic 17", topics=3), None, 64)
    assert seeds[0] == small_world.topic_of("Topic 17")


def test_a_text_may_lead_into_the_target_region_and_a_number_may_not(small_world: World) -> None:
    text = " ".join(words_of_region(small_world, 3))
    inside = set(small_world.region("region.3").tolist())
    assert set(seeds_of(small_world, Wanted(text=text, topics=4), None, 64).tolist()) <= inside
    assert not set(seeds_of(small_world, Wanted(topics=10), None, 64).tolist()) & inside


def test_what_is_not_asked_for_is_chosen_as_before(small_world: World) -> None:
    allowed = small_world.train_tokens_of > 64
    allowed[small_world.region("region.3")] = False
    as_before = nucleate(small_world.graph, small_world.topic_vectors, 8, allowed)
    assert seed_topics(small_world, Settings()).tolist() == as_before.tolist()
    before_there_was_text = {k: v for k, v in Settings().to_json().items() if k != "nucleus_text"}
    assert Settings.from_json(before_there_was_text, "here") == Settings()


def test_settings_hand_the_text_on(small_world: World) -> None:
    text = " ".join(words_of_region(small_world, 1))
    settings = Settings.of(nucleus_text=text, nucleus_topics=4, model="xxs")
    seeds = seed_topics(small_world, settings)
    assert [region_of(small_world, int(t)) for t in seeds] == [1] * 4
    with pytest.raises(ValueError, match=r"nucleus_titles or nucleus_text, got both \(Topic 1; a"):
        Settings.of(nucleus_text="a", nucleus_titles=["Topic 1"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", "qqqq"], "got 'qqqq', of which it knows none"),
        (["--text", "Topic 1, zzzz wwww"], "got 'zzzz wwww', of which it knows none"),
        (["--titles", "Topic 99"], "got 'Topic 99': did you mean"),
        (["--topics", "1000"], "expected a nucleus of 1 to"),
        (["--topics", "-1"], "--topics of 1 or more"),
        (["--text", ","], "expected phrases by comma"),
    ],
)
def test_what_cannot_be_a_nucleus_is_one_clear_line(
    words: list[str], expected: str, small_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nucleate", str(small_world.path), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert expected in error


def test_a_nucleus_is_measured_against_its_world(small_world: World) -> None:
    seeds = np.array([0, 20])
    report = NucleusReport.of(small_world, seeds)
    graph, vectors = small_world.graph, small_world.topic_vectors
    near = {int(t) for s in seeds for t in graph.around(int(s))} - {0, 20}
    assert (report.topics, report.frontier) == (2, len(near))
    cosines = np.maximum(0, vectors @ vectors[seeds].T).max(1)
    assert report.coverage == pytest.approx(cosines.mean(), abs=1e-6)
    own = [int(p) for s in seeds for p in small_world.passages_of(int(s))]
    assert report.passages == len(own)
    assert report.bytes == sum(len(small_world.passage_text(p).encode()) for p in own)
    tokens = small_world.train_tokens_of
    assert report.share == pytest.approx((tokens[0] + tokens[20]) / tokens.sum())
    everything = NucleusReport.of(small_world, np.arange(small_world.n_topics))
    assert (everything.frontier, everything.within_two_links) == (0, 1)
    assert everything.coverage == pytest.approx(1, abs=1e-5)
    assert everything.share == everything.pagerank == pytest.approx(1)
    assert everything.mean_rank == pytest.approx(0.5)


def test_nucleate_prints_topics_and_what_they_bring(
    small_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nucleate", str(small_world.path), "--titles", "Topic 3,Topic 5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 topics: Topic 3, Topic 5"
    assert [line.split(":")[0] for line in lines[1:]] == ["coverage", "centrality", "text"]
    assert "% of the training text" in lines[3]


def test_show_tells_the_shape_of_the_graph_and_the_space(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(small_world.path)]) == 0
    out = capsys.readouterr().out
    assert f"graph: {small_world.graph.shape()}" in out
    assert f"vectors: tfidf, {small_world.topic_vectors.shape[1]} dimensions" in out

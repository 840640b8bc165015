"""One `observe` for the environment and for recorded paths."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter

import numpy as np
import pytest
from fakes import FakeLearner, corpus_of, fake_env, ring, table_of
from numpy.typing import NDArray

from kncl_env.measurements import Measurements
from kncl_env.network_measures import betti_1
from kncl_env.observation import (
    CANDIDATE_FEATURES,
    CONTEXT_FEATURES,
    State,
    observe,
    sums_over_rows,
)
from kncl_env.settings import Rules
from kncl_env.topic_table import Goal, TopicTable, rank_of
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.corpus import Corpus
from kncl_env.world.graph import TopicGraph
from kncl_env.world.world import World
from rabbit_holes import demonstrations
from rabbit_holes.demonstrations import Showing, choices, demonstrate, pair_split, widened
from rabbit_holes.path import Path, Visit

C = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}
G = {name: i for i, name in enumerate(CONTEXT_FEATURES)}


def walk(*titles: str, goal: str | None = None, parents: tuple[int | None, ...] = ()) -> Path:
    parents = parents or (None, *range(len(titles) - 1))
    visits = tuple(Visit(t, p) for t, p in zip(titles, parents, strict=True))
    return Path("a", visits, "test", "person", "none", goal=goal)


class UnknownLearner(FakeLearner):
    """Trains like a `FakeLearner`, but nothing of it can be measured, as in a recorded path."""

    def held_out_loss(self, split: str = "reward") -> float:
        return float("nan")

    def probe(self, topics: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(topics), np.nan)


def test_a_path_walked_in_the_env_and_read_from_a_record_gives_the_same_arrays(
    tmp_path: pathlib.Path,
) -> None:
    # A hub that links to every topic keeps the whole frontier in the slots, so that both ways
    # offer the same candidates without a draw.
    hub, *others = corpus_of(12).articles
    hub = dataclasses.replace(hub, links=tuple((a.title, "link") for a in others))
    corpus = Corpus((hub, *others), "made up", "none needed")
    world = build_world(corpus, tmp_path / "w", BuildConfig(vocab_size=300, passage_bytes=200))
    table = TopicTable.of(world)
    route = [0, 3, 4, 6, 9]
    rules = Rules(slots=11, steps=8, updates_per_step=1)
    env = fake_env(n=12, seeds=(0,), rules=rules, table=table, target=(9,))
    env.learner.__class__ = UnknownLearner

    walked = []
    observation, _ = env.reset(seed=0)
    for topic in route[1:]:
        slot = int(np.flatnonzero(env.episode.slots == topic)[0])
        walked.append((observation, slot))
        observation = env.step(slot)[0]

    titles = [world.titles[t] for t in route]
    path = walk(*titles, goal=titles[-1])
    rng = np.random.default_rng(0)
    read = demonstrate([path], world, table, rng, Showing(frontier=True))

    assert len(read) == len(walked) == 4
    for i, (observation, slot) in enumerate(walked):
        rows = read.rows[read.starts[i] : read.starts[i + 1]]
        filled = observation["candidates"][:, 0] > 0
        assert np.array_equal(rows, observation["candidates"][filled])
        # A record knows no budget; all else is the same.
        budget = [G["progress_known"], G["progress"]]
        assert not read.context[i, budget].any()
        observation["context"][budget] = 0
        assert np.array_equal(read.context[i], observation["context"])
        assert read.chosen[i] == slot


def test_the_env_itself_calls_the_same_observe() -> None:
    env = fake_env()
    observation, _ = env.reset(seed=4)
    for _ in range(4):
        again = observe(env.stage.table, env.state(), env.rules.slots)
        assert np.array_equal(observation["candidates"], again["candidates"])
        assert np.array_equal(observation["context"], again["context"])
        observation = env.step(1)[0]


def test_features_of_a_ring_have_their_known_values() -> None:
    table = table_of(10)
    goal = Goal(table, np.array([4]))
    state = State(np.array([0, 1]), 1, np.array([2, 3, 9]), 3, goal=goal)
    rows = observe(table, state, 5)["candidates"]
    assert rows.shape == (5, len(CANDIDATE_FEATURES))
    assert (rows[3:] == 0).all()
    # Topic 2 is joined with 0, 1, 3 and 4; 0 and 1 are in the nucleus.
    assert rows[0, C["nucleus_share"]] == pytest.approx(0.5)
    assert rows[:3, C["linked_from_last"]].tolist() == [1, 1, 0]  # 1 links to 2 and 3
    assert rows[:3, C["early_on_last"]].tolist() == [1.0, 0.5, 0.0]
    assert rows[:3, C["links_to_last"]].tolist() == [0, 0, 1]  # 9 links to 0 and 1
    assert rows[:3, C["goal_link"]].tolist() == [1, 1, 0]  # 2 and 3 link to 4
    assert rows[0, C["goal_share"]] == pytest.approx(0.5)
    assert rows[0, C["goal_two_links"]] == pytest.approx(0.5)  # of 3 and 4, only 3 links to 4
    own = table.vectors[2]
    assert rows[0, C["similarity_last"]] == pytest.approx(own @ table.vectors[1], abs=1e-6)
    assert rows[0, C["goal_similarity"]] == pytest.approx(own @ table.vectors[4], abs=1e-6)
    assert (rows[:, C["loss_known"]] == 0).all()


def test_triangles_and_gaps_of_a_candidate_are_those_of_the_clique_complex() -> None:
    # In the nucleus 0-1-2-4-0 is a loop with the chord 0-2, so it is filled; 3 is the candidate.
    edges = [(0, 1), (1, 2), (2, 4), (4, 0), (0, 2), (3, 1), (3, 4), (5, 0), (5, 2)]
    rows = [[(b, 0) for a, b in edges if a == i] for i in range(6)]
    table = TopicTable(TopicGraph.from_links(6, rows), np.eye(6, dtype=np.float32), np.full(6, 100))
    state = State(np.array([0, 1, 2, 4]), 1, np.array([3, 5]), 2)
    seen = observe(table, state, 2)["candidates"]
    assert seen[:, C["triangles"]].tolist() == [0.0, 1.0]  # 1 and 4 are not linked, 0 and 2 are
    linked = table.graph.undirected.toarray()
    before = betti_1(linked[np.ix_([0, 1, 2, 4], [0, 1, 2, 4])])
    for row, candidate in enumerate([3, 5]):
        joined = [0, 1, 2, 4, candidate]
        opened = betti_1(linked[np.ix_(joined, joined)]) - before
        parts = np.exp(seen[row, C["gaps"]] * np.log1p(4))
        assert parts - 1 == pytest.approx(opened, abs=1e-5)


def test_goal_features_follow_the_links_that_lead_there() -> None:
    table = table_of(10)  # each topic links to the next two
    goal = Goal(table, np.array([6]))
    state = State(np.array([0, 1]), 1, np.array([2, 3, 5, 6, 9]), 5, goal=goal)
    rows = observe(table, state, 5)["candidates"]
    # From 9 the goal is four links away: 1, 3, 5, 6 (or 1, 3, 4, 6).
    assert rows[:, C["goal_hops"]].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1, 1 / 5])
    reach = rows[:, C["goal_reach"]]
    # A surfer at 5 goes to 6 or 7 and cannot come back within four links: half a meeting.
    assert reach[2] == pytest.approx(np.log1p(0.5 * 10) / np.log1p(10))
    assert reach[3] == pytest.approx(1.0)
    assert rows[3, C["goal_linked_as"]] == pytest.approx(1.0, abs=1e-5)
    assert rows[3, C["goal_similarity_0"]] == pytest.approx(1.0, abs=1e-5)


def test_demonstrations_are_the_same_on_any_number_of_cores(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demonstrations, "CHUNK", 3)
    out = [small_world.graph.out(t) for t in range(8)]
    t = small_world.titles
    paths = [
        walk(t[i], t[out[i][0]], t[small_world.graph.out(int(out[i][0]))[0]]) for i in range(8)
    ]
    alone, several = (
        demonstrations.demonstrate_in_parallel(
            paths, small_world, 0, processes=n, goals="widened", slots=4
        )
        for n in (1, 2)
    )
    assert len(alone) > 8
    for name in ("rows", "starts", "context", "chosen", "group"):
        assert np.array_equal(getattr(alone, name), getattr(several, name))
    assert len(set(alone.group.tolist())) == 8


def test_the_gain_is_the_share_of_what_is_left_that_a_candidate_covers() -> None:
    table = table_of(12)
    goal = Goal(table, np.array([7, 8, 9]))
    state = State(np.array([0, 1, 2]), 1, np.array([3, 7]), 2, goal=goal)
    rows = observe(table, state, 2)["candidates"]
    v = table.vectors.astype(float)
    covered = [max(0.0, *(v[m] @ v[g] for m in (0, 1, 2))) for g in (7, 8, 9)]
    for row, candidate in enumerate([3, 7]):
        after = [max(c, v[candidate] @ v[g]) for c, g in zip(covered, (7, 8, 9), strict=True)]
        share = (sum(after) - sum(covered)) / (3 - sum(covered))
        assert rows[row, C["goal_gain"]] == pytest.approx(np.sqrt(share), abs=1e-5)
    # All of the goal in the nucleus: nothing is left to gain.
    done = State(np.array([0, 7, 8, 9]), 1, np.array([3]), 1, goal=goal)
    assert observe(table, done, 1)["candidates"][0, C["goal_gain"]] == 0


def test_what_is_unknown_is_zero_and_flagged() -> None:
    table = table_of(10)
    seen = observe(table, State(np.array([0]), 1, np.array([1, 2]), 2), 2)
    for name in ("goal_known", "loss_known", "trend_known", "yield_known"):
        assert (seen["candidates"][:, C[name]] == 0).all()
    for name in ("progress_known", "goal_known", "loss_known", "consolidate_known"):
        assert seen["context"][G[name]] == 0


def test_learner_features_follow_the_readings() -> None:
    table = table_of(10)
    measurements = Measurements(10, loss=[2.0, 1.5])
    measurements.record_probe(np.array([2, 3]), np.array([3.0, np.nan]), 0)
    measurements.record_probe(np.array([2]), np.array([2.7]), 1)
    measurements.rewards.append(0.02)
    state = State(np.array([0, 1]), 1, np.array([2, 3, 9]), 3, measurements=measurements)
    rows = observe(table, state, 3)["candidates"]
    assert rows[0, C["loss"]] == pytest.approx(2.7 / 1.5 - 1)
    assert rows[0, C["trend"]] == pytest.approx(1.0)  # fell by a tenth
    assert rows[1, C["loss_known"]] == 0
    assert rows[0, C["yield_neighbours"]] == pytest.approx(0.4)  # 20 x 0.02; 1 is a neighbour
    assert rows[0, C["yield_known"]] == 1


def test_ranks_and_row_sums_against_plain_loops() -> None:
    assert rank_of(np.array([5, 1, 1, 9])).tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 1.0])
    graph = ring(12)
    values = np.random.default_rng(0).random((12, 2))
    rows = np.array([3, 0, 7])
    found = sums_over_rows(graph.indptr, graph.indices, rows, values)
    assert found == pytest.approx(np.stack([values[graph.out(r)].sum(0) for r in rows]))


def test_titles_are_compared_with_texts_and_with_the_titles_of_the_goal() -> None:
    # Texts 0 to 3 are the four directions; title 1 is about text 3, and title 2 has no known word.
    vectors = np.eye(4, dtype=np.float32)
    titles = vectors[[0, 3, 2, 3]].copy()
    titles[2] = 0
    rows = [[(1, 0), (2, 0)], [(2, 0)], [(3, 0)], [(2, 0), (0, 0), (1, 0)]]
    table = TopicTable(TopicGraph.from_links(4, rows), vectors, np.full(4, 100), titles)
    state = State(np.array([0]), 1, np.array([1, 2]), 2, goal=Goal(table, np.array([3])))
    seen = observe(table, state, 2)["candidates"]
    assert seen[:, C["title_text"]].tolist() == [0, 0]
    assert seen[:, C["goal_title"]].tolist() == [1, 0]
    assert seen[:, C["goal_title_text"]].tolist() == [1, 0]
    assert seen[:, C["goal_text_title"]].tolist() == [0, 0]
    # The goal links to 2 first, then to 0, then to 1; one goal topic is all there are.
    assert seen[:, C["goal_from"]].tolist() == [1, 1]
    assert seen[:, C["goal_from_early"]].tolist() == pytest.approx([1 / 3, 1])
    assert seen[:, C["goal_onward"]].tolist() == [1, 0]  # 1 links to 2, which the goal links to


def test_a_topic_whose_text_is_like_its_neighbours_says_so() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    rows = [[(1, 0)], [(2, 0)], []]  # 0 - 1 - 2
    table = TopicTable(TopicGraph.from_links(3, rows), vectors, np.full(3, 100))
    state = State(np.array([1]), 1, np.array([0, 2]), 2)
    seen = observe(table, state, 2)["candidates"]
    assert seen[:, C["text_links"]].tolist() == [1, 0]
    assert seen[:, C["title_text"]].tolist() == [1, 1]  # without titles, texts stand for them


def test_too_many_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1 candidates for 1 slots, got 2"):
        observe(table_of(10), State(np.array([0]), 1, np.array([1, 2]), 2), 1)


def test_choices_follow_a_tree_and_count_what_they_drop(small_world: World) -> None:
    world, t = small_world, small_world.titles
    out = world.graph.out(0)
    a, b = int(out[0]), int(out[1])
    # From 0 to a, back to 0, on to b, then to a page that the world lacks.
    path = walk(t[0], t[a], t[b], "Nowhere", parents=(None, 0, 0, 2))
    dropped: Counter[str] = Counter()
    found = list(choices(path, world, dropped))
    assert [(so_far.tolist(), chosen) for so_far, _, chosen in found] == [
        ([0], a),
        ([a, 0], b),
    ]
    assert all(np.array_equal(offered, np.sort(out)) for _, offered, _ in found)
    assert dropped == {"a page is no topic of the world": 1}


def test_a_pair_is_on_one_side_whoever_played_it() -> None:
    paths = [walk(f"S{i}", "M", goal=f"G{i}") for i in range(2000)]
    twins = [walk(f"S{i}", "N", "O", goal=f"G{i}") for i in range(2000)]
    sides = [pair_split(p) for p in paths]
    assert sides == [pair_split(p) for p in twins]
    assert sides.count("test") / 2000 == pytest.approx(0.1, abs=0.03)
    assert sides.count("select") / 2000 == pytest.approx(0.1, abs=0.03)


def test_a_batch_pads_with_empty_rows(small_world: World) -> None:
    world = small_world
    table = TopicTable.of(world)
    t = world.titles
    path = walk(
        t[0], t[int(world.graph.out(0)[0])], t[int(world.graph.out(world.graph.out(0)[0])[0])]
    )
    clicks = demonstrate([path], world, table, np.random.default_rng(0), Showing(frontier=True))
    candidates, _, chosen = clicks.batch(np.arange(2))
    counts = np.diff(clicks.starts)
    assert candidates.shape[1] == counts.max()
    for i in range(2):
        assert (candidates[i, : counts[i], 0] == 1).all()
        assert (candidates[i, counts[i] :] == 0).all()
        assert candidates[i, chosen[i], 0] == 1


def test_a_widened_goal_holds_the_page_and_what_is_nearest_to_it(small_world: World) -> None:
    world = small_world
    table = TopicTable.of(world)
    sizes = set()
    for seed in range(20):
        topics = widened(table, 7, np.random.default_rng(seed))
        sizes.add(len(topics))
        assert topics[0] == 7
        assert (topics < 10).all()  # its own region, whose words are unlike the others'
    assert min(sizes) >= 4
    assert max(sizes) <= world.n_topics // 8 + 1


def test_goals_are_given_withheld_or_widened(small_world: World) -> None:
    world, t = small_world, small_world.titles
    table = TopicTable.of(world)
    path = walk(t[0], t[int(world.graph.out(0)[0])], goal=t[5])
    members = {}
    for how in ("given", "withheld", "widened"):
        rng = np.random.default_rng(0)
        clicks = demonstrate([path], world, table, rng, Showing(frontier=True, goals=how))
        members[how] = clicks.context[0, G["goal_known"]]
    assert members == {"given": 1, "withheld": 0, "widened": 1}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"goals": "perhaps"}, "goals among"), ({"slots": 1}, "2 slots"), ({"limit": 0}, "1 click")],
)
def test_a_showing_that_shows_nothing_is_refused(wrong, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Showing(**wrong)

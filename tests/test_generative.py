"""Walks of language models: rules of the walk on a rigged model, the command on a tiny real one."""

from collections import Counter

import numpy as np
import pytest
from rabbit_hole_fakes import TITLES, FakeWorld

from kncl_env.world.graph import TopicGraph
from rabbit_holes.describe.stats import in_a_loop
from rabbit_holes.path import Path
from rabbit_holes.walkers.generative import generate, match_topics
from rabbit_holes.walkers.settings import GenerationSettings


class RiggedModel:
    """Likes titles by a given table and says given words in turn; keeps what it was asked.

    Like a real one it depends on the prompt alone, not on its neighbours in a batch.
    """

    name = "rigged"
    chats = False
    sha256 = ""

    def __init__(self, likes: dict[str, float] | None = None, words: list[str] | None = None):
        self.likes = likes or {}
        self.words = words or []
        self.prompts: list[str] = []
        self.titles: list[str] = []

    def title_tokens(self, title: str, chat: bool) -> list[int]:
        if title not in self.titles:
            self.titles.append(title)
        return [self.titles.index(title)]

    def prompt_tokens(self, trail, prompt_of, room: int) -> list[int]:
        self.prompts.append(prompt_of(trail).text)
        return [len(trail)]

    def score(self, prompts, answers):
        return [
            np.array([self.likes.get(self.titles[token], 0.0) for (token,) in options])
            for options in answers
        ]

    def go_on(self, prompts, rngs, temperature, at_most):
        return [self.words[int(rng.integers(len(self.words)))] for rng in rngs]


def walk(model: RiggedModel, world: object = None, **settings) -> list[Path]:
    made = GenerationSettings(**{"walks": 6, "depth": 4, **settings})
    return list(generate(world or FakeWorld(), model, made))  # type: ignore[arg-type]


def test_every_choice_is_among_what_the_page_offered() -> None:
    paths = walk(RiggedModel(), walks=40, offered=2)
    for path in paths:
        titles = path.titles
        for parent, child in path.clicks():
            offered = path.visits[parent].offered
            assert titles[child] in offered
            assert len(offered) == 2
            links = [TITLES[t] for t in FakeWorld().graph.out(TITLES.index(titles[parent]))]
            assert [title for title in links if title in offered] == list(offered)
        assert path.visits[-1].offered == (), "nothing was chosen on the last page"
        assert path.meta["offered_at_most"] == 2
        assert (path.walker, path.source) == ("lm:rigged", "generated:rigged")


def test_zero_offered_means_all_links() -> None:
    for path in walk(RiggedModel(), offered=0):
        assert all(len(visit.offered) == 3 for visit in path.visits[:-1])
        assert "offered_at_most" not in path.meta


def test_the_likeliest_title_wins_at_temperature_zero() -> None:
    (path,) = walk(RiggedModel({"Cat": 1, "Elk": 1}), walks=1, temperature=0, starts=("Ant",))
    assert path.titles[:3] == ("Ant", "Cat", "Elk")


def test_a_model_without_preferences_is_a_random_walker() -> None:
    paths = walk(RiggedModel(), walks=900, depth=1, starts=("Ant",))
    counts = Counter(path.titles[1] for path in paths)
    assert counts.keys() == {"Bee", "Cat", "Fox"}
    assert max(abs(count / 900 - 1 / 3) for count in counts.values()) < 0.07


def test_a_walk_ends_where_it_comes_back_and_says_loop() -> None:
    paths = walk(RiggedModel(), walks=60, depth=4)
    ends = Counter(path.status for path in paths)
    assert ends.keys() == {"loop", "finished"}
    for path in paths:
        assert in_a_loop(path) == (path.status == "loop")
        assert len(set(path.titles[:-1])) == len(path) - 1, "it ends with the first repetition"
        assert path.status == "loop" or len(path) == 5


def test_a_walk_with_a_goal_is_told_of_it_and_ends_there() -> None:
    model = RiggedModel({"Cat": 9})
    paths = walk(model, starts=("Ant", "Elk"), goals=("Cat",), temperature=0, walks=2, depth=2)
    assert paths[0].titles == ("Ant", "Cat")
    assert (paths[0].status, paths[0].goal) == ("finished", "Cat")
    assert paths[1].status == "unfinished"
    assert "in search of Cat" in model.prompts[0]
    assert model.prompts[0].endswith(": Ant >")


def test_a_page_without_links_is_a_dead_end() -> None:
    world = FakeWorld()
    world.graph = TopicGraph.from_links(10, [[(1, 0)], *([] for _ in range(9))])
    (path,) = walk(RiggedModel(), world, walks=1)
    assert (path.titles, path.status) == (("Ant", "Bee"), "dead end")
    world.graph = TopicGraph.from_links(10, [[] for _ in range(10)])
    with pytest.raises(ValueError, match="world with links"):
        walk(RiggedModel(), world)


def test_own_words_are_matched_by_title_then_by_text_and_else_missed() -> None:
    world = FakeWorld()
    words = ["ELK", "some Bee or other", "zebra", ""]
    assert match_topics(world, words, 0.5) == [4, 1, None, None]  # type: ignore[arg-type]


def test_free_association_counts_misses_and_what_the_page_does_not_link_to() -> None:
    model = RiggedModel(words=["bee", "a kind of Hen", "nothing known"])
    paths = walk(model, mode="associate", walks=60, starts=("Ant",), depth=3)
    assert {path.status for path in paths} <= {"finished", "loop", "lost"}
    for path in paths:
        pairs = [(path.titles[a], path.titles[b]) for a, b in path.clicks()]
        graph = FakeWorld().graph
        off = sum(not graph.has_edge(TITLES.index(a), TITLES.index(b)) for a, b in pairs)
        assert path.meta["off_graph"] == off
        assert (path.status == "lost") <= (path.meta["misses"] >= 3)  # type: ignore[operator]
        said = [word for word in str(path.meta["said"]).split(" > ") if word]
        assert len(said) == len(path) - 1
    assert any(path.meta["off_graph"] for path in paths)
    assert any(path.status == "lost" for path in paths)


def test_the_same_seed_gives_the_same_walks_in_batches_of_any_size() -> None:
    all_at_once = [path.titles for path in walk(RiggedModel({"Cat": 1}), walks=20, batch=20)]
    by_three = [path.titles for path in walk(RiggedModel({"Cat": 1}), walks=20, batch=3)]
    other = [path.titles for path in walk(RiggedModel({"Cat": 1}), walks=20, seed=1)]
    assert all_at_once == by_three
    assert all_at_once != other


def test_walks_that_are_done_are_not_given_again() -> None:
    whole = walk(RiggedModel(), walks=10, batch=4)
    done = frozenset(path.id for path in whole[:6])
    settings = GenerationSettings(walks=10, depth=4, batch=4)
    rest = list(generate(FakeWorld(), RiggedModel(), settings, done))  # type: ignore[arg-type]
    assert rest == whole[6:]


def test_other_settings_give_other_ids_but_more_walks_do_not() -> None:
    ids = [walk(RiggedModel(), walks=2)[0].id, walk(RiggedModel(), walks=3)[0].id]
    assert ids[0] == ids[1]
    assert walk(RiggedModel(), walks=2, temperature=0.5)[0].id != ids[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "guess"},
        {"walks": 0},
        {"depth": 0},
        {"batch": 0},
        {"offered": 1},
        {"offered": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"similarity": 0.0},
        {"words": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        GenerationSettings(**settings)


def test_a_start_that_is_no_topic_is_refused() -> None:
    with pytest.raises(ValueError, match="Zebu"):
        walk(RiggedModel(), starts=("Zebu",))

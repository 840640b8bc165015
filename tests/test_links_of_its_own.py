"""Links and names for a corpus that has none: titles in text, neighbours, clusters, their shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import corpus_of, ring

from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import k_means
from kncl_env.world.text.mentions import TitleFinder, mentions
from kncl_env.world.text.names import group_names
from kncl_env.world.text.words import terms_of, words_of
from kncl_env.world.topics import cluster_labels, connected, nearest_topics
from kncl_env.world.world import World

SMALL = BuildConfig(vocab_size=300, passage_bytes=200)


def found(finder: TitleFinder, text: str) -> list[int]:
    return [topic for topic, _ in finder.found(text)]


def test_the_longest_title_wins_and_no_word_counts_twice() -> None:
    finder = TitleFinder(["York", "New York City", "New York", "City"])
    assert found(finder, "From New York City to York, in new-york.") == [1, 0, 2]
    assert finder.found("the city, the City") == [(3, True), (3, False)]


def test_a_remark_in_brackets_is_no_part_of_a_name_that_nobody_else_has() -> None:
    finder = TitleFinder(["Mercury (planet)", "Go (game)", "Go (verb)", "7", "A", "1984 (novel)"])
    assert found(finder, "Mercury is a planet: go and see. A 7 in 1984.") == [0]
    assert found(finder, "the go game; 1984, novel") == [1, 5]
    both = TitleFinder(["Mercury (planet)", "Mercury"])
    assert found(both, "Mercury") == [1]


def test_titles_are_found_in_text_without_spaces() -> None:
    finder = TitleFinder(["光合作用", "植物"])
    assert found(finder, "植物通过光合作用生长。") == [1, 0]
    assert words_of("植物 Cells") == ["植", "物", "cells"]
    assert terms_of("植物通 a Cell") == ["植物", "物通", "cell"]


def test_mentions_are_in_reading_order_each_once_and_never_of_the_topic_itself() -> None:
    texts = [(0, "Cell and Leaf"), (0, "Leaf, then Sun."), (1, "a Plant"), (2, "no title")]
    assert mentions(["Plant", "Leaf", "Cell", "Sun"], texts) == [[2, 1, 3], [0], [], []]


def test_a_word_that_is_mostly_written_small_is_no_title_where_many_texts_have_it() -> None:
    titles = ["Set", "France", *(f"Topic {i}" for i in range(98))]
    texts = [(i, "a set of France") for i in range(2, 22)]  # a fifth of the topics
    rows = mentions(titles, texts)
    assert rows[2] == [1]
    every = mentions(titles, [(i, "France") for i in range(2, 72)])
    assert not any(every)


def test_a_corpus_is_connected_as_it_is_asked_for() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = vectors[2]
    titles, texts = ["Plant", "Leaf", "Cell", "Sun"], [(0, "Sun"), (2, "Leaf and Plant")]
    link, similar, mention = (LINK_TYPES.index(k) for k in ("link", "similar", "mention"))

    def rows(config: BuildConfig, own: list[list[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
        graph = connected(TopicGraph.from_links(4, own), titles, vectors, texts, config)
        kinds = np.split(graph.types, graph.indptr[1:-1])
        return [list(zip(graph.out(i).tolist(), kinds[i].tolist(), strict=True)) for i in range(4)]

    own = [[(1, link)], [], [], []]
    assert rows(SMALL, own) == own
    both = replace(SMALL, connect=("links", "mentions"))
    assert rows(both, own) == [[(1, link), (3, mention)], [], [(1, mention), (0, mention)], []]
    alone = rows(replace(SMALL, neighbours=1), [[], [], [], []])
    assert alone[0][0] == (3, mention)
    assert alone[2] == [(1, mention), (0, mention), (3, similar)]
    assert alone[3] == [(2, similar)]
    with pytest.raises(ValueError, match="connected by links, got not one link: add similar"):
        rows(replace(SMALL, connect=("links",)), [[], [], [], []])


def test_a_topic_of_which_nothing_is_known_has_no_neighbours_and_is_nobodys() -> None:
    vectors = np.array([[1, 0], [0, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    rows = [row.tolist() for row in nearest_topics(vectors, 2)]
    assert rows == [[2, 3], [], [0, 3], [2, 0]]
    assert [len(row) for row in nearest_topics(np.zeros((3, 2), np.float32), 2)] == [0, 0, 0]


def test_the_shape_of_a_graph_against_known_answers() -> None:
    shape = ring(10).shape()
    assert (shape.links, shape.density, shape.components) == (20, pytest.approx(20 / 90), 1)
    assert (shape.largest, shape.alone, shape.most_degree) == (1.0, 0, 4)
    assert shape.mean_degree == shape.median_degree == 4
    assert shape.by_type == {"link": 20}
    assert shape.warning == ""
    apart = TopicGraph.from_links(6, [[(1, 5)], [(0, 5)], [(3, 4)], [], [], []]).shape()
    assert (apart.links, apart.components, apart.alone) == (3, 4, 2)
    assert apart.by_type == {"similar": 1, "mention": 2}
    assert "nearly empty" in apart.warning
    full = [[(j, 0) for j in range(8) if j != i] for i in range(8)]
    assert "100 % of all pairs" in TopicGraph.from_links(8, full).shape().warning
    assert "3 links (1 similar, 2 mention), density 0.1;" in str(apart)


def test_k_means_finds_bundles_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)[[0, 3, 5]]
    truth = rng.integers(0, 3, 90)
    vectors = centres[truth] + 0.1 * rng.normal(size=(90, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster = k_means(vectors, 3, seed=1)
    assert len({(int(a), int(b)) for a, b in zip(truth, cluster, strict=True)}) == 3
    assert np.array_equal(cluster, k_means(vectors, 3, seed=1))
    with pytest.raises(ValueError, match=r"1 to 90 clusters, .* got 91: ask for fewer"):
        k_means(vectors, 91, seed=0)


def test_names_are_the_words_that_set_a_group_apart_and_no_two_are_the_same() -> None:
    shared = "water water water the and of"
    texts = [
        (0, f"leaf leaf leafs plant {shared}"),
        (1, f"engine wheel wheel {shared}"),
        (2, f"engine wheel wheel {shared}"),
        (3, "12 the"),
    ]
    names = group_names(texts, 4)
    assert names[0].split("/")[:2] == ["leaf", "plant"]
    assert names[1:3] == ["wheel/engine/water", "wheel/engine/water/2"]
    assert names[3] == "other"
    assert len(set(names)) == 4


def test_regions_of_an_unlabelled_corpus_have_names_without_dots() -> None:
    vectors = np.repeat(np.eye(2, dtype=np.float32), 20, axis=0)
    texts = [(i, "os.path walk" if i < 20 else "leaf plant") for i in range(40)]
    labels = cluster_labels(vectors, texts, seed=0)
    assert {label for own in labels for label in own} == {
        "cluster.os/path/walk",
        "cluster.leaf/plant",
    }


def test_settings_that_came_later_stand_in_a_card_where_they_are_others() -> None:
    card = BuildConfig().to_json()
    assert {"connect", "neighbours", "clusters", "embedder"}.isdisjoint(card)
    card = BuildConfig(
        connect=("similar",), clusters="auto", embedder="/some/where/model"
    ).to_json()
    assert (card["connect"], card["clusters"], card["embedder"]) == (("similar",), "auto", "model")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"connect": ("likeness",)}, "links, mentions, similar once"),
        ({"connect": ("links", "links")}, "links, mentions, similar once"),
        ({"clusters": 1}, "2 or more clusters, or auto, got 1"),
        ({"clusters": "many"}, "got many"),
        ({"neighbours": 0}, "neighbours of at least 1"),
        ({"embedder": " "}, "tfidf or a model directory"),
    ],
)
def test_connections_that_cannot_be_are_refused_at_birth(
    settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        BuildConfig(**settings)  # type: ignore[arg-type]


def test_a_build_says_how_the_graph_hangs_together_and_so_does_its_card(tmp_path: Path) -> None:
    articles = tuple(Article(a.title, a.paragraphs) for a in corpus_of(24).articles)
    told: list[str] = []
    world = build_world(Corpus(articles, "made up", "none"), tmp_path / "w", SMALL, told.append)
    assert "  240 links (240 similar)" in "\n".join(told)
    assert world.card["graph"] == world.graph.shape().to_json()
    assert World.open(tmp_path / "w").card["graph"]["components"] == 2
    assert all(len(name.split("/")) >= 3 for name in world.regions if name != "cluster")

"""The generated world: its truth, its graph, and that its held-out text tests knowledge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from kncl_env.world.graph import TopicGraph
from kncl_env.world.sources.synthetic import (
    SENTENCES_PER_PARAGRAPH,
    SyntheticConfig,
    SyntheticWorld,
    generate,
    read_synthetic,
)
from kncl_env.world.sources.synthetic_words import RELATIONS

CONFIG = SyntheticConfig()
WORLD = generate(CONFIG)


def graph_of(world: SyntheticWorld) -> TopicGraph:
    number = {article.title: i for i, article in enumerate(world.corpus.articles)}
    rows = [[(number[t], 0) for t, _ in article.links] for article in world.corpus.articles]
    return TopicGraph.from_links(len(rows), rows)


def sections(config: SyntheticConfig, paragraphs: tuple[str, ...]) -> Iterator[str]:
    length = -(-config.facts_per_topic // SENTENCES_PER_PARAGRAPH)  # [paragraphs]
    for start in range(0, len(paragraphs), length):
        yield " ".join(paragraphs[start : start + length])


def runs(text: str, n: int = 12) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_world() -> None:
    assert read_synthetic(CONFIG).sha256 == WORLD.corpus.sha256
    assert read_synthetic().sha256 == WORLD.corpus.sha256
    assert read_synthetic(SyntheticConfig(seed=1)).sha256 != WORLD.corpus.sha256


def test_the_default_world_has_the_promised_size() -> None:
    corpus = read_synthetic(SyntheticConfig(seed=3))
    size = [sum(len(p.encode()) for p in article.paragraphs) for article in corpus.articles]
    assert len(corpus.articles) == 120
    assert 5_000 < np.mean(size) < 7_000


def test_every_section_tells_every_fact_of_its_topic() -> None:
    for article, facts in zip(WORLD.corpus.articles, WORLD.facts, strict=True):
        for section in sections(CONFIG, article.paragraphs) if facts else ():
            assert section.count(".") == len(facts)
            for fact in facts:
                assert fact.attribute in section
                if fact.through is None:
                    assert fact.value.lower() in section.lower()
                else:
                    assert WORLD.corpus.articles[fact.through].title in section


def test_hardly_a_run_of_twelve_words_of_a_section_stands_in_another_one() -> None:
    told = repeated = 0
    for article in WORLD.corpus.articles:
        each = [runs(section) for section in sections(CONFIG, article.paragraphs)]
        assert len(each) == CONFIG.paraphrases
        for i, held_out in enumerate(each):
            rest = set().union(*each[:i], *each[i + 1 :])
            told += len(held_out)
            repeated += len(held_out & rest)
    assert repeated < 0.05 * told


def test_prerequisites_are_linked_and_have_no_cycle() -> None:
    graph = graph_of(WORLD)
    needs: dict[int, set[int]] = {}
    prerequisites = [
        (topic, fact.through)
        for topic, facts in enumerate(WORLD.facts)
        for fact in facts
        if fact.through is not None and topic not in WORLD.redundant_of
    ]
    assert len(prerequisites) > len(WORLD.corpus.articles)
    for topic, needed in prerequisites:
        assert graph.has_edge(topic, needed)
        needs.setdefault(topic, set()).add(needed)
    understood: set[int] = set()
    while True:
        ready = {t for t in range(len(graph)) if needs.get(t, set()) <= understood} - understood
        if not ready:
            break
        understood |= ready
    assert len(understood) == len(graph)


def test_an_inherited_fact_has_the_value_that_the_other_topic_has() -> None:
    for facts in WORLD.facts:
        for fact in facts:
            if fact.through is not None:
                source = {f.attribute: f.value for f in WORLD.facts[fact.through]}
                assert source[fact.attribute] == fact.value


def test_relations_name_linked_topics() -> None:
    for topic, (article, facts) in enumerate(zip(WORLD.corpus.articles, WORLD.facts, strict=True)):
        if topic not in WORLD.redundant_of:
            linked = {target for target, _ in article.links}
            assert {f.value for f in facts if f.attribute in RELATIONS} <= linked


def test_a_redundant_topic_tells_nothing_but_facts_of_its_original() -> None:
    assert len(WORLD.redundant_of) == CONFIG.n_redundant
    for topic, original in WORLD.redundant_of.items():
        article, source = WORLD.corpus.articles[topic], WORLD.corpus.articles[original]
        assert original not in WORLD.redundant_of
        assert original not in WORLD.noise
        assert WORLD.facts[topic] == WORLD.facts[original]
        assert source.title in " ".join(article.paragraphs)
        assert source.title in {target for target, _ in article.links}
        assert len(runs(" ".join(article.paragraphs)) & runs(" ".join(source.paragraphs))) < 60


def test_noise_is_marked_unlabelled_in_the_text_and_shares_no_word_with_anything() -> None:
    assert len(WORLD.noise) == CONFIG.n_noise
    texts = [" ".join(a.paragraphs) for a in WORLD.corpus.articles]
    real = {w for i, t in enumerate(texts) if i not in WORLD.noise for w in t.lower().split()}
    for topic, article in enumerate(WORLD.corpus.articles):
        assert article.is_noise == (topic in WORLD.noise)
        if article.is_noise:
            words = texts[topic].lower().split()
            assert np.mean([word in real for word in words]) < 0.05
            assert len(set(words)) > 0.8 * len(words)


def test_noise_and_redundant_topics_are_linked_into_the_graph_like_others() -> None:
    graph = graph_of(WORLD)
    odd = sorted({*WORLD.noise, *WORLD.redundant_of})
    plain = sorted(set(range(len(graph))) - set(odd))
    for degree in (graph.in_degree, graph.out_degree):
        assert degree[odd].min() >= 1
        assert abs(degree[odd].mean() - degree[plain].mean()) < 0.25 * degree[plain].mean()


@pytest.mark.parametrize("seed", range(5))
def test_every_topic_can_be_reached_and_most_links_stay_in_their_community(seed: int) -> None:
    world = generate(SyntheticConfig(seed=seed))
    graph = graph_of(world)
    community = np.array(world.community)
    assert graph.distances([0]).min() >= 0
    assert graph.distances([0]).max() <= 6
    source = np.repeat(np.arange(len(graph)), graph.out_degree)
    within = np.mean(community[source] == community[graph.indices])
    assert 0.6 < within < 0.9


def test_labels_name_the_community() -> None:
    for article, community in zip(WORLD.corpus.articles, WORLD.community, strict=True):
        assert article.labels == (f"community.{community}",)
    assert np.bincount(WORLD.community).tolist() == [20] * 6


def test_communities_can_be_told_apart_by_their_words() -> None:
    real = [i for i in range(CONFIG.n_topics) if i not in WORLD.noise]
    texts = [" ".join(WORLD.corpus.articles[i].paragraphs) for i in real]
    vectors = TfidfVectorizer().fit_transform(texts)
    similarity = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similarity, -1)
    community = np.array(WORLD.community)[real]
    assert np.mean(community[similarity.argmax(axis=1)] == community) > 0.9


def test_the_vocabulary_is_small_enough_for_a_tiny_model() -> None:
    real = [a for i, a in enumerate(WORLD.corpus.articles) if i not in WORLD.noise]
    words = {w.strip(".,:").lower() for a in real for p in a.paragraphs for w in p.split()}
    assert len(words) < 1_000


def test_titles_share_no_word_with_each_other_or_with_values() -> None:
    titles = [article.title for article in WORLD.corpus.articles]
    assert len({t.lower() for t in titles}) == len(titles)
    values = {f.value for facts in WORLD.facts for f in facts if f.attribute not in RELATIONS}
    assert not values & {t.lower() for t in titles}


def test_the_smallest_world_can_be_made() -> None:
    config = SyntheticConfig(
        n_topics=2, n_communities=1, noise_share=0, redundant_share=0, facts_per_topic=4
    )
    world = generate(config)
    assert [len(a.links) for a in world.corpus.articles] == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_topics": 3}, "expected n_topics of 12 to 100,000, got 3"),
        ({"n_communities": 0}, "expected n_communities of 1"),
        ({"noise_share": 1.5}, "expected noise_share of 0 to 1, got 1.5"),
        ({"paraphrases": 13}, "expected paraphrases of 2 to 12, got 13"),
        ({"facts_per_topic": 99}, "expected facts_per_topic of 4"),
        ({"noise_share": 0.6, "redundant_share": 0.4}, "neither noise nor redundant, got 0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**change)  # type: ignore[arg-type]

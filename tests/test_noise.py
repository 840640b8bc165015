"""The noisy scenario's junk: how much, of which kind, and that nothing but the kind betrays it."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kncl_env.world.cut import JunkFile
from kncl_env.world.noise import KINDS, JunkPassage, JunkTopic, draw_noise
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.splits import Passage

CORPUS = read_synthetic(SyntheticConfig(n_topics=40, n_communities=4, paraphrases=4))
TITLES = [article.title for article in CORPUS.articles]
PASSAGES = [(i, text) for i, article in enumerate(CORPUS.articles) for text in article.paragraphs]
REAL_BYTES = sum(len(text.encode()) for _, text in PASSAGES)


class Noise(NamedTuple):
    """Junk in memory."""

    passages: tuple[JunkPassage, ...]
    topics: tuple[JunkTopic, ...]


def add_noise(
    passages: Sequence[tuple[int, str]],
    titles: Sequence[str],
    share: float,
    rng: np.random.Generator,
) -> Noise:
    found: list[JunkPassage] = []
    topics = draw_noise(passages, titles, share, rng, found.append)
    return Noise(tuple(found), topics)


def spoiled(share: float = 0.3, seed: int = 0) -> Noise:
    return add_noise(PASSAGES, TITLES, share, np.random.default_rng(seed))


def n_bytes(noise: Noise) -> int:
    return sum(len(p.text.encode()) for p in noise.passages)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_junk_is_the_stated_share_of_the_resulting_bytes_to_one_passage_per_place(
    share: float,
) -> None:
    junk = n_bytes(spoiled(share))
    longest = 4 * max(len(text.encode()) for _, text in PASSAGES)
    wanted = share / (1 - share) * REAL_BYTES
    assert wanted <= junk <= wanted + 2 * longest


def test_a_share_of_zero_adds_nothing() -> None:
    assert spoiled(0.0) == Noise((), ())


def test_the_same_generator_state_gives_the_same_junk_and_another_seed_other_junk() -> None:
    assert spoiled(seed=1) == spoiled(seed=1)
    assert spoiled(seed=1) != spoiled(seed=2)


def test_every_kind_gets_about_an_equal_share_of_the_bytes() -> None:
    sizes: Counter[str] = Counter()
    for passage in spoiled().passages:
        sizes[passage.kind] += len(passage.text.encode())
    assert set(sizes) == set(KINDS)
    assert min(sizes.values()) > 0.5 * max(sizes.values())


def test_half_of_the_junk_lies_in_real_topics_and_half_in_topics_of_its_own() -> None:
    noise = spoiled()
    own = sum(len(p.text.encode()) for p in noise.passages if p.topic >= len(TITLES))
    assert 0.45 < own / n_bytes(noise) < 0.55
    real = {p.topic for p in noise.passages if p.topic < len(TITLES)}
    assert len(real) > len(TITLES) / 2


def test_a_duplicate_is_a_verbatim_copy_of_a_passage_of_its_topic() -> None:
    originals = set(PASSAGES)
    texts = {text for _, text in PASSAGES}
    for passage in spoiled().passages:
        if passage.kind == "duplicate":
            assert passage.text in texts
            assert passage.topic >= len(TITLES) or (passage.topic, passage.text) in originals


def test_a_shuffled_passage_keeps_the_words_and_loses_their_order() -> None:
    bags = {tuple(sorted(text.split())) for _, text in PASSAGES}
    shuffled = [p.text for p in spoiled().passages if p.kind == "shuffled"]
    assert all(tuple(sorted(text.split())) in bags for text in shuffled)
    texts = {text for _, text in PASSAGES}
    assert not any(text in texts for text in shuffled)


def test_a_truncated_passage_is_shorter_than_any_original_and_made_of_its_pieces() -> None:
    everything = "\n".join(text for _, text in PASSAGES)
    for passage in spoiled().passages:
        if passage.kind == "truncated":
            assert passage.text[:20].strip() in everything
            assert passage.text not in everything


def test_foreign_text_shares_next_to_no_word_with_the_corpus() -> None:
    known = {word.strip(".,:").lower() for _, text in PASSAGES for word in text.split()}
    foreign = Counter(
        word.strip(".").lower() in known
        for p in spoiled().passages
        if p.kind == "foreign"
        for word in p.text.split()
    )
    assert foreign[True] < 0.05 * foreign[False]


def test_junk_topics_are_numbered_after_the_real_ones_and_hold_one_kind_each() -> None:
    noise = spoiled()
    kinds: dict[int, set[str]] = {}
    for passage in noise.passages:
        if passage.topic >= len(TITLES):
            kinds.setdefault(passage.topic, set()).add(passage.kind)
    assert sorted(kinds) == list(range(len(TITLES), len(TITLES) + len(noise.topics)))
    for topic, found in kinds.items():
        assert found == {noise.topics[topic - len(TITLES)].kind}


def test_junk_topics_are_linked_to_and_from_real_topics_so_that_a_frontier_meets_them() -> None:
    for topic in spoiled().topics:
        assert topic.links
        assert topic.linked_from
        assert all(0 <= t < len(TITLES) for t in (*topic.links, *topic.linked_from))
        assert len(set(topic.links)) == len(topic.links)


def test_titles_of_junk_topics_are_unique_and_made_of_the_corpus_words() -> None:
    noise = spoiled()
    titles = [topic.title for topic in noise.topics]
    assert len({*titles, *TITLES}) == len(titles) + len(TITLES)
    words = {w.strip(".,:").lower() for _, text in PASSAGES for w in text.split()}
    words |= {title.lower() for title in TITLES}
    assert all(word.lower() in words for title in titles for word in title.split())
    assert len({title.split()[0] for title in titles}) > len(titles) / 2


def test_titles_of_junk_topics_are_written_like_the_real_ones() -> None:
    titles = [f"pack{'abcdefgh'[i]}.mod{'ijklmnop'[i]}" for i in range(8)]
    passages = [(i, "some words about a module and its many functions") for i in range(8)]
    noise = add_noise(passages * 8, titles, 0.5, np.random.default_rng(0))
    assert any("." in topic.title for topic in noise.topics)
    assert not any(topic.title[0].isupper() for topic in noise.topics)


def test_a_world_of_one_word_still_gets_unique_titles() -> None:
    noise = add_noise([(0, "aha aha")] * 40, ["aha"], 0.8, np.random.default_rng(0))
    titles = [topic.title for topic in noise.topics]
    assert len({*titles, "aha"}) == len(titles) + 1


@pytest.mark.parametrize("share", [-0.1, 0.95, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"expected a noise share of 0 to 0\.9, got"):
        spoiled(share)


def test_passages_that_cannot_be_spoiled_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="got none"):
        add_noise([], TITLES, 0.1, rng)
    with pytest.raises(ValueError, match="expected topics of 0 to 0, got 3"):
        add_noise([(3, "text")], ["A"], 0.1, rng)
    with pytest.raises(ValueError, match="got an empty one"):
        add_noise([(0, " ")], ["A"], 0.1, rng)


def test_junk_on_disk_is_that_in_memory_by_topic_in_the_order_drawn(tmp_path: Path) -> None:
    wanted = spoiled(0.5)
    with JunkFile(tmp_path / "junk.txt") as file:
        topics = draw_noise(
            PASSAGES,
            TITLES,
            0.5,
            np.random.default_rng(0),
            lambda junk: file.keep(junk.topic, junk.text, junk.kind),
        )
    assert topics == wanted.topics
    assert list(file.by_topic()) == [
        Passage(p.topic, "train", p.text, p.kind)
        for p in sorted(wanted.passages, key=lambda p: p.topic)
    ]


def test_memory_does_not_grow_with_the_text_of_junk(tmp_path: Path) -> None:
    text = "ä" * 5_000
    tracemalloc.start()
    with JunkFile(tmp_path / "junk.txt") as file:
        for i in range(2_000):
            file.keep(i % 7, text, KINDS[i % 5])
    assert sum(len(p.text) for p in file.by_topic()) == 2_000 * len(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "junk.txt").stat().st_size == 20_000_000
    assert peak < 3_000_000

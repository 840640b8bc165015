"""Worlds: what a build promises, and that `check` finds what is planted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import corpus_of

from kncl_env.cli import main
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.index import PassageIndex
from kncl_env.world.leaks import faults
from kncl_env.world.splits import SPLITS
from kncl_env.world.topics import nearest_topics
from kncl_env.world.world import World


def test_a_built_world_is_sound(small_world: World) -> None:
    assert faults(small_world) == []
    assert main(["check", str(small_world.path)]) == 0


def test_the_same_corpus_and_settings_give_the_same_world(tmp_path: Path) -> None:
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    a = build_world(corpus_of(12), tmp_path / "a", config)
    b = build_world(corpus_of(12), tmp_path / "b", config)
    assert a.hash == b.hash
    for name in ("tokens.npy", "topic_vectors.npy", "tokenizer.json", "graph.npz"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    c = build_world(corpus_of(12, seed=1), tmp_path / "c", config)
    assert c.hash != a.hash


def test_every_long_article_has_text_in_every_split(small_world: World) -> None:
    assert small_world.has_held_out.all()
    for split in SPLITS:
        assert len(small_world.passages_of(3, split)) >= 1


def test_no_window_reaches_across_splits_or_topics(small_world: World) -> None:
    store = small_world.windows(16)
    starts = np.load(small_world.path / "starts.npy")
    key = small_world.passage_topic * 10 + small_world.passage_split
    last = np.searchsorted(starts, store.window_start + 16, side="right") - 1
    assert len(store) > 1000
    assert (key[store.document] == key[last]).all()


def test_the_index_holds_training_passages_only(small_world: World) -> None:
    assert (small_world.passage_split[small_world.index.passages] == 0).all()


def test_a_focused_world_counts_only_its_region(small_world: World) -> None:
    assert small_world.target_region == "region.3"
    assert set(small_world.target_topics()) == set(range(30, 40))


def test_regions_include_every_dotted_prefix(small_world: World) -> None:
    assert len(small_world.regions["region"]) == 40
    assert len(small_world.regions["region.0"]) == 10


def test_an_unknown_topic_names_close_ones(small_world: World) -> None:
    with pytest.raises(ValueError, match="did you mean Topic 39"):
        small_world.topic_of("Topic 399")


def copy_of(world: World, place: Path) -> World:
    shutil.copytree(world.path, place)
    return World.open(place)


def test_check_finds_a_held_out_sentence_copied_into_training_text(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = copy_of(small_world, tmp_path / "leaky")
    table = pq.read_table(world.path / "passages.parquet").to_pydict()
    secret = world.passage_text(int(world.passages_of(5, "test")[0]))
    sentence = " ".join(secret.split()[:10])
    victim = int(world.passages_of(20, "train")[2])
    table["text"][victim] += " " + sentence
    schema = pq.read_schema(world.path / "passages.parquet")
    pq.write_table(pa.table(table, schema=schema), world.path / "passages.parquet")
    found = faults(World.open(world.path))
    assert any("leak: test passage" in f and "'Topic 5'" in f for f in found)
    assert main(["check", str(world.path)]) == 1
    assert "leak" in capsys.readouterr().err


def test_check_and_search_refuse_an_index_of_another_corpus_and_name_both(
    small_world: World, tmp_path: Path
) -> None:
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    other = build_world(corpus_of(12, seed=3), tmp_path / "other", config)
    world = copy_of(small_world, tmp_path / "mixed")
    for name in ("passages.faiss", "indexed_passages.npy", "index.json"):
        shutil.copy(other.path / name, world.path / name)
    both = f"{world.corpus_hash[:12]}.*{other.corpus_hash[:12]}"
    with pytest.raises(ValueError, match="other bytes than were built"):
        _ = world.index
    with pytest.raises(ValueError, match=both):
        PassageIndex.open(world.path, world.corpus_hash)
    assert any(re.search(both, fault) for fault in faults(World.open(world.path)))
    assert main(["check", str(world.path)]) == 1


def test_check_finds_an_index_that_holds_held_out_text(small_world: World, tmp_path: Path) -> None:
    world = copy_of(small_world, tmp_path / "held-out-in-index")
    passages = np.load(world.path / "indexed_passages.npy")
    passages[0] = world.passages_of(0, "test")[0]
    np.save(world.path / "indexed_passages.npy", passages)
    assert any("the index holds held-out passage" in f for f in faults(World.open(world.path)))


def test_identical_articles_fall_into_the_same_split(tmp_path: Path) -> None:
    articles = list(corpus_of(12).articles)
    twin = Article("Twin", articles[4].paragraphs, (), articles[4].labels, same_as="Topic 4")
    corpus = Corpus((*articles, twin), "made up", "none needed")
    world = build_world(corpus, tmp_path / "w", BuildConfig(vocab_size=300, passage_bytes=200))
    for split in SPLITS[1:]:
        own = [world.passage_text(int(p)) for p in world.passages_of(4, split)]
        assert own
        assert own == [world.passage_text(int(p)) for p in world.passages_of(12, split)]
    assert faults(world) == []


def test_a_corpus_without_links_gets_nearest_neighbours_and_clusters(tmp_path: Path) -> None:
    articles = tuple(Article(a.title, a.paragraphs) for a in corpus_of(24).articles)
    corpus = Corpus(articles, "made up", "none needed")
    world = build_world(corpus, tmp_path / "w", BuildConfig(vocab_size=300, passage_bytes=200))
    assert (world.graph.out_degree == 10).all()
    assert any(name.startswith("cluster.") for name in world.regions)


def test_nearest_neighbours_are_the_most_similar_topics() -> None:
    angles = np.array([0.0, 0.1, 0.25, 3.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert np.concatenate(nearest_topics(vectors, 1)).tolist() == [1, 0, 1, 2]


def test_noise_is_mixed_in_at_the_stated_share_and_keeps_the_world_sound(tmp_path: Path) -> None:
    config = BuildConfig(scenario="noisy", noise_share=0.3, vocab_size=300, passage_bytes=200)
    world = build_world(corpus_of(40), tmp_path / "w", config)
    size = np.array([len(p.text.encode()) for p in world.passages()])
    train = world.passage_split == 0
    noise = size[train & world.passage_is_noise].sum() / size[train].sum()
    assert noise == pytest.approx(0.3, abs=0.02)
    assert world.topic_is_noise.any()
    assert not world.topic_is_noise[world.target_topics()].any()
    assert (world.passage_is_noise & ~world.topic_is_noise[world.passage_topic]).any()
    assert faults(world) == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["show", "nowhere"], "expected a world directory"),
        (["check", "nowhere"], "expected a world directory"),
        (["build", "wikispeedia", "nowhere", "--out", "w"], "nowhere"),
        (["build", "wikispeedia", "--out", "w"], "unpacked archives"),
        (["build", "pydoc", "--region", "x", "--out", "w"], "--scenario focused"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error
    assert not (tmp_path / "w").exists()


def test_show_of_an_unknown_topic_is_one_line(
    small_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(small_world.path), "--topic", "Topic 99"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["show", str(small_world.path), "--topic", "Topic 9"]) == 0


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="got none from source 'nothing'"):
        list(Corpus((), "nothing", "none").read())


def test_articles_are_checked_and_hashed_as_they_are_read() -> None:
    first, second, *_ = corpus_of(4).articles
    reading = Corpus((first, second, first), "x", "none").read()
    one_by_one = iter(reading)
    assert [next(one_by_one), next(one_by_one)] == [first, second]
    assert reading.sha256 == Corpus((first, second), "y", "other").sha256
    with pytest.raises(ValueError, match="unique titles, got 'Topic 0' more than once"):
        next(one_by_one)
    with pytest.raises(ValueError, match="can be read more than once, got an iterator"):
        Corpus(iter((first, second)), "x", "none")


def test_a_build_never_overwrites_without_force(
    small_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "synthetic", "--out", str(small_world.path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert faults(small_world) == []


def test_check_finds_any_file_that_was_changed(small_world: World, tmp_path: Path) -> None:
    world = copy_of(small_world, tmp_path / "zeros")
    np.save(world.path / "tokens.npy", np.zeros_like(np.load(world.path / "tokens.npy")))
    assert any("expected tokens.npy as it was built" in f for f in faults(world))


def test_force_replaces_a_world_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    assert main(["build", "synthetic", "--out", str(tmp_path / "precious"), "--force"]) == 2
    assert (tmp_path / "precious" / "thesis.txt").is_file()


def test_a_damaged_world_says_which_file(small_world: World, tmp_path: Path) -> None:
    world = copy_of(small_world, tmp_path / "damaged")
    (world.path / "graph.npz").unlink()
    with pytest.raises(ValueError, match=r"expected graph\.npz"):
        _ = World.open(world.path).graph
    for name in ("graph.npz", "passages.faiss", "topics.parquet", "topic_vectors.npy"):
        world = copy_of(small_world, tmp_path / f"cut-{name}")
        file = world.path / name
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ValueError, match="rebuild"):
            _ = (world.graph, world.index, world.titles, world.topic_vectors)
        assert main(["check", str(world.path)]) in (1, 2)
    (world.path / "world.json").write_text("[1]")
    with pytest.raises(ValueError, match="world format"):
        World.open(world.path)
    (world.path / "world.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        World.open(world.path)

"""Building: what is checked before any work, what is told, and what a world's card may say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import corpus_of

from kncl_env import passage_traits
from kncl_env.cli import main
from kncl_env.passage_traits import text_traits
from kncl_env.topic_table import TopicTable
from kncl_env.world import blocks, build
from kncl_env.world.build import build_world
from kncl_env.world.build_config import VOCABULARY, BuildConfig
from kncl_env.world.cached import cached_array
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.embedding import Embedder
from kncl_env.world.leaks import faults
from kncl_env.world.sources.synthetic import SyntheticConfig
from kncl_env.world.world import World
from train_lm.token_files import STARTS, TOKENS
from train_lm.tokenizer import bytes_per_token
from train_lm.training_text import open_text

SMALL = BuildConfig(vocab_size=300, passage_bytes=200)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"vocab_size": 2_000_000}, "257 .* to 1,048,576 token ids, got 2000000"),
        ({"vocab_size": 256}, "257"),
        ({"noise_share": 0.5}, "--scenario noisy"),
        ({"noise_share": 0.95, "scenario": "noisy"}, "<= 0.9"),
        ({"region": "x"}, "--scenario focused"),
        ({"scenario": "narrow"}, "scenario among"),
        ({"seed": -1}, "seed of 0"),
        ({"dimensions": 0}, "dimensions of at least 1"),
        ({"max_terms": 0}, "max_terms of at least 1"),
        ({"passage_bytes": 0}, "at least 50 bytes"),
        ({"held_out": 0.5}, "held_out"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_birth(
    settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        BuildConfig(**settings)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pydoc", "--topics", "5"], "no --topics with pydoc, got 5"),
        (["wikispeedia", ".", "--topics", "5"], "no --topics with wikispeedia"),
        (["pydoc", "--download"], "no --download with pydoc"),
        (["synthetic", "--download"], "no --download with synthetic"),
        (["pydoc", "somewhere"], "no PLACE with pydoc, got somewhere"),
        (["synthetic", "somewhere"], "no PLACE with synthetic"),
        (["synthetic", "--noise-share", "0.3"], "use --scenario noisy"),
        (["synthetic", "--scenario", "focused", "--noise-share", "0.2"], "use --scenario noisy"),
        (["synthetic", "--scenario", "noisy", "--region", "x"], "use --scenario focused"),
        (["synthetic", "--passage-bytes", "0"], "at least 50 bytes, got 0"),
        (["synthetic", "--vocab-size", "2000000"], "1,048,576 token ids"),
        (["synthetic", "--seed", "-1"], "expected a seed"),
    ],
)
def test_an_option_that_would_be_ignored_or_fail_later_is_refused_first(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", *words, "--out", "w"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert expected in error
    assert "read" not in error  # no source was
    assert not list(tmp_path.iterdir())


def test_help_states_the_default_of_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"topics of the generated world (default: {SyntheticConfig().n_topics})" in text
    assert "default: 300 for pydoc, 300 for synthetic, 600 for wikispeedia" in text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (replace(SMALL, scenario="focused", region="region.9"), "expected a region of made up"),
        (replace(SMALL, scenario="focused"), "got none among 5 regions: use --scenario broad"),
        (
            replace(SMALL, scenario="focused", region="region.1", passage_bytes=9_000),
            "--passage-bytes is too large",
        ),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_the_long_stages(
    config: BuildConfig, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "train_tokenizer", None)  # would be called next
    with pytest.raises(ValueError, match=expected) as caught:
        build_world(corpus_of(20), tmp_path / "w", config)
    assert ".part" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_build_that_fails_leaves_nothing_behind_and_an_old_world_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = build_world(corpus_of(12), tmp_path / "w", SMALL)

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "fit", broken)
    with pytest.raises(KeyboardInterrupt):
        build_world(corpus_of(12, seed=1), tmp_path / "w", SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    assert faults(World.open(old.path)) == []


def test_a_file_is_no_place_for_a_world(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a letter")
    with pytest.raises(FileExistsError, match="got the file"):
        build_world(corpus_of(12), tmp_path / "w", SMALL)
    assert main(["build", "synthetic", "--out", str(tmp_path / "w"), "--force"]) == 2
    assert (tmp_path / "w").read_text() == "a letter"


def test_what_is_left_out_is_told_with_the_first_of_it(tmp_path: Path) -> None:
    articles = list(corpus_of(12).articles)
    sentence = "One two three four five six seven eight nine ten."
    doubled = tuple(f"{p} {sentence}" for p in articles[3].paragraphs)
    articles[3] = replace(articles[3], paragraphs=doubled)
    articles[5] = replace(articles[5], links=(("Nowhere", "link"), *articles[5].links))
    told: list[str] = []
    world = build_world(Corpus(tuple(articles), "x", "none"), tmp_path / "w", SMALL, told.append)
    dropped = world.card["counts"]["overlapping_held_out_passages_dropped"]
    assert dropped > 0
    text = "\n".join(told)
    assert f"{dropped} held-out passages left out, the first of 'Topic 3': it shares a run" in text
    assert "1 links left out that lead to no article, the first from 'Topic 5' to 'Nowhere'" in text


@pytest.mark.parametrize("n_topics", [1, 2, 60])
def test_a_corpus_too_small_to_embed_is_told_so_in_our_words(n_topics: int, tmp_path: Path) -> None:
    for text in ("the and of", "x y z", "alone"):
        articles = tuple(Article(f"{'a ' * i}b", (f"{text} {text}",)) for i in range(n_topics))
        with pytest.raises(ValueError, match="too small to embed, add text or topics") as caught:
            build_world(Corpus(articles, "tiny", "none"), tmp_path / "w", SMALL)
        for word in ("min_df", "max_df", "stop words", "TruncatedSVD", "features"):
            assert word not in str(caught.value)


def test_many_topics_without_a_common_word_are_told_what_is_missing() -> None:
    texts = [f"word{i} thing{i}" for i in range(60)]
    with pytest.raises(ValueError, match="at least 2 of the 60 topics have and at most half"):
        Embedder.fit(texts, 8, 100, 0)
    assert Embedder.fit(texts[:20], 8, 100, 0).dimensions == 8


def test_a_world_of_one_topic_can_be_built(tmp_path: Path) -> None:
    article = corpus_of(12).articles[0]
    corpus = Corpus((Article(article.title, article.paragraphs),), "one", "none")
    world = build_world(corpus, tmp_path / "w", SMALL)
    assert world.n_topics == 1
    assert faults(world) == []


def test_a_card_names_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["build", "synthetic", "--topics", "24", "--out", "here/w"]) == 0
    text = (tmp_path / "here/w/world.json").read_text()
    for path in (tmp_path, Path.home(), Path(sys.prefix), Path(__file__).parents[1]):
        assert str(path) not in text
    assert "here" not in text
    # What a source quotes of its files is for whoever builds.
    corpus = replace(corpus_of(12), counts={"a": 1}, first_dropped={"a": f"{tmp_path}/x:1: 'y'"})
    world = build_world(corpus, tmp_path / "v", SMALL)
    assert str(tmp_path) not in (world.path / "world.json").read_text()


def test_the_current_folder_is_not_replaced_under_our_feet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="another place than the current folder"):
        build_world(corpus_of(12), Path("."), SMALL)


def test_a_vocabulary_wider_than_16_bits_changes_nothing_but_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = build_world(corpus_of(12), tmp_path / "a", SMALL)
    encode = blocks.encode
    monkeypatch.setattr(
        blocks, "encode", lambda *args: [ids.astype(np.uint32) for ids in encode(*args)]
    )
    wide = build_world(corpus_of(12), tmp_path / "b", SMALL)
    assert np.load(wide.path / TOKENS).dtype == np.uint32
    assert np.array_equal(narrow.tokens()[0], wide.tokens()[0])
    windows = np.arange(10)
    assert np.array_equal(narrow.windows(16).read(windows), wide.windows(16).read(windows))
    assert np.array_equal(text_traits(narrow), text_traits(wide))
    assert np.array_equal(narrow.train_tokens_of, wide.train_tokens_of)
    text = open_text(wide.path, wide.hash, None)
    assert text.tokens.dtype == np.uint32
    assert np.array_equal(text.tokens, open_text(narrow.path, narrow.hash, None).tokens)


def test_pairs_of_a_wide_vocabulary_are_told_apart(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last ids of the widest vocabulary give the traits that the first ones give."""
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    ids, starts = small_world.tokens()
    sizes = bytes_per_token(small_world.tokenizer)
    widest = SimpleNamespace(get_vocab_size=lambda: VOCABULARY[1])
    found = []
    for first in (0, VOCABULARY[1] - len(sizes)):
        world = World(small_world.path, {**small_world.card, "hash": f"from {first}"})
        monkeypatch.setitem(vars(world), "tokenizer", widest)
        monkeypatch.setitem(vars(world), "tokens", lambda first=first: (ids + first, starts))
        shifted = np.concatenate([np.zeros(first, dtype=np.int64), sizes])
        monkeypatch.setattr(passage_traits, "bytes_per_token", lambda _, shifted=shifted: shifted)
        found.append(text_traits(world))
    assert np.array_equal(found[0], found[1])


def test_text_that_spells_out_the_end_of_text_makes_a_sound_world(tmp_path: Path) -> None:
    articles = list(corpus_of(12).articles)
    spelt = tuple(f"{p} The mark <|endoftext|> ends a text." for p in articles[2].paragraphs)
    articles[2] = replace(articles[2], paragraphs=spelt)
    world = build_world(Corpus(tuple(articles), "x", "none"), tmp_path / "w", SMALL)
    assert faults(world) == []
    assert np.isfinite(text_traits(world)).all()
    assert "<|endoftext|>" in world.passage_text(int(world.passages_of(2)[0]))


def test_titles_are_embedded_once_per_world(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    expected = World.open(small_world.path).title_vectors
    again = World.open(small_world.path)
    monkeypatch.setattr(Embedder, "load", None)  # is not asked again
    assert np.array_equal(again.title_vectors, expected)
    assert np.array_equal(TopicTable.of(again).titles, expected)


def test_a_cache_is_made_again_where_damaged_and_left_aside_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(3)

    for _ in range(2):
        assert cached_array("x", {"of": 1}, (3,), make).tolist() == [0, 1, 2]
    assert len(made) == 1
    cached_array("x", {"of": 2}, (3,), make)
    assert len(made) == 2
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"")
    assert cached_array("x", {"of": 1}, (3,), make).tolist() == [0, 1, 2]
    assert len(made) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "file"))
    assert cached_array("x", {"of": 1}, (3,), make).tolist() == [0, 1, 2]


def test_an_edited_card_and_a_missing_file_are_told_in_one_line(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    for name in (TOKENS, STARTS, "index.json", "indexed_passages.npy"):
        place = tmp_path / name
        shutil.copytree(small_world.path, place)
        (place / name).unlink()
        assert main(["check", str(place)]) == 1
        error = capsys.readouterr().err
        assert f"expected {name}" in error
        assert "Errno" not in error
        with pytest.raises(ValueError, match=f"expected {name} in .*found none.*rebuild"):
            _ = (World.open(place).windows(16), World.open(place).index)
    (place / "world.json").write_text('{"format": 1, "source": "x"}')
    assert main(["show", str(place)]) == 2
    assert "the card was edited" in capsys.readouterr().err


def test_show_is_content_with_a_reader_that_has_gone_away(small_world: World) -> None:
    code = "import sys; from kncl_env.cli import main; sys.exit(main(sys.argv[1:]))"
    show = subprocess.Popen(
        [sys.executable, "-c", code, "show", str(small_world.path), "--regions"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert show.stdout is not None
    assert show.stderr is not None
    show.stdout.close()  # as `head` does; the command has not printed yet
    error = show.stderr.read()
    show.stderr.close()
    assert show.wait() == 0
    assert error == ""


def test_a_topic_or_the_regions_are_shown_and_not_both(small_world: World) -> None:
    with pytest.raises(SystemExit):
        main(["show", str(small_world.path), "--topic", "Topic 1", "--regions"])

"""Spaces of pretrained models, and topics gathered from documents that are none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import corpus_of

from kncl_env.cli import main
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.embedding import Embedder
from kncl_env.world.leaks import faults
from kncl_env.world.text.gathered import gathered
from kncl_env.world.text.model_space import PLACE, ModelSpace
from kncl_env.world.text.spaces import load_space
from kncl_env.world.world import World
from train_lm.pretrained.text_vectors import TextModel, model_digest

SMALL = BuildConfig(vocab_size=300, passage_bytes=200)
TEXTS = [f"{a.title} {a.paragraphs[0]}" for a in corpus_of(12).articles]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


def tiny_bert(folder: Path) -> Path:
    """A tiny BERT of random weights, as sentence-transformers lays it out."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789."
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def copy_of(model: Path, place: Path) -> Path:
    shutil.copytree(model, place)
    return place


def test_a_text_is_the_mean_of_its_tokens_whatever_stands_beside_it(model: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    read = TextModel.open(model)
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    with torch.no_grad():
        hidden = plain(**tokenizer("a cell", return_tensors="pt")).last_hidden_state[0]
    expected = hidden.mean(0).numpy() / np.linalg.norm(hidden.mean(0))
    found = read(["a cell", "something longer than that"])
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert read(["a cell"])[0] == pytest.approx(found[0], abs=1e-6)


def test_a_long_text_is_read_in_pieces(model: Path) -> None:
    read = TextModel.open(model)
    assert read.longest == 64
    halves = ["x" * 90, "y" * 90]
    both, x, y = read([" ".join(halves * 3), *halves])
    assert both @ x > 0
    assert both @ y > 0
    assert np.linalg.norm(both) == pytest.approx(1)


def test_the_first_token_stands_for_the_text_where_the_directory_says_so(
    model: Path, tmp_path: Path
) -> None:
    folder = copy_of(model, tmp_path / "cls")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert not np.allclose(TextModel.open(folder)(["a cell"]), TextModel.open(model)(["a cell"]))
    assert model_digest(folder) != model_digest(model)


def test_what_is_no_model_of_text_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no directory there"):
        TextModel.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found no config\.json there"):
        TextModel.open(tmp_path)
    for name, content, expected in (
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "mean_tokens or cls_token"),
        ("modules.json", '[{"type": "x.Dense"}]', "got Dense in modules.json"),
        ("config.json", '{"model_type": "bert", "auto_map": {"AutoModel": "a.B"}}', "auto_map"),
        ("model.safetensors", "", "turns text into vectors"),
        ("tokenizer.json", "", "expected"),
    ):
        folder = copy_of(model, tmp_path / name.replace("/", "-"))
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=expected) as caught:
            TextModel.open(folder)
        assert "\n" not in str(caught.value)


def test_axes_are_ordered_by_what_they_tell_and_keep_what_is_alike(model: Path) -> None:
    space = ModelSpace.fit(model, TEXTS, 128)
    assert space.dimensions == 11  # fewer than the texts
    rows = (TextModel.open(model)(TEXTS) - space._mean) @ space._axes
    spread = rows.std(0)
    assert (np.diff(spread) < 1e-9).all()
    assert np.abs(rows.mean(0)).max() < 1e-6
    found = space(TEXTS)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert space.stated == {"name": "tiny-bert", "sha256": model_digest(model), "dimensions": 11}
    assert np.array_equal(ModelSpace.fit(model, TEXTS, 128)._axes, space._axes)


@pytest.fixture(scope="session")
def model_world(model: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    out = tmp_path_factory.mktemp("worlds") / "by-model"
    config = replace(SMALL, embedder=str(model), dimensions=16)
    return build_world(corpus_of(24), out, config)


def test_a_world_opens_with_the_model_that_made_it(model_world: World, model: Path) -> None:
    assert faults(model_world) == []
    assert model_world.card["embedder"] == {
        "name": "tiny-bert",
        "sha256": model_digest(model),
        "dimensions": 16,
    }
    assert model_world.card["settings"]["embedder"] == "tiny-bert"
    assert str(model.parent) not in (model_world.path / "world.json").read_text()
    vectors = World.open(model_world.path).embed(["bakeli moli", model_world.titles[3]])
    assert vectors.shape == (2, 16)
    assert model_world.title_vectors.shape == model_world.topic_vectors.shape


def test_a_model_that_is_gone_or_another_is_named(
    model_world: World, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def space() -> ModelSpace:
        found = load_space(model_world.path / "embedder.npz")
        assert isinstance(found, ModelSpace)
        return found

    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=f"'tiny-bert'.*do not know where.*set {PLACE}"):
        space()(["a"])
    moved = copy_of(model, tmp_path / "moved")
    monkeypatch.setenv(PLACE, str(moved))
    assert space()(["a"]).shape == (1, 16)
    monkeypatch.delenv(PLACE)
    assert space()(["a"]).shape == (1, 16)  # remembered
    (moved / "config.json").write_text(
        (moved / "config.json").read_text().replace('"bert"', '"bert", "note": 1')
    )
    with pytest.raises(ValueError, match=r"got another model in .*moved"):
        space()(["a"])
    shutil.rmtree(moved)
    (note,) = (tmp_path / "cache" / "embedders").iterdir()
    with pytest.raises(ValueError, match=rf"found '.*moved' gone \({note}\)"):
        space()(["a"])
    note.write_text('{"folder": ""}')
    with pytest.raises(ValueError, match=rf"found '' gone \({note}\)"):
        space()(["a"])
    note.write_text('{"folder": "\\ud800"}')  # a name that no file can have
    with pytest.raises(ValueError, match=rf"found '.ud800' gone \({note}\)"):
        space()(["a"])


def test_an_embedder_that_is_none_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "synthetic", "--embedder", str(tmp_path / "none"), "--out"]
    assert main([*words, str(tmp_path / "w")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: expected the directory of a model")
    assert error.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_text_without_spaces_is_embedded_by_pairs_of_characters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ["植物通过光合作用生长叶", "国王统治城市建立军队法"]

    def text(kind: int) -> str:
        starts = rng.integers(0, 9, 40)
        return "。".join(kinds[kind][i : i + 3] * int(rng.integers(1, 4)) for i in starts)

    texts = [text(i % 2) for i in range(60)]
    embedder = Embedder.fit(texts, 8, 1000, 0)
    assert "植物" in embedder.vocabulary
    embedder.save(tmp_path / "embedder.npz")
    space = load_space(tmp_path / "embedder.npz")
    rows = space(texts)
    assert np.array_equal(rows, embedder(texts))
    likeness = rows @ rows.T
    alike = (np.arange(60)[:, None] - np.arange(60)) % 2 == 0
    assert likeness[alike].min() > likeness[~alike].max()
    assert space(["光合作用"])[0] @ rows[0] > 0.5 > space(["光合作用"])[0] @ rows[1]


def documents(n: int = 120) -> Corpus:
    """Short ones about four things, out of order; each links to the next of its kind."""
    long = corpus_of(4, regions=4).articles
    pieces = [(i % 4, long[i % 4].paragraphs[i // 4 % 24]) for i in range(n)]
    articles = tuple(
        Article(f"Note {i}", (text,), ((f"Note {i + 4}", "link"),), (f"kind.{kind}",))
        for i, (kind, text) in enumerate(pieces)
    )
    return Corpus(articles, "notes", "none needed")


def test_documents_are_gathered_by_likeness_and_named_by_their_words() -> None:
    told: list[str] = []
    corpus = gathered(documents(), replace(SMALL, clusters=4), told.append)
    articles = list(corpus.articles)
    assert len(articles) == 4
    assert sorted(a.labels for a in articles) == [(f"kind.{i}",) for i in range(4)]
    assert all(len(a.paragraphs) == 30 for a in articles)
    assert all(len(a.title.split("/")) == 3 for a in articles)
    for article in articles:
        assert all(word in " ".join(article.paragraphs) for word in article.title.split("/"))
        assert article.links == ()  # within one topic
    assert list(corpus.articles) == articles
    assert told[0] == "gathering 120 documents into 4 topics"


def test_links_between_documents_become_links_between_topics() -> None:
    plain = documents()
    crossed = tuple(
        replace(a, links=((f"Note {i + 1}", "link"), ("Nobody", "link")))
        for i, a in enumerate(plain.articles)
    )
    corpus = gathered(replace(plain, articles=crossed), replace(SMALL, clusters=4), print)
    articles = list(corpus.articles)
    label = {a.title: a.labels[0] for a in articles}
    assert {(label[a.title], label[t]) for a in articles for t, _ in a.links} == {
        (f"kind.{i}", f"kind.{(i + 1) % 4}") for i in range(4)
    }


def test_auto_gathers_only_what_is_too_short_to_be_a_topic() -> None:
    told: list[str] = []
    auto = replace(SMALL, clusters="auto")
    assert tuple(gathered(corpus_of(12), auto, told.append).articles) == corpus_of(12).articles
    assert "each of them is one" in told[0]
    assert len(list(gathered(documents(240), auto, told.append).articles)) < 30


def test_more_clusters_than_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at most 120 clusters, .* got 121"):
        build_world(documents(), tmp_path / "w", replace(SMALL, clusters=121))
    assert list(tmp_path.iterdir()) == []


def test_a_world_of_gathered_documents_is_whole(tmp_path: Path) -> None:
    world = build_world(documents(96), tmp_path / "w", replace(SMALL, clusters=4))
    assert world.n_topics == 4
    assert world.has_held_out.all()
    assert faults(world) == []
    assert world.card["settings"]["clusters"] == 4

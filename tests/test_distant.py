"""A distant world: none of the target's text is trained on, and its visible sample is all of it
that moves anything before the verdict."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import env_of

from kncl_env.cli import main
from kncl_env.env import TopicExpansionEnv
from kncl_env.passage_traits import LEVELS, TRAITS
from kncl_env.taste import Taste
from kncl_env.world import stages
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.leaks import faults
from kncl_env.world.target.language import LEAST_KNOWN, share_known
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.play.episodes import Playing
from train_lm.token_files import TRAIN

FAR = "field.far"
CONFIG = BuildConfig(scenario="distant", region=FAR, vocab_size=300, passage_bytes=200)
SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 5,
    "nucleus_updates": 20,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 12,
    "slots": 4,
}


def words_of(rng: random.Random, n: int = 900) -> list[str]:
    return [
        "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))
        for _ in range(n)
    ]


WORDS = words_of(random.Random(0))


def paragraph(rng: random.Random, kind: int, words: list[str] = WORDS) -> str:
    """26 words of six letters: one passage; a kind's own words stand among those that all have."""
    own = words[100 + 50 * kind : 150 + 50 * kind]
    return " ".join(rng.choice(own if rng.random() < 0.4 else words[:100]) for _ in range(26)) + "."


def articles_of(n: int = 48, kinds: int = 4, seed: int = 1) -> list[Article]:
    """Topics in a ring with links across; those of the last kind are the far field."""
    rng = random.Random(seed)
    found = []
    for i in range(n):
        kind = i * kinds // n
        links = [(f"Topic {j % n}", "link") for j in (i + 1, i + 3, i + n // kinds, i + n // 2)]
        text = tuple(paragraph(rng, kind) for _ in range(14))
        label = FAR if kind == kinds - 1 else f"field.near{kind}"
        found.append(Article(f"Topic {i}", text, tuple(links), (label,)))
    return found


def corpus_of(articles: list[Article]) -> Corpus:
    return Corpus(tuple(articles), "made up", "none needed")


def texts(world: World, split: str, *, of_target: bool = True) -> list[str]:
    inside = set(world.region(str(world.target_region)).tolist())
    rows = world.passages()
    return [p.text for p in rows if p.split == split and (p.topic in inside) == of_target]


@pytest.fixture(scope="session")
def far_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(corpus_of(articles_of()), tmp_path_factory.mktemp("far") / "world", CONFIG)


def rewritten(world: World, kept: str) -> list[Article]:
    """The same articles with other paragraphs of the same length where the far field's text is not
    (or, `kept` being `hidden`, where it is) in the visible sample."""
    sample, rng = set(texts(world, "reward")), random.Random(99)
    found = []
    for article in articles_of():
        text = article.paragraphs
        if article.labels == (FAR,):
            stays = [(p in sample) == (kept == "sample") for p in text]
            text = tuple(p if s else paragraph(rng, 3) for p, s in zip(text, stays, strict=True))
        found.append(replace(article, paragraphs=text))
    return found


@pytest.fixture(scope="session")
def hidden_changed(far_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    corpus = corpus_of(rewritten(far_world, "sample"))
    return build_world(corpus, tmp_path_factory.mktemp("far") / "hidden", CONFIG)


@pytest.fixture(scope="session")
def sample_changed(far_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    corpus = corpus_of(rewritten(far_world, "hidden"))
    return build_world(corpus, tmp_path_factory.mktemp("far") / "sample", CONFIG)


def test_no_text_of_the_target_is_trained_on_and_a_third_at_most_is_visible(
    far_world: World,
) -> None:
    written = {p for a in articles_of() if a.labels == (FAR,) for p in a.paragraphs}
    trained = {p.text for p in far_world.passages() if p.split == "train"}
    assert trained
    assert not trained & written
    splits = {split: texts(far_world, split) for split in ("train", "reward", "select", "test")}
    assert splits["train"] == []
    everything = [text for own in splits.values() for text in own]
    assert sorted(everything) == sorted(written)  # nothing is lost, nothing is twice
    visible = sum(map(len, splits["reward"])) / sum(map(len, everything))
    assert 0.25 < visible <= 0.4  # a third, rounded by lot topic by topic
    assert faults(far_world) == []


def seen_by(env: TopicExpansionEnv, arm: str, taste: Taste | None = None) -> dict[str, Any]:
    """All that an arm sees and does in an episode, and what an evaluation measures at its end."""
    played, world = replace(arm_of(arm), taste=taste), env.stage.world
    episode = Playing(env, played, seed=3, choices=7)
    found: dict[str, Any] = {"seen": [episode.observation], "rewards": [], "read": [], "titles": []}
    while not episode.over:
        turn = episode.step()
        found["seen"].append(turn.observation)
        found["rewards"].append(turn.reward)
        found["titles"].append(turn.info["title"])
        found["read"].append(env.stage.store.read(turn.info["windows"]))
        assert world.passage_split[env.stage.store.document[turn.info["windows"]]].max() == TRAIN
    losses = {split: env.learner.held_out_loss(split) for split in ("reward", "select", "test")}
    return found | {"losses": losses}


TASTE = Taste.of(np.random.default_rng(0).normal(size=(len(TRAITS), LEVELS)), 0.5)
ARMS = [
    *(("rule", None), ("coverage", TASTE), ("random", None), ("uniform", TASTE)),
    *((name, None) for name in ("dsir", "moore-lewis-frontier", "knn", "target-aligned")),
]


def same(one: dict[str, Any], other: dict[str, Any], part: str) -> bool:
    a, b = one[part], other[part]
    if part != "seen":
        return bool(np.array_equal(a, b))
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_hidden_text_of_the_target_moves_nothing_but_what_an_evaluation_measures(
    far_world: World, hidden_changed: World
) -> None:
    envs = [env_of(world, **SETTINGS) for world in (far_world, hidden_changed)]
    for arm, taste in ARMS:
        here, there = (seen_by(env, arm, taste) for env in envs)
        for part in ("seen", "rewards", "titles", "read"):
            assert same(here, there, part), (arm, part)
        assert here["losses"]["reward"] == there["losses"]["reward"]
        assert here["losses"]["select"] != there["losses"]["select"]
        assert here["losses"]["test"] != there["losses"]["test"]


def test_the_visible_sample_moves_what_is_seen_and_paid(
    far_world: World, sample_changed: World
) -> None:
    here, there = (seen_by(env_of(w, **SETTINGS), "rule") for w in (far_world, sample_changed))
    assert not same(here, there, "seen")
    assert not same(here, there, "rewards")
    assert here["losses"]["reward"] != there["losses"]["reward"]


def test_two_worlds_whose_hidden_text_differs_have_one_space_one_graph_and_one_tokenizer(
    far_world: World, hidden_changed: World
) -> None:
    digests = [world.card["files"] for world in (far_world, hidden_changed)]
    for name in ("embedder.npz", "tokenizer.json", "topic_vectors.npy", "graph.npz"):
        assert digests[0][name] == digests[1][name], name
    assert digests[0]["passages.parquet"] != digests[1]["passages.parquet"]
    assert far_world.hash != hidden_changed.hash


def test_topics_of_the_target_stay_on_the_graph_and_lead_to_what_is_nearest_elsewhere(
    far_world: World,
) -> None:
    env = env_of(far_world, **SETTINGS)
    inside = far_world.region(FAR)
    assert env.stage.target.tolist() == inside.tolist()
    assert not set(env.stage.seeds.tolist()) & set(inside.tolist())
    assert sorted(env.stage.sample.tolist()) == [
        i for i, p in enumerate(far_world.passages()) if p.topic in inside and p.split == "reward"
    ]
    for topic in inside.tolist():
        assert len(env.stage.retriever.own(topic)) == 0
        found = env.stage.retriever.neighbourhood(topic)
        assert len(found) == SETTINGS["breadth"]
        assert not set(far_world.passage_topic[found].tolist()) & set(inside.tolist())
    near = far_world.passage_topic[env.stage.retriever.neighbourhood(int(inside[0]))]
    likeness = far_world.topic_vectors @ far_world.topic_vectors[inside[0]]
    assert likeness[near].mean() > likeness[: inside[0]].mean()


def test_a_smaller_sample_leaves_topics_that_are_known_by_title_and_by_the_rest_of_the_sample(
    tmp_path: Path,
) -> None:
    config = replace(CONFIG, sample_kb=4)
    articles = articles_of(n=120)  # 30 far ones: a passage of each is more than 4 kB
    world = build_world(corpus_of(articles), tmp_path / "world", config)
    told = world.card["target"]
    assert told["topics"] == 30
    assert told["sample_bytes"] in range(4000, 4200)
    assert told["topics_seen"] == told["sample_passages"] < 30  # one of each, as long as it lasts
    inside = world.region(FAR)
    seen = [t for t in inside.tolist() if len(world.passages_of(t, "reward"))]
    middle = world.topic_vectors[seen].mean(0)
    for topic in set(inside.tolist()) - set(seen):
        wanted = world.title_vectors[topic] + middle / np.linalg.norm(middle)
        wanted /= np.linalg.norm(wanted)
        assert np.allclose(world.topic_vectors[topic], wanted, atol=1e-5)
    assert len(world.target_topics()) == 30


# --- bad targets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scenario": "focused", "target": "mine.jsonl"}, "no --target in the focused scenario"),
        ({"target": "mine.jsonl"}, "a region or documents as the target, got both"),
        ({"scenario": "broad", "region": None, "sample_kb": 50}, "no --sample-kb in the broad"),
        ({"sample_kb": 3}, "visible sample of 4 kB or more, got 3"),
        ({"clusters": 5}, "got --clusters"),
        ({"scenario": "noisy"}, "use --scenario focused or distant"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        replace(CONFIG, **change)


def refused(articles: list[Article], place: Path, **change: Any) -> str:
    """What a build says that is refused; one line."""
    with pytest.raises(ValueError, match="expected") as caught:
        build_world(corpus_of(articles), place, replace(CONFIG, **change))
    assert "\n" not in str(caught.value)
    assert not place.exists()
    return str(caught.value)


def test_a_target_of_too_little_text_is_refused(tmp_path: Path) -> None:
    articles = articles_of()
    few = [a if a.labels != (FAR,) else replace(a, labels=("field.near0",)) for a in articles[:-1]]
    said = refused([*few, articles[-1]], tmp_path / "w")  # one topic of 2.5 kB
    assert "4 kB or more of the target field.far in its visible sample" in said
    said = refused(articles, tmp_path / "w", sample_kb=50)
    assert "at most 10 kB, a third of the text of the target field.far, got --sample-kb 50" in said


def test_a_target_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    said = refused([replace(a, labels=(FAR,)) for a in articles_of()], tmp_path / "w")
    assert "expected text to train on outside of the target field.far, got none" in said


def test_a_region_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    assert "field.fur" in refused(articles_of(), tmp_path / "w", region="field.fur")


def test_without_a_name_links_choose_the_region_that_is_farthest(tmp_path: Path) -> None:
    articles, rng = articles_of(), random.Random(4)
    chain = [f"Topic {i}" for i in range(24, 36)]  # field.near2 is reached by one link alone
    for i, article in enumerate(articles):
        links = [(t, "link") for t, _ in article.links if t not in chain or article.title in chain]
        if article.title in chain:
            links = [(t, "link") for t in chain[i - 24 + 1 : i - 24 + 2]]
        if i == 23:
            links.append((chain[0], "link"))
        articles[i] = replace(article, links=tuple(links))
    config = replace(CONFIG, region=None)
    for _ in range(2):  # whatever the text of the topics is
        cut = build_world(corpus_of(articles), tmp_path / "w", config)
        assert cut.target_region == "field.near2"
        articles = [
            replace(a, paragraphs=tuple(paragraph(rng, 1) for _ in a.paragraphs)) for a in articles
        ]
    said = refused([replace(a, links=()) for a in articles], tmp_path / "no", region=None)
    assert "without links between its articles to choose one by: name a region" in said
    said = refused([replace(a, labels=()) for a in articles], tmp_path / "no", region=None)
    assert "without regions of 8 or more long articles" in said


def test_a_target_in_another_language_is_refused_and_one_of_other_matters_is_not(
    tmp_path: Path,
) -> None:
    rng, other = random.Random(5), words_of(random.Random(77))
    foreign = [
        a
        if a.labels != (FAR,)
        else replace(a, paragraphs=tuple(paragraph(rng, 3, other) for _ in range(14)))
        for a in articles_of()
    ]
    assert "in the language of the corpus, got field.far" in refused(foreign, tmp_path / "w")
    near = [p for a in articles_of() if a.labels != (FAR,) for p in a.paragraphs]
    far = [p for a in articles_of() if a.labels == (FAR,) for p in a.paragraphs]
    assert share_known(far, near) == pytest.approx(0.6, abs=0.05)  # what `paragraph` mixes in
    german = ["Pflanzen brauchen Licht und Wasser, um Zucker herzustellen."]
    english = ["Plants need light and water, and they make sugar of it."]
    assert share_known(german, english * 9) < LEAST_KNOWN < share_known(english, english * 9)


def test_copies_of_the_target_are_left_out_of_the_corpus_and_counted(
    far_world: World, tmp_path: Path
) -> None:
    articles = articles_of()
    far = [p for a in articles if a.labels == (FAR,) for p in a.paragraphs]
    stolen = " ".join(["so", *far[5].split()[3:13], "it", "is", *far[0].split()[:7]])
    articles[0] = replace(articles[0], paragraphs=(*articles[0].paragraphs, far[40], stolen))
    seven = " ".join(far[9].split()[:7] + articles[1].paragraphs[0].split()[:18])  # too short a run
    articles[1] = replace(articles[1], paragraphs=(*articles[1].paragraphs, seven))
    said: list[str] = []
    world = build_world(corpus_of(articles), tmp_path / "world", CONFIG, said.append)
    told = world.card["target"]
    lost = told["copies_passages"] + told["copies_held_out_elsewhere"]
    assert lost == 2
    assert far_world.card["target"]["copies_passages"] == 0
    kept = {p.text for p in world.passages() if p.split != "train" or p.topic in (0, 1)}
    others = set(texts(world, "train", of_target=False))
    assert seven in others | kept
    assert stolen not in others | kept
    assert far[40] not in others
    assert far[40] in kept
    assert any(
        "share a run of 8 words with the target's text, the first of 'Topic 0'" in s for s in said
    )
    assert faults(world) == []


# --- documents of one's own ---------------------------------------------------------------------


def documents(n: int = 12) -> list[dict[str, Any]]:
    rng = random.Random(8)
    return [
        {
            "title": f"Topic {i}" if i < 2 else f"Mine {i}",  # two are called like articles
            "text": "\n\n".join(paragraph(rng, 2) for _ in range(9)),
            "links": [f"Mine {i + 1}"] if 2 <= i < n - 1 else [],
        }
        for i in range(n)
    ]


def near_corpus() -> Corpus:
    return corpus_of([a for a in articles_of() if a.labels != (FAR,)])


@pytest.fixture(scope="session")
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus as JSON Lines, and documents as packed JSON Lines and as a folder of texts."""
    place = tmp_path_factory.mktemp("own")
    with (place / "corpus.jsonl").open("w") as stream:
        for a in near_corpus().articles:
            row = {"title": a.title, "text": "\n\n".join(a.paragraphs), "labels": a.labels}
            stream.write(json.dumps(row | {"links": [title for title, _ in a.links]}) + "\n")
    with gzip.open(place / "mine.jsonl.gz", "wt") as packed:
        packed.writelines(json.dumps(row) + "\n" for row in documents())
    (place / "notes").mkdir()
    for row in documents():
        (place / "notes" / f"{row['title']}.txt").write_text(row["text"])
    return place


def built(place: Path, out: Path, *more: str) -> World:
    words = ["build", "jsonl", str(place / "corpus.jsonl"), "--out", str(out)]
    words += ["--scenario", "distant", "--vocab-size", "300", "--passage-bytes", "200", *more]
    assert main(words) == 0
    return World.open(out)


def test_documents_of_ones_own_are_the_target_and_are_linked_with_the_corpus(
    own_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = built(own_place, tmp_path / "w", "--target", str(own_place / "mine.jsonl.gz"))
    assert world.target_region == "target"
    assert faults(world) == []
    inside = world.region("target")
    titles = [world.titles[t] for t in inside]
    assert titles == ["Topic 0 (target)", "Topic 1 (target)"] + [f"Mine {i}" for i in range(2, 12)]
    assert texts(world, "train") == []
    assert len(texts(world, "reward")) > 20
    for topic in inside.tolist():
        kinds = world.graph.types[world.graph.indptr[topic] : world.graph.indptr[topic + 1]]
        out = world.graph.out(topic)
        outside = out[out < inside[0]]
        assert len(outside) == 10  # the nearest; no title is mentioned
        own = [(world.titles[t], k) for t, k in zip(out, kinds, strict=True) if t >= inside[0]]
        number = topic - int(inside[0])
        assert own == ([(f"Mine {number + 1}", 0)] if 2 <= number < 11 else [])
        # The corpus's third kind has the documents' words.
        assert np.isin(outside, np.arange(24, 36)).mean() > 0.8
    assert world.card["settings"]["target"] == "mine.jsonl.gz"  # not where it lies
    assert str(own_place) not in json.dumps(world.card)
    assert "of whose text" in capsys.readouterr().out
    assert main(["check", str(world.path)]) == 0
    assert "none of the target trained on" in capsys.readouterr().out


def test_a_targets_links_lead_to_documents_then_to_articles_and_else_are_told_of(
    own_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = documents()
    rows[5]["links"] = ["Topic_7", "Mine 3", "Topic 1", "Nowhere"]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bare = [json.loads(line) for line in (own_place / "corpus.jsonl").read_text().splitlines()]
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps(row | {"links": []}) + "\n" for row in bare)
    )
    for place, name in ((own_place, "linked"), (tmp_path, "bare")):
        world = built(place, tmp_path / name, "--target", str(tmp_path / "mine.jsonl"))
        said = capsys.readouterr().err
        assert "1 target links to nowhere dropped, the first: " in said
        assert "mine.jsonl, 'Mine 5': 'Nowhere'" in said
        told = world.card["source_counts"]
        assert told["target_links_to_the_corpus"] == 1
        assert told["target_links_to_nowhere_dropped"] == 1
        topic = world.topic_of("Mine 5")
        begin = world.graph.indptr[topic]
        titles = [world.titles[t] for t in world.graph.out(topic)[:3]]
        assert titles == ["Topic 7", "Mine 3", "Topic 1 (target)"]
        assert world.graph.types[begin : begin + 3].tolist() == [0, 0, 0]
        # A corpus that states no links gets its own, whatever the documents state.
        assert all(len(world.graph.out(t)) for t in range(24))
    assert (world.graph.types[: world.graph.indptr[24]] > 0).all()


def test_a_folder_of_texts_is_a_target_as_well(own_place: Path, tmp_path: Path) -> None:
    world = built(
        own_place, tmp_path / "w", "--target", str(own_place / "notes"), "--sample-kb", "5"
    )
    assert len(world.region("target")) == 12
    assert world.card["target"]["sample_bytes"] in range(5000, 5200)


def test_a_target_whose_text_stands_in_the_corpus_is_taken_out_of_it_and_that_is_said(
    own_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (own_place / "corpus.jsonl").read_text().splitlines()[:6]
    (tmp_path / "same.jsonl").write_text("\n".join(rows) + "\n")
    world = built(own_place, tmp_path / "w", "--target", str(tmp_path / "same.jsonl"))
    assert "training passages left out" in capsys.readouterr().err
    told = world.card["target"]
    assert told["copies_passages"] + told["copies_held_out_elsewhere"] == 6 * 14
    assert world.train_tokens_of[:6].tolist() == [0] * 6
    assert faults(world) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--target", "nowhere.jsonl"], "expected JSON Lines at nowhere.jsonl, found nothing"),
        (["--target", "mine.jsonl", "--region", "field.far"], "leave --region or --target out"),
        (["--sample-kb", "2"], "4 kB or more, got 2"),
    ],
)
def test_a_target_that_cannot_be_is_one_line_on_the_terminal(
    words: list[str],
    expected: str,
    own_place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = ["build", "jsonl", str(own_place / "corpus.jsonl"), "--scenario", "distant"]
    assert main([*source, "--out", str(tmp_path / "w"), *words]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_a_world_of_a_live_wiki_is_never_distant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "live", "--titles", "A", "--contact", "me@example.org"]
    assert main([*words, "--scenario", "distant", "--out", str(tmp_path / "w")]) == 2
    assert "could hold the target's text" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["proving splits apart", "linking"])
def test_a_build_that_was_interrupted_goes_on_to_the_same_world(
    stage: str, far_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stages.Stages.forget

    def forget(self: stages.Stages, name: str | None) -> None:
        if name == stage:
            raise KeyboardInterrupt
        whole(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "KEPT", 0.0)
        patch.setattr(stages.Stages, "forget", forget)
        with pytest.raises(KeyboardInterrupt):
            build_world(corpus_of(articles_of()), tmp_path / "w", CONFIG)
    told: list[str] = []
    world = build_world(corpus_of(articles_of()), tmp_path / "w", CONFIG, told.append)
    assert "setting the target aside: done before" in told
    assert world.card == far_world.card


# --- what a distant world refuses at play -------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"region": "field.near1"}, "no other region than field.far in the distant world"),
        ({"nucleus_titles": ("Topic 1", "Topic 40")}, "outside of the target .*'Topic 40'"),
    ],
)
def test_another_region_and_a_nucleus_in_the_target_are_refused(
    settings: dict[str, Any], expected: str, far_world: World
) -> None:
    with pytest.raises(ValueError, match=expected):
        env_of(far_world, **{**SETTINGS, **settings})


def test_a_learner_with_windows_too_long_for_the_target_is_refused(tmp_path: Path) -> None:
    articles = [
        a if a.labels != (FAR,) else replace(a, paragraphs=a.paragraphs[:7]) for a in articles_of()
    ]
    world = build_world(corpus_of(articles), tmp_path / "w", CONFIG)
    with pytest.raises(ValueError, match="16 windows or more of 256 tokens in the reward text"):
        env_of(world, **{**SETTINGS, "model": "m"})


CHEAT = '''
import numpy as np
from policies.arms.arm import Turn

class Cheat:
    """Feeds windows of the target's hidden text."""
    def begin(self, env, rng):
        return Player(env)

class Player:
    def __init__(self, env):
        self.env = env
        world, stage = env.stage.world, env.stage
        hidden = np.concatenate([world.passages_of(int(t), "SPLIT") for t in stage.target])
        self.windows = np.resize(stage.store.windows_of(hidden), env.settings.windows_per_step)
    def act(self, seen):
        reward, over, info = self.env.feed(self.windows)
        return Turn(reward, over, info, seen)
    def state(self):
        return {}
    def restore(self, state):
        pass
'''


@pytest.mark.parametrize("split", ["reward", "select", "test"])
def test_an_arm_that_trains_on_the_targets_text_is_caught_by_name(
    split: str, far_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"cheat_{split}.py").write_text(CHEAT.replace("SPLIT", split))
    episode = Playing(env_of(far_world, **SETTINGS), arm_of(f"cheat_{split}:Cheat"), 0, 7)
    with pytest.raises(
        ValueError, match=f"expected windows of training text.*{split} text of 'Topic 3"
    ):
        episode.step()


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (lambda n: np.full(n, -1), "windows of 0 to"),
        (lambda n: np.full(n, 10**9), "windows of 0 to"),
        (lambda n: np.zeros(n + 1, dtype=int), "a step's 8 windows"),
        (lambda n: np.zeros(n), "by their numbers, got float64"),
    ],
)
def test_what_is_no_window_is_not_fed(windows: Any, expected: str, far_world: World) -> None:
    env = env_of(far_world, **SETTINGS)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=expected):
        env.feed(windows(env.settings.windows_per_step))


def test_an_evaluation_refuses_a_cheater_and_target_text_and_plays_the_others(
    far_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from policies.cli.main import main as kncl_policy

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cheat_all.py").write_text(CHEAT.replace("SPLIT", "test"))
    shown = [w for k, v in SETTINGS.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    words = ["evaluate", "--world", str(far_world.path), "--seeds", "1", *shown]
    assert kncl_policy([*words, "--policies", "uniform,target-text", "--out", "a"]) == 2
    assert "none of it is trained on here, leave it out" in capsys.readouterr().err
    assert kncl_policy([*words, "--policies", "uniform,cheat_all:Cheat", "--out", "b"]) == 2
    said = capsys.readouterr().err
    assert "test text of" in said
    assert "what is held out is for measuring alone" in said
    assert not (tmp_path / "b" / "scores.json").exists()
    assert kncl_policy([*words, "--policies", "uniform,rule", "--out", "c"]) == 0


def test_check_finds_target_text_that_is_trained_on_and_counts_that_are_not_so(
    far_world: World,
) -> None:
    card = json.loads(json.dumps(far_world.card))
    card["target"]["select_passages"] += 1
    found = faults(World(far_world.path, card))
    assert found == [
        f"expected {card['target']['select_passages'] - 1} as select_passages of the target in "
        f"world.json, got {card['target']['select_passages']}: the card was edited"
    ]
    card = {**far_world.card, "scenario": {**far_world.card["scenario"], "region": None}}
    assert [fault for fault in faults_of(World(far_world.path, card)) if "got none" in fault]
    world = World(far_world.path, far_world.card)
    topic = int(world.region(FAR)[0])
    split = world.passage_split.copy()
    split[world.passages_of(topic, "select")[:1]] = 0
    world._passages.split = split
    found = [fault for fault in faults_of(world) if fault.startswith("leak: training passage")]
    assert len(found) == 1
    assert "'Topic 36', a topic of the target field.far" in found[0]


def faults_of(world: World) -> list[str]:
    from kncl_env.world import leaks

    return leaks._target_faults(world)

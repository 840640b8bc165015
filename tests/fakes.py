"""Honest small stand-ins for what is slow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kncl_env.entry_points import topic_expansion
from kncl_env.env import EnvSnapshot, TopicExpansionEnv
from kncl_env.open_world.articles import ArticleJournal, Fetched, SourceError
from kncl_env.open_world.outward import Outward
from kncl_env.reading_list import ReadingList
from kncl_env.settings import LearnerSettings, MemorySettings, Rules, Settings
from kncl_env.snapshot import packed, unpacked
from kncl_env.stage import Stage
from kncl_env.taste import Taste
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.graph import TopicGraph
from kncl_env.world.sources.wiki.live import Crawl, corpus_of_crawl
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import play
from policies.play.seeds import EVALUATION
from train_lm.checkpoint import Checkpoints
from train_lm.files import Json
from train_lm.token_files import TRAIN
from train_lm.windows import TokenStore

Ints = NDArray[np.int64]


def corpus_of(n_topics: int = 40, seed: int = 0, regions: int = 4) -> Corpus:
    """Articles of made-up words: each region has a vocabulary of its own, every text is random.

    Topics link to the next two of their region and to one of the next region, so that every topic
    can be reached from every other.
    """
    rng = np.random.default_rng(seed)
    syllables = ["ba", "ke", "li", "mo", "nu", "ra", "si", "to", "ve", "za"]
    words = [["".join(rng.choice(syllables, 3)) for _ in range(60)] for _ in range(regions)]
    titles = [f"Topic {i}" for i in range(n_topics)]
    articles = []
    for i, title in enumerate(titles):
        region = i * regions // n_topics
        paragraphs = tuple(" ".join(rng.choice(words[region], 18)) + "." for _ in range(24))
        links = [(titles[j % n_topics], "link") for j in (i + 1, i + 2, i + n_topics // regions)]
        articles.append(Article(title, paragraphs, tuple(links), (f"region.{region}",)))
    return Corpus(tuple(articles), "made up", "none needed")


class FakeLearner:
    """A learner whose loss is the mean of what is left to learn of each target topic.

    Guarantees: reading a window of a topic closes a tenth of that topic's distance to its floor;
    the same windows from the same state give the same losses; a snapshot is exact. It has no
    interference between topics and no forgetting.

    Args:
        topic_of_window: (W,) topic of each window.
        target: Topics that count.
        floor: (N,) loss that no reading removes.
    """

    def __init__(self, topic_of_window: Ints, target: Ints, floor: NDArray[np.float64]) -> None:
        self.topic_of_window = topic_of_window
        self.target = target
        self.floor = floor
        self.loss = np.ones(len(floor)) + floor
        self.trained: list[Ints] = []

    def begin(self, tokens: int) -> None:
        self.loss = np.ones(len(self.floor)) + self.floor
        self.trained = []

    def train(self, windows: Ints) -> None:
        self.trained.append(windows)
        for topic in self.topic_of_window[windows]:
            self.loss[topic] -= 0.1 * (self.loss[topic] - self.floor[topic])

    @property
    def flops_per_token(self) -> float:
        return 0.0

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        return float(self.loss[self.target].mean())

    def probe(self, topics: Ints) -> NDArray[np.float64]:
        return self.loss[topics].copy()

    def losses(self, windows: Ints) -> NDArray[np.float64]:
        return self.loss[self.topic_of_window[windows]]

    def snapshot(self) -> Any:
        return self.loss.copy()

    def restore(self, snapshot: Any) -> None:
        self.loss = snapshot.copy()


class FakeRetriever:
    """Every topic owns `per_topic` consecutive passages; its neighbourhood is its own text.

    Whatever the taste, it likes the first of them alone.
    """

    def __init__(self, per_topic: int) -> None:
        self.per_topic = per_topic

    def own(self, topic: int, taste: Taste | None = None) -> Ints:
        n = self.per_topic if taste is None else 1
        return np.arange(topic * self.per_topic, topic * self.per_topic + n)

    def neighbourhood(self, topic: int, taste: Taste | None = None) -> Ints:
        return self.own(topic, taste)


def ring(n: int) -> TopicGraph:
    """Topics in a circle, each linked with the next two."""
    return TopicGraph.from_links(n, [[((i + 1) % n, 0), ((i + 2) % n, 0)] for i in range(n)])


def table_of(n: int = 30, seed: int = 0, dimensions: int = 8) -> TopicTable:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TopicTable(ring(n), vectors.astype(np.float32), rng.integers(100, 1000, n))


@dataclass(frozen=True)
class FakeWorld:
    """A world as far as an environment around a `FakeLearner` looks into it."""

    titles: tuple[str, ...]
    hash: str = "made up"
    space: str = "tfidf"
    is_distant: bool = False
    per_topic: int = 4

    @property
    def passage_topic(self) -> Ints:
        return np.repeat(np.arange(len(self.titles)), self.per_topic)

    @property
    def passage_split(self) -> Ints:
        return np.full(len(self.titles) * self.per_topic, TRAIN)


RULES = Rules(slots=4, steps=10, updates_per_step=2)
MEMORY = MemorySettings()


def fake_settings(rules: Rules = RULES, memory: MemorySettings = MEMORY) -> Settings:
    """Rules with a learner of 32 tokens a window and four windows an update."""
    return Settings(rules=rules, learner=LearnerSettings(model="xxs", batch=4), memory=memory)


def fake_env(
    n: int = 30,
    seeds: tuple[int, ...] = (0,),
    target: tuple[int, ...] = (10, 11, 12),
    goal: bool = True,
    rules: Rules = RULES,
    table: TopicTable | None = None,
    render_mode: str | None = None,
    memory: MemorySettings = MEMORY,
) -> TopicExpansionEnv:
    """A whole environment around a `FakeLearner`: a step takes a fraction of a millisecond."""
    table = table or table_of(n)
    settings = fake_settings(rules, memory)
    per_topic, context = 4, settings.learner.context
    n_passages = n * per_topic
    starts = np.arange(n_passages + 1) * (4 * context + 1)
    tokens = np.zeros(starts[-1], dtype=np.uint16)
    store = TokenStore(tokens, starts, np.arange(n_passages) // per_topic, context)
    topics = np.array(target)
    stage = Stage(
        world=cast(World, FakeWorld(tuple(f"Topic {i}" for i in range(n)))),
        settings=settings,
        table=table,
        seeds=np.array(seeds),
        target=topics,
        goal=Goal(table, topics) if goal else None,
        retriever=FakeRetriever(per_topic),
        reading_list=ReadingList(store, settings.replay_share),
        reducible=1.0,
    )
    learner = FakeLearner(store.document // per_topic, topics, np.full(n, 0.5))
    return TopicExpansionEnv(stage, learner, render_mode)


def env_of(world: World, **settings: Any) -> TopicExpansionEnv:
    """A real environment of a world, as `gym.make` gives it, without its wrappers."""
    return topic_expansion(world, progress=False, **settings)


def curve_of(env: TopicExpansionEnv, arm: str, seed: int) -> Curve:
    """An arm's episode, as an evaluation plays it."""
    return play(env, arm_of(arm), seed, EVALUATION.choices, CurveMeter()).measured


def through_a_file(
    snapshot: EnvSnapshot, folder: Path, env: TopicExpansionEnv, about: Json | None = None
) -> tuple[EnvSnapshot, Json]:
    """A snapshot kept in a folder and read back from there."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = Checkpoints(folder, "steps", finite=False)
    kept.keep(1, *packed(snapshot, about or {}))
    found = kept.newest()
    assert found is not None
    return unpacked(found.tensors, found.head, env, found.file)


class FakeWiki:
    """A source of articles made of random words; the same title always has the same article.

    Article i of n links to the next ones, to some far away, to a name that redirects, and to a page
    that is not there. It may die after a number of answers.

    Attributes:
        asked: Every title that was asked for, in order.
    """

    name = "a made-up wiki"

    def __init__(self, n: int = 120, dies_after: int | None = None) -> None:
        self.n, self.left = n, dies_after
        self.asked: list[str] = []

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        if self.left is not None:
            if not self.left:
                raise SourceError("unreachable: 127.0.0.1:1: connection refused")
            self.left -= 1
        self.asked += titles
        return [self._article(title) for title in titles]

    def _article(self, asked: str) -> Fetched:
        word, _, number = asked.partition(" ")
        if word not in ("Article", "Redirect") or not number.isdigit() or int(number) >= self.n:
            return Fetched(asked, absent="missing")
        i = int(number)
        rng = random.Random(i)
        syllables = ["ba", "ke", "li", "mo", "nu", "ra", "si", "to", "ve", "za"]
        words = ["".join(rng.choices(syllables, k=3)) for _ in range(18 * 14)]
        paragraphs = tuple(" ".join(words[k : k + 18]) + "." for k in range(0, len(words), 18))
        links = [f"Article {(i + step) % self.n}" for step in (1, 2, 7, 31)]
        links += [f"Redirect {(i + 11) % self.n}", f"Nothing {i}"]
        return Fetched(asked, f"Article {i}", 10 + i, paragraphs, tuple(links))

    def close(self) -> None:
        pass


def live_world(source: FakeWiki, folder: Path, n: int = 24) -> World:
    """A world of the first articles of a made-up wiki, as `kncl-env build live` makes one."""
    journal = ArticleJournal(folder / "world.articles.jsonl", {"api": "made up"})
    crawl = Crawl(("Article 0",), n)
    crawl.run(journal, source, lambda _: None)
    corpus = corpus_of_crawl(crawl, "made up", "none needed", Outward("made up"))
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    return build_world(corpus, folder / "world", config)

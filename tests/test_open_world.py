"""A world that grows while it is played: by decisions alone, from a journal, whoever dies when."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeWiki, live_world, through_a_file
from mediawiki import LICENCE, LICENCE_URL, LoopbackWiki

from kncl_env.cli import main as kncl_env
from kncl_env.learner import ClockedLearner
from kncl_env.open_world.articles import ArticleJournal, Fetched, JournalSource, SourceError
from kncl_env.open_world.game import GrowingEnv, LiveWorld, open_game
from kncl_env.open_world.grown import GrownWorld
from kncl_env.open_world.growth import OpenWorld
from kncl_env.open_world.outward import Outward
from kncl_env.open_world.prepare import prepare
from kncl_env.settings import Settings
from kncl_env.topic_table import TopicTable
from kncl_env.world.scripts import word_runs
from kncl_env.world.sources.wiki.articles import wiki_of
from kncl_env.world.sources.wiki.etiquette import Etiquette
from kncl_env.world.splits import SPLITS
from kncl_env.world.world import World
from policies.play.closed_loop import run_closed_loop

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 4,
    "nucleus_updates": 20,
    "steps": 5,
    "updates_per_step": 2,
    "batch": 4,
    "slots": 3,
    "breadth": 16,
}
ABOUT = {"api": "made up"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return live_world(FakeWiki(), tmp_path_factory.mktemp("live"))


def game(world: World, journal: Path, source: Any = None, **more: Any) -> GrowingEnv:
    live = LiveWorld(world, source or FakeWiki(), 4)
    return open_game(live, Settings.of(**SETTINGS | more), journal, progress=False)


def opened(world: World, journal: Path, source: Any = None) -> OpenWorld:
    return OpenWorld(world, ArticleJournal(journal, ABOUT), source or FakeWiki(), 4)


def played(env: GrowingEnv, steps: int = 5) -> list[bytes]:
    """Bytes of everything that an episode shows."""
    found = [env.reset(seed=1)[0]["candidates"].tobytes()]
    for i in range(steps):
        found += step(env, i % 3)
    return found


def step(env: GrowingEnv, action: int) -> list[bytes]:
    seen, reward, _, _, info = env.step(action)
    arrays = (seen["candidates"], seen["context"], info["windows"], np.float64(reward))
    return [np.asarray(array).tobytes() for array in arrays] + [info["title"].encode()]


# -- an episode -----------------------------------------------------------------------------------


def test_an_episode_is_the_same_fetched_ahead_waited_for_and_from_its_journal(
    world: World, tmp_path: Path
) -> None:
    without = game(world, tmp_path / "a.jsonl")
    expected = played(without)
    assert without.stage.world.n_topics > world.n_topics + 5
    ahead = game(world, tmp_path / "b.jsonl", queue=8)
    assert played(ahead) == expected
    ahead.close()
    gone = FakeWiki(dies_after=0)
    assert played(game(world, tmp_path / "a.jsonl", gone)) == expected
    kept = JournalSource(ArticleJournal(tmp_path / "a.jsonl", ABOUT))
    assert played(game(world, tmp_path / "c.jsonl", kept, queue=8)) == expected
    first, again = (set((tmp_path / f"{x}.jsonl").read_text().split("\n")) for x in "ac")
    assert again == first  # all of it was needed, and all of it is beside the second run, too
    assert gone.asked == []


def test_nothing_is_asked_for_twice(world: World, tmp_path: Path) -> None:
    wiki = FakeWiki()
    env = game(world, tmp_path / "a.jsonl", wiki, queue=4)
    played(env)
    played(env)
    env.close()
    assert len(set(wiki.asked)) == len(wiki.asked)
    known = set(world.titles) | {name for name, _ in Outward.of(world).aliases}
    assert not known & set(wiki.asked)
    assert not [t for t in threading.enumerate() if t.name == "open-world"]


def test_the_worker_waits_while_the_learner_trains_and_info_tells_what_is_left(
    world: World, tmp_path: Path
) -> None:
    env = game(world, tmp_path / "a.jsonl", queue=1)
    assert env.reset(seed=1)[1]["waited"] == 0
    trained, fetched = threading.Event(), threading.Event()
    learn, after = env.learner.train, env.world.after

    def train(windows: Any) -> None:
        assert fetched.wait(60)  # only a worker beside us can get it
        learn(windows)
        trained.set()

    def fetch(*args: Any) -> GrownWorld:
        found = after(*args)
        fetched.set()
        return found

    env.learner.train = train  # type: ignore[method-assign]
    env.world.after = fetch  # type: ignore[method-assign]
    assert env.step(0)[4]["waited"] > 0
    assert trained.is_set()
    env.close()


def test_snapshots_return_to_the_world_as_it_was_in_memory_and_from_a_file(
    world: World, tmp_path: Path
) -> None:
    env = game(world, tmp_path / "a.jsonl")
    env.learner = ClockedLearner(env.learner)  # a wrapper must not keep the text from growing
    played(env, 2)
    before, n = env.snapshot(), env.stage.world.n_topics
    expected = [step(env, 0), step(env, 1)]
    assert env.stage.world.n_topics > n
    assert env.restore(before)["candidates"].shape[0] == 3
    assert env.stage.world.n_topics == len(env.stage.table) == n
    assert [step(env, 0), step(env, 1)] == expected
    other = game(world, tmp_path / "a.jsonl", FakeWiki(dies_after=0))
    other.reset(seed=9)
    kept, _ = through_a_file(before, tmp_path / "kept", other)
    other.restore(kept)
    assert other.stage.world.hash == before.ground.world.hash
    assert [step(other, 0), step(other, 1)] == expected


def test_settings_that_a_growing_world_cannot_have_are_refused(
    world: World, small_world: World, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected watched 0 in an open world, got 2"):
        game(world, tmp_path / "a.jsonl", watched=2)
    with pytest.raises(ValueError, match="expected no taste in an open world"):
        game(world, tmp_path / "a.jsonl").reset(options={"taste": object()})
    with pytest.raises(ValueError, match="expected a world that was built from a live wiki"):
        game(small_world, tmp_path / "b.jsonl")


def grown_by(open_world: OpenWorld, expansions: int = 1) -> GrownWorld:
    """The world after expansions of the first topics that ask for something."""
    found = open_world.start
    for _ in range(expansions):
        topic = next(t for t in range(found.n_topics) if open_world.asked_by(found, t))
        found = open_world.after(found, topic)
    assert found.n_topics > open_world.start.n_topics
    return found


# -- a grown world --------------------------------------------------------------------------------


def test_what_is_known_of_old_topics_passages_and_windows_stays_true(
    world: World, tmp_path: Path
) -> None:
    open_world = opened(world, tmp_path / "a.jsonl")
    grown = grown_by(open_world, 4)
    n, p = world.n_topics, len(world.passage_topic)
    assert grown.titles[:n] == world.titles
    assert len(set(grown.titles)) == grown.n_topics
    assert np.array_equal(grown.passage_topic[:p], world.passage_topic)
    assert np.array_equal(grown.passage_split[:p], world.passage_split)
    old, new = world.windows(32), grown.windows(32)
    every = np.arange(len(old))
    assert np.array_equal(new.read(every), old.read(every))
    assert np.array_equal(new.document[: len(old)], old.document)
    assert np.array_equal(grown.target_topics(), world.target_topics())
    assert grown.passage_text(0) == world.passage_text(0)
    assert len(TopicTable.of(grown)) == grown.n_topics
    last = grown.n_topics - 1
    own = grown.passages_of(last)
    text = FakeWiki().fetch([grown.titles[last]])[0].paragraphs
    assert grown.passage_text(int(own[0])) in " ".join(text) + "\n".join(text)
    ids = new.read(new.windows_of(own))[0]
    assert world.tokenizer.decode(ids[:20].tolist()) in "\n".join(map(grown.passage_text, own))


def test_its_graph_is_that_of_the_links_among_what_is_known(world: World, tmp_path: Path) -> None:
    open_world = opened(world, tmp_path / "a.jsonl")
    grown = grown_by(open_world, 3)
    wiki = FakeWiki()
    for topic, title in enumerate(grown.titles):
        (article,) = wiki.fetch([title])
        links = [t.replace("Redirect", "Article") for t in article.links]
        known = [t for t in dict.fromkeys(links) if t in grown and t != title]
        found = [grown.titles[t] for t in grown.graph.out(topic)]
        asked = {t.replace("Redirect", "Article"): t for t in article.links}
        # A redirect counts once somebody has followed it.
        assert [t for t in known if asked[t] in grown.known.topic_of] == found


def test_its_index_finds_what_came_and_nothing_held_out(world: World, tmp_path: Path) -> None:
    open_world = opened(world, tmp_path / "a.jsonl")
    grown = grown_by(open_world, 3)
    new = int(grown.passages_of(grown.n_topics - 1)[0])
    query = world.embed([grown.passage_text(new)])
    assert grown.index.search(query, 1)[0, 0] == new
    train = np.flatnonzero(grown.passage_split == SPLITS.index("train"))
    assert sorted(grown.index.passages) == train.tolist()


def article(title: str, paragraphs: list[str]) -> Fetched:
    return Fetched(title, title, 1, tuple(paragraphs), ("Article 0",))


def test_text_that_repeats_what_is_held_out_is_left_out(world: World, tmp_path: Path) -> None:
    open_world = opened(world, tmp_path / "a.jsonl")
    held_out = int(np.flatnonzero(world.passage_split == SPLITS.index("test"))[0])
    stolen = world.passage_text(held_out)
    honest = FakeWiki().fetch(["Article 99"])[0].paragraphs
    thief = article("Thief", [*honest[:2], stolen, *honest[2:]])
    read = world.passage_text(int(world.passages_of(0)[0]))
    twin = article("Twin", [read])  # repeats training text, which it may
    ready = {p.article.title: p for p in prepare(world, [thief, twin])}
    grown = open_world.start.grow([thief, twin], ready, open_world.names)
    assert grown.left_out >= 1
    fresh = range(len(world.passage_topic), len(grown.passage_topic))
    came = [grown.passage_text(i) for i in fresh]
    wanted = set(word_runs(stolen).tolist())
    assert not any(wanted & set(word_runs(text).tolist()) for text in came)
    assert len(grown.passages_of(grown.topic_of("Twin"))) == 1


def test_two_names_of_one_article_are_one_topic(world: World, tmp_path: Path) -> None:
    open_world = opened(world, tmp_path / "a.jsonl")
    came = FakeWiki().fetch(["Redirect 90", "Article 90", "Nothing 1"])
    ready = {p.article.title: p for p in prepare(world, came)}
    grown = open_world.start.grow(came, ready, open_world.names)
    assert grown.n_topics == world.n_topics + 1
    topics = [grown.known.topic_of[name] for name in ("Redirect 90", "Article 90", "Nothing 1")]
    assert topics == [world.n_topics, world.n_topics, -1]


# -- whoever dies ---------------------------------------------------------------------------------


def test_a_wiki_that_dies_ends_a_run_in_one_line_and_the_same_run_goes_on(
    world: World, tmp_path: Path
) -> None:
    settings = Settings.of(**SETTINGS, queue=2)

    def run(out: str, source: Any) -> dict[str, bytes]:
        live = LiveWorld(world, source, 4)
        run_closed_loop(live, "random", settings, tmp_path / out, seed=3, save_every=2)
        names = ("curriculum.jsonl", "metrics.jsonl", "summary.json", "model/model.safetensors")
        return {name: (tmp_path / out / name).read_bytes() for name in names}

    whole = run("whole", FakeWiki())
    with pytest.raises(SourceError) as told:
        run("cut", FakeWiki(dies_after=3))
    assert "expected" in str(told.value)
    assert "got unreachable: 127.0.0.1:1: connection refused: the" in str(told.value)
    assert "\n" not in str(told.value)
    assert str(tmp_path / "cut" / "articles.jsonl") in str(told.value)
    wiki = FakeWiki()
    assert run("cut", wiki) == whole
    lines = (tmp_path / "cut" / "articles.jsonl").read_text().splitlines()[1:]
    asked = [json.loads(line)["asked"] for line in lines]
    assert len(set(asked)) == len(asked)
    assert not set(wiki.asked) - set(asked)
    # ... and again, from the journal alone.
    kept = JournalSource(ArticleJournal(tmp_path / "cut" / "articles.jsonl", ABOUT))
    assert run("again", kept) == whole


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_journal_that_was_cut_short_drops_what_is_not_whole(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.jsonl"
    journal = ArticleJournal(file, ABOUT)
    articles = FakeWiki().fetch(["Article 1", "Nothing 2", "Redirect 3"])
    journal.add(articles)
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    again = ArticleJournal(file, ABOUT)
    assert [again.get(a.asked) for a in articles] == [*articles[:2], None]
    again.add(articles)
    assert file.read_bytes() == whole
    assert [again.get(a.asked) for a in articles] == articles


def changed(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0], lines[1].replace("Article 1", "Article 9"), *lines[2:]], r":2"),
        (lambda lines: [*lines, lines[1]], "expected each title once.*Article 1.*line 4"),
        (lambda lines: [lines[0], "{}\n"], "a.jsonl:2"),
        (lambda lines: ['{"format": "other"}\n'], "another kind of file"),
        (lambda lines: ["no JSON\n"], "expected JSON"),
    ],
)
def test_a_damaged_journal_is_refused_by_file_and_line(
    tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    file = tmp_path / "a.jsonl"
    ArticleJournal(file, ABOUT).add(FakeWiki().fetch(["Article 1", "Article 2"]))
    changed(file, change)
    with pytest.raises(ValueError, match=said):
        ArticleJournal(file, ABOUT)
    ArticleJournal(tmp_path / "b.jsonl", ABOUT)
    with pytest.raises(ValueError, match="expected articles of elsewhere in"):
        ArticleJournal(tmp_path / "b.jsonl", {"api": "elsewhere"})


def test_a_journal_that_lacks_an_article_says_which(world: World, tmp_path: Path) -> None:
    empty = JournalSource(ArticleJournal(tmp_path / "empty.jsonl", ABOUT))
    env = game(world, tmp_path / "a.jsonl", empty)
    env.reset(seed=1)
    with pytest.raises(SourceError, match=r"empty.jsonl, got \d of \d articles are not in it"):
        env.step(0)
    env.reset(seed=1)  # a failed step costs the episode, not the environment


# -- a real wiki ----------------------------------------------------------------------------------


class Gateway:
    """Stands before a wiki, may die, and comes back at the same address."""

    def __init__(self, api: str) -> None:
        self.left: int | None = None  # answers until it dies
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                if gateway.left == 0:
                    self.close_connection = True
                    return
                gateway.left = None if gateway.left is None else gateway.left - 1
                query = self.path.partition("?")[2]
                with urllib.request.urlopen(f"{api}?{query}", timeout=60) as answer:
                    body = answer.read()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.api = f"http://127.0.0.1:{self.server.server_port}/w/api.php"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_wiki_is_built_from_grown_into_lost_and_played_again_without_it(
    loopback_wiki: LoopbackWiki, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = Gateway(loopback_wiki.api)
    words = ["build", "live", "--titles", "Prose 0", "--articles", "40", "--api-url", gateway.api]
    words += ["--contact", "reader@kncl.invalid", "--rate", "50", "--passage-bytes", "200"]
    out = tmp_path / "world"
    assert kncl_env([*words, "--vocab-size", "300", "--out", str(out)]) == 0
    assert "40 topics" in capsys.readouterr().out
    world = World.open(out)
    assert world.card["licence"] == f"{LICENCE} ({LICENCE_URL})"
    assert "Prose 1" in [world.titles[t] for t in world.graph.out(0)]
    assert not any("ref" in world.passage_text(i) or "{{" in world.passage_text(i) for i in (0, 1))
    assert kncl_env(["check", str(out)]) == 0
    settings = Settings.of(**SETTINGS | {"steps": 8}, queue=4)
    manners = Etiquette(contact="reader@kncl.invalid", rate=50, retries=0)

    def run(name: str, source: Any = None) -> dict[str, bytes]:
        live = LiveWorld(world, source or wiki_of(world, manners), 5)
        try:
            run_closed_loop(live, "random", settings, tmp_path / name, seed=3, save_every=2)
        finally:
            live.source.close()
        files = ("curriculum.jsonl", "metrics.jsonl", "summary.json", "model/model.safetensors")
        return {file: (tmp_path / name / file).read_bytes() for file in files}

    whole = run("whole")
    gateway.left = 4
    with pytest.raises(SourceError, match=r"expected \d+ articles, .*, got disconnected") as told:
        run("cut")
    assert "the same command goes on" in str(told.value)
    gateway.left = None
    assert run("cut") == whole
    lines = [json.loads(x) for x in (tmp_path / "cut/articles.jsonl").read_text().splitlines()[1:]]
    assert len({line["asked"] for line in lines}) == len(lines)
    gateway.close()
    kept = JournalSource(ArticleJournal(tmp_path / "whole/articles.jsonl", {"api": gateway.api}))
    assert run("again", kept) == whole
    grown = [json.loads(line)["title"] for line in whole["metrics.jsonl"].splitlines()]
    assert len(set(grown)) == 8

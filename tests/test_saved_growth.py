"""A world that grew, saved as an ordinary one: it is the world that the run ended in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fakes import FakeWiki, live_world

from kncl_env.cli import main as kncl_env
from kncl_env.memory import stored
from kncl_env.open_world.articles import ArticleJournal, JournalSource, SourceError
from kncl_env.open_world.game import LiveWorld, open_game
from kncl_env.open_world.grown import GrownWorld
from kncl_env.open_world.growth import OpenWorld
from kncl_env.open_world.saved import Growth, replay_growth, save_grown, together
from kncl_env.settings import Settings
from kncl_env.world.leaks import faults
from kncl_env.world.world import World
from policies.cli.main import main as kncl_policy
from policies.play.closed_loop import run_closed_loop
from train_lm.cli import main as train_lm

RULES: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 4,
    "nucleus_updates": 20,
    "steps": 5,
    "updates_per_step": 2,
    "batch": 4,
    "slots": 3,
    "breadth": 16,
}
OPTIONS = [w for k, v in RULES.items() for w in (f"--{k.replace('_', '-')}", str(v))]


@dataclass(frozen=True)
class Made:
    """A world, a run in it, and what it grew into."""

    base: World
    run: Path
    saved: World


def play(base: World, run: Path, seed: int = 3, queue: int = 0) -> Path:
    live = LiveWorld(base, FakeWiki(), 4)
    run_closed_loop(live, "random", Settings.of(**RULES, queue=queue), run, seed=seed, save_every=2)
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("saved")
    base = live_world(FakeWiki(), folder)
    run = play(base, folder / "run", queue=3)
    words = ["grow", str(base.path), "--run", str(run), "--out", str(folder / "grown")]
    assert kncl_env(words) == 0
    return Made(base, run, World.open(folder / "grown"))


def replayed(made: Made, journal: Path) -> GrownWorld:
    """The world in which the run ended, by the environment itself."""
    kept = JournalSource(ArticleJournal(made.run / "articles.jsonl", {"api": "made up"}))
    env = open_game(LiveWorld(made.base, kept, 4), Settings.of(**RULES), journal, progress=False)
    steps = (made.run / "curriculum.jsonl").read_text().splitlines()[1:]
    env.reset(seed=0)
    env.return_to([topic for step in steps for topic in json.loads(step)["topics"]])
    found = env.stage.world
    assert isinstance(found, GrownWorld)
    return found


def test_a_saved_world_is_the_one_that_the_run_ended_in(made: Made, tmp_path: Path) -> None:
    saved, grown = made.saved, replayed(made, tmp_path / "a.jsonl")
    assert saved.n_topics == grown.n_topics > made.base.n_topics + 5
    assert saved.titles == grown.titles
    for name in ("topic_vectors", "title_vectors", "passage_topic", "passage_split"):
        assert np.array_equal(getattr(saved, name), getattr(grown, name)), name
    for one, other in zip(saved.tokens(), grown.tokens(), strict=True):
        assert np.array_equal(one, other)
    every = range(len(saved.passage_topic))
    assert [saved.passage_text(i) for i in every] == [grown.passage_text(i) for i in every]
    for name in ("indptr", "indices", "types"):
        assert np.array_equal(getattr(saved.graph, name), getattr(grown.graph, name)), name
    queries = grown.topic_vectors
    assert np.array_equal(saved.index.search(queries, 9), grown.index.search(queries, 9))
    assert np.array_equal(saved.index.vectors(), grown.index.vectors())
    assert saved.regions.keys() == made.base.regions.keys()


def test_it_is_sound_and_says_what_it_grew_from(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults(made.saved) == []
    assert kncl_env(["show", str(made.saved.path)]) == 0
    assert f"grown: from world {made.base.hash[:12]} of 24 topics" in capsys.readouterr().out
    assert made.saved.card["licence"] == made.base.card["licence"]
    first, *others = made.saved.card["grown"]["worlds"]
    assert first == made.base.hash
    assert 1 < len(others) <= 5


def test_force_takes_a_world_that_grew_for_nothing_else(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run, grown = str(made.base.path), str(made.run), tmp_path / "grown"
    shutil.copytree(made.saved.path, grown)
    shutil.copytree(base, tmp_path / "built")
    before = {file.name: file.read_bytes() for file in grown.iterdir()}
    grow = ["grow", base, "--run", run, "--force", "--out"]
    assert kncl_env([*grow, str(grown)]) == 0
    for words in (
        [*grow, str(tmp_path / "built")],
        ["build", "synthetic", "--force", "--out", str(grown)],
        ["rewire", base, "--force", "--out", str(grown)],
    ):
        assert kncl_env(words) == 2
        assert "something that this command made" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in grown.iterdir()} == before
    assert World.open(tmp_path / "built").hash == made.base.hash


def test_a_run_that_is_played_again_is_not_emptied_for_it(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    before = {str(file): file.read_bytes() for file in run.rglob("*") if file.is_file()}
    words = ["run", "--world", str(made.base.path), "--articles", str(run / "articles.jsonl")]
    assert kncl_policy([*words, "--policy", "random", "--out", str(run), "--force", *OPTIONS]) == 2
    assert "expected inputs outside of" in capsys.readouterr().err
    assert {str(file): file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_arms_are_evaluated_and_environments_made_there_as_in_any_world(
    made: Made, tmp_path: Path
) -> None:
    words = ["evaluate", "--world", str(made.saved.path), "--policies", "uniform,random"]
    words += ["--seeds", "2", "--learners", "2", "--curve-points", "2"]
    assert kncl_policy([*words, "--out", str(tmp_path / "e"), *OPTIONS]) == 0
    assert (tmp_path / "e/report.html").is_file()
    rules = {**RULES, "world": str(made.saved.path)}
    env = gym.make_vec("kncl_env/TopicExpansion-v0", num_envs=2, **rules)
    env.reset(seed=[0, 1])
    env.step(np.zeros(2, dtype=np.int64))
    env.close()
    alone = gym.make("kncl_env/TopicExpansion-v0", **rules)
    alone.reset(seed=0)
    windows = np.concatenate([alone.step(0)[4]["windows"] for _ in range(5)])
    read = alone.unwrapped.stage.store.document[stored(windows)]  # type: ignore[attr-defined]
    assert read.max() >= len(made.base.passage_topic)  # what came is read


def test_a_larger_model_reads_there_in_the_order_of_the_run(made: Made, tmp_path: Path) -> None:
    words = ["run", "--curriculum", str(made.run / "curriculum.jsonl"), "--model", "xxs", "--cpu"]
    words += ["--batch", "2", "--save-every", "100"]
    assert train_lm([*words, "--world", str(made.saved.path), "--out", str(tmp_path / "m")]) == 0
    assert (tmp_path / "m/model/model.safetensors").is_file()
    # ... and not in the world that it began with, where much of it is not there.
    assert train_lm([*words, "--world", str(made.base.path), "--out", str(tmp_path / "n")]) == 2


def test_it_grows_again_as_the_run_would_have_gone_on(made: Made, tmp_path: Path) -> None:
    wiki = FakeWiki()
    grown = replayed(made, tmp_path / "a.jsonl")
    journal = ArticleJournal(tmp_path / "b.jsonl", {"api": "made up"})
    again = OpenWorld(made.saved, journal, wiki, 4)
    one = again.after(again.start, grown.n_topics - 1)
    before = replay_growth(made.base, made.run)
    asked = before.source.asked_by(before.world, grown.n_topics - 1)
    other = before.with_articles(wiki.fetch(asked)).world
    assert one.n_topics == other.n_topics > grown.n_topics
    assert one.titles == other.titles
    assert np.array_equal(one.graph.indices, other.graph.indices)
    assert np.array_equal(one.passage_split, other.passage_split)
    # Passages keep their numbers from growth to growth: a curriculum of any of these worlds is one
    # of the last.
    asked = again.asked_by(again.start, grown.n_topics - 1)
    once = Growth(again, again.start, (), (made.saved.hash,)).with_articles(again.fetch(asked))
    twice = save_grown(once, tmp_path / "twice")
    worlds = made.saved.card["grown"]["worlds"]
    assert twice.card["grown"]["worlds"] == [*worlds, made.saved.hash, one.hash]


def test_a_run_under_way_is_read_and_left_as_it_is(made: Made, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    with (run / "articles.jsonl").open("a") as stream:
        stream.write('{"asked": "Arti')  # another process is writing this line
    before = (run / "articles.jsonl").read_bytes()
    assert replay_growth(made.base, run).world.hash == replay_growth(made.base, made.run).world.hash
    assert (run / "articles.jsonl").read_bytes() == before


def test_of_several_runs_the_first_keeps_its_numbers_and_the_others_add(
    made: Made, tmp_path: Path
) -> None:
    other = play(made.base, tmp_path / "other", seed=8)
    growths = [replay_growth(made.base, run) for run in (made.run, other)]
    both = save_grown(together(growths), tmp_path / "both")
    assert faults(both) == []
    n = made.saved.n_topics
    assert both.titles[:n] == made.saved.titles
    assert set(both.titles) == set(made.saved.titles) | set(growths[1].world.titles)
    assert both.n_topics > n
    p = len(made.saved.passage_topic)
    assert np.array_equal(both.tokens()[1][: p + 1], made.saved.tokens()[1])


def spoil(run: Path, what: str, made: Made, tmp_path: Path) -> None:
    if what == "no curriculum":
        (run / "curriculum.jsonl").unlink()
    if what == "another world":
        settings = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**settings, "world": "0" * 64}))
    if what == "articles of another run":
        other = play(made.base, tmp_path / "other", seed=11)
        shutil.copy(other / "curriculum.jsonl", run / "curriculum.jsonl")
        shutil.copy(other / "articles.jsonl", run / "articles.jsonl")
        lines = (run / "articles.jsonl").read_text().splitlines(keepends=True)
        (run / "articles.jsonl").write_text("".join(lines[:-3]))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no curriculum", "expected curriculum.jsonl in .*, found none: name the folder of a"),
        ("another world", "expected a run in world .*, which is of world 0000"),
        ("articles of another run", "articles are not in it, the first is"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_in_one_line(
    what: str, said: str, made: Made, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made.run, tmp_path / "run"))
    spoil(run, what, made, tmp_path)
    with pytest.raises((ValueError, OSError, SourceError), match=said) as told:
        replay_growth(made.base, run)
    assert "\n" not in str(told.value)


def test_verbs_that_compare_arms_say_where_an_open_world_is_evaluated(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--live"], ["--articles", str(made.run / "articles.jsonl")]):
        words = ["--world", str(made.base.path), "--out", str(tmp_path / "e"), *option]
        with pytest.raises(SystemExit) as status:
            kncl_policy(["evaluate", "--policies", "uniform", *words])
        assert status.value.code == 2
        told = capsys.readouterr().err.strip()
        assert told.count("\n") == 0
        assert "kncl-env grow" in told
    assert not (tmp_path / "e").exists()

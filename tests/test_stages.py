"""A build in stages: killed anywhere it goes on to the same bytes, and another one begins anew."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import corpus_of
from killed_once import tokenise_killed_once

from kncl_env.cli import main
from kncl_env.table_world.recipe import TableRecipe
from kncl_env.world import build, index, overlap, stages, tables
from kncl_env.world.build import build_world, is_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.leaks import faults
from kncl_env.world.world import World
from policies.benchmark.building import BuildTask
from policies.benchmark.building import build as build_cell
from policies.benchmark.cells import Recipe
from train_lm.crew.hands import Hands

SMALL = BuildConfig(vocab_size=300, passage_bytes=200)
ROOT = Path(__file__).parents[1]


@dataclass
class Counted:
    """Articles that count how often they were read through."""

    articles: tuple[Article, ...]
    times: int = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.times += 1
        return iter(self.articles)


def contents(world: Path) -> dict[str, bytes]:
    """All but what tells the time."""
    return {f.name: f.read_bytes() for f in world.iterdir() if f.name != "build.json"}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(build_world(corpus_of(12), tmp_path_factory.mktemp("w") / "w", SMALL).path)


def test_two_processes_one_of_which_is_killed_build_the_same_bytes(
    wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((build, "TOKENISED"), (build, "EMBEDDED"), (overlap, "PASSAGES")):
        monkeypatch.setattr(module, name, 40)  # several blocks
    monkeypatch.setattr(build, "tokenise", tokenise_killed_once)
    found = build_world(corpus_of(12), tmp_path / "w", SMALL, hands=Hands(2))
    assert (tmp_path / "killed").exists()
    assert contents(found.path) == wanted


def stopped_at(stage: str, monkeypatch: pytest.MonkeyPatch, kept: float = 0.0) -> None:
    """From now on a build ends as by Ctrl-C where a stage begins."""
    monkeypatch.setattr(stages, "KEPT", kept)

    def forget(self: stages.Stages, name: str | None) -> None:
        if name == stage:
            raise KeyboardInterrupt
        whole(self, name)

    whole = stages.Stages.forget
    monkeypatch.setattr(stages.Stages, "forget", forget)


def interrupt(
    stage: str, monkeypatch: pytest.MonkeyPatch, corpus: Corpus, out: Path, kept: float = 0.0
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(stage, patch, kept)
        with pytest.raises(KeyboardInterrupt):
            build_world(corpus, out, SMALL)


STAGES = [
    *("proving splits apart", "writing passages", "training the tokenizer", "tokenising"),
    *("fitting the embedder", "embedding", "linking", "indexing", "hashing"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_build_that_was_interrupted_goes_on_to_the_same_bytes(
    stage: str, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(stage, monkeypatch, corpus_of(12), tmp_path / "w")
    assert [f.name for f in tmp_path.iterdir()] == [".w.building"]
    (tmp_path / ".w.building/world/half.npy").write_bytes(b"\x93NUM")  # what a kill left of one
    (tmp_path / ".w.building/world/.embedder.npz.x.part").mkdir()
    (tmp_path / ".w.building/world/.embedder.npz.x.part/embedder.npz").write_bytes(b"PK")
    told: list[str] = []
    world = build_world(corpus_of(12), tmp_path / "w", SMALL, told.append)
    assert contents(world.path) == wanted
    assert [f.name for f in tmp_path.iterdir()] == ["w"]
    assert "cutting and splitting: done before" in told
    assert stage in told


def test_a_stage_whose_file_was_damaged_is_done_again(
    wanted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interrupt("linking", monkeypatch, corpus_of(12), tmp_path / "w")
    file = tmp_path / ".w.building/world/starts.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1  # of the same size: no length tells it
    file.write_bytes(content)
    told: list[str] = []
    assert contents(build_world(corpus_of(12), tmp_path / "w", SMALL, told.append).path) == wanted
    assert f"{file}: missing or damaged: tokenising again" in caplog.text
    assert "training the tokenizer: done before" in told
    assert "tokenising" in told


@pytest.mark.parametrize("seal", [True, False])
def test_a_build_whose_notes_were_edited_begins_anew(
    seal: bool, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt("linking", monkeypatch, corpus_of(12), tmp_path / "w")
    file = tmp_path / ".w.building/state.json"
    state = json.loads(file.read_text())
    if seal:
        state["stages"]["tokenising"]["facts"]["tokens"] = 1
    else:
        del state["seal"]  # as before there was one: no digest of a file stood in it
    file.write_text(json.dumps(state))
    told: list[str] = []
    assert contents(build_world(corpus_of(12), tmp_path / "w", SMALL, told.append).path) == wanted
    assert not [line for line in told if line.endswith("done before")]


def test_a_noisy_build_goes_on_to_the_same_bytes_with_the_same_junk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = replace(SMALL, scenario="noisy")
    wanted = contents(build_world(corpus_of(12), tmp_path / "w", noisy).path)
    for stage in ("mixing in noise", "tokenising", "linking"):
        with monkeypatch.context() as patch:
            stopped_at(stage, patch)
            with pytest.raises(KeyboardInterrupt):
                build_world(corpus_of(12), tmp_path / "v", noisy)
        (tmp_path / ".v.building/scratch/half.txt").write_text("junk of a kill")
        assert contents(build_world(corpus_of(12), tmp_path / "v", noisy).path) == wanted
        shutil.rmtree(tmp_path / "v")
    assert [f.name for f in tmp_path.iterdir()] == ["w"]


def test_a_corpus_that_says_when_it_changes_is_not_read_again(
    wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fingerprint, times in (("files of today", 1), ("", 2)):
        articles = Counted(tuple(corpus_of(12).articles))
        corpus = Corpus(articles, "made up", "none needed", fingerprint=fingerprint)
        interrupt("tokenising", monkeypatch, corpus, tmp_path / fingerprint[:4] / "w")
        assert articles.times == 1
        world = build_world(corpus, tmp_path / fingerprint[:4] / "w", SMALL)
        assert articles.times == times
        assert contents(world.path) == wanted


@pytest.mark.parametrize("change", ["settings", "corpus", "fingerprint", "a stage's file"])
def test_what_another_build_left_is_not_gone_on_with(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = replace(corpus_of(12), fingerprint="a" if change == "fingerprint" else "")
    interrupt("tokenising", monkeypatch, before, tmp_path / "w")
    corpus, config = corpus_of(12), SMALL
    if change == "settings":
        config = replace(SMALL, seed=1)
    if change == "corpus":
        corpus = corpus_of(12, seed=1)
    if change == "fingerprint":
        corpus = replace(corpus_of(12, seed=1), fingerprint="b")
    if change == "a stage's file":
        file = tmp_path / ".w.building/world/passages.parquet"
        file.write_bytes(file.read_bytes()[:-1])
    found = contents(build_world(corpus, tmp_path / "w", config).path)
    assert found == contents(build_world(corpus, tmp_path / "v", config).path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["v", "w"]


def test_what_took_no_time_or_cannot_be_mended_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt("tokenising", monkeypatch, corpus_of(12), tmp_path / "w", kept=60.0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(stages, "KEPT", 0.0)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def wrong(*_: Any) -> None:
        raise ValueError("expected another corpus")

    with monkeypatch.context() as patch:
        patch.setattr(build, "_tokenise", full)
        with pytest.raises(OSError, match="No space left") as caught:
            build_world(corpus_of(12), tmp_path / "w", SMALL)
    assert ".building" not in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == [".w.building"]
    with monkeypatch.context() as patch:
        patch.setattr(build, "_tokenise", wrong)
        with pytest.raises(ValueError, match="another corpus"):
            build_world(corpus_of(12), tmp_path / "w", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_something_else_where_a_build_would_work_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".w.building").mkdir()
    (tmp_path / ".w.building/letter").write_text("dear all")
    with pytest.raises(FileExistsError, match=r"at .*\.w\.building, got something else: move it"):
        build_world(corpus_of(12), tmp_path / "w", SMALL)
    assert (tmp_path / ".w.building/letter").read_text() == "dear all"


@pytest.mark.parametrize("when", ["before the world was in its place", "after it was"])
def test_a_kill_around_the_last_step_leaves_the_world_or_makes_it_again(
    when: str, wanted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing tidies up after a kill."""

    move = stages.put_in_place

    def killed(*args: Any, **kwargs: Any) -> None:
        if when == "after it was":
            move(*args, **kwargs)
        raise Killed

    old = build_world(corpus_of(12, seed=1), tmp_path / "w", SMALL)
    before = contents(old.path)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "put_in_place", killed)
        patch.setattr(stages, "remove_folder", lambda _: None)
        with pytest.raises(Killed):
            build_world(corpus_of(12), tmp_path / "w", SMALL)
    assert contents(tmp_path / "w") == (wanted if when == "after it was" else before)
    told: list[str] = []
    world = build_world(corpus_of(12), tmp_path / "w", SMALL, told.append)
    assert contents(world.path) == wanted
    assert [f.name for f in tmp_path.iterdir()] == ["w"]
    assert (told == []) == (when == "after it was")


def test_a_build_killed_by_the_system_goes_on_by_the_same_command(
    tmp_path: Path, wanted: dict[str, bytes]
) -> None:
    code = (
        "import sys; from kncl_env.cli import main\n"
        "sys.exit(main(['build', 'synthetic', '--topics', '24', '--vocab-size', '300', "
        "'--out', sys.argv[1]]))"
    )
    words = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*words, str(tmp_path / "v")], env=env, check=True, capture_output=True)
    running = subprocess.Popen(
        [*words, str(tmp_path / "w")], env=env, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    while "tokenising" not in running.stderr.readline():
        time.sleep(0)
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stderr.close()
    assert not (tmp_path / "w").exists()
    done = subprocess.run(
        [*words, str(tmp_path / "w")], env=env, check=True, capture_output=True, text=True
    )
    assert "writing passages: done before" in done.stderr
    assert contents(tmp_path / "w") == contents(tmp_path / "v")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["v", "w"]


def test_a_world_that_is_there_is_used_and_what_its_build_left_goes(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a build was killed when all but its cleaning up was done."""
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    recipe = TableRecipe()
    built = BuildTask(Recipe("synthetic", "broad"), "", str(tmp_path / "built"))
    table_world = tmp_path / f"table-world-{recipe.digest[:16]}"
    for place, use in (
        (table_world, recipe.world),
        (tmp_path / "built", lambda: build_cell(built)),
    ):
        shutil.copytree(small_world.path, place)
        left = tmp_path / f".{place.name}.building"
        left.mkdir()
        (left / "state.json").write_text(json.dumps({"made_by": stages.MADE_BY}))
        for _ in range(2):  # then the removal is killed, too
            use()
            assert not left.exists()
            (tmp_path / f".{left.name}.1a2b3c4d.part").mkdir(exist_ok=True)
        use()
    mine = tmp_path / ".built.building"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    build_cell(built)
    names = [".built.building", "built", table_world.name]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_time_and_memory_of_every_stage_stand_beside_the_card(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = json.loads((small_world.path / "build.json").read_text())["stages"]
    assert [stage["stage"] for stage in log][:2] == ["cutting and splitting", STAGES[0]]
    assert log[-1]["stage"] == "hashing"
    for stage in log:
        assert stage["seconds"] >= 0
        assert stage["cpu_seconds"] >= 0
        assert 2**20 < stage["peak_bytes"] < 2**36
    assert "build.json" not in small_world.card["files"]
    assert is_world(small_world.path)
    assert main(["show", str(small_world.path)]) == 0
    shown = capsys.readouterr().out
    assert "index: exact, every passage is looked at" in shown
    assert re.search(r"build: \d+ s, \d+ of them [a-z ]+; \d\.\d\d GiB at most", shown)
    copy = Path(shutil.copytree(small_world.path, tmp_path / "w"))
    (copy / "build.json").write_text('{"stages": [{"stage": "linking"}]}')
    assert main(["show", str(copy)]) == 0
    assert "build:" not in capsys.readouterr().out


def test_a_world_of_many_groups_and_cells_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that only large worlds have, in a small one."""
    whole = build_world(corpus_of(20), tmp_path / "a", replace(SMALL, scenario="noisy"))
    monkeypatch.setattr(tables, "GROUP_ROWS", 50)
    monkeypatch.setattr(tables, "PIECE", 7)
    monkeypatch.setattr(index, "EXACT", 100)
    monkeypatch.setattr(build, "EMBEDDER_BYTES", 30_000)
    monkeypatch.setattr(build, "EMBEDDED", 3)
    world = build_world(corpus_of(20), tmp_path / "b", replace(SMALL, scenario="noisy"))
    assert faults(world) == []
    assert world.passages() == whole.passages()
    assert world.corpus_hash == whole.corpus_hash
    assert np.array_equal(world.tokens()[0], whole.tokens()[0])
    some = np.array([3, 49, 50, 51, 120])
    every = whole.passages()
    assert list(world.passage_rows(some)) == [every[i] for i in some]
    assert [world.passage_text(i) for i in (120, 3)] == [every[120].text, every[3].text]
    assert world.card["index"]["kind"].startswith("IVF")
    assert world.index.made_as == world.card["index"]
    capsys.readouterr()
    assert main(["show", str(world.path)]) == 0
    assert (
        " cells searched, the best 100 or more ranked, recall at 10 of" in capsys.readouterr().out
    )
    fitted = world.card["embedder"]
    assert 0 < fitted["fitted_on_topics"] < fitted["of_topics"] == world.n_topics
    assert "index" not in whole.card

"""Neighbourhoods side by side: the same adapters whoever trains them; what they make together."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.cli.main import main
from policies.stream import parallel_run
from policies.stream.course import Layout, open_course
from policies.stream.methods import MERGED
from policies.stream.parallel import (
    APART,
    PartRecord,
    TogetherRecord,
    adapter_folder,
    dealt,
    play_together,
    windows_of,
)
from policies.stream.parallel_page import headline, summarise_parallel
from policies.stream.parallel_run import (
    ParallelPlan,
    Played,
    Speed,
    part_tasks,
    run_parallel,
    together_tasks,
)
from train_lm.composing.adapter_files import WEIGHTS
from train_lm.crew.hands import Hands

SETTINGS = Settings.of(model="xxs", nucleus_topics=6, nucleus_updates=30, batch=4)
LAYOUT = Layout(parts=2, size=5, updates=10, windows=6)
OPTIONS = ["--neighbourhoods", "2", "--size", "5", "--stage-updates", "10", "--windows", "6"]
OPTIONS += ["--model", "xxs", "--nucleus-topics", "6", "--nucleus-updates", "30", "--batch", "4"]


@pytest.fixture(scope="module")
def played(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command itself, in this process."""
    out = tmp_path_factory.mktemp("parallel") / "run"
    words = ["neighbourhoods", "--world", str(small_world.path), "--seeds", "1"]
    assert main([*words, "--processes", "1", "--out", str(out), *OPTIONS]) == 0
    return out


def weights(out: Path) -> dict[str, bytes]:
    return {f.parent.name: f.read_bytes() for f in sorted((out / "adapters").rglob(WEIGHTS))}


def test_a_worker_that_is_killed_in_the_midst_changes_nothing(
    played: Path, small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    real = Hands.played

    def watched(self, tasks, play, *more):  # type: ignore[no-untyped-def]
        for found in real(self, tasks, play, *more):
            yield found
            if play is parallel_run.play_part and not killed:  # the others are at work
                killed.extend(child.pid for child in multiprocessing.active_children())
                os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Hands, "played", watched)
    plan = ParallelPlan(seeds=1, hands=Hands(2))
    found = run_parallel(small_world, SETTINGS, LAYOUT, plan, tmp_path / "run")
    assert killed
    assert weights(tmp_path / "run") == weights(played)
    scores = json.loads((played / "scores.json").read_text())
    assert json.loads(json.dumps(summarise_parallel(found).to_json()))["ways"] == scores["ways"]


def test_a_run_goes_on_and_trains_again_only_what_is_missing(
    played: Path, small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(played, out)
    shutil.rmtree(out / "adapters" / "apart-0-1")
    lines = (out / "tasks.jsonl").read_bytes().splitlines(keepends=True)
    (out / "tasks.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    told: list[str] = []
    real = parallel_run.play_part

    def counted(task):  # type: ignore[no-untyped-def]
        told.append(f"{task.kind} {task.number}")
        return real(task)

    monkeypatch.setattr(parallel_run, "play_part", counted)
    run_parallel(small_world, SETTINGS, LAYOUT, ParallelPlan(seeds=1), out)
    assert told == ["apart 1"]
    assert weights(out) == weights(played)
    assert (out / "tasks.jsonl").read_bytes() == b"".join(lines)


def test_every_way_reads_the_same_windows(small_world: World, tmp_path: Path) -> None:
    course = open_course(str(small_world.path), SETTINGS, LAYOUT, 0)
    own = [windows_of(course, i) for i in range(2)]
    parts = dealt(course)
    assert [len(part) for part in parts] == [len(part) for part in own] == [40, 40]
    assert sorted(np.concatenate(own)) == sorted(np.concatenate(parts))
    topics = small_world.passage_topic[course.stage.store.document[own[0]]]
    assert set(topics) <= set(course.neighbourhoods[0].topics)
    mixed = small_world.passage_topic[course.stage.store.document[parts[0]]]
    assert set(mixed) & set(course.neighbourhoods[1].topics)


def test_adapters_are_told_by_name_and_open_with_plain_peft(
    played: Path, small_world: World
) -> None:
    from peft import PeftModel

    course = open_course(str(small_world.path), SETTINGS, LAYOUT, 0)
    folder = adapter_folder(str(played / "adapters"), APART, 0, 0)
    card = json.loads((folder / "kncl_adapter.json").read_text())
    assert card["about"] == {"neighbourhood": course.names[0]}
    model = PeftModel.from_pretrained(course.stage.trainer().model, folder)
    assert model.peft_config["default"].r == 8


def test_a_damaged_adapter_is_one_clear_line(
    played: Path, small_world: World, tmp_path: Path
) -> None:
    shutil.copytree(played / "adapters", tmp_path / "adapters")
    file = tmp_path / "adapters" / "apart-0-0" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    plan = ParallelPlan(seeds=1)
    (task,) = together_tasks(small_world, SETTINGS, LAYOUT, plan, tmp_path / "adapters")
    with pytest.raises(ValueError, match=r"expected .*apart-0-0.* whole, got"):
        play_together(task)
    other = replace(SETTINGS, learner=replace(SETTINGS.learner, seed=5))
    (task,) = together_tasks(small_world, other, LAYOUT, plan, played / "adapters")
    with pytest.raises(ValueError, match="expected an adapter of the base"):
        play_together(task)


# --- what it says --------------------------------------------------------------------------------


@pytest.fixture
def made(small_world: World, tmp_path: Path) -> Played:
    """Records of known figures: routed beats the control, merging costs where adapters differ."""
    plan = ParallelPlan(seeds=4)
    tasks = part_tasks(small_world, SETTINGS, LAYOUT, plan, tmp_path)
    levels = {"apart": 2.0, "random": 2.2, "sequence": 2.1, "joint": 2.0, "full": 1.9}
    noise = [0.0, 0.001, -0.001, 0.0]
    parts = [
        PartRecord(task.key, np.full(3, levels[task.kind] + noise[task.seed]), 0.0, 1.0)
        for task in tasks
    ]
    ways = {"base": 2.5, "own": 2.0, "routed": 2.0, "random by lot": 2.2}
    ways |= {f"{kind}{how}": 2.1 for kind in ("", "random ") for how in MERGED}
    together = [
        TogetherRecord(
            key=task.key,
            names=("a", "b"),
            losses={way: np.full(3, level + noise[task.seed]) for way, level in ways.items()},
            right=1.0,
            pairs=(0.3, 0.2, 0.1),
            early=(0.1, 0.2, 0.3),
            late=(0.1, 0.3, 0.2),
        )
        for task in together_tasks(small_world, SETTINGS, LAYOUT, plan, tmp_path)
    ]
    return Played(parts, together, Speed(2, 30.0, 20.0, 25.0, True))


def test_the_figures_are_those_of_the_records(made: Played) -> None:
    found = summarise_parallel(made)
    assert found.ways["routed"].to_sequence.centre == pytest.approx(-0.1)
    assert found.ways["cat"].interference is not None
    assert found.ways["cat"].interference.centre == pytest.approx(0.1)
    assert found.ways["own"].interference is None
    assert found.forecast["early"].centre == pytest.approx(-1.0)
    assert found.forecast["late"].centre == pytest.approx(-0.5)


def test_the_first_sentences_say_what_the_intervals_do(made: Played) -> None:
    first, control, speed = headline(summarise_parallel(made), made.speed)
    assert "routed are better than one adapter that goes" in first
    assert "not told apart from one trained on everything at once" in first
    assert "is worse than routed ones (+0.2000" in control
    assert "1.50 times as fast as one, with the same bytes; 2 times would be ideal" in speed

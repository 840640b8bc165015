"""A stream of neighbourhoods: what is learned, what is kept of it, and that nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.cli.main import main
from policies.stream import runs
from policies.stream.cells import Cost, StreamRecord
from policies.stream.course import Layout, open_course
from policies.stream.methods import MERGED, ROUTED, method_of, methods_of
from policies.stream.neighbourhoods import dealt_at_random, divided, neighbourhoods
from policies.stream.own_text import written
from policies.stream.page import headline, pareto_front, table
from policies.stream.playing import play
from policies.stream.runs import StreamPlan, run_stream, tasks_of
from policies.stream.scores import summarise
from policies.stream.sequential import Reading

SETTINGS = Settings.of(
    model="xxs", nucleus_topics=6, nucleus_updates=60, batch=4, learning_rate=6e-3
)
LAYOUT = Layout(parts=3, size=5, updates=20, windows=10)
OPTIONS = ["--neighbourhoods", "3", "--size", "5", "--stage-updates", "20", "--windows", "10"]
OPTIONS += ["--model", "xxs", "--nucleus-topics", "6", "--nucleus-updates", "60", "--batch", "4"]
OPTIONS += ["--learning-rate", "6e-3", "--rate", "6e-3"]
METHODS = ("none", "replay/2", "joint")


@pytest.fixture(scope="module")
def played(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole stream by the command itself, with its weights kept."""
    out = tmp_path_factory.mktemp("stream") / "run"
    words = ["stream", "--world", str(small_world.path), "--methods", ",".join(METHODS)]
    words += ["--rates", "1", "--seeds", "2", "--keep", "--out", str(out), *OPTIONS]
    assert main(words) == 0
    return out


def plan(*methods: str, rates: int = 1, seeds: int = 2) -> StreamPlan:
    return StreamPlan(methods, rates=rates, seeds=seeds, rate=6e-3)


def record(method: str, rate: float, seed: int, losses: object) -> StreamRecord:
    matrix = np.array(losses, dtype=float)
    key = {"arm": method, "digest": "", "seed": seed, "learner_seed": seed, "rate": rate}
    names = tuple("abcdefgh"[: len(matrix) - 1])
    return StreamRecord(key, names, matrix, Cost(0.5, 2.0, 10, 20, 1000), 1.0)


def stream_of(learned: float, forgot: float) -> list[list[float]]:
    """Two stages that each learn as much; the second forgets some of the first."""
    first = 3.0 - learned
    return [[3.0, 3.0, 2.0], [first, 3.0, 2.0], [first + forgot, first, 2.0]]


# --- neighbourhoods ------------------------------------------------------------------------------


def test_a_division_has_parts_of_like_weight_that_are_alike_inside() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[4.0, 0, 0], [-4, 0, 0], [0, 4, 0], [0, -4, 0]])
    vectors = np.repeat(centres, 25, axis=0) + 0.1 * rng.normal(size=(100, 3))
    parts = divided(vectors, np.ones(100), np.arange(100), 4)
    assert [len(part) for part in parts] == [25, 25, 25, 25]
    assert sorted({tuple(part // 25) for part in parts}) == [(i,) * 25 for i in range(4)]


def test_any_number_of_parts_comes_out_even() -> None:
    vectors = np.random.default_rng(0).normal(size=(90, 5))
    parts = divided(vectors, np.ones(90), np.arange(90), 7)
    assert sorted(np.concatenate(parts)) == list(range(90))
    assert max(map(len, parts)) - min(map(len, parts)) <= 3


def test_neighbourhoods_share_no_topic_and_leave_the_nucleus_out(small_world: World) -> None:
    seeds = np.array([0, 11, 22])
    found = neighbourhoods(small_world, 3, 6, seeds, 32)
    topics = np.concatenate([one.topics for one in found])
    assert [len(one.topics) for one in found] == [6, 6, 6]
    assert len(set(topics)) == 18
    assert not set(topics) & set(seeds)
    named = neighbourhoods(small_world, ["region.1", "region.2"], 0, seeds, 32)
    assert set(named[0].topics) == set(small_world.region("region.1")) - set(seeds)


def test_neighbourhoods_that_are_not_to_be_had_are_told(small_world: World) -> None:
    none = np.zeros(0, dtype=int)
    for parts, size, told in (
        (1, 4, "expected 2 neighbourhoods or more, of 4 topics each, got 1 among"),
        (9, 8, "expected 2 neighbourhoods or more, of 8 topics each, got 9 among"),
        (["region.1", "region.1"], 4, "expected 2 regions or more, each once"),
        (["region.1", "region.2"], 90, "expected 90 topics with held-out text in 'region.1'"),
        (["region.1", "regoin.2"], 4, "region.2"),
    ):
        with pytest.raises(ValueError, match=told):
            neighbourhoods(small_world, parts, size, none, 32)


def test_the_control_deals_the_same_topics_in_parts_of_the_same_sizes(small_world: World) -> None:
    found = neighbourhoods(small_world, 3, 6, np.zeros(0, dtype=int), 32)
    dealt = dealt_at_random(found, small_world, np.random.default_rng(0))
    assert [len(one.topics) for one in dealt] == [6, 6, 6]
    every = [np.sort(np.concatenate([one.topics for one in parts])) for parts in (found, dealt)]
    assert (every[0] == every[1]).all()
    assert any(set(a.topics) != set(b.topics) for a, b in zip(found, dealt, strict=True))


# --- methods -------------------------------------------------------------------------------------


def test_a_name_says_what_a_method_does() -> None:
    assert method_of("replay/8").share == 1 / 8
    assert method_of("topk/20").kept == 1 / 20
    assert method_of("lowrank/4").rank == 4
    assert method_of("lora").adapter == "lora"
    assert not method_of("lora").compose
    assert method_of("lora-ties").compose == "ties"
    trained = {method_of(f"lora-{how}").training for how in ("routed", "ties", "cat")}
    assert len(trained) == 1
    assert method_of("lora").training not in trained


@pytest.mark.parametrize(
    "name", ["", "nothing", "none/2", "replay/", "replay/0", "replay/x", "replay-ties", "lora-x"]
)
def test_a_method_that_there_is_not_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        method_of(name)
    with pytest.raises(ValueError, match="each method once"):
        methods_of(["none", "none"])


def test_replay_takes_its_share_of_the_windows_from_nucleus_and_earlier_stages(
    small_world: World,
) -> None:
    course = open_course(str(small_world.path), SETTINGS, LAYOUT, 0)
    own = [set(course.stage.store.windows_of(course.passages(i))) for i in range(len(course))]
    for name, share in (("none", 0.0), ("replay/4", 0.25)):
        reading = Reading(course, method_of(name), 0)
        for stage in range(len(course)):
            windows = reading.stage(stage)
            old = [w for w in windows if w not in own[stage]]
            assert len(windows) == course.windows_per_stage
            assert len(old) == round(share * course.windows_per_stage)
            known = set(course.nucleus_windows).union(*own[:stage])
            assert set(old) <= known
    joint = Reading(course, method_of("joint"), 0).stage(0)
    even = [len([w for w in joint if w in part]) for part in own]
    assert sum(even) == 80
    assert max(even) - min(even) <= 1


# --- cells and runs ------------------------------------------------------------------------------


def test_a_stream_learns_its_neighbourhoods_and_replay_forgets_less(played: Path) -> None:
    scores = json.loads((played / "scores.json").read_text())
    methods = scores["methods"]
    learned = {name: found["rates"][-1]["learning"]["mean"] for name, found in methods.items()}
    lost = {n: -found["rates"][-1]["backward_transfer"]["mean"] for n, found in methods.items()}
    assert min(learned["none"], learned["replay/2"]) > 0.03
    assert lost["replay/2"] < lost["none"]
    assert scores["bar"] == "replay/2"
    assert scores["seeds"] == [0, 1]


def test_the_matrices_come_out_again_from_the_weights_that_were_kept(
    played: Path, small_world: World
) -> None:
    asked = replace(plan(*METHODS), keep=True)
    records = run_stream(small_world, SETTINGS, LAYOUT, asked, played)
    about = (small_world, SETTINGS, LAYOUT, asked)
    assert runs.check_kept(*about, records, played) == 6
    records[3].losses[1, 1] += 1e-6
    with pytest.raises(ValueError, match=r"expected the losses in .* to come out again"):
        runs.check_kept(*about, records, played)


def test_a_stream_that_was_killed_goes_on_to_the_same_bytes(
    played: Path, small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (played / "cells.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 6
    # As a kill leaves it: three whole lines, and half of the next one.
    (tmp_path / "config.json").write_bytes((played / "config.json").read_bytes())
    (tmp_path / "cells.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:50])
    told: list[str] = []
    real = play

    def counted(task):  # type: ignore[no-untyped-def]
        told.append(f"{task.methods[0].name} {task.seed}")
        return real(task)

    monkeypatch.setattr(runs, "play", counted)
    again = run_stream(small_world, SETTINGS, LAYOUT, plan(*METHODS), tmp_path)
    assert told == [f"{method} 1" for method in METHODS]
    whole = run_stream(small_world, SETTINGS, LAYOUT, plan(*METHODS), played)
    assert [r.losses.tobytes() for r in again] == [r.losses.tobytes() for r in whole]
    scores = json.loads((played / "scores.json").read_text())
    assert json.loads(json.dumps(summarise(again).to_json()))["methods"] == scores["methods"]


def test_every_kind_of_method_plays_and_its_matrix_comes_out_again(
    small_world: World, tmp_path: Path
) -> None:
    names = ["self", "ewc", "topk/20", "lowrank/4", "lora", "relora"]
    names += [f"lora-{how}" for how in (*ROUTED, *MERGED)]
    asked = replace(plan(*names, seeds=1), keep=True)
    layout = Layout(parts=2, size=5, updates=4, windows=6)
    records = run_stream(small_world, SETTINGS, layout, asked, tmp_path)
    assert runs.check_kept(small_world, SETTINGS, layout, asked, records, tmp_path) == len(names)
    by_name = {record.method: record for record in records}
    start = by_name["self"].losses[0]
    assert all(np.allclose(r.losses[0], start, rtol=1e-5) for r in records)  # a fresh adapter
    apart = [by_name[f"lora-{how}"].losses for how in (*ROUTED, *MERGED)]
    assert all(np.array_equal(one[1], apart[1][1]) for one in apart[1:])  # one adapter is there
    assert apart[0][1, 1] == apart[0][0, 1]  # and none for the second neighbourhood
    assert by_name["lora"].cost.trained < by_name["self"].cost.trained
    assert by_name["lowrank/4"].cost.optimizer_bytes < by_name["self"].cost.optimizer_bytes
    assert by_name["topk/20"].cost.changed < 0.9 < by_name["self"].cost.changed


def test_text_that_the_learner_writes_is_likelier_to_it_than_text_by_lot(
    small_world: World,
) -> None:
    course = open_course(str(small_world.path), SETTINGS, LAYOUT, 0)
    trainer = course.trainer(method_of("none"), 1e-3)
    own = written(trainer, np.arange(20), 33, seed=1)
    lot = np.random.default_rng(0).integers(own.max() + 1, size=own.shape)
    assert own.shape == (20, 33)
    assert (own[:, 0] == np.arange(20)).all()
    assert trainer.nll(own).mean() < trainer.nll(lot).mean() - 20
    assert (written(trainer, np.arange(20), 33, seed=1) == own).all()


def test_a_run_of_another_layout_is_refused(played: Path, small_world: World) -> None:
    other = replace(LAYOUT, updates=31)
    with pytest.raises(ValueError, match=r"layout\.updates is 20 there, 31 here"):
        run_stream(small_world, SETTINGS, other, plan("none"), played)


def test_an_edited_cell_is_told_by_its_line(
    played: Path, small_world: World, tmp_path: Path
) -> None:
    for name in ("config.json", "cells.jsonl"):
        (tmp_path / name).write_bytes((played / name).read_bytes())
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"seed": 0', '"seed": 7')
    (tmp_path / "cells.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"cells\.jsonl:3"):
        run_stream(small_world, SETTINGS, LAYOUT, plan("none"), tmp_path)


def test_methods_that_train_alike_are_one_task(small_world: World, tmp_path: Path) -> None:
    asked = plan("none", "lora-routed", "lora", "lora-ties", rates=1, seeds=1)
    tasks = tasks_of(small_world, SETTINGS, LAYOUT, asked, tmp_path)
    assert [[m.name for m in task.methods] for task in tasks] == [
        ["none"],
        ["lora-routed", "lora-ties"],
        ["lora"],
    ]


def test_rates_lie_about_the_middle_one_and_adapters_take_more() -> None:
    none, lora = method_of("none"), method_of("lora")
    assert StreamPlan(["none"]).rates_of(none, SETTINGS) == pytest.approx([6e-3 / 9, 2e-3, 6e-3])
    assert plan("none", rates=2).rates_of(none, SETTINGS) == pytest.approx([6e-3, 18e-3])
    assert plan("lora", rates=1).rates_of(lora, SETTINGS) == pytest.approx([6e-2])


def test_a_rate_that_is_too_high_is_named(small_world: World, tmp_path: Path) -> None:
    wild = replace(SETTINGS, learner=replace(SETTINGS.learner, learning_rate=6e-3))
    (task,) = tasks_of(small_world, wild, LAYOUT, plan("none", rates=1, seeds=1), tmp_path)
    with pytest.raises(FloatingPointError, match=r"none at a rate of 1e\+30"):
        play(replace(task, rate=1e30))


# --- what it says --------------------------------------------------------------------------------


def curves(name: str, points: list[tuple[float, float]], noise: float = 0.0) -> list[StreamRecord]:
    return [
        record(name, rate, seed, stream_of(learned, forgot + noise * (-1) ** seed))
        for rate, (learned, forgot) in enumerate(points, 1)
        for seed in range(4)
    ]


def test_methods_are_compared_where_they_learned_as_much() -> None:
    records = curves("none", [(0.1, 0.02), (0.2, 0.08)])
    records += curves("replay/2", [(0.1, 0.01), (0.2, 0.03)])
    records += curves("lora-routed", [(0.05, 0.0), (0.16, 0.001)], noise=0.0005)
    found = summarise(records)
    by_level = {level.share: level for level in found.methods["lora-routed"].levels}
    assert found.learned_plainly is not None
    assert found.learned_plainly.centre == pytest.approx(0.2)
    # At 0.15: halfway from 0.01 to 0.03, and ten elevenths of 0.001.
    bar = {level.share: level for level in found.methods["replay/2"].levels}[0.75]
    assert bar.forgetting.centre == pytest.approx(0.02)
    assert bar.verdict == "reference"
    assert by_level[0.75].to_bar is not None
    assert by_level[0.75].to_bar.centre == pytest.approx(0.001 / 1.1 - 0.02)
    assert by_level[0.75].verdict == "better"
    assert by_level[1.0].missing == 4
    assert by_level[1.0].forgetting.centre is None
    first = headline(found)[0]
    assert first.startswith("lora-routed against half replay, forgetting where both learned")
    assert "at 75% better (" in first
    assert "at 100% one of the two never learns as much" in first
    end = found.methods["lora-routed"].end
    assert end is not None
    assert end.centre == pytest.approx(2.8405 - 2.815)
    assert "replay/2" in table(found)


def test_what_the_interval_does_not_tell_is_not_told_apart() -> None:
    records = curves("none", [(0.2, 0.08)]) + curves("replay/2", [(0.2, 0.03)])
    records += curves("lora-routed", [(0.2, 0.031)], noise=0.02)
    found = summarise(records)
    assert {level.verdict for level in found.methods["lora-routed"].levels} == {
        "no difference shown"
    }
    assert "not told apart" in headline(found)[0]


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [(0.1, 0.0), (0.2, 0.05), (0.15, 0.06), (0.2, 0.04), (0.05, 0.01), (0.3, 0.2)]
    assert pareto_front(points) == [(0.3, 0.2), (0.2, 0.04), (0.1, 0.0)]


def test_a_missing_cell_is_told() -> None:
    records = curves("none", [(0.2, 0.08)]) + curves("replay/2", [(0.2, 0.03)])[:3]
    with pytest.raises(ValueError, match="expected a cell of replay/2 at a rate of 1"):
        summarise(records)


def test_the_page_has_the_picture_every_matrix_and_where_it_comes_from(played: Path) -> None:
    page = (played / "report.html").read_text()
    assert "Learning against forgetting" in page
    assert "kncl-policy stream --world" in page
    assert page.count("aria-label='Held-out loss after each stage'") == 3
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")

"""Evaluation: paired arms on one world, resumable, with honest files at the end."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import curve_of, env_of

from kncl_env.observation import CANDIDATE_FEATURES
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.baselines import BASELINES
from policies.arms.registry import arm_of, check_arms
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.play import episodes
from policies.play.curves import CurveMeter, estimated, filled
from policies.play.episodes import Playing, play
from policies.play.evaluation import evaluate
from policies.play.plan import Plan, command_of
from policies.verdict.summary import Summary
from train_lm.trainer import Trainer

SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
}
OPTIONS = [part for k, v in SETTINGS.items() for part in (f"--{k.replace('_', '-')}", str(v))]


def evaluated(
    world: World, arms: list[str], seeds: int, out: Path, learners: int = 1, **settings: object
) -> Summary:
    plan = Plan(arms, seeds, learners=learners)
    return evaluate(world, Settings.of(**(settings or SETTINGS)), plan, out)


@pytest.fixture(scope="module")
def env(small_world: World):  # type: ignore[no-untyped-def]
    return env_of(small_world, **SETTINGS)


@pytest.fixture
def policy_dir(tmp_path: Path) -> Path:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16))).save(tmp_path / "learned")
    return tmp_path / "learned"


@pytest.mark.parametrize("arm", BASELINES)
def test_every_baseline_spends_the_same_budget_from_the_same_start(env, arm: str) -> None:
    curve = curve_of(env, arm, 0)
    assert curve.tokens == [i * env.settings.tokens_per_step for i in range(5)]
    assert curve.loss[0] == pytest.approx(curve_of(env, "uniform", 3).loss[0])
    assert curve.test_after != curve.test_before


def test_a_curve_has_its_points_where_it_is_steep_the_same_for_all_arms() -> None:
    assert CurveMeter(points=5).moments(40) == {0, 2, 10, 22, 40}
    assert len(CurveMeter().moments(60)) == 12
    assert CurveMeter(points=9).moments(3) == {0, 1, 2, 3}
    assert CurveMeter(points=2).moments(60) == {0, 60}
    for wrong in ({"points": 1}, {"windows": 0}):
        with pytest.raises(ValueError, match="at least 2 points of 1 window"):
            CurveMeter(**wrong)


@pytest.mark.parametrize(
    ("steps", "updates", "points", "windows", "ends"),
    [
        (60, 10, 13, 512, 512),  # the defaults
        (50, 6, 8, 512, 512),
        (40, 6, 7, 473, 512),
        (24, 3, 7, 70, 512),  # the benchmark's episodes
        (10, 2, 7, 48, None),  # too short for all windows at its end
    ],
)
def test_a_curve_takes_a_quarter_of_the_training_at_most(
    steps: int, updates: int, points: int, windows: int, ends: int | None
) -> None:
    settings = Settings.of(steps=steps, updates_per_step=updates)
    meter = CurveMeter.within(settings)
    assert (meter.points, meter.windows, meter.ends) == (points, windows, ends)
    inside = len(meter.moments(steps)) - 2  # the first moment is shared by all arms
    allowed = 3 * steps * settings.windows_per_step / 4
    assert inside * windows + (ends or windows) <= allowed
    assert windows == 512 or (inside + 1) * (windows + 1) + ((ends or windows) - windows) > allowed
    assert CurveMeter.within(settings, 3).points == 3
    assert f"{windows} " in meter.told(steps)
    assert (f"{ends} windows of select at both ends" in meter.told(steps)) == (ends is not None)
    with pytest.raises(ValueError, match="at least 2 points of 1 window, got 1 of"):
        CurveMeter.within(settings, points=1)
    with pytest.raises(ValueError, match="at least the 9 windows of a curve at its ends, got 8"):
        CurveMeter(3, 9, 8)


def test_a_curve_is_filled_between_its_points_and_falls_where_they_fall() -> None:
    at = list(range(25))
    bent = [3.0 - 0.3 * (t / 24) ** 0.5 - 0.1 * (t / 24) ** 2 for t in at]
    points = [0, 1, 3, 6, 11, 17, 24]
    found = filled(points, [bent[t] for t in points], at)
    assert [found[t] for t in points] == [bent[t] for t in points]
    line = np.interp(at, points, [bent[t] for t in points])
    assert np.abs(np.subtract(found, bent)).max() < np.abs(line - bent).max() / 2
    assert (np.diff(found) < 0).all()
    assert filled([0, 5], [2.0, 1.0], [0, 2, 5]) == pytest.approx([2.0, 1.6, 1.0])


def test_a_loss_on_all_windows_is_estimated_from_some_by_what_each_lost_at_both_ends() -> None:
    rng = np.random.default_rng(0)
    n_bytes, first = rng.integers(90, 200, 400), rng.normal(3.0, 0.6, 400)
    last = first - rng.gamma(2.0, 0.1, 400)
    known = rng.permutation(400) < 40

    def mean(losses: np.ndarray) -> float:
        return float(losses @ n_bytes / n_bytes.sum())

    def told(middle: np.ndarray, which: np.ndarray) -> float:
        return estimated(middle[which], first, last, which, n_bytes)

    fits = 0.1 + 0.3 * first + 0.65 * last
    assert told(fits, known) == pytest.approx(mean(fits), abs=1e-9)
    # What no fit tells is an error of its own; where everything is measured there is none.
    wild = fits + rng.normal(0, 0.3, 400)
    assert told(wild, np.ones(400, dtype=bool)) == pytest.approx(mean(wild), abs=1e-9)
    errors = np.array(
        [
            (told(noisy, which) - mean(noisy), noisy[which].mean() - mean(noisy))
            for noisy in (fits + rng.normal(0, 0.03, 400) for _ in range(200))
            for which in (rng.permutation(400) < 40,)
        ]
    )
    own, plain = np.sqrt((errors**2).mean(0))
    assert own < plain / 10  # of windows that differ by 0.6, and of fits that differ by 0.03
    # Ends that are the same tell nothing apart, and nothing breaks.
    assert estimated(first[known], first, first, known, n_bytes) == pytest.approx(mean(first))


def test_a_thinned_curve_has_the_ends_of_a_full_one_and_comes_near_it_in_between(env) -> None:  # type: ignore[no-untyped-def]
    full, plain, thinned = (
        play(env, arm_of("random"), 2, 7, meter).measured
        for meter in (CurveMeter(9, 64), CurveMeter(9, 8), CurveMeter(9, 8, 64))
    )
    # What is filled has a loss after every step, and here they are all measured.
    assert thinned.tokens == full.tokens == [i * env.settings.tokens_per_step for i in range(5)]
    assert thinned.loss[0] == pytest.approx(full.loss[0], abs=1e-6)
    assert thinned.loss[-1] == pytest.approx(full.loss[-1], abs=1e-6)
    off, further = (np.abs(np.subtract(c.loss, full.loss))[1:-1] for c in (thinned, plain))
    assert off.max() < further.max() / 2
    same = play(env, arm_of("random"), 2, 7, CurveMeter(9, 64, 64)).measured
    assert same.loss == pytest.approx(full.loss, abs=1e-6)
    sparse = play(env, arm_of("random"), 2, 7, CurveMeter(2, 64, 64)).measured
    assert sparse.tokens == full.tokens
    assert np.diff(sparse.loss) == pytest.approx(np.diff(sparse.loss)[:1].repeat(4), abs=1e-9)


def test_the_command_of_an_evaluation_tells_how_curves_were_measured_if_not_as_usual(
    small_world: World,
) -> None:
    settings = Settings.of(**SETTINGS)

    def command(meter: CurveMeter | None) -> str:
        return command_of(small_world, settings, Plan(["uniform"], 1, meter=meter), Path("out"))

    assert "--curve" not in command(None)
    assert command(CurveMeter.within(settings)) == command(None)
    assert "--curve-points 9 --curve-windows 128" in command(CurveMeter(9, 128))
    assert "--curve-points 9 --out" in command(CurveMeter.within(settings, 9))
    assert "--curve-points 13 --curve-windows 7" in command(CurveMeter(windows=7))


def test_a_sparse_curve_lies_on_the_dense_one_and_ends_where_the_episode_ends(env) -> None:
    dense, sparse = (
        play(env, arm_of("random"), 2, 7, CurveMeter(points, windows=6)).measured
        for points in (9, 3)
    )
    per_step = env.settings.tokens_per_step
    assert dense.tokens == [i * per_step for i in range(5)]
    assert sparse.tokens == [0, per_step, 4 * per_step]
    assert sparse.loss == [dense.loss[i] for i in (0, 1, 4)]
    assert (sparse.topics, sparse.test_after) == (dense.topics, dense.test_after)


def test_steps_without_a_measurement_are_rows_without_a_loss(
    small_world: World, tmp_path: Path
) -> None:
    plan = Plan(["uniform"], 1, meter=CurveMeter(points=3, windows=6))
    evaluate(small_world, Settings.of(**SETTINGS), plan, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "curves.csv").open()))
    assert [bool(row["select_bits_per_byte"]) for row in rows] == [True, True, False, False, True]
    with pytest.raises(ValueError, match=r"got others .*curve"):
        evaluated(small_world, ["uniform"], 1, tmp_path / "run")


def test_what_all_arms_of_a_seed_begin_with_is_measured_once(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = env_of(small_world, **SETTINGS)
    measure, asked = env.learner.held_out_loss, []

    def counted(split: str = "reward", windows: int | None = None) -> float:
        asked.append((split, windows))
        return measure(split, windows)

    monkeypatch.setattr(env.learner, "held_out_loss", counted)
    meter = CurveMeter(2, 6)
    first, second = (play(env, arm_of("random"), seed, 7, meter).measured for seed in (1, 2))
    assert asked.count(("test", None)) == 3  # once before, and after each
    assert asked.count(("select", 6)) == 3
    assert (first.start, first.test_before) == (second.start, second.test_before)

    env.reset(seed=3)
    assert first.loss[0] == second.loss[0] == measure("select", 6)
    # On other weights everything is measured anew.
    env.learner.train(np.resize(env.stage.store.windows_of(0), 4))
    watch = meter.begin(env)
    assert watch.start != first.start
    assert watch.before == measure("test") != first.test_before


def test_an_episode_is_the_same_twice_and_differs_between_seeds(env) -> None:
    a, b, c = (curve_of(env, "random", seed) for seed in (1, 1, 2))
    assert a == b
    assert a.topics != c.topics


def test_the_goal_rule_takes_the_candidate_closest_to_the_goal(env) -> None:
    observation, _ = env.reset(seed=0)
    slots = env.episode.slots.copy()
    rows = observation["candidates"]
    info = arm_of("goal").begin(env, np.random.default_rng(0)).act(observation).info
    column = CANDIDATE_FEATURES.index("goal_similarity")
    slot = int(rows[:, column].argmax())
    assert info["topic"] == slots[slot]


def test_target_text_reads_only_the_target_and_uniform_reads_every_region(
    env, small_world: World
) -> None:
    read: dict[str, set[int]] = {}
    for arm in ("target-text", "uniform"):
        observation, _ = env.reset(seed=0)
        info = arm_of(arm).begin(env, np.random.default_rng(0)).act(observation).info
        passages = env.stage.store.document[info["windows"]]
        read[arm] = set(small_world.passage_topic[passages].tolist())
        assert (small_world.passage_split[passages] == 0).all()
    assert read["target-text"] <= set(small_world.target_topics().tolist())
    assert len({t // 10 for t in read["uniform"]}) >= 3


def test_no_arm_ever_trains_on_held_out_text(env, small_world: World) -> None:
    starts = np.load(small_world.path / "starts.npy")
    for arm in BASELINES:
        episode, store = Playing(env, arm_of(arm), 4, 7), env.stage.store
        while not episode.over:
            windows = episode.step().info["windows"]
            assert (small_world.passage_split[store.document[windows]] == 0).all()
            end = store.window_start[windows] + store.context
            last = np.searchsorted(starts, end, side="right") - 1
            assert (small_world.passage_split[last] == 0).all()


def test_an_evaluation_writes_scores_curves_and_report_and_goes_on_where_it_was(
    small_world: World, tmp_path: Path, policy_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ["uniform", "random", "target-text", str(policy_dir)]
    out = tmp_path / "run"
    summary = evaluated(small_world, arms, 2, out)
    assert set(summary.arms) == {"uniform", "random", "target-text", "learned"}
    scores = json.loads((out / "scores.json").read_text())
    assert scores["world"] == small_world.hash
    assert scores["seeds"] == [0, 1]
    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert len(rows) == 4 * 2 * (SETTINGS["steps"] + 1)
    assert all(row["select_bits_per_byte"] for row in rows)  # the points are enough for 4 steps
    assert "<svg" in (out / "report.html").read_text()
    lines = (out / "curricula" / "learned-1.jsonl").read_text().splitlines()
    header, *steps = map(json.loads, lines)
    assert header["world"] == small_world.hash
    assert len(steps) == SETTINGS["steps"]
    assert (small_world.passage_split[steps[0]["passages"]] == 0).all()
    # The same evaluation again plays nothing; a lost episode alone is played again.
    played: list[tuple[str, int]] = []
    real = episodes.play
    monkeypatch.setattr(episodes, "play", lambda *a: played.append((a[1].name, a[2])) or real(*a))
    again = evaluated(small_world, arms, 2, out)
    assert played == []
    assert again == summary
    lines = (out / "episodes.jsonl").read_text().splitlines(keepends=True)
    lost = [i for i, line in enumerate(lines) if '"arm": "random"' in line and '"seed": 1' in line]
    assert len(lost) == 1
    del lines[lost[0]]
    (out / "episodes.jsonl").write_text("".join(lines))
    mended = evaluated(small_world, arms, 2, out)
    assert played == [("random", 1)]
    if not torch.cuda.is_available():  # where the same episode has the same bits
        assert mended == again


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU products round by how many there are at once"
)
def test_two_at_once_give_what_one_gives(small_world: World, tmp_path: Path) -> None:
    one, two = (
        evaluated(small_world, ["uniform", "random"], 2, tmp_path / str(n), learners=n)
        for n in (1, 2)
    )
    assert one.arms == two.arms


def test_a_policy_is_called_as_its_folder_is_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=8))).save(tmp_path / "learned")
    (tmp_path / "learned" / "inside").mkdir()
    for here, spec in (("learned", "."), ("learned/inside", ".."), (".", "learned/")):
        monkeypatch.chdir(tmp_path / here)
        assert arm_of(spec).name == "learned"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a policy directory at"):
        check_arms(["uniform", "."])


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["random"], "expected uniform among"),
        (["uniform", "nonsense"], "expected a policy directory, an import path"),
        (["uniform", "uniform"], "different names"),
    ],
)
def test_wrong_arms_are_refused_before_any_work(
    small_world: World, tmp_path: Path, arms: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluated(small_world, arms, 1, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_with_other_settings_is_not_mixed_in(
    small_world: World, tmp_path: Path
) -> None:
    evaluated(small_world, ["uniform"], 1, tmp_path / "run")
    with pytest.raises(ValueError, match=r"settings.steps is 4 there, 3 here"):
        evaluated(small_world, ["uniform"], 1, tmp_path / "run", **{**SETTINGS, "steps": 3})


def test_the_commands_tell_one_story(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Walk, pretrain, predict, train, evaluate: what a user types, on a small world."""
    from rabbit_holes.cli import main as rabbit_holes

    world, holes = str(small_world.path), str(tmp_path / "holes.jsonl")
    cloned, learned = str(tmp_path / "cloned"), str(tmp_path / "learned")
    walk = ["walk", "--world", world, "--walks", "120", "--depth", "6", "--out", holes]
    assert rabbit_holes(walk) == 0
    pretrain = ["pretrain", "--world", world, "--holes", holes, "--out", cloned]
    assert main([*pretrain, "--epochs", "2", "--width", "16"]) == 0
    capsys.readouterr()
    assert main(["predict", "--world", world, "--policy", cloned, "--holes", holes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["goal given"]["clicks"] > 0
    assert set(found["goal withheld"]["predictors"]) >= {"policy", "uniform", "cosine to goal"}
    train = ["train", "--world", world, "--init", cloned, "--out", learned, "--iterations", "2"]
    assert main([*train, "--episodes", "2", "--learners", "1", *OPTIONS]) == 0
    assert "steps/s" in capsys.readouterr().out
    run = ["evaluate", "--world", world, "--policies", f"uniform,random,{learned}", "--seeds", "2"]
    run += ["--learners", "1", "--out", str(tmp_path / "run"), *OPTIONS]
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert "learned" in printed
    assert str(tmp_path / "run" / "report.html") in printed


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["pretrain", "--world", "nowhere", "--holes", "x", "--out", "p"], "world directory"),
        (["predict", "--world", "W", "--policy", "nowhere", "--holes", "x"], "policy directory"),
        (["pretrain", "--world", "W", "--holes", "nowhere", "--out", "p"], "nowhere"),
        (["evaluate", "--world", "W", "--policies", "random", "--out", "p"], "uniform among"),
        (
            ["evaluate", "--world", "W", "--policies", "uniform", "--out", "p", "--slots", "999"],
            "at most",
        ),
        (
            ["train", "--world", "W", "--out", "p", "--nucleus-titles", "Topic 999"],
            "did you mean",
        ),
        (["train", "--world", "W", "--out", "p", "--model", "huge"], "model preset"),
        (["train", "--world", "W", "--out", "p", "--episodes", "3"], "share evenly"),
        (["train", "--world", "W", "--out", "p", "--learners", "0"], "learners >= 1"),
        (["train", "--world", "W", "--out", "W", "--force"], "name another"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str],
    expected: str,
    small_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [str(small_world.path) if a == "W" else a for a in argv]
    if argv[0] in ("evaluate", "train"):
        argv = [argv[0], *OPTIONS, *argv[1:]]  # what a case states comes last and wins
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert expected in lines[-1]


def test_a_report_is_not_replaced_by_one_that_knows_less(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    evaluated(small_world, ["uniform", "random"], 2, out)
    kept = (out / "scores.json").read_bytes()
    for arms, seeds in ((["uniform"], 2), (["uniform", "random"], 1)):
        with pytest.raises(ValueError, match="2 seeds of uniform, random, got"):
            evaluated(small_world, arms, seeds, out)
        argv = ["evaluate", "--world", str(small_world.path), "--policies", ",".join(arms)]
        assert main([*argv, "--seeds", str(seeds), "--out", str(out), *OPTIONS]) == 2
        assert "add --force to begin again" in capsys.readouterr().err
    assert (out / "scores.json").read_bytes() == kept
    assert set(evaluated(small_world, ["uniform", "random", "rule"], 2, out).arms) == {
        "uniform", "random", "rule"
    }  # fmt: skip


def test_processes_train_the_nuclei_of_several_learners_and_no_byte_is_another(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: list[int] = []
    real = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda *a: here.append(1) or real(*a))
    argv = ["evaluate", "--world", str(small_world.path), "--policies", "uniform,random"]
    argv += ["--seeds", "2", "--inits", "2", "--learners", "1", *OPTIONS]
    kept: dict[str, tuple[dict[str, bytes], object]] = {}
    for n in ("1", "2"):
        monkeypatch.setenv("KNCL_CACHE", str(tmp_path / f"cache-{n}"))
        out = tmp_path / f"run-{n}"
        assert main([*argv, "--processes", n, "--out", str(out)]) == 0
        nuclei = sorted((tmp_path / f"cache-{n}").glob("nucleus-*/nucleus.safetensors"))
        assert len(nuclei) == 2
        weights = {file.parent.name: file.read_bytes() for file in nuclei}
        kept[n] = weights, json.loads((out / "scores.json").read_text())["arms"]
        assert bool(here) is (n == "1")  # this process trains only where no other does
        here.clear()
    assert kept["1"] == kept["2"]


def test_no_seed_at_all_is_refused_before_any_episode() -> None:
    with pytest.raises(ValueError, match="expected seeds >= 1, got 0"):
        Plan(["uniform"], 0)


def test_the_report_names_the_command_of_its_task_however_it_was_called(
    small_world: World, tmp_path: Path
) -> None:
    by_python, by_command = tmp_path / "a", tmp_path / "b"
    evaluated(small_world, ["uniform", "random"], 2, by_python)
    argv = ["evaluate", "--world", str(small_world.path), "--policies", "uniform,random"]
    argv += ["--seeds", "2", "--learners", "1", "--out", str(by_command), *OPTIONS]
    assert main(argv) == 0
    said = [json.loads((out / "scores.json").read_text()) for out in (by_python, by_command)]
    words = shlex.split(said[0]["command"])
    assert words[:2] == ["kncl-policy", "evaluate"]
    assert said[0]["command"].replace(str(by_python), str(by_command)) == said[1]["command"]
    # And it does what it says: everything is found, nothing differs.
    assert main(words[1:]) == 0
    assert json.loads((by_python / "scores.json").read_text()) == said[0]

"""The learner as a formula: it is found again in its own readings, and practice in it helps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_env, table_of
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv
from test_evaluation import OPTIONS, SETTINGS

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.surrogate import (
    Dynamics,
    Surrogate,
    SurrogateLearner,
    Transfer,
    surrogate_learner,
)
from kncl_env.topic_table import TopicTable
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.ppo import PPOConfig, train_ppo
from policies.learn.surrogate_fit import Recorded, errors, fit, gains
from policies.play.episodes import Playing
from policies.play.recording import RecordingPlan, read_episodes, record
from policies.verdict.statistics import permutation_test

N = 30
TARGET = np.array([8, 9, 11, 12, 13])
TRUTH = Dynamics(
    link=0.6, alike=0.4, general=0.02, forgetting=0.03, scale=12.0, power=0.7, anneal=0.2
)


def surrogate_of(dynamics: Dynamics = TRUTH) -> Surrogate:
    rng = np.random.default_rng(0)
    target_fall = np.zeros(N)
    target_fall[TARGET] = 1.5 / len(TARGET)
    start = rng.uniform(3, 5, N)
    start[2] = np.nan  # a topic without a probe
    return Surrogate("0" * 64, {}, dynamics, 4.0, start, rng.uniform(1, 2, N), target_fall, {})


def surrogate_env(surrogate: Surrogate, table: TopicTable, **kwargs: Any) -> TopicExpansionEnv:
    env = fake_env(seeds=(0, 10, 20), target=tuple(TARGET), table=table, **kwargs)
    topic, context = env.stage.store.document // 4, env.stage.store.context
    transfer = Transfer(table.graph, table.vectors)
    return TopicExpansionEnv(env.stage, SurrogateLearner(surrogate, transfer, topic, context))


def played(env: TopicExpansionEnv, arm: str, seed: int) -> dict[str, Any]:
    """An episode as a line of a recording, with every topic probed."""
    episode = Playing(env, arm_of(arm), seed, 7)
    steps = []
    while not episode.over:
        info = episode.step().info
        read, counts = np.unique(env.stage.store.document[info["windows"]] // 4, return_counts=True)
        probes = env.learner.probe(np.arange(N))
        steps.append(
            {
                "topic": info["topic"],
                "windows": dict(zip(map(str, read), counts.tolist(), strict=True)),
                "held_out": info["held_out_loss"],
                "probes": {str(t): x for t, x in enumerate(probes.tolist()) if x == x},
            }
        )
    return {"arm": arm, "seed": seed, "steps": steps}


def test_a_learner_that_reads_nothing_new_knows_what_it_knew() -> None:
    table = table_of(N)
    learner = surrogate_env(surrogate_of(), table).learner
    learner.begin(80 * 8)
    assert learner.held_out_loss() == 4.0
    before = learner.snapshot()
    learner.train(np.arange(8))
    after = learner.held_out_loss(), learner.probe(np.arange(N))
    learner.restore(before)
    assert learner.held_out_loss() == 4.0
    learner.train(np.arange(8))
    assert learner.held_out_loss() == after[0]
    assert np.array_equal(learner.probe(np.arange(N)), after[1], equal_nan=True)


def test_reading_teaches_the_topic_most_then_its_neighbours_then_the_others() -> None:
    table = table_of(N)
    learner = surrogate_env(surrogate_of(replace(TRUTH, alike=0.0, anneal=0.0)), table).learner
    learner.begin(80 * 8)
    learner.train(np.full(8, 4 * 15 * 4))  # windows of topic 15
    learned = learner.surrogate.dynamics.gain(learner.known)  # type: ignore[attr-defined]
    assert learned[15] > learned[14] > learned[20] > 0
    assert learned[14] == pytest.approx(learned[17])


def test_the_law_is_straight_and_unbroken_where_less_is_known_than_at_the_start() -> None:
    around = np.array([-2e-6, -1e-6, 0.0, 1e-6, 2e-6])
    slope = np.diff(TRUTH.gain(around)) / 1e-6
    assert slope == pytest.approx(TRUTH.power / TRUTH.scale, rel=1e-4)


def test_the_learner_and_the_fit_compute_the_same_curves() -> None:
    table, surrogate = table_of(N), surrogate_of()
    episode = played(surrogate_env(surrogate, table), "random", 0)
    seen = Recorded.of([episode], N)
    gain, annealed = gains(seen.windows, Transfer(table.graph, table.vectors), TRUTH)
    curve = 4.0 - gain @ surrogate.target_fall - TRUTH.anneal * annealed
    assert seen.held_out[0] == pytest.approx(curve[0], abs=1e-12)


def test_the_parameters_are_found_again_in_readings_of_the_formula_itself() -> None:
    table, surrogate = table_of(N), surrogate_of()
    env = surrogate_env(surrogate, table)
    arms = ("random", "uniform", "breadth-first", "goal", "nearest")
    episodes = [played(env, arm, seed) for seed in range(4) for arm in arms]
    header = {
        "world": "w",
        "settings": {},
        "held_out": 4.0,
        "probes": [None if np.isnan(x) else x for x in surrogate.start],
    }
    found = fit(header, episodes, TARGET, Transfer(table.graph, table.vectors))
    for name, value in vars(TRUTH).items():
        assert getattr(found.dynamics, name) == pytest.approx(value, rel=0.1, abs=0.005), name
    assert found.target_fall.sum() == pytest.approx(1.5, rel=0.1)
    known = np.isfinite(surrogate.start)
    assert np.corrcoef(found.fall[known], surrogate.fall[known])[0, 1] > 0.95
    assert found.error["measured_on"] == 4
    assert found.error["reward_r2"] > 0.99
    assert found.error["return_rank"] == pytest.approx(1.0)
    # A formula that knows nothing of transfer must look worse, or the error says nothing.
    blind = replace(found, dynamics=replace(found.dynamics, link=0.0, alike=0.0))
    seen = Recorded.of(episodes, N)
    transfer = Transfer(table.graph, table.vectors)
    assert errors(blind, seen, transfer)["reward_r2"] < 0.9


def test_a_surrogate_comes_back_from_its_file_and_foreign_files_are_refused(tmp_path: Path) -> None:
    surrogate = surrogate_of()
    surrogate.save(tmp_path / "s.json")
    again = Surrogate.load(tmp_path / "s.json")
    assert again.dynamics == surrogate.dynamics
    for name in ("start", "fall", "target_fall"):
        assert np.array_equal(getattr(again, name), getattr(surrogate, name), equal_nan=True)
    card = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps({k: card[k] for k in ("format", "version")}))
    with pytest.raises(ValueError, match=r"expected dynamics in .*part\.json"):
        Surrogate.load(tmp_path / "part.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="another kind of file"):
        Surrogate.load(tmp_path / "other.json")


@pytest.mark.filterwarnings("ignore:.*not within the observation space shape.*")
def test_the_environment_around_a_surrogate_passes_the_checker() -> None:
    check_env(surrogate_env(surrogate_of(), table_of(N)), skip_render_check=True)


def test_practice_raises_the_return_in_the_surrogate(tmp_path: Path) -> None:
    def make() -> TopicExpansionEnv:
        return surrogate_env(surrogate_of(), table_of(N))

    config = PPOConfig(
        iterations=10, episodes=6, learners=1, epochs=4, batch=30, learning_rate=5e-3
    )
    trained = train_ppo(DummyVecEnv([make]), 10, tmp_path / "run", config)

    def returns(policy: CuriosityPolicy) -> list[float]:
        env, found = make(), []
        for seed in range(12):
            observation, _ = env.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                action, _ = policy.predict(observation, deterministic=False)
                observation, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
            found.append(total)
        return found

    start = returns(CuriosityPolicy(CuriosityNetwork(CuriosityConfig())))
    practised = returns(CuriosityPolicy(trained.network))
    rng = np.random.default_rng(0)
    assert np.mean(practised) > np.mean(start)
    assert permutation_test(start, practised, True, rng) < 0.05


@pytest.fixture(scope="module")
def recorded(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "f.jsonl"
    argv = ["record", "--world", str(small_world.path), "--policies", "random,uniform"]
    assert main([*argv, "--episodes", "4", "--extra-probes", "5", "--out", str(out), *OPTIONS]) == 0
    return out


def test_a_recording_says_what_was_read_and_what_was_measured(
    recorded: Path, small_world: World
) -> None:
    header, episodes = read_episodes([recorded])
    assert header["world"] == small_world.hash
    assert len(header["probes"]) == small_world.n_topics
    assert [e["arm"] for e in episodes] == ["random", "uniform"] * 4
    for step in episodes[0]["steps"]:
        assert sum(step["windows"].values()) == SETTINGS["updates_per_step"] * SETTINGS["batch"]
        assert len(step["probes"]) >= 5
    assert episodes[0]["steps"][0]["topic"] >= 0 > episodes[1]["steps"][0]["topic"]


def test_a_recording_without_an_episode_is_named(recorded: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text(recorded.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match=f"expected an episode or more in {empty}, got none"):
        read_episodes([empty])
    assert read_episodes([empty, recorded])[1]


def test_a_recording_that_was_stopped_goes_on(
    recorded: Path, small_world: World, tmp_path: Path
) -> None:
    lines = recorded.read_text().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(lines[:5]) + lines[5][:50])
    settings, plan = Settings.of(**SETTINGS), RecordingPlan(["random", "uniform"], 4, probes=5)
    record(small_world, settings, plan, cut)
    assert cut.read_bytes() == recorded.read_bytes()
    other = Settings.of(**{**SETTINGS, "steps": 3})
    with pytest.raises(ValueError, match=r"others \(settings.steps is 4 there, 3 here\)"):
        record(small_world, other, RecordingPlan(["random"], 1), cut)


def test_practice_in_a_fitted_surrogate_then_real_learners_resumes_to_the_same_bytes(
    recorded: Path, small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, fitted = str(small_world.path), str(tmp_path / "s.json")
    argv = ["surrogate", "--world", place, "--episodes", str(recorded), "--out", fitted]
    assert main(argv) == 0
    assert Surrogate.load(tmp_path / "s.json").error["measured_on"] == 1
    train = ["train", "--world", place, "--practice", fitted, "--practice-iterations", "2"]
    train += ["--iterations", "2", "--episodes", "2", "--learners", "2", "--leash", "0.1", *OPTIONS]
    assert main([*train, "--out", str(tmp_path / "whole")]) == 0
    for stop in ("practice/checkpoint.json", "checkpoint.json"):
        _stop_after_first_write(tmp_path / "stopped" / stop, monkeypatch)
        assert main([*train, "--out", str(tmp_path / "stopped")]) == 130
        monkeypatch.undo()
    assert main([*train, "--out", str(tmp_path / "stopped")]) == 0
    a, b = (tmp_path / d / "policy.safetensors" for d in ("whole", "stopped"))
    assert a.read_bytes() == b.read_bytes()
    practised = (tmp_path / "whole" / "practice" / "policy.safetensors").read_bytes()
    assert practised != a.read_bytes()


def _stop_after_first_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from train_lm import checkpoint

    write = checkpoint.write_json

    def stopping(path: Path, value: Any, **how: Any) -> None:
        write(path, value, **how)
        if path == file:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", stopping)


def test_a_surrogate_of_another_learner_is_refused(small_world: World) -> None:
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    other = surrogate_of()
    with pytest.raises(ValueError, match="expected a surrogate of world"):
        surrogate_learner(other, stage)
    with pytest.raises(ValueError, match="model xs there, xxs here"):
        surrogate_learner(replace(other, world=small_world.hash), stage)


@pytest.mark.parametrize(
    ("recorded", "asked", "message"),
    [
        ({}, {"memory": "self"}, "expected a memory of text that was written, got self"),
        ({}, {"memory": "ewc"}, "memory replay there, ewc here"),
        ({"memory": "ewc"}, {"memory": "none"}, "memory ewc there, none here"),
        ({}, {"adapter": "lora"}, "adapter none there, lora here"),
        ({"updates": "topk"}, {"updates": "lowrank"}, "updates topk there, lowrank here"),
        ({}, {"watched": 2, "backward_weight": 1.0}, "a surrogate that can forget"),
        ({}, {"memory": "none"}, ""),
        ({}, {"replay_choice": "loss", "watched": 2}, ""),
    ],
)
def test_a_formula_takes_the_memories_that_are_a_choice_of_windows(
    small_world: World, recorded: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    stage = replace(stage, settings=Settings.of(**SETTINGS, **asked))
    was = Settings.of(**SETTINGS, **recorded).to_json()
    law = replace(TRUTH, forgetting=0.0)
    n = len(stage.table)
    found = replace(
        surrogate_of(law),
        world=small_world.hash,
        settings=was,
        start=np.full(n, 4.0),
        fall=np.ones(n),
        target_fall=np.full(n, 1 / n),
    )
    if message:
        with pytest.raises(ValueError, match=message):
            surrogate_learner(found, stage)
        return
    env = TopicExpansionEnv(stage, surrogate_learner(found, stage))
    env.reset(seed=0)
    env.step(0)
    _, _, _, _, info = env.step(1)
    assert info["memory"]["forgetting"] <= 0

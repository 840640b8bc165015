"""The closed loop: a policy decides while a model trains; exact, resumable, readable elsewhere."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import curve_of, env_of, through_a_file
from fork_server import ForkServer

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.play.closed_loop import run_closed_loop
from train_lm.curriculum import read_curriculum
from train_lm.trainer import Trainer

SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 10,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
    "learning_rate": 1e-3,
}
OPTIONS = [part for k, v in SETTINGS.items() for part in (f"--{k.replace('_', '-')}", str(v))]
KILLS = 8


@pytest.fixture
def policy(tmp_path: Path) -> str:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16))).save(tmp_path / "learned")
    return str(tmp_path / "learned")


def command(world: World, policy: str, out: Path) -> list[str]:
    argv = ["run", "--world", str(world.path), "--policy", policy, "--out", str(out)]
    return [*argv, "--save-every", "2", "--threads", "1", *OPTIONS]


def files(out: Path) -> list[bytes]:
    names = ("model/model.safetensors", "curriculum.jsonl", "metrics.jsonl", "summary.json")
    return [(out / name).read_bytes() for name in names]


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_snapshot_from_a_file_goes_on_bit_for_bit_in_a_fresh_environment(
    small_world: World, tmp_path: Path
) -> None:
    def branch(env: TopicExpansionEnv) -> list[bytes]:
        seen: list[bytes] = []
        for action in (1, env.rules.slots, 0, 2):
            observation, reward, _, _, _ = env.step(action)
            seen += [observation["candidates"].tobytes(), observation["context"].tobytes()]
            seen.append(np.float64(reward).tobytes())
        weights: Any = env.learner.snapshot()
        return [*seen, *(weights[k].cpu().numpy().tobytes() for k in sorted(weights))]

    env, fresh = (env_of(small_world, **SETTINGS) for _ in range(2))
    env.reset(seed=5)
    for action in (0, 1, env.rules.slots):
        env.step(action)
    fresh.reset(seed=6)
    snapshot, about = through_a_file(env.snapshot(), tmp_path, fresh, {"kept": [1, 2]})
    observation = fresh.restore(snapshot)
    assert about == {"kept": [1, 2]}
    assert (
        observation["candidates"].tobytes() == env.restore(env.snapshot())["candidates"].tobytes()
    )
    assert branch(fresh) == branch(env)


def test_the_first_snapshot_of_an_episode_survives_its_file_too(
    small_world: World, tmp_path: Path
) -> None:
    env = env_of(small_world, **SETTINGS)
    observation, _ = env.reset(seed=5)
    found = env.restore(through_a_file(env.snapshot(), tmp_path, env)[0])
    assert found["candidates"].tobytes() == observation["candidates"].tobytes()


def test_a_snapshot_has_the_same_bytes_each_time_that_it_is_written(
    small_world: World, tmp_path: Path
) -> None:
    env = env_of(small_world, **SETTINGS)
    env.reset(seed=5)
    written = set()
    for _ in range(8):
        through_a_file(env.snapshot(), tmp_path, env, {"more": 1})
        written.add((tmp_path / "checkpoint-0000001.safetensors").read_bytes())
    assert len(written) == 1


def test_what_a_policy_chose_is_what_an_evaluation_would_have_played(
    small_world: World, policy: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run_closed_loop(small_world, policy, Settings.of(**SETTINGS), out, seed=3)
    curve = curve_of(env_of(small_world, **SETTINGS), policy, 3)
    steps = [json.loads(x) for x in (out / "curriculum.jsonl").read_text().splitlines()[1:]]
    assert [s["passages"] for s in steps] == curve.passages
    assert [line["topic"] for line in lines(out)] == curve.topics
    summary = json.loads((out / "summary.json").read_text())
    assert summary["select_after"] == pytest.approx(curve.loss[-1])
    assert summary["reward"] == pytest.approx(sum(line["reward"] for line in lines(out)))


def test_a_run_leaves_a_model_a_curriculum_and_curves_that_others_can_read(
    small_world: World, policy: str, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from train_lm.cli import main as train_lm

    out = tmp_path / "run"
    assert main(command(small_world, policy, out)) == 0
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert model(**tokenizer("Topic 1", return_tensors="pt")).logits.isfinite().all()
    assert model.config.eos_token_id == model.generation_config.pad_token_id == 0
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (0, 32)
    curriculum = read_curriculum(out / "curriculum.jsonl")
    assert len(curriculum.steps) == SETTINGS["steps"]
    assert (small_world.passage_split[curriculum.steps[0].passages] == 0).all()
    again = ["--curriculum", str(out / "curriculum.jsonl"), "--out", str(tmp_path / "again")]
    options = ["--model", "xxs", "--batch", "4", "--cpu"]
    assert train_lm(["run", "--world", str(small_world.path), *again, *options]) == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    tags = {"held-out loss [bits per byte]", "reward", "policy entropy [nats]", "topic"}
    assert tags == set(events.Tags()["scalars"])
    written = [e.value for e in events.Scalars("topic")]
    assert written == [line["topic"] for line in lines(out)]
    assert all(0 <= line["entropy"] <= np.log(SETTINGS["slots"] + 1) for line in lines(out))  # type: ignore[operator]


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_same_bytes(
    small_world: World, policy: str, tmp_path: Path
) -> None:
    needs = ("policies.play.closed_loop", "policies.cli.settings", "torch.utils.tensorboard")
    llama = "transformers.models.llama.modeling_llama"
    env_of(small_world, **SETTINGS)  # fills the cache
    with ForkServer("policies.cli.main", *needs, llama) as server:
        whole = tmp_path / "whole"
        assert server.wait(server.start(command(small_world, policy, whole))) == 0
        rng = np.random.default_rng(0)
        reached: list[int] = []
        trial = 0
        while len(reached) < KILLS:
            trial += 1
            assert trial <= 5 * KILLS
            out = tmp_path / f"run {trial}"
            pid = server.start(command(small_world, policy, out))
            steps = int(rng.integers(SETTINGS["steps"]))
            server.kill_at(pid, out / "metrics.jsonl", steps, delay=rng.uniform(0, 0.05))
            status = server.wait(pid)
            if status == 0:  # it was faster than its killer
                continue
            assert status == -signal.SIGKILL
            card = out / "checkpoint.json"
            reached.append(json.loads(card.read_text())["steps"] if card.is_file() else 0)
            assert server.wait(server.start(command(small_world, policy, out))) == 0
            assert files(out) == files(whole)
    assert len(set(reached)) >= 2, reached


@pytest.mark.parametrize("ended_by", [FloatingPointError, KeyboardInterrupt])
def test_a_run_that_ended_early_names_its_last_checkpoint_and_goes_on_from_it(
    small_world: World,
    tmp_path: Path,
    ended_by: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(small_world, "random", tmp_path / "whole")) == 0
    real = Trainer._backward
    updates: list[int] = []

    def fails_in_the_fifth_step(trainer: Trainer, windows: Any) -> float:
        loss = real(trainer, windows)
        updates.append(1)
        if len(updates) < 10:
            return loss
        if ended_by is KeyboardInterrupt:
            raise KeyboardInterrupt
        return float("nan")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", fails_in_the_fifth_step)
        capsys.readouterr()
        status = main([*command(small_world, "random", out), "--force"])
    error = capsys.readouterr().err.strip().splitlines()
    assert status == (130 if ended_by is KeyboardInterrupt else 2)
    assert len(error) == 1
    assert str(out / "checkpoint-0000004.safetensors") in error[0]
    assert "--force" not in error[0]
    assert json.loads((out / "checkpoint.json").read_text())["steps"] == 4
    assert main(command(small_world, "random", out)) == 0
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("fault", ["policy", "setting", "snapshot", "foreign", "steps"])
def test_what_cannot_run_is_one_clear_line(
    small_world: World, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = command(small_world, "rule", out)
    if fault in ("setting", "snapshot"):
        assert main(argv) == 0
    if fault == "policy":
        argv = command(small_world, "wisdom", out)
    elif fault == "setting":
        argv += ["--seed", "1"]
    elif fault == "snapshot":
        for file in out.glob("checkpoint-*.safetensors"):
            file.write_bytes(file.read_bytes()[:900])
    elif fault == "steps":
        argv += ["--save-every", "0"]
    else:
        out.mkdir()
        (out / "thesis.txt").touch()
    capsys.readouterr()
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    expected = {
        "policy": "got 'wisdom'",
        "setting": "others (seed is 0 there, 1 here)",
        "snapshot": "no older checkpoint is whole",
        "foreign": "expected a new place",
        "steps": "save_every >= 1",
    }
    assert expected[fault] in error[0]


def test_a_run_tells_what_watched_topics_forgot_and_what_it_wrote_itself(
    small_world: World, policy: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = Settings.of(**{**SETTINGS, "steps": 4, "watched": 6, "memory": "self"})
    run_closed_loop(small_world, policy, settings, out, seed=3, save_every=2)
    told = lines(out)
    assert all({"backward_transfer", "forgetting"} <= set(line) for line in told)
    # By now the nucleus' topics are not as they were.
    assert told[-1]["backward_transfer"] != 0
    assert {line.get("own_tokens", 0) for line in told} <= {0, settings.tokens_per_step // 2}
    assert any("extra_flops" in line for line in told)
    tags = {"forgetting [bits per byte]", "backward transfer [bits per byte]"}
    written = next((out / "tensorboard").glob("events*")).read_bytes()
    assert all(tag.encode() in written for tag in tags)

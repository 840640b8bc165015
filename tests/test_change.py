"""Which numbers of the learner an episode changes: adapters, few numbers, held weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import env_of, through_a_file

from kncl_env.env import TopicExpansionEnv
from kncl_env.forgetting import LossMatrix, backward_transfer
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.vector import fits_a_bank, side_by_side
from kncl_env.world.world import World
from policies.cli.main import main
from policies.play.closed_loop import run_closed_loop
from train_lm.checked.records import Fields
from train_lm.trainer import Trainer, TrainerConfig

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 5,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "learning_rate": 1e-3,
}
OPTIONS = [part for k, v in SETTINGS.items() for part in (f"--{k.replace('_', '-')}", str(v))]
CHANGES: dict[str, dict[str, Any]] = {
    "topk": {"updates": "topk", "updates_share": 0.05},
    "lowrank": {"updates": "lowrank", "updates_rank": 4},
    "ewc": {"memory": "ewc", "ewc_strength": 10.0},
    "lora": {"adapter": "lora", "adapter_rank": 4},
    "relora": {"adapter": "relora", "adapter_rank": 4, "merge_every": 1},
}


def played(env: TopicExpansionEnv, actions: tuple[int, ...]) -> list[bytes]:
    """Observations, rewards and all that a learner's snapshot holds, of steps from here on."""
    seen: list[bytes] = []
    for action in actions:
        observation, reward, _, _, _ = env.step(action)
        seen += [observation["candidates"].tobytes(), np.float64(reward).tobytes()]
    kept: Any = env.learner.snapshot()
    return [*seen, *(kept[k].cpu().numpy().tobytes() for k in sorted(kept))]


def weights_of(env: TopicExpansionEnv) -> dict[str, np.ndarray]:
    return {n: v.cpu().numpy() for n, v in env.learner.trainer.merged().items()}


@pytest.mark.parametrize("name", CHANGES)
def test_an_episode_goes_on_from_a_file_bit_for_bit(
    small_world: World, tmp_path: Path, name: str
) -> None:
    env, fresh = (env_of(small_world, **SETTINGS, **CHANGES[name]) for _ in range(2))
    env.reset(seed=5)
    for action in (0, 1):
        env.step(action)
    fresh.reset(seed=6)
    fresh.step(2)
    fresh.restore(through_a_file(env.snapshot(), tmp_path, fresh)[0])
    assert played(fresh, (1, 6, 0)) == played(env, (1, 6, 0))


@pytest.mark.parametrize("name", CHANGES)
def test_a_second_episode_is_as_the_first(small_world: World, name: str) -> None:
    env = env_of(small_world, **SETTINGS, **CHANGES[name])
    env.reset(seed=5)
    first = played(env, (0, 1, 2))
    env.reset(seed=5)
    assert played(env, (0, 1, 2)) == first


@pytest.mark.parametrize("name", CHANGES)
def test_members_play_as_a_single_environment_does(small_world: World, name: str) -> None:
    settings = {**SETTINGS, **CHANGES[name]}
    together = side_by_side(open_stage(small_world, Settings.of(**settings)), 2)
    alone = env_of(small_world, **settings)

    def play(env: TopicExpansionEnv, seed: int) -> list[float]:
        _, info = env.reset(seed=seed)
        return [info["held_out_loss"], *(env.step(a)[4]["held_out_loss"] for a in (0, 1, 0))]

    found = together.each(lambda i: play(together.envs[i], 4 + i))
    together.close()
    for i in range(2):
        assert found[i] == pytest.approx(play(alone, 4 + i), rel=1e-4)


def test_what_an_episode_changes_trains_no_other_nucleus(small_world: World) -> None:
    plain = open_stage(small_world, Settings.of(**SETTINGS))
    for change in CHANGES.values():
        stage = open_stage(small_world, Settings.of(**SETTINGS, **change))
        assert stage.reducible == plain.reducible
        assert all((stage.nucleated[k] == plain.nucleated[k]).all() for k in plain.nucleated)
        env = TopicExpansionEnv(stage, stage.learner())
        env.reset(seed=0)
        assert env.learner.held_out_loss() == pytest.approx(plain_loss(plain), rel=1e-6)


def plain_loss(stage: Any) -> float:
    env = TopicExpansionEnv(stage, stage.learner())
    return float(env.reset(seed=0)[1]["held_out_loss"])


def test_few_numbers_are_changed_by_few_updates(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS, updates="topk", updates_share=0.01)
    env.reset(seed=0)
    before = weights_of(env)
    env.step(0)
    after = weights_of(env)
    changed = sum(int((after[n] != before[n]).sum()) for n in before)
    n = sum(w.size for w in before.values())
    assert 0 < changed <= 2 * round(0.01 * n)  # two updates


def test_an_adapter_changes_no_weight_of_its_base_and_relora_merges_into_it(
    small_world: World,
) -> None:
    def base_after(**settings: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        env = env_of(small_world, **SETTINGS, adapter_rank=4, **settings)
        env.reset(seed=0)
        frozen = env.learner.trainer.adapted.frozen
        before = {n: w.detach().clone().numpy() for n, w in frozen.items()}
        for action in (0, 1, 0):
            env.step(action)
        return before, {n: w.detach().numpy() for n, w in frozen.items()}

    before, after = base_after(adapter="lora")
    assert all((before[n] == after[n]).all() for n in before)
    # Merged after one step and after two; what the third step learned is beside it still.
    before, after = base_after(adapter="relora", merge_every=1)
    assert any((before[n] != after[n]).any() for n in before)
    before, after = base_after(adapter="relora", merge_every=3)
    assert all((before[n] == after[n]).all() for n in before)


def test_relora_merges_where_its_expansions_end_and_begins_its_moments_anew(
    small_world: World,
) -> None:
    env = env_of(small_world, **SETTINGS, adapter="relora", adapter_rank=4, merge_every=2)
    env.reset(seed=0)
    cycles = []
    for action in (0, 1, 0, 1, 0):
        env.step(action)
        cycles.append(env.learner.trainer.adapted.cycles)
    assert cycles == [0, 0, 1, 1, 2]


def test_a_hold_of_no_strength_is_no_memory_bit_for_bit(small_world: World) -> None:
    def found(**settings: Any) -> list[bytes]:
        env = env_of(small_world, **SETTINGS, **settings)
        env.reset(seed=3)
        return played(env, (0, 1, 0))

    assert found(memory="ewc", ewc_strength=0.0) == found(memory="none")


def test_a_stronger_hold_keeps_the_weights_that_matter_nearer_to_the_nucleus(
    small_world: World,
) -> None:
    def moved(strength: float) -> float:
        env = env_of(small_world, **SETTINGS, memory="ewc", ewc_strength=strength)
        env.reset(seed=3)
        for action in (0, 1, 0):
            env.step(action)
        anchor = env.stage.anchor
        now = env.learner.trainer.weights()
        return sum(
            float((anchor.importance[n] * (now[n] - w) ** 2).sum())
            for n, w in anchor.weights.items()
        )

    assert moved(1000.0) < 0.5 * moved(0.0)


def test_a_bank_holds_what_one_program_can_train() -> None:
    for fits, settings in (
        (True, {}),
        (True, {"updates": "topk"}),
        (True, {"memory": "ewc"}),
        (False, {"memory": "self"}),
        (True, {"adapter": "relora"}),
    ):
        assert fits_a_bank(Settings.of(**settings)) == fits


@pytest.mark.parametrize(
    "words", ["--updates topk --updates-share 0.1", "--adapter lora --adapter-rank 4"]
)
def test_a_policy_is_trained_and_evaluated(small_world: World, tmp_path: Path, words: str) -> None:
    world, learned, out = (str(x) for x in (small_world.path, tmp_path / "p", tmp_path / "run"))
    settings = [*OPTIONS, "--steps", "3", "--watched", "4", *words.split()]
    train = ["train", "--world", world, "--out", learned, "--iterations", "1"]
    assert main([*train, "--episodes", "2", "--learners", "2", *settings]) == 0
    figures = json.loads((tmp_path / "p" / "metrics.jsonl").read_text())
    assert figures["memory/forgetting"] != 0
    run = ["evaluate", "--world", world, "--policies", f"uniform,{learned}", "--seeds", "2"]
    assert main([*run, "--out", out, *settings]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("kept: its first seed") == 2
    assert "<rect class='cell worse'" in page or "<rect class='cell better'" in page
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert all(len(scores["kept"][arm]["forgetting"]) == 2 for arm in ("uniform", "p"))
    line = json.loads((tmp_path / "run" / "episodes.jsonl").read_text().splitlines()[-1])
    kept = LossMatrix.from_json(Fields.of(line, "a line").inner("kept"))
    assert kept.stages == 3
    assert scores["kept"]["p"]["backward_transfer"][-1] == backward_transfer(kept)


STOPPED = 3


@pytest.mark.parametrize(
    "settings",
    [{"adapter": "relora", "merge_every": 1, "memory": "self"}, {"updates": "topk"}],
    ids=["relora and own text", "topk"],
)
def test_a_run_that_was_stopped_ends_with_the_same_bytes_and_one_whole_model(
    small_world: World, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM

    chosen = Settings.of(**{**SETTINGS, "steps": 4, "watched": 4, **settings})

    def run(out: Path, stop: int = 0) -> list[bytes]:
        def told(line: dict[str, Any]) -> None:
            if line["step"] == stop:
                raise InterruptedError

        run_closed_loop(small_world, "random", chosen, out, seed=3, save_every=2, on_step=told)
        names = ("model/model.safetensors", "curriculum.jsonl", "metrics.jsonl", "summary.json")
        return [(out / name).read_bytes() for name in names]

    with pytest.raises(InterruptedError):
        run(tmp_path / "stopped", stop=STOPPED)
    found = run(tmp_path / "stopped")
    assert found == run(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "model")
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    learner = stage.learner(Trainer(model, TrainerConfig()))
    summary = json.loads(found[-1])
    told = summary["select_after"]
    assert 0 < summary["parameters_changed"] < summary["parameters"]
    assert summary["optimizer_bytes"] > 0
    assert learner.held_out_loss("select") == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--adapter lora --updates topk", "expected full updates of an adapter, got topk"),
        ("--adapter relora --memory ewc", "expected no adapter with memory ewc, got relora"),
        ("--memory none --replay-choice solid", "expected memory replay for a replay_choice"),
        ("--backward-weight 1", "expected watched >= 1 for a backward_weight of 1.0, got 0"),
        ("--updates-share 2", "expected updates_share above 0, at most 1, got 2.0"),
        ("--memory everything", "expected memory among none, replay, ewc, self"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "train", "run", "record"])
def test_a_wrong_combination_is_one_line_before_anything_is_trained(
    small_world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    words: str,
    told: str,
) -> None:
    monkeypatch.setattr(Trainer, "train", None)
    argv = [verb, "--world", str(small_world.path), "--out", str(tmp_path / "out")]
    arms = {"evaluate": ["--policies", "uniform,random"], "record": ["--policies", "random"]}
    argv += arms.get(verb, ["--policy", "random"] if verb == "run" else [])
    assert main([*argv, *OPTIONS, *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "out").exists()

"""Rollouts that workers play by themselves, ahead of the updates."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_once import Adds
from test_evaluation import OPTIONS, SETTINGS
from torch import nn

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.cli.main import main
from policies.learn.behind import Behind
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from train_lm.crew.errands import Errands
from train_lm.crew.hands import Hands

TWO = PPOConfig(iterations=3, episodes=2, learners=2, epochs=2, batch=4, lag=1)


def trained(
    world: World,
    out: Path,
    config: PPOConfig,
    hands: Hands = Hands(),  # noqa: B008
) -> bytes:
    """The policy's weights."""
    train_policy(world, Settings.of(**SETTINGS), TrainingPlan(config, hands=hands), out)
    return (out / "policy.safetensors").read_bytes()


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_one_episode_a_rollout_without_lag_is_lockstep_to_the_last_bit(
    small_world: World, tmp_path: Path
) -> None:
    one = PPOConfig(iterations=2, episodes=1, learners=1, epochs=2, batch=4)
    lockstep = trained(small_world, tmp_path / "lockstep", one)
    alone = trained(small_world, tmp_path / "alone", replace(one, lag=0))
    assert alone == lockstep


@pytest.fixture(scope="module")
def undisturbed(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with a lag of one update, whose two workers are left in peace."""
    out = tmp_path_factory.mktemp("ahead") / "undisturbed"
    trained(small_world, out, TWO, Hands(2))
    return out


def test_every_sample_is_exactly_as_stale_as_was_asked_for(undisturbed: Path) -> None:
    found = metrics(undisturbed)
    assert [line["staleness"] for line in found] == [0, 1, 1]
    assert [line["staleness_max"] for line in found] == [0, 1, 1]
    # Whoever acts has the weights of the update before: where they differ, a sample weighs less
    # or more than one.
    assert found[0]["importance_max"] == pytest.approx(1, abs=1e-5)
    assert abs(found[2]["importance_max"] - 1) > 1e-4


def test_stopped_and_resumed_and_by_one_worker_it_is_the_same_training(
    undisturbed: Path, small_world: World, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(undisturbed, out)
    (out / f"checkpoint-{TWO.iterations:07d}.safetensors").unlink()  # it stops before the last one
    (out / "policy.safetensors").unlink()
    assert trained(small_world, out, TWO) == (undisturbed / "policy.safetensors").read_bytes()
    assert len(metrics(out)) == TWO.iterations
    assert not _children()


def test_a_staleness_without_async_collection_is_refused(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--world", str(small_world.path), "--out", str(tmp_path / "out"), *OPTIONS]
    assert main([*words, "--staleness", "2"]) != 0
    assert "expected --staleness with --collect async" in capsys.readouterr().err


@dataclass
class Given:
    """Notes which weights a rollout is given."""

    waited: float = 0.0

    def __post_init__(self) -> None:
        self.rollouts: list[tuple[int, int, int, float]] = []

    def give(self, rollout: int, first: int, updates: int, weights: object) -> None:
        self.rollouts.append((rollout, first, updates, float(weights["weight"][0, 0])))  # type: ignore[index]

    @property
    def acted_after(self) -> list[int]:
        return [0]

    def acted(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        raise NotImplementedError


def test_a_rollout_is_given_out_as_soon_as_its_weights_are_known_and_after_a_stop_again() -> None:
    network, seeds = nn.Linear(1, 1, bias=False), range(100, 200, 10)
    env = Given()
    behind = Behind(env, lag=2, rollouts=5)
    tensors = {}
    for rollout in range(5):
        nn.init.constant_(network.weight, rollout)  # as if each update added one
        behind.before(rollout, network, seeds)
        if rollout == 2:
            tensors = behind.to_tensors()
    expected = [(0, 100, 0, 0), (1, 110, 0, 0), (2, 120, 0, 0), (3, 130, 1, 1), (4, 140, 2, 2)]
    assert env.rollouts == expected
    env = Given()
    behind = Behind(env, lag=2, rollouts=5)
    behind.load(tensors, 3)
    nn.init.constant_(network.weight, 3)
    behind.before(3, network, seeds)
    assert env.rollouts == expected[3:]
    with pytest.raises(ValueError, match=r"acting weights after \[1, 2\] updates"):
        behind.load(tensors, 4)


def test_errands_are_done_once_each_whoever_dies(tmp_path: Path) -> None:
    errands = Errands(Hands(2).standing(Adds, [10, 10]))
    try:
        for i in range(6):
            errands.give(i, "plus", (i, str(tmp_path / "died") if i == 2 else ""))
        assert [errands.answer(i) for i in reversed(range(6))] == [15, 14, 13, 12, 11, 10]
        assert (tmp_path / "died").exists()
        errands.give("wrong", "plus", (-1,))
        with pytest.raises(ValueError, match="expected a number of 0 or more"):
            errands.answer("wrong")
    finally:
        errands.close()
    assert not _children()


def test_the_correction_weighs_by_who_would_do_it_now_and_steps_from_there() -> None:
    """By hand: two samples, of which the policy now would do the first twice as often."""

    class Policy:
        def evaluate_actions(self, seen, actions, action_masks):  # type: ignore[no-untyped-def]
            return None, torch.log(torch.tensor([0.6, 0.3])), None

    class Buffer:
        observations = {"x": np.zeros((2, 1, 3), dtype=np.float32)}  # noqa: RUF012
        actions = np.zeros((2, 1, 1), dtype=np.float32)
        action_masks = np.ones((2, 1, 4), dtype=np.float32)
        log_probs = np.log(np.array([[0.3], [0.4]], dtype=np.float32))
        advantages = np.array([[3.0], [1.0]], dtype=np.float32)

    class Model:
        policy, rollout_buffer, normalize_advantage = Policy(), Buffer(), True

    model = Model()
    behind = Behind(Given(), lag=1, rollouts=1)
    behind.correct(model)  # type: ignore[arg-type]
    np.testing.assert_allclose(model.rollout_buffer.advantages[:, 0], [2.0, -0.75], rtol=1e-5)
    np.testing.assert_allclose(model.rollout_buffer.log_probs[:, 0], np.log([0.6, 0.3]), rtol=1e-6)
    assert not model.normalize_advantage


def _children() -> list[int]:
    """Processes that this one started to play in."""
    import psutil

    return [
        child.pid
        for child in psutil.Process().children()
        if "spawn_main" in " ".join(child.cmdline())
    ]

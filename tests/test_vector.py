"""Episodes side by side: the same game, whoever plays beside."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import kncl_env  # noqa: F401  # registers the id
from kncl_env.entry_points import topic_expansion, topic_expansions
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.vector import TopicExpansionVectorEnv, side_by_side
from kncl_env.world.world import World
from policies.learn.vec_env import BudgetEnds, View, make_vec_env

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 8,
    "nucleus_updates": 20,
    "steps": 3,
    "updates_per_step": 2,
    "batch": 4,
    "slots": 4,
    "breadth": 16,
}


def on_a_cpu() -> bool:
    return not torch.cuda.is_available()


def losses(env: TopicExpansionVectorEnv, steps: int, seed: int) -> list[list[float]]:
    _, info = env.reset(seed=seed)
    found = [list(info["held_out_loss"])]
    for _ in range(steps):
        _, _, _, _, info = env.step(np.zeros(env.num_envs, dtype=np.int64))
        found.append(list(info["held_out_loss"]))
    return found


def test_make_vec_gives_the_bank(small_world: World) -> None:
    env = gym.make_vec("kncl_env/TopicExpansion-v0", num_envs=3, world=small_world, **SETTINGS)
    assert isinstance(env, TopicExpansionVectorEnv)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert info["action_mask"].shape == (3, 5)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert (info["reward"]["total"] == reward).all()


def test_members_play_as_a_single_environment_does(small_world: World) -> None:
    found = losses(topic_expansions(small_world, 3, **SETTINGS), 3, seed=5)
    for i in range(3):
        alone = topic_expansion(small_world, **SETTINGS)
        _, info = alone.reset(seed=5 + i)
        expected = [info["held_out_loss"]]
        expected += [alone.step(0)[4]["held_out_loss"] for _ in range(3)]
        assert [f[i] for f in found] == pytest.approx(expected, rel=1e-4)


def test_what_a_member_gets_does_not_depend_on_the_others(small_world: World) -> None:
    one = losses(topic_expansions(small_world, 1, **SETTINGS), 3, seed=2)
    three = losses(topic_expansions(small_world, 3, **SETTINGS), 3, seed=2)
    # On a GPU a product's rounding depends on how many are computed at once.
    exact = 0 if on_a_cpu() else 1e-6
    assert [f[0] for f in one] == pytest.approx([f[0] for f in three], rel=exact, abs=0)


def test_a_member_whose_episode_ended_is_reset_by_the_next_step(small_world: World) -> None:
    env = topic_expansions(small_world, 2, **SETTINGS)
    env.reset(seed=0)
    for step in range(3):
        _, _, _, truncated, info = env.step(np.zeros(2, dtype=np.int64))
        assert truncated.tolist() == [step == 2] * 2
    _, reward, _, truncated, info = env.step(np.zeros(2, dtype=np.int64))
    assert reward.tolist() == [0.0, 0.0]
    assert not truncated.any()
    assert info["tokens"].tolist() == [0, 0]


def test_one_members_error_is_raised_and_the_others_end(small_world: World) -> None:
    env = topic_expansions(small_world, 2, **SETTINGS)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"an action of 0\.\.4, got 9"):
        env.step(np.array([9, 0]))
    with pytest.raises(ValueError, match="expected 2 actions, got 1"):
        env.step(np.array([0]))
    with pytest.raises(ValueError, match="at least one environment, got 0"):
        topic_expansions(small_world, 0, **SETTINGS)


def test_sb3_sees_the_members_that_its_own_vector_of_them_would_show(small_world: World) -> None:
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    ours = make_vec_env(stage, 2, View())
    alone = side_by_side(stage, 2)
    one_by_one = DummyVecEnv([lambda env=env: BudgetEnds(env) for env in alone.envs])
    for env in (ours, one_by_one):
        env.seed(3)
    first, second = ours.reset(), one_by_one.reset()
    for step in range(5):  # across the end of an episode of three
        for key in first:
            assert (first[key] == second[key]).all()
        assert ours.env_method("action_masks")[0].all()
        actions = np.array([step % 5, 4])
        first, *mine = ours.step(actions)
        second, *theirs = one_by_one.step(actions)
        assert (mine[0] == theirs[0]).all()
        assert (mine[1] == theirs[1]).all()
        assert mine[1].tolist() == [step == 2] * 2
        assert ("terminal_observation" in mine[2][0]) == (step == 2)
        assert not mine[2][0]["TimeLimit.truncated"]


def test_closing_frees_the_threads(small_world: World) -> None:
    def ours() -> set[threading.Thread]:
        return {t for t in threading.enumerate() if t.name.startswith(("member", "bank"))}

    before = ours()
    env = topic_expansions(small_world, 2, **SETTINGS)
    env.reset(seed=0)
    env.step(np.zeros(2, dtype=np.int64))
    opened = ours() - before
    assert opened
    env.close()
    for thread in opened:
        thread.join(5)
    assert not ours() & opened


@pytest.mark.parametrize("kind", ["gymnasium", "stable-baselines3"])
def test_spawned_children_find_the_environment(small_world: World, kind: str) -> None:
    """The id names the module that registers it, so a fresh process need not know of it."""
    make = partial(_made_in_a_child, str(small_world.path))
    if kind == "gymnasium":
        found = AsyncVectorEnv([make, make], context="spawn")
        seen, _ = found.reset(seed=3)
    else:
        found = SubprocVecEnv([make, make], start_method="spawn")
        found.seed(3)
        seen = found.reset()
    try:
        alone = make()
        expected, _ = alone.reset(seed=3)
        for name in expected:
            np.testing.assert_array_equal(seen[name][0], expected[name])
    finally:
        found.close()


def _made_in_a_child(world: str) -> gym.Env:  # type: ignore[type-arg]
    import torch

    torch.set_num_threads(1)
    return gym.make("kncl_env:kncl_env/TopicExpansion-v0", world=world, **SETTINGS)

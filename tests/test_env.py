"""The rules of the game, on a fake learner; and both checkers on the real one."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fakes import fake_env
from gymnasium.utils.env_checker import check_env

import kncl_env  # noqa: F401
from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import CANDIDATE_FEATURES
from kncl_env.settings import Rules, Settings
from kncl_env.stage import open_stage
from kncl_env.world.world import World

REAL = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 5,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
}


def test_expanding_a_topic_moves_it_from_frontier_to_nucleus() -> None:
    env = fake_env()
    env.reset(seed=0)
    topic = int(env.episode.slots[1])
    _, _, _, _, info = env.step(1)
    assert info["topic"] == topic
    assert topic in env.episode.nucleus.members
    assert topic not in env.episode.nucleus.frontier


def test_the_last_action_and_an_empty_slot_consolidate() -> None:
    env = fake_env()
    env.reset(seed=0)
    for action in (env.rules.slots, 2):
        env.episode.slots = env.episode.slots[:1]
        _, _, _, _, info = env.step(action)
        assert info["topic"] == -1
        assert info["title"] == ""
    assert env.episode.nucleus.expanded == []


def test_the_mask_is_true_exactly_for_filled_slots_and_consolidation() -> None:
    env = fake_env()
    observation, info = env.reset(seed=0)
    filled = observation["candidates"][:, 0] > 0
    assert np.array_equal(info["action_mask"], [*filled, True])
    assert np.array_equal(env.action_masks(), info["action_mask"])


def test_rewards_telescope_to_the_share_of_the_reducible_loss() -> None:
    env = fake_env()
    _, info = env.reset(seed=3)
    before, total, truncated = info["held_out_loss"], 0.0, False
    while not truncated:
        _, reward, _, truncated, info = env.step(0)
        total += float(reward)
    assert total == pytest.approx((before - info["held_out_loss"]) / env.stage.reducible)


def test_the_episode_is_truncated_when_the_token_budget_is_spent() -> None:
    env = fake_env()
    env.reset(seed=0)
    ends = [env.step(0)[2:5] for _ in range(env.rules.steps)]
    assert [truncated for _, truncated, _ in ends] == [False] * 9 + [True]
    assert not any(terminated for terminated, _, _ in ends)
    assert ends[-1][2]["tokens"] == env.settings.tokens_per_episode
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


def test_the_episode_terminates_when_the_frontier_is_empty() -> None:
    rules = Rules(slots=2, steps=50, updates_per_step=2)
    env = fake_env(n=5, target=(3,), rules=rules)
    env.reset(seed=0)
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(0)
    assert terminated
    assert not truncated
    assert info["frontier"] == 0
    assert len(env.episode.nucleus.members) == 5


def test_more_slots_than_the_frontier_has_topics_is_refused_with_both_numbers() -> None:
    rules = Rules(slots=9, steps=5, updates_per_step=2)
    with pytest.raises(ValueError, match=r"at most 4 slots.*got 9"):
        fake_env(rules=rules)


def test_the_frontier_grows_only_from_solid_topics() -> None:
    env = fake_env()
    env.reset(seed=0)
    new = int(env.episode.slots[0])
    frontier_before = set(env.episode.nucleus.frontier.tolist())
    env.step(0)
    assert set(env.episode.nucleus.frontier.tolist()) == frontier_before - {new}
    for _ in range(8):
        env.step(env.rules.slots)
    assert env.episode.nucleus.solid[new]
    assert set(env.stage.table.graph.around(new).tolist()) <= {
        *env.episode.nucleus.frontier.tolist(),
        *env.episode.nucleus.members.tolist(),
    }


def test_a_topic_without_a_reading_is_probed_before_its_expansion() -> None:
    rules = Rules(slots=4, steps=10, updates_per_step=2, probes=1)
    env = fake_env(rules=rules)
    env.reset(seed=0)
    unprobed = int(np.flatnonzero(np.isnan(env.episode.measurements.probe[env.episode.slots]))[0])
    topic = int(env.episode.slots[unprobed])
    env.step(unprobed)
    assert not env.episode.nucleus.solid[topic]
    assert env.episode.first_drop[topic] > 0


def test_candidates_are_probed_again_so_that_trends_become_known() -> None:
    env = fake_env()
    observation, _ = env.reset(seed=0)
    trend = CANDIDATE_FEATURES.index("trend_known")
    assert not observation["candidates"][:, trend].any()
    for _ in range(3):
        observation = env.step(env.rules.slots)[0]
    assert observation["candidates"][:, trend].any()


def test_a_spent_budget_changes_nothing() -> None:
    env = fake_env()
    env.reset(seed=0)
    for _ in range(env.rules.steps):
        env.step(env.rules.slots)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    assert env.episode.nucleus.expanded == []


def test_replay_reads_passages_of_earlier_expansions() -> None:
    env = fake_env()
    env.reset(seed=0)
    first = env.step(0)[4]["topic"]
    windows = env.step(0)[4]["windows"]
    topics = env.learner.topic_of_window[windows]
    assert (topics == first).sum() == round(
        env.settings.reading.replay * env.settings.windows_per_step
    )


def test_an_episode_with_one_seed_is_the_same_twice() -> None:
    def play() -> list[object]:
        env = fake_env()
        observation, _ = env.reset(seed=11)
        seen: list[object] = [observation["candidates"].tobytes()]
        for action in (0, 3, 4, 1, 2):
            observation, reward, _, _, _ = env.step(action)
            seen += [observation["candidates"].tobytes(), observation["context"].tobytes(), reward]
        return seen

    assert play() == play()


def test_render_gives_pixels_or_a_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    env = fake_env(render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    pixels = env.render()
    assert pixels.shape == (480, 480, 3)
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 4
    env = fake_env(render_mode="human")
    env.reset(seed=0)
    env.step(0)
    assert "expand Topic" in capsys.readouterr().out


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="render_mode"):
        fake_env(render_mode="ascii")


@pytest.mark.parametrize("env_id", [i for i in gym.registry if i.startswith("kncl_env/")])
def test_every_registered_id_passes_both_checkers_without_a_warning(
    env_id: str, small_world: World
) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # SB3's remark on two-dimensional observation keys: its own CNN-or-flatten extractors are
        # not what our policy uses.
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")
        env = gym.make(env_id, world=str(small_world.path), **REAL)
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
        check_env(
            gym.make(env_id, world=str(small_world.path), render_mode="rgb_array", **REAL).unwrapped
        )


def test_a_snapshot_restores_observation_reward_and_weights_bit_for_bit(
    small_world: World,
) -> None:
    env = gym.make("kncl_env/TopicExpansion-v0", world=str(small_world.path), **REAL).unwrapped
    env.reset(seed=5)
    env.step(0)
    snapshot = env.snapshot()

    def branch() -> list[bytes]:
        seen: list[bytes] = []
        for action in (1, env.rules.slots, 0):
            observation, reward, _, _, _ = env.step(action)
            seen += [observation["candidates"].tobytes(), observation["context"].tobytes()]
            seen.append(np.float64(reward).tobytes())
        weights = env.learner.snapshot()
        return [*seen, *(weights[k].cpu().numpy().tobytes() for k in sorted(weights))]

    first = branch()
    env.restore(snapshot)
    assert branch() == first
    env.restore(snapshot)
    assert env.episode.steps == 1


def test_two_real_episodes_with_one_seed_are_bit_identical(small_world: World) -> None:
    def play() -> list[bytes]:
        env = gym.make("kncl_env/TopicExpansion-v0", world=str(small_world.path), **REAL).unwrapped
        observation, _ = env.reset(seed=2)
        seen = [observation["candidates"].tobytes()]
        for action in (0, 1, 2, 6, 3):
            observation, reward, _, _, _ = env.step(action)
            seen += [observation["candidates"].tobytes(), np.float64(reward).tobytes()]
        weights = env.learner.snapshot()
        return [*seen, *(weights[k].cpu().numpy().tobytes() for k in sorted(weights))]

    assert play() == play()


def test_an_unknown_setting_is_named(small_world: World) -> None:
    with pytest.raises(TypeError, match=r"got an unexpected keyword argument .stpes.: expected"):
        gym.make("kncl_env/TopicExpansion-v0", world=str(small_world.path), stpes=3)


def test_the_nucleus_phase_is_done_once_and_found_again(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train_lm.trainer import Trainer

    def make() -> Any:
        settings = {**REAL, "learner_seed": 9}
        env_id = "kncl_env/TopicExpansion-v0"
        return gym.make(env_id, world=str(small_world.path), **settings).unwrapped

    first = make()
    updates: list[int] = []
    monkeypatch.setattr(Trainer, "train", lambda *_: updates.append(1))
    second = make()
    assert updates == []
    assert second.stage.reducible == first.stage.reducible
    a, b = first.learner.nucleated, second.learner.nucleated
    assert all((a[k].cpu() == b[k].cpu()).all() for k in a)


def test_info_has_the_same_keys_after_reset_and_after_a_step() -> None:
    env = fake_env()
    _, at_first = env.reset(seed=0)
    info = env.step(0)[4]
    assert list(at_first) == list(info)
    assert at_first["reward"]["total"] == 0
    assert (at_first["topic"], at_first["title"]) == (-1, "")
    assert at_first["windows"].tolist() == [-1] * env.settings.windows_per_step


def test_pictures_come_one_by_one_as_a_list_and_from_a_vector(small_world: World) -> None:
    env_id, world = "kncl_env/TopicExpansion-v0", str(small_world.path)
    listed = gym.make(env_id, world=world, render_mode="rgb_array_list", **REAL)
    listed.reset(seed=0)
    listed.step(0)
    pictures: Any = listed.render()
    assert [picture.ndim for picture in pictures] == [3, 3]
    many = gym.make_vec(env_id, num_envs=2, world=world, render_mode="rgb_array", **REAL)
    many.reset(seed=0)
    assert many.render_mode == "rgb_array"
    found: Any = many.render()
    assert [picture.shape for picture in found] == [pictures[0].shape] * 2
    plain: Any = gym.make_vec(env_id, num_envs=1, world=world, **REAL)
    plain.reset(seed=0)
    assert plain.render() is None
    for make in (gym.make, gym.make_vec):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium's own word on it
            with pytest.raises(ValueError, match="expected render_mode among human, rgb_array"):
                make(env_id, world=world, render_mode="hologram", **REAL)


def test_two_environments_of_one_stage_do_not_disturb_each_other(small_world: World) -> None:
    stage = open_stage(small_world, Settings.of(**REAL))
    alone = TopicExpansionEnv(stage, stage.learner())
    alone.reset(seed=3)
    expected = [alone.step(0)[1] for _ in range(3)]
    one, other = (TopicExpansionEnv(stage, stage.learner()) for _ in range(2))
    one.reset(seed=3)
    other.reset(seed=4)
    found = []
    for _ in range(3):
        found.append(one.step(0)[1])
        other.step(1)
    assert found == expected

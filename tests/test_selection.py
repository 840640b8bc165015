"""Data selection, orders and walks: each against a step worked out by hand, and in real episodes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import env_of
from test_evaluation import SETTINGS

from kncl_env.world.world import World
from policies.arms.registry import ARMS, arm_of
from policies.play.episodes import Playing

PLAYED = {name: arm for name, arm in ARMS.items() if arm.family != "reference"}


@pytest.fixture(scope="module")
def env(small_world: World):  # type: ignore[no-untyped-def]
    return env_of(small_world, **SETTINGS)


@pytest.mark.parametrize("name", PLAYED)
def test_every_arm_plays_and_goes_on_where_it_was_stopped(env, name: str) -> None:
    episode = Playing(env, arm_of(name), 3, 7)
    turns = [episode.step(), episode.step()]
    state, at = json.loads(json.dumps(episode.player.state())), env.snapshot()
    rng = episode.rng.bit_generator.state
    turns.append(episode.step())
    again = Playing(env, arm_of(name), 3, 7)
    again.observation = env.restore(at)
    again.rng.bit_generator.state = rng
    again.player.restore(state)
    last = again.step()
    assert last.info["windows"].tolist() == turns[2].info["windows"].tolist()
    assert (last.reward, last.extra_flops) == (turns[2].reward, turns[2].extra_flops)
    assert all(len(turn.info["windows"]) == env.settings.windows_per_step for turn in turns)

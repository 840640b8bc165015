"""SB3's view of environments side by side: each is a plain member, all learners are one bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import topic_expansion
from kncl_env.surrogate import Surrogate, surrogate_learner
from kncl_env.taste import Taste
from kncl_env.vector import SideBySide, side_by_side
from kncl_env.world.world import World
from policies.learn.clock import Clocked
from policies.learn.potentials import Shaped


class BudgetEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Reports a spent budget to SB3 as the end of the task.

    SB3 bootstraps a truncated episode with the value of its last state. Here the budget is a part
    of the task and of the observation, and nothing can be earned after it.
    """

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info

    def action_masks(self) -> Any:
        return self.env.unwrapped.action_masks()  # type: ignore[attr-defined]


class Tasteful(gym.Wrapper[Any, Any, Any, Any]):
    """Begins every episode with a taste; SB3 resets what has ended without any option."""

    def __init__(self, env: gym.Env[Any, Any], taste: Taste) -> None:
        super().__init__(env)
        self.taste = taste

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options={"taste": self.taste, **(options or {})})


class SideBySideVecEnv(DummyVecEnv):
    """`DummyVecEnv` whose members step and reset at once, not one after another.

    Args:
        together: The environments.
        wrap: What SB3 sees of each.
    """

    def __init__(
        self,
        together: SideBySide,
        wrap: Callable[[TopicExpansionEnv], gym.Env[Any, Any]] = BudgetEnds,
    ) -> None:
        super().__init__([partial(wrap, env) for env in together.envs])
        self._together = together
        self.at_once = len(together)

    def reset(self) -> VecEnvObs:
        found = self._together.each(
            lambda i: self.envs[i].reset(seed=self._seeds[i], options=self._options[i] or None)
        )
        for i, (observation, info) in enumerate(found):
            self.reset_infos[i] = info
            self._save_obs(i, observation)
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_buf()

    def step_wait(self) -> VecEnvStepReturn:
        for i, (observation, reward, done, info) in enumerate(self._together.each(self._step)):
            self._save_obs(i, observation)
            self.buf_rews[i], self.buf_dones[i], self.buf_infos[i] = reward, done, info
        return (
            self._obs_from_buf(),
            np.copy(self.buf_rews),
            np.copy(self.buf_dones),
            deepcopy(self.buf_infos),
        )

    def _step(self, i: int) -> tuple[Any, float, bool, dict[str, Any]]:
        env = self.envs[i]
        observation, reward, terminated, truncated, info = env.step(self.actions[i])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[i] = env.reset()
        return observation, float(reward), done, info


def make_vec_env(
    world: str | Path | World,
    n: int,
    potentials: Mapping[str, float] | None = None,
    gamma: float = 1.0,
    taste: Taste | None = None,
    **settings: Any,
) -> DummyVecEnv:
    """N environments of one world for SB3.

    Args:
        potentials: Weights of intrinsic terms by name; `gamma` is the discount they go with.
        taste: Which passages are read in every episode; all, if None.
        settings: See `kncl_env.vector.side_by_side`.
    """

    return SideBySideVecEnv(side_by_side(world, n, **settings), _wrap(potentials, gamma, taste))


def make_practice_env(
    surrogate: Surrogate,
    world: str | Path | World,
    n: int,
    potentials: Mapping[str, float] | None = None,
    gamma: float = 1.0,
    taste: Taste | None = None,
    **settings: Any,
) -> VecEnv:
    """The same with a formula in the place of every learner: nothing is shared, nothing waits."""
    first = topic_expansion(world, **settings)
    first.learner = surrogate_learner(surrogate, first)
    envs = []
    for _ in range(n):
        env = copy(first)
        env.learner = copy(first.learner)
        envs.append(env)
    wrap = _wrap(potentials, gamma, taste)
    return DummyVecEnv([partial(wrap, env) for env in envs])


def _wrap(
    potentials: Mapping[str, float] | None, gamma: float, taste: Taste | None
) -> Callable[[TopicExpansionEnv], gym.Env[Any, Any]]:
    def wrap(env: TopicExpansionEnv) -> gym.Env[Any, Any]:
        plain: gym.Env[Any, Any] = env if taste is None else Tasteful(env, taste)
        ends = BudgetEnds(Clocked(plain))
        return Shaped(ends, potentials, gamma) if potentials else ends

    return wrap

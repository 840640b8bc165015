"""SB3's view of environments side by side: each is a plain member, all learners are one bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import ClockedLearner
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from kncl_env.surrogate import Surrogate, surrogate_learner
from kncl_env.taste import Taste
from kncl_env.vector import SideBySide, side_by_side
from policies.learn.potentials import Shaped
from train_lm.files import Json

Info = Json
Env = gym.Env[Observation, np.int64]
Wrapper = gym.Wrapper[Observation, np.int64, Observation, np.int64]
Stepped = tuple[Observation, SupportsFloat, bool, bool, Info]


class Clocked(Wrapper):
    """Tells in `info["learner_seconds"]` what the learner took since the step before."""

    def __init__(self, env: TopicExpansionEnv) -> None:
        super().__init__(env)
        assert isinstance(env.learner, ClockedLearner)
        self._clock = env.learner
        self._told = 0.0

    def step(self, action: np.int64) -> Stepped:
        result = self.env.step(action)
        result[4]["learner_seconds"] = self._clock.total - self._told
        self._told = self._clock.total
        return result


class BudgetEnds(Wrapper):
    """Reports a spent budget to SB3 as the end of the task.

    SB3 bootstraps a truncated episode with the value of its last state. Here the budget is a part
    of the task and of the observation, and nothing can be earned after it.
    """

    def step(self, action: np.int64) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        env = self.env.unwrapped
        assert isinstance(env, TopicExpansionEnv)
        return env.action_masks()


class Tasteful(Wrapper):
    """Begins every episode with a taste; SB3 resets what has ended without any option."""

    def __init__(self, env: Env, taste: Taste) -> None:
        super().__init__(env)
        self.taste = taste

    def reset(
        self, *, seed: int | None = None, options: Json | None = None
    ) -> tuple[Observation, Info]:
        return self.env.reset(seed=seed, options={"taste": self.taste, **(options or {})})


class SideBySideVecEnv(DummyVecEnv):
    """`DummyVecEnv` whose members step and reset at once, not one after another.

    Args:
        together: The environments.
        wrap: What SB3 sees of each.
    """

    def __init__(
        self, together: SideBySide, wrap: Callable[[TopicExpansionEnv], Env] = BudgetEnds
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

    def close(self) -> None:
        super().close()
        self._together.close()

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

    def _step(self, i: int) -> tuple[Observation, float, bool, Info]:
        env = self.envs[i]
        observation, reward, terminated, truncated, info = env.step(self.actions[i])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[i] = env.reset()
        return observation, float(reward), done, info


@dataclass(frozen=True)
class View:
    """What SB3 sees of each environment beside the rules.

    Attributes:
        potentials: Weights of intrinsic terms by name.
        gamma: The discount they go with.
        taste: Which passages are read in every episode; all, if None.
    """

    potentials: Mapping[str, float] | None = None
    gamma: float = 1.0
    taste: Taste | None = None

    def of(self, env: TopicExpansionEnv) -> Env:
        timed = Clocked(env)
        ends = BudgetEnds(timed if self.taste is None else Tasteful(timed, self.taste))
        return Shaped(ends, self.potentials, self.gamma) if self.potentials else ends


def make_vec_env(stage: Stage, n: int, view: View, compile: bool = False) -> VecEnv:
    """N environments of one stage for SB3, their learners in one bank."""
    together = side_by_side(stage, n, compile=compile, watch=ClockedLearner)
    return SideBySideVecEnv(together, view.of)


def make_practice_env(surrogate: Surrogate, stage: Stage, n: int, view: View) -> VecEnv:
    """The same with a formula in the place of every learner: nothing is shared, nothing waits."""

    def env() -> Env:
        learner = ClockedLearner(surrogate_learner(surrogate, stage))
        return view.of(TopicExpansionEnv(stage, learner))

    return DummyVecEnv([env] * n)

"""How long the learner takes within an environment's steps: the rest is what can be saved."""

from __future__ import annotations

import time
from typing import Any, SupportsFloat

import gymnasium as gym

from kncl_env.env import TopicExpansionEnv


class ClockedLearner:
    """A learner, and the seconds spent in its methods so far."""

    def __init__(self, learner: Any) -> None:
        self.learner = learner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.learner, name)
        if not callable(found):
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


class Clocked(gym.Wrapper[Any, Any, Any, Any]):
    """Tells in `info["learner_seconds"]` what the learner took since the step before.

    Where several share a bank, waiting for the others counts.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        inner = env.unwrapped
        assert isinstance(inner, TopicExpansionEnv)
        self._clock = ClockedLearner(inner.learner)
        inner.learner = self._clock
        self._told = 0.0

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        result[4]["learner_seconds"] = self._clock.seconds - self._told
        self._told = self._clock.seconds
        return result

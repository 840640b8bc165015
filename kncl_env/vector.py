"""Several episodes side by side, whose learners are one bank: `gymnasium.make_vec`.

The environments are the ordinary ones. Each runs on a thread of its own, and whenever all of them
wait for their learner, the bank trains or measures all learners at once.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import WorldLearner
from kncl_env.stage import topic_expansion
from kncl_env.world.world import World

if TYPE_CHECKING:
    from train_lm.bank.lockstep import Lockstep

Result = TypeVar("Result")

# Updates of all learners together from which on compiling their program is taken to pay: it costs
# half a minute where nothing is cached, and a few seconds where it was compiled before.
WORTH_COMPILING = 4_000


def worth_compiling(updates: int) -> bool:
    """Whether so many learner updates should be compiled, where a compiler is found."""
    import torch

    from train_lm.compiling import can_compile

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return updates >= WORTH_COMPILING and can_compile(device)


class SideBySide:
    """Environments of one world whose learners train in lockstep.

    Attributes:
        envs: N environments; use them within `run` alone.
    """

    def __init__(self, envs: Sequence[TopicExpansionEnv], lockstep: Lockstep) -> None:
        self.envs = list(envs)
        self._lockstep = lockstep

    def __len__(self) -> int:
        return len(self.envs)

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run tasks at once, each of which uses an environment of its own."""
        return self._lockstep.run(tasks)

    def each(self, task: Callable[[int], Result]) -> list[Result]:
        """`task(i)` for every environment's number, at once."""
        return self.run([partial(task, i) for i in range(len(self.envs))])


def side_by_side(
    world: str | Path | World,
    n: int,
    *,
    learner_seeds: Sequence[int] | None = None,
    compile: bool = False,
    progress: bool = False,
    **settings: Any,
) -> SideBySide:
    """N environments of one world.

    Args:
        learner_seeds: (N,) initial learner of each; the settings' own for all, if not stated.
        compile: Whether the learners' program is compiled; see `worth_compiling`.
        progress: Whether a first nucleus phase shows a progress bar.
        settings: Fields of `Setup`.

    Raises:
        ValueError: Not one seed per environment, or `compile` without a compiler.
    """
    from train_lm.bank.bank import LearnerBank
    from train_lm.bank.lockstep import Lockstep
    from train_lm.trainer import Trainer

    if n < 1:
        raise ValueError(f"expected at least one environment, got {n}")
    world = world if isinstance(world, World) else World.open(world)
    seeds = list(learner_seeds or [settings.get("learner_seed", 0)] * n)
    if len(seeds) != n:
        raise ValueError(f"expected {n} learner seeds, one per environment, got {len(seeds)}")
    alone = {
        seed: topic_expansion(world, progress=progress, **{**settings, "learner_seed": seed})
        for seed in dict.fromkeys(seeds)
    }
    first = alone[seeds[0]].learner
    assert isinstance(first, WorldLearner)
    trainer = first.trainer
    assert isinstance(trainer, Trainer)
    bank = LearnerBank(
        [trainer.model] * n,
        trainer.config,
        trainer.device,
        compile=compile,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    )
    lockstep = Lockstep(bank)
    envs = []
    for seed, member in zip(seeds, lockstep.members, strict=True):
        env = copy.copy(alone[seed])
        env.learner = alone[seed].learner.beside(member)  # type: ignore[attr-defined]
        env.action_space = copy.deepcopy(env.action_space)
        env.observation_space = copy.deepcopy(env.observation_space)
        envs.append(env)
    return SideBySide(envs, lockstep)


class TopicExpansionVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """`gymnasium.make_vec("kncl_env/TopicExpansion-v0", num_envs=N, world=...)`.

    Each member obeys the rules of `TopicExpansionEnv`. A member whose episode has ended is reset
    by the next step, whose action it ignores.

    Args:
        together: The members.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, together: SideBySide) -> None:
        self.together = together
        self.num_envs = len(together)
        first = together.envs[0]
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self._over = np.zeros(self.num_envs, dtype=bool)
        self._options: dict[str, Any] | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all members; member i of seed s takes seed s + i.

        The options hold for the episodes that follow by themselves, too.
        """
        n = self.num_envs
        seeds = [seed] * n if seed is None else seed
        if isinstance(seeds, int):
            seeds = [seeds + i for i in range(n)]
        if len(seeds) != n:
            raise ValueError(f"expected {n} seeds, one per member, got {len(seeds)}")
        self._options = options
        found = self.together.each(
            lambda i: self.together.envs[i].reset(seed=seeds[i], options=options)
        )
        self._over[:] = False
        return self._joined([f[0] for f in found]), self._infos([f[1] for f in found])

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        if len(actions) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} actions, got {len(actions)}")

        def one(i: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            env = self.together.envs[i]
            if self._over[i]:
                observation, info = env.reset(options=self._options)
                return observation, 0.0, False, False, info
            observation, reward, terminated, truncated, info = env.step(actions[i])
            return observation, float(reward), terminated, truncated, info

        observations, rewards, terminated, truncated, infos = zip(
            *self.together.each(one), strict=True
        )
        ends, cuts = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        self._over = ends | cuts
        return self._joined(observations), np.array(rewards), ends, cuts, self._infos(infos)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """A method of every member called, or its attribute."""

        def one(i: int) -> Any:
            found = getattr(self.together.envs[i], name)
            return found(*args, **kwargs) if callable(found) else found

        return tuple(self.together.each(one))

    def _joined(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs) or {})

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for i, info in enumerate(infos):
            joined = self._add_info(joined, info, i)
        return joined


def topic_expansions(
    world: str | Path | World, num_envs: int = 1, compile: bool = False, **settings: Any
) -> TopicExpansionVectorEnv:
    """Vector entry point of `kncl_env/TopicExpansion-v0`; see `side_by_side`."""
    return TopicExpansionVectorEnv(side_by_side(world, num_envs, compile=compile, **settings))

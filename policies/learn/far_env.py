"""SB3's view of environments that other processes, or nodes of a cluster, play: a bank in each.

What SB3 sees is what it sees of one bank in this process, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.world.world import World
from policies.learn.vec_env import SideBySideVecEnv, View, make_vec_env
from policies.play.episodes import folders_of
from train_lm.crew.hands import Hands


@dataclass(frozen=True)
class Bench:
    """What a worker plays.

    Attributes:
        world: Directory of the world.
        settings: Of the environments.
        n: Of environments, their learners in one bank.
        view: What SB3 sees of each.
        compile: Whether the learners' program is compiled.
    """

    world: str
    settings: Settings
    n: int
    view: View
    compile: bool


class Players:
    """In a worker: the environments of a bench.

    Args:
        bench: What is played.
    """

    def __init__(self, bench: Bench) -> None:
        import torch

        torch.set_num_threads(1)
        stage = open_stage(World.open(bench.world), bench.settings, progress=False)
        made = make_vec_env(stage, bench.n, bench.view, bench.compile)
        assert isinstance(made, SideBySideVecEnv)
        self.env = made

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> Any:
        """Observations, what is told of them, and masks."""
        self.env._seeds, self.env._options = list(seeds), list(options)
        seen = self.env.reset()
        return seen, self.env.reset_infos, self._masks()

    def step(self, actions: NDArray[np.int64]) -> Any:
        """What SB3 is told of a step, of the resets in it, and masks."""
        self.env.step_async(actions)
        return self.env.step_wait(), self.env.reset_infos, self._masks()

    def spaces(self) -> Any:
        return self.env.observation_space, self.env.action_space

    def _masks(self) -> list[NDArray[np.bool_]]:
        return self.env.env_method("action_masks")


class FarAway(VecEnv):
    """What SB3 may ask of environments that are elsewhere."""

    def action_masks(self) -> list[NDArray[np.bool_]]:
        """What is allowed in each of them."""
        raise NotImplementedError

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Masks, which come with every step; nothing else is asked for by SB3."""
        if method_name != "action_masks" or args or kwargs:
            raise NotImplementedError(f"expected action_masks of far environments, {method_name}")
        masks = self.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        return attr_name == "action_masks"

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """`render_mode`, for SB3's constructor; an environment stays where it is."""
        if attr_name != "render_mode":
            raise AttributeError(f"expected render_mode of far environments, got {attr_name}")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"expected far environments to stay as they are, got {attr_name}")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class FarVecEnv(FarAway):
    """Environments of several workers, in lockstep.

    Args:
        stage: Its nucleus phase is done, and found by the workers.
        n: Environments; each worker plays as many as the others, or one less.
        view: What SB3 sees of each.
        compile: Whether the learners' program is compiled.
        hands: Who plays.
    """

    def __init__(self, stage: Stage, n: int, view: View, compile: bool, hands: Hands) -> None:
        workers = min(n, hands.at_once())
        self._ends = np.cumsum([len(part) for part in np.array_split(np.arange(n), workers)])
        sizes = np.diff(self._ends, prepend=0).tolist()
        world, settings = str(stage.world.path), stage.settings
        benches = [Bench(world, settings, size, view, compile) for size in sizes]
        self._workers = hands.standing(Players, benches, folders_of(stage))
        self._actions: NDArray[np.int64] = np.zeros(n, dtype=np.int64)
        self._masks: list[NDArray[np.bool_]] = []
        self.at_once = n
        super().__init__(n, *self._workers.each("spaces", [()] * workers)[0])

    def reset(self) -> VecEnvObs:
        if all(seed is not None for seed in self._seeds):
            self._workers.begin_anew()
        parts = zip(self._split(self._seeds), self._split(self._options), strict=True)
        found = self._workers.each("reset", list(parts))
        self._reset_seeds()
        self._reset_options()
        self._told(found)
        return _joined([seen for seen, _, _ in found])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        found = self._workers.each("step", [(part,) for part in self._split(self._actions)])
        self._told(found)
        seen, rewards, dones, infos = zip(*(stepped for stepped, _, _ in found), strict=True)
        return (
            _joined(seen),
            np.concatenate(rewards),
            np.concatenate(dones),
            [info for part in infos for info in part],
        )

    def close(self) -> None:
        self._workers.close()

    def action_masks(self) -> list[NDArray[np.bool_]]:
        return self._masks

    def _told(self, found: Iterable[Any]) -> None:
        self.reset_infos = [info for _, infos, _ in found for info in infos]
        self._masks = [mask for _, _, masks in found for mask in masks]

    def _split(self, whole: Any) -> list[Any]:
        begins = [0, *self._ends[:-1].tolist()]
        return [whole[i:j] for i, j in zip(begins, self._ends.tolist(), strict=True)]


def _joined(parts: Sequence[Any]) -> Any:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

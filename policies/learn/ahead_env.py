"""Rollouts that workers play by themselves, ahead of the updates; SB3 is told them step by step.

A worker chooses with weights that it is given. An episode is a function of its seed and of these
weights, so it does not matter who plays it, when, or beside which others; and nothing here depends
on the order in which episodes come home.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from kncl_env.stage import Stage
from policies.curiosity import CuriosityConfig
from policies.learn.behind import Weights
from policies.learn.far_env import Bench, FarAway, Players
from policies.learn.ppo import CuriosityActorCritic
from policies.play.episodes import folders_of
from train_lm.crew.errands import Errands
from train_lm.crew.hands import Hands
from train_lm.files import Json

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Alone:
    """What a worker plays by itself.

    Attributes:
        bench: Its environments.
        steps: Of a rollout, in each of them.
        network: Shape of the policy.
    """

    bench: Bench
    steps: int
    network: CuriosityConfig


@dataclass(frozen=True, eq=False)
class Segment:
    """What a worker played: T steps of n environments.

    Attributes:
        updates: That the weights which acted had seen.
        seen: Observations by name, (T + 1, n, ...): before each step, and after the last one.
        masks: (T, n, A) what was allowed.
        actions, values, log_probs: (T, n) of the policy that acted.
        rewards, dones: (T, n).
        infos: T lists of n.
    """

    updates: int
    seen: dict[str, Floats]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    values: Floats
    log_probs: Floats
    rewards: Floats
    dones: NDArray[np.bool_]
    infos: list[list[Json]]


class Soloists(Players):
    """In a worker: environments, and a policy that chooses in them.

    Args:
        alone: What is played.
    """

    def __init__(self, alone: Alone) -> None:
        super().__init__(alone.bench)
        self._steps = alone.steps
        seen, chosen = self.spaces()
        self._policy = CuriosityActorCritic(seen, chosen, lambda _: 0.0, alone.network)
        self._policy.set_training_mode(False)

    def play(self, updates: int, weights: Weights, seeds: Sequence[int]) -> Segment:
        """One rollout of every environment.

        Args:
            updates: That the weights have seen.
            seeds: Of each environment, and of its policy's choices.
        """
        network = self._policy.network
        network.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
        # Each episode has a generator of its own: it does not matter beside whom it is played.
        chance = [torch.Generator().manual_seed(seed).get_state() for seed in seeds]
        seen, _, masks = self.reset(seeds, [{} for _ in seeds])
        observations, allowed, chosen, told = [seen], [], [], []
        for _ in range(self._steps):
            allowed.append(np.stack(masks))
            chosen.append(self._choose(seen, masks, chance))
            (seen, *result), _, masks = self.step(chosen[-1][0].astype(np.int64))
            observations.append(seen)
            told.append(result)
        actions, values, log_probs = (np.stack(part) for part in zip(*chosen, strict=True))
        rewards, dones, infos = zip(*told, strict=True)
        return Segment(
            updates,
            {name: np.stack([one[name] for one in observations]) for name in seen},
            np.stack(allowed),
            actions.astype(np.int64),
            values,
            log_probs,
            np.stack(rewards),
            np.stack(dones),
            [*infos],
        )

    def _choose(self, seen: Any, masks: Sequence[Any], chance: list[Tensor]) -> list[Floats]:
        """Actions, values and log-probabilities, one environment after another.

        In a batch, the last bits of a score would hang on what else is in it.
        """
        found = []
        before = torch.get_rng_state()
        for i, mask in enumerate(masks):
            one = {name: torch.as_tensor(part[i : i + 1]) for name, part in seen.items()}
            torch.set_rng_state(chance[i])
            with torch.no_grad():
                acted = self._policy(one, action_masks=mask[None])
            chance[i] = torch.get_rng_state()
            found.append([part.numpy().ravel() for part in acted])
        torch.set_rng_state(before)
        return [np.concatenate(part) for part in zip(*found, strict=True)]


class AheadVecEnv(FarAway):
    """SB3's view of rollouts that are played elsewhere: an environment for each episode of one.

    A step is what was played. The action that SB3 brings has to be the one that was chosen then,
    as `acted` tells it.

    Args:
        stage: Its nucleus phase is done, and found by the workers.
        alone: What is played; as many environments as episodes of a rollout.
        learners: Episodes that are played side by side, over all workers.
        hands: Who plays; nothing depends on it.
    """

    def __init__(self, stage: Stage, alone: Alone, learners: int, hands: Hands) -> None:
        episodes = alone.bench.n
        workers = min(learners, hands.at_once())
        self._size = next(n for n in range(learners // workers, 0, -1) if episodes % n == 0)
        spec = replace(alone, bench=replace(alone.bench, n=self._size))
        standing = hands.standing(Soloists, [spec] * workers, folders_of(stage))
        self._share = standing.share
        self._errands = Errands(standing)
        self._given: deque[int] = deque()
        self._segments: list[Segment] = []
        self._now = 0
        self.at_once = workers * self._size
        self.waited = 0.0
        self._errands.give("spaces", "spaces", ())
        super().__init__(episodes, *self._errands.answer("spaces"))

    def give(self, rollout: int, first: int, updates: int, weights: Weights) -> None:
        """Have a rollout played; `reset` tells them in the order in which they were given.

        Args:
            rollout: Its number.
            first: Seed of its first episode.
            updates: That the weights have seen.
        """
        shared = self._share(weights)
        for i in range(0, self.num_envs, self._size):
            seeds = range(first + i, first + i + self._size)
            self._errands.give((rollout, i), "play", (updates, shared, [*seeds]))
        self._given.append(rollout)

    @property
    def acted_after(self) -> list[int]:
        """(episodes,) updates that the weights had seen which acted in the rollout under way."""
        return [s.updates for s in self._segments for _ in range(self._size)]

    def acted(self) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) actions, (n, 1) values and (n,) log-probabilities of the step that comes next."""
        t = self._now
        parts = [(s.actions[t], s.values[t][:, None], s.log_probs[t]) for s in self._segments]
        actions, values, log_probs = (
            torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)
        )
        return actions, values, log_probs

    def reset(self) -> VecEnvObs:
        """The beginning of the next rollout, once it was played."""
        began = time.monotonic()
        rollout = self._given.popleft()
        starts = range(0, self.num_envs, self._size)
        self._segments = [self._errands.answer((rollout, i)) for i in starts]
        self.waited = time.monotonic() - began
        self._now = 0
        self._reset_seeds()
        self._reset_options()
        return self._seen()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        played = np.concatenate([s.actions[self._now] for s in self._segments])
        assert np.array_equal(actions, played), "SB3 plays again what was played"

    def step_wait(self) -> VecEnvStepReturn:
        t = self._now
        self._now += 1
        return (
            self._seen(),
            np.concatenate([s.rewards[t] for s in self._segments]),
            np.concatenate([s.dones[t] for s in self._segments]),
            [info for s in self._segments for info in s.infos[t]],
        )

    def close(self) -> None:
        self._errands.close()

    def action_masks(self) -> list[NDArray[np.bool_]]:
        return [mask for s in self._segments for mask in s.masks[self._now]]

    def _seen(self) -> Any:
        first = self._segments[0].seen
        return {
            name: np.concatenate([s.seen[name][self._now] for s in self._segments])
            for name in first
        }

"""Weights that act some updates behind those that learn: who is given which, and what corrects it.

A rollout is played by weights exactly `lag` updates old (the first ones by those at the start). So
workers play the next rollouts while PPO learns from one, and the run is still a function of its
settings.

PPO's "old" policy serves two purposes, which stale data take apart (Hilton, Cobbe and Schulman
2022, Batch size-invariance for policy optimization, arXiv:2110.00641): importance weights need the
policy that acted, the clipped step needs a recent one. Here the recent one is the policy before the
update; the ratio of both weighs the advantages. SB3's clip range and its limit of the divergence
mean what they mean in lockstep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from sb3_contrib import MaskablePPO

Weights: TypeAlias = dict[str, NDArray[np.float32]]

PREFIX = "acting"  # in a checkpoint: acting.UPDATES.NAME
MOST = 2.0  # that a sample weighs: beyond, variance costs more than bias (Ionides 2008)


class PlaysAhead(Protocol):
    """Environments whose rollouts are played with weights that they are given."""

    waited: float

    def give(self, rollout: int, first: int, updates: int, weights: Weights) -> None: ...

    @property
    def acted_after(self) -> list[int]: ...

    def acted(self) -> tuple[Tensor, Tensor, Tensor]: ...


class Behind:
    """Gives out rollouts, each with its weights.

    Args:
        env: Plays them.
        lag: Updates that the acting weights are behind, at most.
        rollouts: Of the whole training.
    """

    def __init__(self, env: PlaysAhead, lag: int, rollouts: int) -> None:
        self.env, self.lag, self.rollouts = env, lag, rollouts
        self._kept: dict[int, Weights] = {}
        self._given = -1
        self._weighed: NDArray[np.float64] = np.ones(1)

    def before(self, rollout: int, network: torch.nn.Module, seeds: range) -> None:
        """Have everything played that can be, now that the weights before a rollout are known.

        Args:
            seeds: Of the first episode of every rollout.
        """
        state = network.state_dict()
        self._kept[rollout] = {k: v.numpy().copy() for k, v in state.items()}
        if self._given < 0:
            self._given = rollout
        last = min(self.rollouts, rollout + self.lag + 1)
        for other in range(self._given, last):
            updates = max(0, other - self.lag)
            self.env.give(other, seeds[other], updates, self._kept[updates])
        self._given = last
        self._kept = {k: v for k, v in self._kept.items() if k > rollout - self.lag}

    def to_tensors(self) -> dict[str, Tensor]:
        """Weights that have yet to act, for a checkpoint."""
        return {
            f"{PREFIX}.{updates}.{name}": torch.from_numpy(value)
            for updates, weights in self._kept.items()
            for name, value in weights.items()
        }

    def load(self, tensors: Mapping[str, Tensor], done: int) -> None:
        """Go on after so many rollouts.

        Raises:
            ValueError: Weights are missing.
        """
        self._kept = {}
        for key, value in tensors.items():
            if key.startswith(f"{PREFIX}."):
                _, updates, name = key.split(".", 2)
                self._kept.setdefault(int(updates), {})[name] = value.numpy().copy()
        wanted = {*range(max(0, done - self.lag), done)}
        if set(self._kept) != wanted:
            raise ValueError(f"acting weights after {sorted(self._kept)} updates")

    def correct(self, model: MaskablePPO) -> None:
        """Weigh what a rollout's policy did by how likely the policy now is to do it.

        The buffer's log-probabilities become those of the policy before the update. At a lag of 0
        that is who acted, and nothing is touched.
        """
        if not self.lag:
            return
        buffer = model.rollout_buffer
        seen: Mapping[str, NDArray[np.float32]] = buffer.observations  # type: ignore[assignment]
        flat: Any = {name: _rows(torch.as_tensor(part)) for name, part in seen.items()}
        actions = _rows(torch.as_tensor(buffer.actions)).long().flatten()
        masks = _rows(torch.as_tensor(buffer.action_masks))
        with torch.no_grad():
            _, found, _ = model.policy.evaluate_actions(flat, actions, action_masks=masks)
        recent = found.numpy().reshape(buffer.log_probs.shape)
        weight = np.minimum(np.exp(recent - buffer.log_probs), MOST)
        own = buffer.advantages
        # SB3 would centre what is weighed already.
        model.normalize_advantage = False
        buffer.advantages = (own - own.mean()) / (own.std() + 1e-8) * weight
        buffer.log_probs = recent
        self._weighed = weight.astype(np.float64)

    def figures(self, rollout: int) -> dict[str, float]:
        """How stale the samples of a rollout were, and what came of it."""
        stale = [rollout - updates for updates in self.env.acted_after]
        if max(stale) > self.lag:
            raise AssertionError(f"expected samples at most {self.lag} updates old, got {stale}")
        return {
            "staleness": float(np.mean(stale)),
            "staleness_max": float(max(stale)),
            "importance_mean": float(self._weighed.mean()),
            "importance_max": float(self._weighed.max()),
            "waited_seconds": self.env.waited,
        }


def _rows(x: Tensor) -> Tensor:
    """(T, n, ...) as (T · n, ...)."""
    return x.reshape(-1, *x.shape[2:])

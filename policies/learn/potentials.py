"""Intrinsic curiosity as potentials: it may show the way, but it cannot change what is best.

A potential Φ is a number of a state. `γ Φ(s') - Φ(s)` is added to the reward, with Φ = 0 once the
episode is over, so that every policy's discounted return moves by the same -Φ(s₀) (Ng, Harada &
Russell 1999). Each Φ is made of what the environment knows already: nothing more is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import SupportsFloat

import gymnasium as gym
import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.network_measures import betti_1, compressibility
from kncl_env.observation import Observation, State
from kncl_env.topic_table import TopicTable
from train_lm.files import Json

Info = Json  # Gymnasium leaves open what it holds

# Both measures of the network cost n³: they see the topics that arrived last.
NETWORK_TOPICS = 24

# A topic's loss rarely falls by more than a few hundredths between two readings.
PROGRESS_SCALE = 10.0


def learning_progress(table: TopicTable, state: State) -> float:
    """How fast the learner improves now: mean relative fall of the probe losses (scaled).

    Oudeyer, Kaplan & Hafner 2007 (doi:10.1109/TEVC.2006.890271). Where nothing was measured twice
    it is 0.
    """
    fall = state.measurements.fall if state.measurements is not None else np.zeros(0)
    known = fall[np.isfinite(fall)]
    return float(np.clip(PROGRESS_SCALE * known.mean(), -1, 1)) if len(known) else 0.0


def novelty(table: TopicTable, state: State) -> float:
    """How far expansions leapt: 1 - cosine to the closest earlier member, mean times progress.

    The sum over a whole budget lies within 0 and 1 whatever the budget.
    """
    if not len(state.expanded):
        return 0.0
    cosine = table.vectors[state.expanded] @ table.vectors[state.members].T  # (n, members)
    earlier = np.arange(len(state.members)) < state.n_seeds + np.arange(len(cosine))[:, None]
    leaps = 1.0 - np.where(earlier, cosine, -1.0).max(1)
    return float(np.clip(leaps, 0, 1).mean()) * (state.progress or 0.0)


def information_gap(table: TopicTable, state: State) -> float:
    """log(1 + open loops) among the latest topics; log(1 + topics) is 1."""
    return float(np.log1p(betti_1(_network(table, state))) / np.log1p(NETWORK_TOPICS))


def compression_progress(table: TopicTable, state: State) -> float:
    """Compressibility [bits] of the latest topics' network; its growth is the progress."""
    return float(compressibility(_network(table, state)))


def _network(table: TopicTable, state: State) -> np.ndarray:
    latest = state.members[-NETWORK_TOPICS:]
    inside = table.graph.undirected[latest][:, latest]
    return np.asarray(inside.toarray())


POTENTIALS: dict[str, Callable[[TopicTable, State], float]] = {
    "learning-progress": learning_progress,
    "novelty": novelty,
    "information-gap": information_gap,
    "compression-progress": compression_progress,
}


# Names with their weights, checked: what `PPOConfig.potentials` holds.
Weights = tuple[tuple[str, float], ...]


def checked_potentials(weights: Iterable[tuple[str, float]]) -> Weights:
    """The same pairs, their weights as floats.

    Raises:
        ValueError: An unknown potential, no finite weight, or one twice.
    """
    found: dict[str, float] = {}
    for entry in weights:
        match entry:
            case (str(name), int() | float() as weight) if (
                name in POTENTIALS and name not in found and np.isfinite(weight)
            ):
                found[name] = float(weight)
            case _:
                raise ValueError(_expected(entry))
    return tuple(found.items())


def parse_potentials(entries: Iterable[str]) -> Weights:
    """Names and weights from `("novelty:0.1", ...)`, as a command line has them.

    Raises:
        ValueError: See `checked_potentials`.
    """
    pairs = []
    for entry in entries:
        name, _, number = entry.partition(":")
        try:
            pairs.append((name, float(number)))
        except ValueError:
            raise ValueError(_expected(entry)) from None
    return checked_potentials(pairs)


def _expected(entry: object) -> str:
    return (
        f"expected each of {', '.join(POTENTIALS)} at most once and with a weight, as in "
        f"novelty:0.1, got {entry!r}"
    )


class Shaped(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """Adds weighted potentials to the reward; each part is in `info["shaping"]`.

    Args:
        env: Around a `TopicExpansionEnv`.
        weights: Of each potential by name.
        gamma: The discount that the policy is trained with.
    """

    def __init__(
        self, env: gym.Env[Observation, np.int64], weights: Mapping[str, float], gamma: float
    ) -> None:
        super().__init__(env)
        self.weights, self.gamma = dict(weights), gamma
        self._phi = dict.fromkeys(self.weights, 0.0)

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._phi = self.potentials()
        return observation, info

    def step(self, action: np.int64) -> tuple[Observation, SupportsFloat, bool, bool, Info]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = self._phi
        over = terminated or truncated
        self._phi = dict.fromkeys(self.weights, 0.0) if over else self.potentials()
        info["shaping"] = {k: self.gamma * self._phi[k] - before[k] for k in self.weights}
        reward = float(reward) + sum(info["shaping"].values())
        return observation, reward, terminated, truncated, info

    def potentials(self) -> dict[str, float]:
        """Weighted Φ of the present moment, by name."""
        env = self.env.unwrapped
        assert isinstance(env, TopicExpansionEnv)
        state = env.state()
        return {k: w * POTENTIALS[k](env.stage.table, state) for k, w in self.weights.items()}

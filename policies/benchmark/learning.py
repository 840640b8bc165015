"""The learned policies of a cell: cloned from walks, then trained by reward, or trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.benchmark.cells import LEARNED, Learning
from policies.curiosity import CuriosityPolicy
from policies.learn.cloning import PretrainConfig, pretrain
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from rabbit_holes.imports.tally import Tally
from rabbit_holes.imports.wikispeedia import read_games
from rabbit_holes.path import Path as Walk
from rabbit_holes.walkers.over_world import simulate
from train_lm.outputs import alone

# Learners that policies are trained with; an evaluation's begin at 0.
TRAINING_LEARNERS = 1000
DEPTH = 12  # clicks of a simulated walk, at most


@dataclass(frozen=True)
class Policies:
    """Where the learned policies of a cell are, by kind; each folder's name is an arm's."""

    cloned: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()

    @property
    def alone(self) -> tuple[str, ...]:
        """Those that are an arm by themselves."""
        return tuple(own[0] for own in (self.cloned, self.learned, self.scratch) if len(own) == 1)

    @property
    def trainings(self) -> dict[str, tuple[str, ...]]:
        """Those that are one arm together, as its trainings."""
        kinds = {"cloned": self.cloned, LEARNED: self.learned, "scratch": self.scratch}
        return {name: own for name, own in kinds.items() if len(own) > 1}


def learn(
    world: World, settings: Settings, learning: Learning, data: str, folder: Path, learners: int
) -> Policies:
    """Train the policies that are not there yet.

    Args:
        settings: Of the cell.
        data: Folder with people's walks, where the world is Wikispeedia.
        learners: Episodes played side by side, at most.
    """
    n_clones = max(learning.cloned, learning.trainings)
    clones = [folder / _named("cloned", learning.cloned, seed) for seed in range(n_clones)]
    waiting = [seed for seed, place in enumerate(clones) if not (place / "policy.json").is_file()]
    if waiting:
        walks = _walks(world, data, learning.walks)
        for seed in waiting:
            with alone(clones[seed]) as hold:
                hold.go_on()
                config = PretrainConfig(paths=learning.walks, seed=seed)
                pretrain(world, walks, config).save(clones[seed], over=True)
    side_by_side = next(n for n in range(learners, 0, -1) if learning.episodes % n == 0)
    trained: dict[str, list[str]] = {LEARNED: [], "scratch": []}
    for kind, n in ((LEARNED, learning.trainings), ("scratch", learning.scratch)):
        for seed in range(n):
            place = folder / _named(kind, n, seed)
            if not (place / "policy.json").is_file():
                ppo = PPOConfig(
                    iterations=learning.iterations,
                    episodes=learning.episodes,
                    learners=side_by_side,
                    learning_rate=learning.learning_rate,
                    seed=seed,
                )
                init = clones[seed] if kind == LEARNED else None
                own = settings.with_learner_seed(TRAINING_LEARNERS + seed)
                train_policy(world, own, TrainingPlan(ppo, init), place)
            CuriosityPolicy.load(place)
            trained[kind].append(str(place))
    return Policies(
        cloned=tuple(map(str, clones[: learning.cloned])),
        learned=tuple(trained[LEARNED]),
        scratch=tuple(trained["scratch"]),
    )


def _named(kind: str, n: int, seed: int) -> str:
    """The folder of a policy; one that is alone is called as its arm is."""
    return kind if n == 1 and not seed else f"{kind}-{seed}"


def _walks(world: World, data: str, walks: int) -> Sequence[Walk]:
    """People's games where the world's source has any; simulated wayfinders elsewhere."""
    if world.card["source"] == "wikispeedia":
        return [*read_games(data, Tally())]
    return [*simulate(world, "wayfinder", walks, DEPTH, np.random.default_rng(0))]

"""Training a policy by reward: builds the environments that its settings ask for, and trains there.

First, where there is a surrogate, in practice; then with real learners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.surrogate import Surrogate
from kncl_env.taste import Taste
from kncl_env.vector import worth_compiling
from kncl_env.world.world import World
from policies.arms.spaces import learned_in
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.ahead_env import AheadVecEnv, Alone
from policies.learn.far_env import Bench, FarVecEnv
from policies.learn.ppo import MADE_BY, PPOConfig, Start, starting_network, train_ppo
from policies.learn.vec_env import View, make_practice_env, make_vec_env
from policies.verdict.accounting import (
    FORWARD,
    TASTE,
    Spent,
    episodes_spent,
    network_spent,
    search_of,
)
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import hash_file
from train_lm.outputs import alone

PRACTICE = "practice"  # folder of the practice, inside of the run


class Tell(Protocol):
    """Told the figures of each iteration, with the part of the training and its length."""

    def __call__(self, part: str, iterations: int, figures: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class TrainingPlan:
    """How a policy is trained.

    Attributes:
        ppo: Of the training with real learners; its potentials shape the reward.
        init: Directory of a policy to start from.
        taste: What every episode reads; the policy keeps it. That of `init`, if None.
        taste_tokens: That learning this taste took, as its file says.
        practice: File of a surrogate of the learner to begin in.
        practice_iterations: Rollouts there.
        hands: Who plays with real learners; nothing depends on it.
    """

    ppo: PPOConfig
    init: Path | None = None
    taste: Taste | None = None
    practice: Path | None = None
    practice_iterations: int = 100
    taste_tokens: int = 0
    hands: Hands = ALONE

    def __post_init__(self) -> None:
        if self.practice is not None and self.practice_iterations < 1:
            raise ValueError(f"expected practice_iterations >= 1, got {self.practice_iterations}")


def train_policy(
    world: World,
    settings: Settings,
    plan: TrainingPlan,
    out: Path,
    tell: Tell = lambda part, iterations, figures: None,
) -> CuriosityPolicy:
    """Train a policy; goes on after the last finished iteration in `out`.

    Raises:
        ValueError: The region is kept for measuring transfer, a damaged policy or surrogate, one
            of another world or learner, or `out` holds a run with other settings.
    """
    with alone(out) as hold:
        hold.begin_run(MADE_BY, force=False)
        return _train(world, settings, plan, out, tell)


def _train(
    world: World, settings: Settings, plan: TrainingPlan, out: Path, tell: Tell
) -> CuriosityPolicy:
    check_region(world, settings.region)
    init = CuriosityPolicy.load(plan.init) if plan.init else None
    surrogate = Surrogate.load(plan.practice) if plan.practice else None
    training = _Training(open_stage(world, settings), plan, init, tell)
    if surrogate is None:
        return training.run("iteration", out, plan.ppo, init)
    # The leash holds to what practice started from, through both.
    shape = init.network.config if init else CuriosityConfig(seed=plan.ppo.seed)
    anchor = starting_network(shape, init, plan.ppo.sharpen)
    # Practice waits for no learner: it is always in lockstep.
    rehearsal = replace(plan.ppo, iterations=plan.practice_iterations, lag=None)
    practised = training.run(PRACTICE, out / PRACTICE, rehearsal, init, practice=surrogate)
    real = replace(plan.ppo, sharpen=1.0)
    return training.run("iteration", out, real, practised, anchor=anchor)


def check_region(world: World, region: str | None) -> None:
    """Raises: ValueError where the world keeps the region for measuring transfer."""
    if region in world.card["scenario"]["transfer_regions"]:
        raise ValueError(
            f"expected a region to train on, got {region!r}, which this world keeps for "
            "measuring transfer: see scenario.transfer_regions in world.json"
        )


class _Training:
    """What practice and the training after it share."""

    def __init__(
        self, stage: Stage, plan: TrainingPlan, init: CuriosityPolicy | None, tell: Tell
    ) -> None:
        self.stage, self.tell, self.plan, self.hands = stage, tell, plan, plan.hands
        self.taste = plan.taste or (init.taste if init else None)
        self.provenance = {
            "made_by": "ppo",
            "world": stage.world.hash,
            "settings": stage.settings.to_json(),
            "init": str(plan.init) if plan.init else None,
            "surrogate": hash_file(plan.practice) if plan.practice else None,
            **learned_in(stage.world),
        }
        rules = stage.settings.rules
        updates = plan.ppo.iterations * plan.ppo.episodes * rules.steps * rules.updates_per_step
        self.compile = worth_compiling(updates)

    def run(
        self,
        part: str,
        out: Path,
        config: PPOConfig,
        init: CuriosityPolicy | None,
        *,
        practice: Surrogate | None = None,
        anchor: CuriosityNetwork | None = None,
    ) -> CuriosityPolicy:
        stage = self.stage
        spent = self._spent(config, init, practice)
        view = View(dict(config.potentials), config.gamma, self.taste)
        env = (
            make_practice_env(practice, stage, config.learners, view)
            if practice is not None
            else self._ahead(config, init, view)
            if config.lag is not None
            else FarVecEnv(stage, config.learners, view, self.compile, self.hands)
            if self.hands.several
            else make_vec_env(stage, config.learners, view, self.compile)
        )
        try:
            return train_ppo(
                env,
                stage.settings.rules.steps,
                out,
                config,
                Start(init, anchor, self.taste, self.provenance, [one.to_json() for one in spent]),
                stage.world.passage_is_noise[stage.store.document],
                lambda figures: self.tell(part, config.iterations, figures),
            )
        finally:
            env.close()

    def _ahead(self, config: PPOConfig, init: CuriosityPolicy | None, view: View) -> AheadVecEnv:
        stage = self.stage
        shape = CuriosityConfig(seed=config.seed) if init is None else init.network.config
        place = str(stage.world.path)
        bench = Bench(place, stage.settings, config.episodes, view, self.compile)
        alone = Alone(bench, stage.settings.rules.steps, shape)
        return AheadVecEnv(stage, alone, config.learners, self.hands)

    def _spent(
        self, config: PPOConfig, init: CuriosityPolicy | None, practice: Surrogate | None
    ) -> list[Spent]:
        """What the policy will have cost once it is trained, from its beginnings on."""
        found = [*search_of(init.provenance)] if init is not None else []
        settings, plan = self.stage.settings, self.plan
        # What practice has paid for is in what it left.
        first = practice is not None or plan.practice is None
        if first and plan.taste_tokens:
            found.append(Spent(TASTE, tokens=plan.taste_tokens))
        episodes = config.iterations * config.episodes
        if practice is not None:
            recorded = sum(int(practice.error.get(n, 0)) for n in ("fitted_on", "measured_on"))
            found.append(episodes_spent("episodes recorded for a surrogate", recorded, settings))
        else:
            found.append(episodes_spent("episodes of PPO", episodes, settings))
        shape = init.network.config if init is not None else CuriosityConfig(seed=config.seed)
        size = sum(p.numel() for p in CuriosityNetwork(shape).parameters())
        rows = episodes * settings.rules.steps * settings.rules.slots
        what = "the policy's network" if practice is None else "the policy's network, in practice"
        return [*found, network_spent(what, size, rows, config.epochs + FORWARD)]

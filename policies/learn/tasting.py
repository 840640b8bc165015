"""Learns a taste from reward: which traits of a passage pay, and how choosy to be.

First the learner is fed steps that each read nothing but passages of some random taste, and the
reward of a step is regressed on the traits of what it read: a linear datamodel (Ilyas et al. 2022,
arXiv:2202.00622), with a step in the place of a training run and traits in the place of examples.
Then the found taste is tried at several shares, in whole episodes, and the best return decides.
Everything is paid for in `reward` windows; nothing else is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.memory import stored
from kncl_env.observation import Observation
from kncl_env.passage_traits import TRAITS_VERSION, PassageTraits
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.taste import LEVELS, TASTE_FORMAT, TRAITS, Taste
from kncl_env.vector import worth_compiling
from kncl_env.world.world import World
from policies.arms.arm import Player, Rng, Stateless, Turn
from policies.arms.registry import arm_of
from policies.arms.spaces import learned_in
from policies.play.episodes import EpisodeTask, play_all
from policies.play.journal import Journal
from policies.play.seeds import TASTE_TRIALS, TASTING
from train_lm.checked.digests import sealed
from train_lm.checked.records import Fields, is_number
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, write_json
from train_lm.outputs import alone

Floats = NDArray[np.float64]

# Rewards are measured on more windows than the environment's own: of a broad target, those stand
# for a tenth of the topics, and a taste would be fitted to these.
WINDOWS = 256
READ = 0.25  # share of the training passages that a random taste reads
RIDGE = 0.01  # of the mean square of a share, which is at most 1
# The first leaves nothing out: where there is nothing to be choosy about, a taste can say so.
SHARES = (1.0, 0.6, 0.4, 0.2, 0.1, 0.05)
FOLDS = 4


FORMAT = "kncl-tastings-2"


@dataclass(frozen=True)
class TastingPlan:
    """What learning a taste plays.

    Attributes:
        episodes: Episodes of random tastes.
        trials: Episodes at each share of `SHARES`.
        arm: Chooses the topics of the trials, as `arm_of` takes it; its own taste is left aside.
        seed: Of everything.
        learners: Episodes played side by side.
        hands: Who plays; nothing depends on it.
    """

    episodes: int = 32
    trials: int = 4
    arm: str = "random"
    seed: int = 0
    learners: int = 4
    hands: Hands = ALONE

    def __post_init__(self) -> None:
        if self.episodes < FOLDS or self.trials < 1:
            raise ValueError(
                f"expected at least {FOLDS} episodes and 1 trial, got {self.episodes} and "
                f"{self.trials}"
            )
        if self.learners < 1 or self.seed < 0:
            raise ValueError(
                f"expected learners >= 1 and a seed >= 0, got {self.learners} and {self.seed}"
            )

    @property
    def n_episodes(self) -> int:
        """Of both kinds."""
        return self.episodes + self.trials * len(SHARES)


def learn_taste(
    world: World,
    settings: Settings,
    plan: TastingPlan,
    out: Path,
    on_episode: Callable[[], None] = lambda: None,
) -> Json:
    """Learn a taste and write it to `out`; goes on after the episodes found beside it.

    Args:
        on_episode: Told of each episode, of `plan.n_episodes`.

    Returns:
        What was written: the taste, how well it predicts rewards that it was not fitted to
        (`reward_r2`), the mean return at each share, and what the learning cost [tokens].

    Raises:
        ValueError: An unknown arm, or the episodes beside `out` are of another world or other
            settings.
    """
    with alone(out):
        return _learned(world, settings, plan, out, on_episode)


def _learned(
    world: World, settings: Settings, plan: TastingPlan, out: Path, on_episode: Callable[[], None]
) -> Json:
    arm = arm_of(plan.arm)
    header = {
        "format": FORMAT,
        "world": world.hash,
        "settings": settings.to_json(),
        "versions": {"nucleus": NUCLEUS_VERSION, "traits": TRAITS_VERSION},
        "windows": WINDOWS,
        "read": READ,
        "arm": [arm.name, arm.origin],
        "seed": plan.seed,
    }
    journal = Journal(out.with_name(out.name + ".episodes.jsonl"), header)
    updates = plan.n_episodes * settings.rules.steps * settings.rules.updates_per_step
    compiled = worth_compiling(updates)
    place, start = str(world.path), plan.seed * 10_000

    found = play_all(
        world,
        [
            EpisodeTask(place, settings, EXPLORING, seed, TASTING.choices, TasteMeter(True))
            for seed in TASTING(plan.episodes, start)
        ],
        journal,
        learners=plan.learners,
        hands=plan.hands,
        compile=compiled,
        on_record=lambda _: on_episode(),
    )
    traits = np.array([episode.measured.traits for episode in found])  # (E, S, TRAITS · LEVELS)
    rewards = np.array([episode.measured.rewards for episode in found])  # (E, S)
    worth = fit_worth(traits, rewards).reshape(len(TRAITS), LEVELS)
    tried = play_all(
        world,
        [
            EpisodeTask(
                place,
                settings,
                plan.arm,
                seed,
                TASTE_TRIALS.choices,
                TasteMeter(False),
                Taste.of(worth, share),
            )
            for share in SHARES
            for seed in TASTE_TRIALS(plan.trials, start)
        ],
        journal,
        learners=plan.learners,
        hands=plan.hands,
        compile=compiled,
        on_record=lambda _: on_episode(),
    )
    returns = np.array([r.measured.rewards[0] for r in tried]).reshape(len(SHARES), plan.trials)
    best = SHARES[int(returns.mean(1).argmax())]
    card = {
        "format": TASTE_FORMAT,
        "taste": Taste.of(worth, best).to_json(),
        "reward_r2": held_out_r2(traits, rewards),
        "returns": dict(zip(map(str, SHARES), returns.mean(1).tolist(), strict=True)),
        "tokens": plan.n_episodes * settings.tokens_per_episode,
        "world": world.hash,
        **learned_in(world),
        "settings": header["settings"],
        "arm": plan.arm,
        "seed": plan.seed,
    }
    write_json(out, sealed(card))
    return card


def fit_worth(traits: Floats, rewards: Floats) -> Floats:
    """(F,) least squares of rewards (E, S) on traits (E, S, F), with a ridge.

    Each step of the episode has a mean of its own: early steps earn more whatever they read.
    """
    x = (traits - traits.mean((0, 1))).reshape(-1, traits.shape[-1])
    y = (rewards - rewards.mean(0)).ravel()
    return np.asarray(np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y))


def held_out_r2(traits: Floats, rewards: Floats) -> float:
    """Share of the rewards' variance that is predicted in episodes left out of the fit.

    The variance is that around the mean of each step of the episode.
    """
    missed = total = 0.0
    for fold in range(FOLDS):
        out = np.arange(len(rewards)) % FOLDS == fold
        worth = fit_worth(traits[~out], rewards[~out])
        centre = traits[~out].mean((0, 1))
        y = rewards[out] - rewards[~out].mean(0)
        missed += float(((y - (traits[out] - centre) @ worth) ** 2).sum())
        total += float((y**2).sum())
    return 1 - missed / max(total, 1e-12)


def _traits(env: TopicExpansionEnv) -> PassageTraits:
    retriever = env.stage.retriever
    assert isinstance(retriever, NeighbourhoodRetriever)
    return retriever.traits


class RandomTastes:
    """The arm that explores: it reads every step by another random taste, off the graph."""

    def begin(self, env: TopicExpansionEnv, rng: Rng) -> Player:
        return _RandomTastes(env, rng)


# As an arm of anybody's own is found: by import path.
EXPLORING = f"{__name__}:{RandomTastes.__name__}"


class _RandomTastes(Stateless):
    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self.env, self.rng, self.traits = env, rng, _traits(env)

    def act(self, seen: Observation) -> Turn:
        assert self.env.episode is not None
        worth = self.rng.normal(size=(len(TRAITS), LEVELS))
        passages = np.flatnonzero(self.traits.best(worth, READ))
        n = self.env.settings.windows_per_step
        windows = self.env.episode.reading_list.rehearse(passages, n, self.rng)
        reward, over, info = self.env.feed(windows)
        return Turn(reward, over, info, seen)


@dataclass(frozen=True)
class Tasted:
    """What a tasting episode tells.

    Attributes:
        traits: Share of each trait's levels in what each step read; empty in a trial.
        rewards: Of each step; of the whole episode in a trial.
    """

    traits: list[list[float]]
    rewards: list[float]

    def to_json(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class TasteMeter:
    """Measures rewards on `WINDOWS` windows of the `reward` split.

    Attributes:
        by_step: Whether each step has a reward of its own, and traits.
    """

    by_step: bool

    @property
    def rewarded(self) -> bool:
        return False

    def begin(self, env: TopicExpansionEnv) -> _TasteWatch:
        return _TasteWatch(env, self.by_step)

    def from_json(self, line: Json) -> Tasted:
        found = Fields.of(line, "a tasting episode")
        traits, size = line.get("traits"), len(TRAITS) * LEVELS
        rows = isinstance(traits, list) and all(
            isinstance(row, list) and len(row) == size and all(map(is_number(0, 1), row))
            for row in traits
        )
        rewards = found.numbers("rewards")
        if not rows or len(traits or []) != (len(rewards) if self.by_step else 0):
            raise found.wrong("traits", f"a row of {size} shares for each of {len(rewards)} steps")
        if not rewards:
            raise found.wrong("rewards", "a reward or more")
        return Tasted(traits or [], rewards)


class _TasteWatch:
    def __init__(self, env: TopicExpansionEnv, by_step: bool) -> None:
        self.env, self.by_step = env, by_step
        self.found = Tasted([], [])
        self.loss = self._measure()

    def after(self, turn: Turn) -> None:
        if self.by_step:
            read = self.env.stage.store.document[stored(turn.info["windows"])]
            self.found.traits.append(_traits(self.env).shares(read).ravel().tolist())
            self._pay()

    def finish(self) -> Tasted:
        if not self.by_step:
            self._pay()
        return self.found

    def _pay(self) -> None:
        before, self.loss = self.loss, self._measure()
        self.found.rewards.append((before - self.loss) / self.env.stage.reducible)

    def _measure(self) -> float:
        return self.env.learner.held_out_loss("reward", WINDOWS)

"""Learns a taste from reward: which traits of a passage pay, and how choosy to be.

First the learner is fed steps that each read nothing but passages of some random taste, and the
reward of a step is regressed on the traits of what it read: a linear datamodel (Ilyas et al. 2022,
arXiv:2202.00622), with a step in the place of a training run and traits in the place of examples.
Then the found taste is tried at several shares, in whole episodes, and the best return decides.
Everything is paid for in `reward` windows; nothing else is measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import WorldLearner
from kncl_env.passage_traits import LEVELS, TRAITS, TRAITS_VERSION, PassageTraits
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.stage import NUCLEUS_VERSION, Setup
from kncl_env.taste import TASTE_FORMAT, Taste
from kncl_env.vector import SideBySide
from kncl_env.world.world import World
from policies.arms.baselines import reader_of
from train_lm.files import hash_json, replacing, write_json

Floats = NDArray[np.float64]

# Tasting episodes play seeds that no training, evaluation or recording does.
TASTE_SEED = 3_000_000

# Rewards are measured on more windows than the environment's own: of a broad target, those stand
# for a tenth of the topics, and a taste would be fitted to these.
WINDOWS = 256
READ = 0.25  # share of the training passages that a random taste reads
RIDGE = 0.01  # of the mean square of a share, which is at most 1
# The first leaves nothing out: where there is nothing to be choosy about, a taste can say so.
SHARES = (1.0, 0.6, 0.4, 0.2, 0.1, 0.05)
FOLDS = 4


def learn_taste(
    world: World,
    together: SideBySide,
    out: Path,
    *,
    episodes: int = 32,
    trials: int = 4,
    arm: str = "random",
    seed: int = 0,
    on_episode: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Learn a taste and write it to `out`; goes on after the episodes found beside it.

    Args:
        together: Environments that play side by side.
        episodes: Episodes of random tastes.
        trials: Episodes at each share of `SHARES`.
        arm: Chooses the topics of the trials, as `reader_of` takes it; its own taste is left aside.
        seed: Of everything.
        on_episode: Told of each episode, of `episodes + trials * len(SHARES)`.

    Returns:
        What was written: the taste, how well it predicts rewards that it was not fitted to
        (`reward_r2`), the mean return at each share, and what the learning cost [tokens].

    Raises:
        ValueError: Fewer than `FOLDS` episodes, no trial, an unknown arm, or the episodes beside
            `out` are of another world or other settings.
    """
    if episodes < FOLDS or trials < 1:
        raise ValueError(
            f"expected at least {FOLDS} episodes and 1 trial, got {episodes} and {trials}"
        )
    reader = reader_of(arm)
    config = together.envs[0].config
    assert isinstance(config, Setup)
    header = {
        "format": "kncl-tastings",
        "world": world.hash,
        "settings": json.loads(json.dumps(asdict(config))),
        "versions": {"nucleus": NUCLEUS_VERSION, "traits": TRAITS_VERSION},
        "windows": WINDOWS,
        "read": READ,
        "arm": [reader.name, reader.weights],
        "seed": seed,
    }
    journal = _Journal(out.with_name(out.name + ".episodes.jsonl"), header)
    first = TASTE_SEED + seed * 10_000
    found = journal.play(
        together,
        [(f"taste {i}", partial(_explore, seed=first + i)) for i in range(episodes)],
        on_episode,
    )
    traits = np.array([episode["traits"] for episode in found])  # (E, S, TRAITS · LEVELS)
    rewards = np.array([episode["rewards"] for episode in found])  # (E, S)
    worth = fit_worth(traits, rewards).reshape(len(TRAITS), LEVELS)
    tag = hash_json(worth.tolist())[:8]  # trials are of this worth and no other
    tried = journal.play(
        together,
        [
            (
                f"share {share} of {tag}, {i}",
                partial(_try, act=reader.act, taste=Taste.of(worth, share), seed=first + 5_000 + i),
            )
            for share in SHARES
            for i in range(trials)
        ],
        on_episode,
    )
    returns = np.array([episode["return"] for episode in tried]).reshape(len(SHARES), trials)
    best = SHARES[int(returns.mean(1).argmax())]
    card = {
        "format": TASTE_FORMAT,
        "taste": Taste.of(worth, best).to_json(),
        "reward_r2": held_out_r2(traits, rewards),
        "returns": dict(zip(map(str, SHARES), returns.mean(1).tolist(), strict=True)),
        "tokens": (episodes + returns.size) * config.tokens_per_episode,
        "world": world.hash,
        "settings": header["settings"],
        "arm": arm,
        "seed": seed,
    }
    write_json(out, card)
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


def _explore(env: TopicExpansionEnv, seed: int) -> dict[str, Any]:
    """An episode whose every step reads by another random taste."""
    retriever = env.retriever
    assert isinstance(retriever, NeighbourhoodRetriever)
    traits: PassageTraits = retriever.traits
    rng = np.random.default_rng([seed, 9])
    env.reset(seed=seed)
    assert env.episode is not None
    reading = env.episode.reading
    store, n = reading.store, env.config.windows_per_step
    meter = _Meter(env)
    shares, rewards = [], []
    over = False
    while not over:
        passages = np.flatnonzero(traits.best(rng.normal(size=(len(TRAITS), LEVELS)), READ))
        windows = reading.rehearse(passages, n, rng)
        _, over, _ = env.read(windows)
        shares.append(traits.shares(store.document[windows]).ravel().tolist())
        rewards.append(meter.reward())
    return {"traits": shares, "rewards": rewards}


def _try(env: TopicExpansionEnv, act: Any, taste: Taste, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, 7])
    observation, _ = env.reset(seed=seed, options={"taste": taste})
    meter = _Meter(env)
    over = False
    while not over:
        _, over, _, observation = act(env, observation, rng)
    return {"return": meter.reward()}


class _Meter:
    """Rewards since the one before, on `WINDOWS` windows of the `reward` split."""

    def __init__(self, env: TopicExpansionEnv) -> None:
        self.env = env
        self.loss = self._measure()

    def _measure(self) -> float:
        learner = self.env.learner
        assert isinstance(learner, WorldLearner)
        return learner.held_out_loss("reward", WINDOWS)

    def reward(self) -> float:
        before, self.loss = self.loss, self._measure()
        return (before - self.loss) / self.env.reducible


class _Journal:
    """Episodes on file, each once: a stopped run goes on after the last whole line."""

    def __init__(self, file: Path, header: dict[str, Any]) -> None:
        self.file = file
        self.known: dict[str, dict[str, Any]] = {}
        if file.is_file():
            whole = file.read_text().split("\n")[:-1]
            first, *lines = whole or [json.dumps(header)]
            if first != json.dumps(header):
                raise ValueError(
                    f"expected tastings of this world and these settings in {file}, got others: "
                    "name another --out, or remove the file"
                )
            self.known = {line["what"]: line for line in map(json.loads, lines)}
        file.parent.mkdir(parents=True, exist_ok=True)
        # What a stopped run left of a line must not run into the next one.
        kept = [header, *self.known.values()]
        with replacing(file) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def play(
        self,
        together: SideBySide,
        tasks: Sequence[tuple[str, Callable[[TopicExpansionEnv], dict[str, Any]]]],
        on_episode: Callable[[], None],
    ) -> list[dict[str, Any]]:
        """The episode of every named task, in order."""
        waiting = [(name, task) for name, task in tasks if name not in self.known]
        for _ in range(len(tasks) - len(waiting)):
            on_episode()
        for i in range(0, len(waiting), len(together)):
            wave = waiting[i : i + len(together)]
            played = together.run(
                [partial(task, env) for env, (_, task) in zip(together.envs, wave, strict=False)]
            )
            with self.file.open("a") as stream:
                for (name, _), episode in zip(wave, played, strict=True):
                    self.known[name] = {"what": name, **episode}
                    stream.write(json.dumps(self.known[name]) + "\n")
            for _ in wave:
                on_episode()
        return [self.known[name] for name, _ in tasks]

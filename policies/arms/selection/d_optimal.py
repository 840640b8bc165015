"""A mixture of domains from a designed experiment: 16 short runs, a linear model, its best mixture.

The design is the one of 16 mixtures X (16, K) that makes det X'X largest (D-optimal; Fedorov's
exchanges, 1972), among mixtures that give no domain more than half. The reward-split loss at the
end of each run is fitted as loss = X b, one number for each domain (Scheffe's linear model of
mixtures, 1958). The mixture with the lowest fitted loss is read for the whole episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from policies.arms.arm import Ints, Listed, Player, Rng, Turn
from policies.arms.charges import of_measuring, of_training
from policies.arms.domains import domains_of, pools_of
from policies.arms.mixing import drawn, fed, mixed
from policies.arms.selection.chosen import learner_of_its_own
from policies.arms.shared import Shared, of_learner
from train_lm.files import Json

Floats = NDArray[np.float64]

RUNS = 16
DOMAINS = 8  # at most: a linear model of so many numbers leaves eight runs to average out noise
MOST = 0.5  # share of a domain
RIDGE = 1e-9  # keeps a determinant above 0 while a design is not yet of full rank


def candidates(k: int) -> Floats:
    """(n, K) mixtures that a design may hold: a domain alone where there are two or fewer; else all
    halves of two, thirds of three, and all alike.
    """
    if k <= 2:
        return np.eye(k)
    groups = [*combinations(range(k), 2), *combinations(range(k), 3), tuple(range(k))]
    found = np.zeros((len(groups), k))
    for row, group in zip(found, groups, strict=True):
        row[list(group)] = 1 / len(group)
    return np.unique(found, axis=0)


def d_optimal(mixtures: Floats, n: int, rng: Rng) -> Ints:
    """(n,) which of the mixtures to run, some of them twice: the largest det X'X by exchanges.

    Begins at random; as long as that makes the determinant larger, one of the chosen is exchanged
    for the candidate that makes it largest.
    """
    chosen = rng.integers(len(mixtures), size=n)
    while True:
        gained = False
        for i in range(n):
            rest = mixtures[np.delete(chosen, i)]
            inverse = np.linalg.inv(rest.T @ rest + RIDGE * np.eye(mixtures.shape[1]))
            # det(A + x x') = det(A) (1 + x' A^-1 x)
            variance = np.einsum("ij,jk,ik->i", mixtures, inverse, mixtures)
            best = int(variance.argmax())
            if variance[best] > variance[chosen[i]] * (1 + 1e-9):
                chosen[i], gained = best, True
        if not gained:
            return np.sort(chosen)


def fitted(mixtures: Floats, losses: Floats) -> Floats:
    """(K,) least squares: the loss that each domain alone would end at."""
    return np.asarray(np.linalg.lstsq(mixtures, losses, rcond=None)[0])


def best_mixture(loss_of: Floats) -> Floats:
    """(K,) the mixture of the lowest fitted loss: no more than `MOST` of a domain, if there are
    three or more; else all of the better one.
    """
    most = MOST if len(loss_of) > 2 else 1.0
    found, left = np.zeros(len(loss_of)), 1.0
    for k in np.argsort(loss_of, kind="stable"):
        found[k] = min(most, left)
        left -= found[k]
    return found


@dataclass(frozen=True, eq=False)
class _Experiment:
    """What the runs found: the best mixture (K,), and what they cost [FLOPs]."""

    mixture: Floats
    flops: float


def _run(stage: Stage) -> _Experiment:
    domains, settings = domains_of(stage, DOMAINS), stage.settings
    if len(domains) == 1:
        return _Experiment(np.ones(1), 0.0)
    learner = learner_of_its_own(stage)
    mixtures = candidates(len(domains))
    mixtures = mixtures[d_optimal(mixtures, RUNS, np.random.default_rng(0))]
    world, store = stage.world, stage.store
    pools = [
        store.windows_of(np.concatenate([world.passages_of(int(t)) for t in topics]))
        for topics in domains
    ]
    batch = settings.learner.batch
    n = batch * max(1, settings.rules.steps * settings.windows_per_step // (RUNS * batch))
    losses = []
    for mixture in mixtures:
        # The same draws for all, as far as mixtures agree.
        rng, times_read = np.random.default_rng(1), stage.reading_list.times_read.copy()
        learner.begin(n * settings.learner.context)
        learner.train(drawn(pools, mixture, n, times_read, rng))
        losses.append(learner.held_out_loss("reward"))
    spent = of_training(settings, learner, n * RUNS)
    spent += of_measuring(settings, learner, RUNS * MEASURED_WINDOWS["reward"])
    return _Experiment(best_mixture(fitted(mixtures, np.array(losses))), spent)


experiment = Shared(_run, key=of_learner)


class _Mixture:
    """Reads one mixture from beginning to end."""

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        found = experiment(env.stage)
        self.env, self.rng, self.spent = env, rng, found.flops
        self.pools = pools_of(env, domains_of(env.stage, DOMAINS))
        self.weights = found.mixture * [len(pool) > 0 for pool in self.pools]
        if not self.weights.any():
            raise ValueError(
                "expected passages to the taste in the domains that this arm mixes, got none: "
                "give it a taste with a larger share, or none"
            )

    def act(self, seen: Observation) -> Turn:
        spent, self.spent = self.spent, 0.0
        return fed(self.env, mixed(self.env, self.pools, self.weights, self.rng), seen, spent)

    def state(self) -> Json:
        return {"spent": self.spent}

    def restore(self, state: Json) -> None:
        self.spent = float(state["spent"])


def _begin(env: TopicExpansionEnv, rng: Rng) -> Player:
    return _Mixture(env, rng)


ARMS = {
    "d-optimal": Listed(
        _begin,
        "search",
        "Sixteen runs of a sixteenth of the budget each, on mixtures of up to eight domains in a "
        "D-optimal design, at a schedule of their own; a linear model of the reward-split loss at "
        "their ends; its best mixture, at most half of it one domain, read throughout. All runs "
        "and measurements are charged.",
        "after Fedorov 1972, Scheffe 1958",
    ),
}

"""OP-Mix's idea: mixtures are simulated by merging one adapter per domain, all of the learner now.

    after a fifth of the budget, read evenly:
    for each domain k   a LoRA of rank 8 beside the learner's weights W reads a step's budget of
                        domain k alone: W + D_k
    for each of N shares w, even ones and others by lot (Dirichlet, 1)
                        L(w) = loss of W + sum_k w_k D_k
    pi = argmin_w L(w)  for the rest of the budget

Hu et al. 2026, arXiv:2605.15220, with a constant rate twice the learner's and no warm-up, as there.
The paper fits a mixing law to its 20 simulated mixtures; here the best of N = max(20, 2 K) is
taken. The merge adds the products B A, not the factors. Losses are as in `skill_it`, their mean
where there are several. Adapters train on a copy outside of any bank: its program has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kncl_env.stage import Stage
from policies.arms.arm import Ints
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.domain_text import mean_losses
from policies.arms.bandits.mixtures import Bools, Floats, even
from policies.arms.bandits.player import both
from policies.arms.bandits.probe import Probe
from policies.arms.bandits.rule import Draw, Rule

if TYPE_CHECKING:
    from torch import Tensor

    Weights = dict[str, Tensor]

PREFIX = 5  # one part in so many of the budget is read evenly
RANK, ALPHA = 8, 16.0
FASTER = 2.0  # rate of an adapter, as a multiple of the learner's
LEAST = 20  # mixtures simulated, at least


def merged(base: Weights, parts: Sequence[Weights], shares: Floats) -> Weights:
    """W + sum_k w_k (W_k - W).

    Args:
        base: W, by name.
        parts: (K,) W_k, each with one domain's adapter merged in.
        shares: (K,) w.
    """
    found = {name: weight.clone() for name, weight in base.items()}
    for share, part in zip(shares.tolist(), parts, strict=True):
        for name, weight in part.items():
            found[name] += share * (weight - base[name])
    return found


def adapted(stage: Stage, base: Weights, texts: Iterator[Ints]) -> tuple[list[Weights], float]:
    """The weights after an adapter beside them read each text, merged; what it took [FLOPs].

    Args:
        texts: Windows of training text, whole batches.
    """
    from train_lm.adapters import AdapterConfig
    from train_lm.trainer import Trainer, TrainerConfig

    learner = stage.settings.learner
    config = TrainerConfig(learning_rate=FASTER * learner.learning_rate, batch=learner.batch)
    shape = AdapterConfig(RANK, ALPHA, seed=learner.seed)
    trainer = Trainer(stage.plain_trainer().model, config, adapter=shape)
    found, tokens = [], 0
    for windows in texts:
        trainer.adopt(base)  # and a fresh adapter
        trainer.begin_phase(len(windows) // learner.batch, decay=False)
        trainer.train(stage.store.read(windows))
        tokens += len(windows) * learner.context
        found.append(trainer.merged())
    return found, tokens * trainer.flops_per_token


class OpMix(Rule):
    keeps = ("shares", "step")

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self.shares = even(arena.k)
        self.step = 0

    def mixture(self, open: Bools) -> Floats:
        if self.step == max(1, self.arena.steps // PREFIX):
            self.shares = self._best()
        return self.shares

    def after(self, draw: Draw, gain: float) -> None:
        self.step += 1

    def _best(self) -> Floats:
        arena, stage = self.arena, self.arena.stage
        base = arena.probe.weights()
        texts = (arena.drawn(share, arena.updates_per_step) for share in np.eye(arena.k))
        parts, flops = adapted(stage, base, texts)
        arena.probe.charge(flops)
        n = max(LEAST, 2 * arena.k)
        tried = [even(arena.k), *arena.rng.dirichlet(np.ones(arena.k), n - 1)]
        twin = stage.learner(stage.plain_trainer())
        probe = Probe(lambda: stage, twin, plain=True)
        losses = []
        for shares in tried:
            twin.trainer.adopt(merged(base, parts, shares))
            losses.append(self._loss(probe))
        arena.probe.charge(probe.take())
        return tried[int(np.argmin(losses))]

    def _loss(self, probe: Probe) -> float:
        if self.arena.of_target:
            return probe.target()
        return float(np.nanmean(mean_losses(probe, self.arena.text.measured("reward"))))


ARMS = both(
    "op-mix",
    OpMix,
    "mixture",
    "After an even fifth of the budget one LoRA per domain, and the best of max(20, 2 K) "
    "mixtures simulated by merging them; all of it is charged.",
    "after arXiv:2605.15220",
)

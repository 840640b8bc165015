"""The real learner: binds the trainer to a world's windows. The env sees only its protocol."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.world import World
from train_lm.tokenizer import bytes_per_token
from train_lm.windows import TokenStore

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.bank.lockstep import Member
    from train_lm.trainer import Snapshot, Trainer

Ints = NDArray[np.int64]

# Windows of the target mix that each held-out split is measured on: a fixed sample, drawn evenly
# over the target's topics, so a large target is measured on some of them only. `reward` is read at
# every step and stays below a tenth of a step's cost; `select` draws the curves of an evaluation;
# `test` is read once.
MEASURED_WINDOWS = {"reward": 48, "select": 512, "test": 1024}


class WorldLearner:
    """A language model in a world.

    Args:
        world: Where the text comes from.
        store: The world's windows.
        trainer: Trains and measures the model; a member of a bank can stand in its place.
        target: Topics of the target mix.
    """

    def __init__(
        self, world: World, store: TokenStore, trainer: Trainer | Member, target: Ints
    ) -> None:
        self.world = world
        self.store = store
        self.trainer = trainer
        self.target = target
        self.nucleated: Snapshot | None = None
        self._bytes = bytes_per_token(world.tokenizer)
        self._windows: dict[tuple[str, int], Ints] = {}
        self._probe_window = np.array([self._probe_of(t) for t in range(world.n_topics)])

    def beside(self, trainer: Trainer | Member) -> WorldLearner:
        """A learner of the same start and measurements whose model another trainer holds."""
        other = copy.copy(self)
        other.trainer = trainer
        return other

    def begin(self, tokens: int) -> None:
        if self.nucleated is None:
            raise RuntimeError("a learner needs its nucleus phase before an episode")
        self.trainer.restore(self.nucleated)
        self.trainer.begin_phase(tokens // self.tokens_per_update, decay=True)

    @property
    def tokens_per_update(self) -> int:
        return self.trainer.config.batch * self.store.context

    def train(self, windows: Ints) -> None:
        self.trainer.train(self.store.read(windows))

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        """Loss on a fixed sample of the target mix, every topic alike [bits per byte].

        Args:
            windows: Size of the sample, where it is not that of `MEASURED_WINDOWS`.
        """
        sample = split, windows or MEASURED_WINDOWS[split]
        if sample not in self._windows:
            self._windows[sample] = self._target_windows(*sample)
        tokens = self.store.read(self._windows[sample])
        return float(self.trainer.nll(tokens).sum() / np.log(2) / self._bytes[tokens[:, 1:]].sum())

    def probe(self, topics: Ints) -> NDArray[np.float64]:
        loss = np.full(len(topics), np.nan)
        windows = self._probe_window[topics]
        known = windows >= 0
        if known.any():
            tokens = self.store.read(windows[known])
            size = np.maximum(1, self._bytes[tokens[:, 1:]].sum(1))
            loss[known] = self.trainer.nll(tokens) / np.log(2) / size
        return loss

    def snapshot(self) -> dict[str, Tensor]:
        return self.trainer.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self.trainer.restore(snapshot)

    def _probe_of(self, topic: int) -> int:
        """One window of the topic's `reward` text, of its training text where it has none."""
        for split in ("reward", "train"):
            windows = self.store.windows_of(self.world.passages_of(topic, split))
            if len(windows):
                return int(windows[0])
        return -1

    def _target_windows(self, split: str, n: int) -> Ints:
        """At most n windows, drawn round-robin over the target's topics; the same for all arms."""
        rng = np.random.default_rng(0)
        queues = [
            list(rng.permutation(self.store.windows_of(self.world.passages_of(int(t), split))))
            for t in rng.permutation(self.target)
        ]
        chosen: list[int] = []
        while len(chosen) < n and any(queues):
            chosen += [int(queue.pop()) for queue in queues if queue]
        if not chosen:
            raise ValueError(
                f"expected held-out windows in split {split!r} of the target, got none: its "
                "passages are shorter than the context; rebuild with larger --passage-bytes"
            )
        return np.sort(np.array(chosen[:n], dtype=np.int64))

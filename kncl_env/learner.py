"""The learner: what the environment asks of one, and the real one, a trainer in a world."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.settings import LearnerSettings
from kncl_env.world.world import World
from train_lm.files import hash_json
from train_lm.tokenizer import bytes_per_token, end_of_text
from train_lm.windows import TokenStore

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.bank.lockstep import Member
    from train_lm.trainer import Snapshot, Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Windows of the target mix that each held-out split is measured on: a fixed sample, drawn evenly
# over the target's topics, so a large target is measured on some of them only. `reward` is read at
# every step and stays below a tenth of a step's cost; `select` is read at both ends of a closed
# loop, and by an evaluation on fewer windows, for its curves; `test` is read once.
MEASURED_WINDOWS = {"reward": 48, "select": 512, "test": 1024}

USUAL = LearnerSettings()

# Windows, at most, that the held-out loss of a watched neighbourhood is measured on.
NEIGHBOURHOOD_WINDOWS = 8


class Learner(Protocol):
    """A language model that can be trained, measured, copied and put back exactly."""

    @property
    def flops_per_token(self) -> float:
        """FLOPs that training on one token takes."""

    def begin(self, tokens: int) -> None:
        """Return to the nucleated snapshot; a full schedule over `tokens` tokens begins."""

    def train(self, windows: Ints) -> None:
        """Train on windows, given by number; at -1 stands text that the learner writes itself."""

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        """Loss of the target mix on a held-out split [bits per byte].

        Args:
            windows: Size of the fixed sample it is measured on; the split's own, if None.
        """

    def probe(self, topics: Ints) -> Floats:
        """(n,) loss on one fixed window of each topic [bits per byte]; NaN where unknown."""

    def losses(self, windows: Ints) -> Floats:
        """(n,) loss on each of the given windows [bits per byte]."""

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...


class MeasuredText:
    """Which windows stand for a target and for each topic: the same for all learners of a stage.

    Args:
        world: Where the text comes from.
        store: The world's windows.
        target: Topics of the target mix.
    """

    def __init__(self, world: World, store: TokenStore, target: Ints) -> None:
        self.world = world
        self.store = store
        self.target = target
        self._bytes = bytes_per_token(world.tokenizer)
        self.end_of_text = end_of_text(world.tokenizer)
        self._windows: dict[tuple[str, int], Ints] = {}
        self._neighbourhoods: dict[int, Ints] = {}
        every = range(world.n_topics)
        self.probe_window = np.array([probe_window(world, store, t) for t in every])  # (N,)

    def sample(self, split: str, n: int) -> Ints:
        """At most n windows, drawn round-robin over the target's topics; the same for all arms.

        Raises:
            ValueError: The target has no window in this split.
        """
        if (split, n) not in self._windows:
            self._windows[split, n] = self._drawn(split, n)
        return self._windows[split, n]

    def neighbourhood(self, topic: int) -> Ints:
        """Held-out windows that stand for a topic's neighbourhood, perhaps none.

        Windows of the `reward` split: the topic's own first, then those of the topics next to it.
        """
        if topic not in self._neighbourhoods:
            around = [topic, *self.world.graph.around(topic).tolist()]
            found: list[int] = []
            for t in around:
                if len(found) >= NEIGHBOURHOOD_WINDOWS:
                    break
                found += self.store.windows_of(self.world.passages_of(t, "reward")).tolist()
            self._neighbourhoods[topic] = np.array(found[:NEIGHBOURHOOD_WINDOWS], dtype=np.int64)
        return self._neighbourhoods[topic]

    def n_bytes(self, tokens: Ints) -> Ints:
        """(n,) bytes of text that (n, T + 1) tokens ask to predict."""
        return np.asarray(self._bytes[tokens[:, 1:]].sum(1))

    def _drawn(self, split: str, n: int) -> Ints:
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


def probe_window(world: World, store: TokenStore, topic: int) -> int:
    """One window of a topic's `reward` text, of its training text where it has none; -1 of none."""
    for split in ("reward", "train"):
        windows = store.windows_of(world.passages_of(topic, split))
        if len(windows):
            return int(windows[0])
    return -1


class WorldLearner:
    """A language model in a world.

    Args:
        text: What it is measured on.
        trainer: Trains and measures the model; a member of a bank can stand in its place.
        nucleated: Where episodes begin; None before the nucleus phase.
        merge_every: Updates after which an adapter is merged into the model and begun anew; never,
            if 0.
        plan: Says the schedule of an episode, and which average of the weights is measured.
    """

    def __init__(
        self,
        text: MeasuredText,
        trainer: Trainer | Member,
        nucleated: Snapshot | None = None,
        merge_every: int = 0,
        plan: LearnerSettings = USUAL,
    ) -> None:
        self.text = text
        self.trainer = trainer
        self.nucleated = nucleated
        self.merge_every = merge_every
        self.plan = plan

    @property
    def flops_per_token(self) -> float:
        return self.trainer.flops_per_token

    def begin(self, tokens: int) -> None:
        if self.nucleated is None:
            raise RuntimeError("a learner needs its nucleus phase before an episode")
        # All of it where the trainer is the nucleus phase's, and else what fits.
        self.trainer.adopt(self.nucleated)
        per_update = self.trainer.config.batch * self.text.store.context
        decay = self.plan.schedule == "decayed"
        self.trainer.begin_phase(tokens // per_update, decay=decay, averaging=self.plan.averaging)

    def train(self, windows: Ints) -> None:
        tokens = self._tokens(windows)
        if self.merge_every and self.since_begun and self.since_begun % self.merge_every == 0:
            self.trainer.merge_and_reset()
        self.trainer.train(tokens)

    @property
    def since_begun(self) -> int:
        """Updates since the episode began."""
        return self.trainer.updates - self.trainer.schedule.start

    def _tokens(self, windows: Ints) -> Ints:
        """(n, T + 1) token ids; the learner, as it is before it trains, writes what is missing."""
        own = windows < 0
        if not own.any():
            return self.text.store.read(windows)
        from train_lm.trainer import Trainer
        from train_lm.writing import write_text

        assert isinstance(self.trainer, Trainer), "a bank's learners write nothing"
        length = self.text.store.context + 1
        tokens = np.empty((len(windows), length), dtype=np.int64)
        tokens[~own] = self.text.store.read(windows[~own])
        # The step decides the seed, so that a copy of the learner writes the same text.
        seed = int(hash_json([self.trainer.updates, windows.tolist()])[:15], 16)
        end = self.text.end_of_text
        tokens[own] = write_text(self.trainer.model, int(own.sum()), length, end, seed)
        return tokens

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        """Loss on a fixed sample of the target mix, every topic alike [bits per byte]."""
        sample = self.text.sample(split, windows or MEASURED_WINDOWS[split])
        tokens = self.text.store.read(sample)
        size = self.text.n_bytes(tokens).sum()
        return float(self.trainer.nll(tokens).sum() / np.log(2) / size)

    def probe(self, topics: Ints) -> Floats:
        loss = np.full(len(topics), np.nan)
        windows = self.text.probe_window[topics]
        known = windows >= 0
        if known.any():
            loss[known] = self.losses(windows[known])
        return loss

    def losses(self, windows: Ints) -> Floats:
        tokens = self.text.store.read(windows)
        size = np.maximum(1, self.text.n_bytes(tokens))
        return np.asarray(self.trainer.nll(tokens) / np.log(2) / size)

    def snapshot(self) -> dict[str, Tensor]:
        return self.trainer.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self.trainer.restore(snapshot)


class ClockedLearner:
    """A learner that tells how long it took: the rest of a step is what can be saved.

    Where several share a bank, waiting for the others counts.

    Attributes:
        seconds: Spent so far, by method.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def total(self) -> float:
        """Seconds in all methods."""
        return sum(self.seconds.values())

    @property
    def flops_per_token(self) -> float:
        return self.learner.flops_per_token

    def begin(self, tokens: int) -> None:
        with self._timed("begin"):
            self.learner.begin(tokens)

    def train(self, windows: Ints) -> None:
        with self._timed("train"):
            self.learner.train(windows)

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        with self._timed("held_out_loss"):
            return self.learner.held_out_loss(split, windows)

    def probe(self, topics: Ints) -> Floats:
        with self._timed("probe"):
            return self.learner.probe(topics)

    def losses(self, windows: Ints) -> Floats:
        with self._timed("losses"):
            return self.learner.losses(windows)

    def snapshot(self) -> Any:
        return self.learner.snapshot()

    def restore(self, snapshot: Any) -> None:
        self.learner.restore(snapshot)

    @contextmanager
    def _timed(self, method: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[method] += time.perf_counter() - began

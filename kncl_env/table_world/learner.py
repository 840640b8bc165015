"""Learners of a table: one that looks up what reading does, and one that measures it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kncl_env.learner import Learner
from kncl_env.table_world.table import ROOT_KEY, UNIT, UNKNOWN, Floats, Ints, Table, key_after


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known of a learner in one state, as a table has it.

    Attributes:
        key: Of the state.
        loss: Held-out loss [UNIT].
        probe: (N,) loss of each topic [UNIT].
    """

    key: int
    loss: int
    probe: Ints


class TableLearner:
    """A language model whose every episode was played before: it trains by looking up.

    Args:
        table: Of the world that it is in.
        topic_of_window: (W,) topic of each window.
    """

    def __init__(self, table: Table, topic_of_window: Ints) -> None:
        self.table, self.topic_of_window = table, topic_of_window
        self.row = 0

    @property
    def flops_per_token(self) -> float:
        """0: nothing is trained."""
        return 0.0

    def begin(self, tokens: int) -> None:
        self.row = 0

    def train(self, windows: Ints) -> None:
        """Raises: ValueError where the table does not hold what is read."""
        key = key_after(int(self.table.key[self.row]), windows)
        if key not in self.table.row_of:
            raise ValueError(
                "expected to read what an expansion or rehearsal of a measured episode reads, got "
                "other windows: the table holds no draws from the corpus, no taste and no other "
                "settings"
            )
        self.row = self.table.row_of[key]

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        """Every split alike: the table knows one held-out loss."""
        return int(self.table.loss[self.row]) * UNIT

    def probe(self, topics: Ints) -> Floats:
        return in_bits(self.table.probe[self.row, topics])

    def losses(self, windows: Ints) -> Floats:
        """(n,) those of the windows' topics: the table tells no two of their windows apart."""
        return self.probe(self.topic_of_window[windows])

    def snapshot(self) -> int:
        return self.row

    def restore(self, snapshot: int) -> None:
        self.row = snapshot


class MeasuringLearner:
    """A real learner that sees its own losses as a table will have them.

    What the environment decides by them, such as which topics are solid, then comes out the same
    when the table is played.

    Args:
        learner: Trains.
        n: Topics of the world.
    """

    def __init__(self, learner: Learner, n: int) -> None:
        self.learner, self.topics = learner, np.arange(n)
        self.now = Reading(ROOT_KEY, 0, np.zeros(n, dtype=np.int64))

    @property
    def flops_per_token(self) -> float:
        return self.learner.flops_per_token

    def begin(self, tokens: int) -> None:
        self.learner.begin(tokens)
        self._read(ROOT_KEY)

    def train(self, windows: Ints) -> None:
        self.learner.train(windows)
        self._read(key_after(self.now.key, windows))

    def _read(self, key: int) -> None:
        loss = int(in_units(np.array([self.learner.held_out_loss()]))[0])
        self.now = Reading(key, loss, in_units(self.learner.probe(self.topics)))

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        return self.now.loss * UNIT

    def probe(self, topics: Ints) -> Floats:
        return in_bits(self.now.probe[topics])

    def losses(self, windows: Ints) -> Floats:
        return self.learner.losses(windows)

    def snapshot(self) -> tuple[object, Reading]:
        return self.learner.snapshot(), self.now

    def restore(self, snapshot: tuple[object, Reading]) -> None:
        inner, self.now = snapshot
        self.learner.restore(inner)


def in_units(loss: Floats) -> Ints:
    """Losses as a table has them; the largest number stands for NaN."""
    units = np.round(np.nan_to_num(loss, nan=UNKNOWN * UNIT) / UNIT)
    return np.minimum(units, UNKNOWN).astype(np.int64)


def in_bits(units: object) -> Floats:
    """Losses [bits per byte]; NaN where a topic has none."""
    found = np.asarray(units, dtype=np.int64)
    return np.where(found == UNKNOWN, np.nan, found * UNIT)

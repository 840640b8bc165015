"""The one stream of tokens that a run reads: whole passages, in the order of a curriculum.

The order is fixed before the first update, so the place in it is the number of updates done: a run
that goes on needs nothing else. What is read often stands in one place, here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_lm.training_text import TrainingText

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ReadingOrder:
    """Training passages one after another.

    Attributes:
        text: Where their tokens are.
        order: (S,) rows of the text, in reading order.
        ends: (S,) tokens of the stream up to the end of each.
    """

    text: TrainingText
    order: Ints
    ends: Ints

    def __len__(self) -> int:
        """Tokens of the stream."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def windows(self, first: int, n: int, context: int) -> Ints:
        """(n, T + 1) token ids of windows `first` and following.

        Consecutive windows share one token, so that every token but the first is predicted once.
        """
        position = first * context + np.arange(n * context + 1)
        place = np.searchsorted(self.ends, position, side="right")
        row = self.order[place]
        inside = position - self.ends[place]  # negative: counted from the passage's end
        tokens = self.text.tokens[self.text.starts[row + 1] + inside].astype(np.int64)
        index = np.arange(n)[:, None] * context + np.arange(context + 1)
        return np.asarray(tokens[index])


def plan_order(
    text: TrainingText,
    steps: Sequence[tuple[Ints, int]],
    replay: float,
    seed: int,
) -> ReadingOrder:
    """Fill each step's budget with its passages, those read least often first.

    Nothing of a step is repeated before all of it was read. A passage is never cut: what a step
    reads too much, the next reads less.

    Args:
        steps: Rows of the text that a step may read, and its budget [tokens].
        replay: Share of a step's budget that rereads earlier steps: a step first, then one of its
            passages, so that every step is rehearsed alike.
        seed: Of the order within a step.

    Raises:
        ValueError: A step's passages hold no token.
    """
    lengths = np.diff(text.starts)
    times_read = np.zeros(len(lengths), dtype=np.int64)
    order: list[Ints] = []
    read = due = 0
    for number, (rows, tokens) in enumerate(steps):
        rng = np.random.default_rng([seed, number])
        due += tokens
        # One token more at the very end: the last window predicts it.
        budget = due - read + (number == len(steps) - 1)
        old = round(replay * budget) if number else 0
        chosen = _least_read(rows, times_read, lengths, budget - old, rng)
        if old > 0:
            chosen = [*chosen, *_replayed(steps[:number], lengths, old, rng)]
            np.add.at(times_read, chosen[-1], 1)
        mixed = rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
        order.append(mixed)
        read += int(lengths[mixed].sum())
    rows = np.concatenate(order)
    return ReadingOrder(text, rows, np.cumsum(lengths[rows]))


def _least_read(
    rows: Ints, times_read: Ints, lengths: Ints, budget: int, rng: np.random.Generator
) -> list[Ints]:
    chosen = []
    while budget > 0:
        shuffled = rng.permutation(rows)
        shuffled = shuffled[np.argsort(times_read[shuffled], kind="stable")]
        cumulated = np.cumsum(lengths[shuffled])
        enough = int(np.searchsorted(cumulated, budget)) + 1
        taken = shuffled[:enough]
        times_read[taken] += 1
        if not cumulated[-1]:
            raise ValueError("expected passages of at least one token in each step, got none")
        budget -= int(lengths[taken].sum())
        chosen.append(taken)
    return chosen


def _replayed(
    steps: Sequence[tuple[Ints, int]], lengths: Ints, budget: int, rng: np.random.Generator
) -> list[Ints]:
    chosen = []
    while budget > 0:
        rows = steps[int(rng.integers(len(steps)))][0]
        chosen.append(int(rng.choice(rows)))
        budget -= int(lengths[chosen[-1]])
    return [np.array(chosen, dtype=np.int64)]

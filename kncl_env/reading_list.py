"""What is read in a step: new windows of the retrieved passages, and replay of earlier ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kncl_env.memory import by_lot
from train_lm.windows import TokenStore, draw_least_read

Ints = NDArray[np.int64]

Recall = Callable[[int, np.random.Generator], Ints]


def nothing(n: int, rng: np.random.Generator) -> Ints:
    """Recalls no old text: all windows of an expansion are new."""
    return np.zeros(0, dtype=np.int64)


class ReadingList:
    """Draws each step's windows and remembers what was read.

    Args:
        store: Windows; documents are passages.
        replay: Share of an expansion's windows that is old text.
    """

    def __init__(self, store: TokenStore, replay: float) -> None:
        assert 0 <= replay < 1, replay
        self.store = store
        self.replay = replay
        self.times_read = np.zeros(len(store), dtype=np.int32)  # (W,)
        self.pools: list[Ints] = []  # windows of each expansion so far

    def expand(
        self, passages: Ints, n: int, rng: np.random.Generator, recall: Recall | None = None
    ) -> Ints:
        """n shuffled windows: new ones of the passages, and old ones as a memory recalls them.

        Passages too short for a window of their own are read with their predecessor.

        Args:
            recall: Gives as many windows of old text as it is asked for, or is `nothing`. It
            replays earlier expansions, if not stated.
        """
        pool = self.store.windows_of(passages)
        recall = recall or (self._replayed if self.pools else nothing)
        n_old = 0 if recall is nothing else round(self.replay * n)
        fresh = draw_least_read(pool, self.times_read, n - n_old, rng)
        old = recall(n_old, rng) if n_old else nothing(0, rng)
        np.add.at(self.times_read, old[old >= 0], 1)  # below 0 is text of no window
        self.pools.append(pool)
        return rng.permutation(np.concatenate([fresh, old]))

    def rehearse(self, passages: Ints, n: int, rng: np.random.Generator) -> Ints:
        """n windows of the nucleus' own passages, those read least often first."""
        return draw_least_read(self.store.windows_of(passages), self.times_read, n, rng)

    def spread(self, pools: list[Ints], n: int, rng: np.random.Generator) -> Ints:
        """n shuffled windows, each from an evenly drawn pool, there the least read one."""
        count = np.bincount(rng.integers(len(pools), size=n), minlength=len(pools))
        drawn = [
            draw_least_read(pools[i], self.times_read, int(count[i]), rng)
            for i in np.flatnonzero(count)
        ]
        return rng.permutation(np.concatenate(drawn))

    def _replayed(self, n: int, rng: np.random.Generator) -> Ints:
        return by_lot(self.pools, n, rng)

    def grown(self, store: TokenStore) -> ReadingList:
        """The same of a store with further windows, none of them read yet."""
        twin = self.copy()
        twin.store = store
        twin.times_read = np.pad(self.times_read, (0, len(store) - len(self.times_read)))
        return twin

    def copy(self) -> ReadingList:
        twin = ReadingList.__new__(ReadingList)
        twin.store, twin.replay = self.store, self.replay
        twin.times_read, twin.pools = self.times_read.copy(), list(self.pools)
        return twin

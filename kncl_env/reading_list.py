"""What is read in a step: new windows of the retrieved passages, and replay of earlier ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train_lm.windows import TokenStore, draw_least_read

Ints = NDArray[np.int64]


class ReadingList:
    """Draws each step's windows and remembers what was read.

    Args:
        store: Windows; documents are passages.
        replay: Share of an expansion's windows that replays passages of earlier expansions.
    """

    def __init__(self, store: TokenStore, replay: float) -> None:
        assert 0 <= replay < 1, replay
        self.store = store
        self.replay = replay
        self.times_read = np.zeros(len(store), dtype=np.int32)  # (W,)
        self.pools: list[Ints] = []  # windows of each expansion so far

    def expand(self, passages: Ints, n: int, rng: np.random.Generator) -> Ints:
        """n shuffled windows: new ones of the passages, and replay of earlier expansions.

        Passages too short for a window of their own are read with their predecessor.
        """
        pool = self.store.windows_of(passages)
        n_replay = round(self.replay * n) if self.pools else 0
        fresh = draw_least_read(pool, self.times_read, n - n_replay, rng)
        old = self._replayed(n_replay, rng)
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
        # An expansion first, then one of its windows: each expansion is rehearsed alike, however
        # many passages it brought.
        which = rng.integers(len(self.pools), size=n) if n else np.zeros(0, dtype=np.int64)
        place = rng.integers(np.array([len(pool) for pool in self.pools], dtype=np.int64)[which])
        chosen = [self.pools[i][k] for i, k in zip(which.tolist(), place.tolist(), strict=True)]
        drawn = np.array(chosen, dtype=np.int64)
        np.add.at(self.times_read, drawn, 1)
        return drawn

    def copy(self) -> ReadingList:
        twin = ReadingList.__new__(ReadingList)
        twin.store, twin.replay = self.store, self.replay
        twin.times_read, twin.pools = self.times_read.copy(), list(self.pools)
        return twin

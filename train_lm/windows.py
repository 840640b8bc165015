"""Token windows: the unit that a learner reads, drawn from a memory-mapped store.

The store knows windows by number. Which windows belong together is the caller's business.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class TokenStore:
    """Windows of `context + 1` tokens over segments of running text.

    A segment of n tokens has `(n - 1) // context` windows; consecutive windows share one token, so
    that no token is predicted twice; the tail that fills no window is left out. A window belongs to
    the document in which it begins and may run on into the next one of its segment, but never into
    another segment: segments are what keeps splits apart.

    Args:
        tokens: (M,) token ids of 16 or 32 bits, memory-mapped or in memory.
        starts: (P + 1,) where each document begins; the last entry is M.
        segment_of: (P,) segment number of each document, ascending.
        context: Tokens T that a window predicts.
    """

    def __init__(
        self,
        tokens: NDArray[np.unsignedinteger[Any]],
        starts: Ints,
        segment_of: Ints,
        context: int,
    ) -> None:
        if len(tokens) < context + 1:
            raise ValueError(
                f"expected at least {context + 1} tokens for one window, got {len(tokens)}: "
                "the corpus is too small for this context"
            )
        if starts[-1] != len(tokens):
            raise ValueError(
                f"expected {starts[-1]} tokens by the document table, got {len(tokens)}: "
                "the token file is truncated or of another world"
            )
        self.tokens = tokens
        self.context = context
        first = np.flatnonzero(np.diff(segment_of, prepend=-1))  # first document of each segment
        begin_of = np.asarray(starts)[first]
        lengths = np.diff(np.append(begin_of, len(tokens)))
        counts = np.maximum(0, (lengths - 1) // context)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self.window_start = np.repeat(begin_of, counts) + within * context  # (W,)
        self.first_window = np.searchsorted(self.window_start, starts)  # (P + 1,)
        self.document = np.searchsorted(starts, self.window_start, side="right") - 1  # (W,)

    def __len__(self) -> int:
        return len(self.window_start)

    def windows_of(self, documents: Ints) -> Ints:
        """Numbers of all windows of the given documents, in their order."""
        documents = np.asarray(documents, dtype=np.int64)
        first = self.first_window[documents]
        counts = self.first_window[documents + 1] - first
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(first, counts) + offset

    def read(self, windows: Ints) -> Ints:
        """(n, T + 1) token ids of the windows."""
        position = self.window_start[windows][:, None] + np.arange(self.context + 1)
        return self.tokens[position].astype(np.int64)


def draw_least_read(
    pool: Ints, times_read: NDArray[np.int32], n: int, rng: np.random.Generator
) -> Ints:
    """Draw n windows, those read least often first, ties at random; counts them as read.

    Nothing is repeated before everything in the pool was read once: consume-once, with a stated
    rule for what happens when a pool is exhausted. `times_read` (W,) is updated in place.

    Raises:
        ValueError: The pool is empty.
    """
    if not len(pool):
        raise ValueError(
            "expected passages that hold at least one window, got none: raise the breadth of "
            "retrieval, or lower the context"
        )
    drawn: list[Ints] = []
    missing = n
    while missing > 0:
        shuffled = rng.permutation(pool)
        read = times_read[shuffled]
        order = np.flatnonzero(read == read.min())[:missing]
        if len(order) < missing:  # else nothing has to be sorted, and pools can be large
            order = np.argsort(read, kind="stable")[:missing]
        chosen = shuffled[order]
        times_read[chosen] += 1
        drawn.append(chosen)
        missing -= len(chosen)
    return np.concatenate(drawn)

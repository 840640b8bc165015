"""What keeps earlier text alive while a step reads new text: one protocol, chosen by name.

    none     nothing: an expansion reads new windows alone
    replay   a share of its windows is old text; which old text, is a choice of its own:
               expansions  an earlier expansion by lot, then one of its windows (the nucleus phase
                           is not among them)
               solid       a solid topic by lot, one of the nucleus or an expanded one, then one of
                           its windows
               reservoir   a window by lot of a buffer that is at all times an even sample of
                           everything read so far, the nucleus phase included
               loss        four times as many as needed are drawn as by `solid`; those that the
                           learner loses most on are read
    self     the learner writes the old text itself (`WorldLearner.train` does), so none is kept
    ewc      nothing is read again; the learner's weights are held (`Stage.learner` sees to it)

A memory knows what was read and who is solid. It trains nothing and keeps no state: what it needs
is in the episode, so a copy of the episode is a copy of its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.settings import MemorySettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

OWN = -1  # in the place of a window's number: text that the learner writes itself

# Candidates of `loss` for each window that is read: measuring them costs a third of training each.
CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class Past:
    """What there is of old text when a step begins.

    Attributes:
        pools: Windows of each expansion so far, in order.
        solid: Windows of each solid topic, those of the nucleus first; asked for when needed.
        read: (W,) whether a window was read before, in the nucleus phase or since.
        losses: (n,) the learner's loss on each of (n,) windows [bits per byte].
        lot: A number of the episode's own.
    """

    pools: Sequence[Ints]
    solid: Callable[[], Sequence[Ints]]
    read: NDArray[np.bool_]
    losses: Callable[[Ints], Floats]
    lot: int


class Memory(Protocol):
    """Finds the old text of an expansion."""

    def begun(self, past: Past) -> bool:
        """Whether there is old text yet."""

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        """(n,) windows of old text; `OWN` where the learner writes it."""


class Nothing:
    """No old text at all."""

    def begun(self, past: Past) -> bool:
        return False

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        raise AssertionError("there is nothing to recall")


class Expansions:
    """An earlier expansion first, then one of its windows: each expansion is rehearsed alike,
    however many passages it brought."""

    def begun(self, past: Past) -> bool:
        return len(past.pools) > 0

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        return by_lot(past.pools, n, rng)


class Solid:
    """A solid topic first, then one of its windows."""

    def begun(self, past: Past) -> bool:
        return len(past.solid()) > 0

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        return by_lot(past.solid(), n, rng)


class Hardest:
    """Of windows as `Solid` draws them, those with the highest loss.

    Junk has a high loss, too, and no replay lowers it: this choice is for text that can be learned.
    """

    def begun(self, past: Past) -> bool:
        return len(past.solid()) > 0

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        drawn = by_lot(past.solid(), CANDIDATES * n, rng)
        return drawn[np.argsort(-past.losses(drawn), kind="stable")[:n]]


@dataclass(frozen=True)
class Reservoir:
    """A bounded buffer that is an even sample of the windows read so far.

    Each window has a lot of its own in an episode; the buffer holds those with the lowest lots
    among the windows read (bottom-k sampling, Cohen & Kaplan 2007). That is what reservoir sampling
    (Vitter 1985) keeps, without a state: who reads on needs no window that is not in it.

    Attributes:
        size: Windows that it keeps.
    """

    size: int

    def begun(self, past: Past) -> bool:
        return bool(past.read.any())

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        kept = self.kept(past)
        return kept[rng.integers(len(kept), size=n)]

    def kept(self, past: Past) -> Ints:
        """(size,) windows in the buffer, ascending; fewer before so many were read."""
        read = np.flatnonzero(past.read)
        if len(read) <= self.size:
            return read
        lots = lots_of(read, past.lot)
        return np.sort(read[np.argpartition(lots, self.size)[: self.size]])


class OwnText:
    """The learner writes it: what it knows of old text is all that is needed to keep it."""

    def begun(self, past: Past) -> bool:
        return True

    def recall(self, past: Past, n: int, rng: np.random.Generator) -> Ints:
        return np.full(n, OWN, dtype=np.int64)


def memory_of(settings: MemorySettings) -> Memory:
    """The memory of a name."""
    if settings.rule == "self":
        return OwnText()
    if settings.rule != "replay":
        return Nothing()
    choices: dict[str, Memory] = {
        "expansions": Expansions(),
        "solid": Solid(),
        "reservoir": Reservoir(settings.buffer),
        "loss": Hardest(),
    }
    return choices[settings.choice]


def stored(windows: Ints) -> Ints:
    """Those of (n,) windows that are of the store, without text that the learner wrote itself."""
    return windows[windows != OWN]


def by_lot(pools: Sequence[Ints], n: int, rng: np.random.Generator) -> Ints:
    """(n,) windows, each of an evenly drawn pool, there by lot; none of the pools is empty."""
    which = rng.integers(len(pools), size=n)
    place = rng.integers(np.array([len(pool) for pool in pools], dtype=np.int64)[which])
    chosen = [pools[i][k] for i, k in zip(which.tolist(), place.tolist(), strict=True)]
    return np.array(chosen, dtype=np.int64)


def lots_of(windows: Ints, salt: int) -> NDArray[np.uint64]:
    """A number for each window that looks drawn by lot: splitmix64 (Steele et al. 2014)."""
    x = windows.astype(np.uint64) + np.uint64(salt % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(x ^ (x >> np.uint64(31)))

"""The table: a tree of everything that can be done in an episode, and what came of it.

A node is a state: what was read, in order, since the episode began. It is known by a digest of the
windows that were read, so that a learner who reads them finds it. Losses are whole numbers of
`UNIT` bits per byte: what a table says is what an episode in it is paid, to the last digit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import load_arrays
from train_lm.files import replacing
from train_lm.inputs import note_file

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNIT = 1e-4  # [bits per byte]
UNKNOWN = 2**16 - 1  # in the place of a probe that a topic has none of
ROOT_KEY = 0

SHIPPED = Path(__file__).with_name("table.npz")


def key_after(key: int, windows: Ints) -> int:
    """The key of the state after reading windows in the state of another key."""
    text = key.to_bytes(8, "little") + np.ascontiguousarray(windows, dtype="<i8").tobytes()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


@dataclass(frozen=True, eq=False)
class Table:
    """M states of all episodes, a parent before its children.

    Attributes:
        recipe: Digest of the recipe that it was measured by.
        reducible: Reducible loss that rewards are shares of [bits per byte].
        times_read: (W,) how often the nucleus phase read each window.
        key: (M,) of each state; the first is the root of all draws, where nothing was read yet.
        parent: (M,) number of the state before; -1 of the root.
        action: (M,) that led here: a slot, or the number of slots where the nucleus was rehearsed.
        topic: (M,) that was expanded; -1 of none.
        draw: (M,) episode that it is of; -1 of the root.
        loss: (M,) held-out loss [UNIT].
        probe: (M, N) loss of each topic [UNIT]; `UNKNOWN` where it has none.

    Raises:
        ValueError: The arrays are of no tree.
    """

    recipe: str
    reducible: float
    times_read: NDArray[np.int32]
    key: NDArray[np.uint64]
    parent: NDArray[np.int32]
    action: NDArray[np.int8]
    topic: NDArray[np.int16]
    draw: NDArray[np.int8]
    loss: NDArray[np.uint16]
    probe: NDArray[np.uint16]

    def __post_init__(self) -> None:
        m = len(self.key)
        others = (self.parent, self.action, self.topic, self.draw, self.loss, self.probe)
        if m < 2 or any(len(own) != m for own in others):
            raise ValueError(f"expected arrays of one length, 2 or more, got {m} keys and others")
        if (
            self.parent[0] != -1
            or not ((self.parent[1:] >= 0) & (self.parent[1:] < np.arange(1, m))).all()
        ):
            raise ValueError("expected every state after the one that it came from, got another")
        root = self.parent[1:] == 0
        kept = self.draw[1:] == self.draw[self.parent[1:]]
        if not (self.draw[1:] >= 0).all() or not (root | kept).all():
            raise ValueError("expected every state in the draw of the one before, got another")
        if len(np.unique(self.key)) < m:
            raise ValueError("expected every state once, got a key twice")
        if not (np.isfinite(self.reducible) and self.reducible > 0):
            raise ValueError(f"expected a reducible loss above 0, got {self.reducible}")

    def __len__(self) -> int:
        return len(self.key)

    @cached_property
    def row_of(self) -> dict[int, int]:
        """Number of the state of each key."""
        return {int(key): row for row, key in enumerate(self.key)}

    @cached_property
    def depth(self) -> Ints:
        """(M,) steps since the episode began."""
        found = np.zeros(len(self), dtype=np.int64)
        for row in range(1, len(self)):
            found[row] = found[self.parent[row]] + 1
        return found

    @cached_property
    def is_leaf(self) -> NDArray[np.bool_]:
        """(M,) whether the episode is over."""
        found = np.ones(len(self), dtype=bool)
        found[self.parent[1:]] = False
        return found

    @cached_property
    def value(self) -> Floats:
        """(M,) what can be had from each state on, at best [share of the reducible loss].

        Dynamic programming from the leaves to the root (Bellman 1957). Of the root it is the best
        of all draws; `optimum` tells them apart.
        """
        least = np.where(self.is_leaf, self.loss, np.iinfo(np.int64).max).astype(np.int64)
        for row in range(len(self) - 1, 0, -1):
            parent = self.parent[row]
            least[parent] = min(least[parent], least[row])
        return np.asarray((self.loss.astype(np.int64) - least) * UNIT / self.reducible)

    def children(self, row: int, draw: int) -> Ints:
        """States that one action leads to, in a draw."""
        return np.flatnonzero((self.parent == row) & (self.draw == draw))

    def gain(self, row: int) -> float:
        """Reward of the action that led to a state [share of the reducible loss]."""
        before, after = int(self.loss[self.parent[row]]), int(self.loss[row])
        return (before - after) * UNIT / self.reducible

    def optimum(self, draw: int) -> float:
        """Return of the best episode of a draw [share of the reducible loss]."""
        return max(self.gain(int(row)) + self.value[row] for row in self.children(0, draw))

    def regret(self, row: int) -> float:
        """What the action that led to a state has cost: 0 where it was a best one.

        The regrets of an episode's actions add up to `optimum` minus its return.
        """
        parent, draw = int(self.parent[row]), int(self.draw[row])
        best = self.optimum(draw) if parent == 0 else float(self.value[parent])
        return best - self.gain(row) - float(self.value[row])

    @property
    def draws(self) -> int:
        return int(self.draw.max()) + 1

    def write(self, file: Path) -> None:
        """The same bytes for the same table."""
        arrays = {name: np.asarray(value) for name, value in vars(self).items() if name in FIELDS}
        with replacing(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


FIELDS = {
    "recipe": ("U", ()),
    "reducible": ("f", ()),
    "times_read": ("i", (None,)),
    "key": ("u", (None,)),
    "parent": ("i", (None,)),
    "action": ("i", (None,)),
    "topic": ("i", (None,)),
    "draw": ("i", (None,)),
    "loss": ("u", (None,)),
    "probe": ("u", (None, None)),
}


def load_table(file: Path = SHIPPED) -> Table:
    """A table; one that is not ours is named with its digest.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged, or no table.
    """
    advice = "make it again with `kncl-env tabulate`"
    found = load_arrays(file, FIELDS, advice)
    whole = {name: value for name, value in found.items() if name not in ("recipe", "reducible")}
    try:
        table = Table(recipe=str(found["recipe"]), reducible=float(found["reducible"]), **whole)
    except ValueError as error:
        raise ValueError(f"{file}: {error}: {advice}") from None
    if file != SHIPPED:
        note_file(file, f"a table of {len(table):,} states")
    return table

"""The proof that no held-out passage shares a run of words with another split; exact, and bounded.

Runs of words are compared by their 64-bit hashes. Those of the held-out passages go to rooms by
their first bits, each on disk once it is large. Of the training text's runs only those stay that a
filter of bits lets through: a bit is set wherever a held-out run may be, so that nothing is missed.
Then each room is compared by itself. Memory grows by some bytes for each held-out passage, and the
filter by two for each of their runs, up to 512 MiB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.cut import together
from kncl_env.world.scripts import OVERLAP_CHARACTERS, OVERLAP_WORDS, all_runs, word_runs
from kncl_env.world.splits import SPLITS, Passage
from train_lm.crew.hands import ALONE, Hands
from train_lm.token_files import TRAIN

Hashes = NDArray[np.uint64]
# Runs of some passages, one after another, and how many each has.
Hashed: TypeAlias = tuple[Hashes, NDArray[np.int32]]

ROOM_BITS = 6
ROOM = 2**20  # [bytes] of a room that stay in memory
PASSAGES, CHARACTERS = 2**14, 2**21  # of a block, whose runs are hashed together, at most and about
BITS_PER_RUN = 16  # of the filter: one training run in 16 passes it for nothing
MOST_BITS = 2**32  # [bits] of the filter: 512 MiB
OWNED = np.dtype([("run", "<u8"), ("owner", "<u4")])
SHARES = "shares a run"  # begins what is said of a passage that another split gives away

# How to read the texts of some passages, in order; asked for once for each kind of split.
Texts = Callable[[NDArray[np.int64]], Iterable[str]]


def unproved(passages: Sequence[Passage], scratch: Path | None = None) -> list[tuple[int, str]]:
    """As `unproved_of`, of passages in memory."""
    split = np.array([SPLITS.index(p.split) for p in passages], dtype=np.int8)
    return list(unproved_of(split, lambda rows: (passages[i].text for i in rows), scratch))


def copies_of(
    wanted: NDArray[np.int64],
    others: NDArray[np.int64],
    texts: Texts,
    scratch: Path | None = None,
    hands: Hands = ALONE,
) -> NDArray[np.int64]:
    """Those of the other passages that share a run of words with any of the wanted ones, ascending.

    Args:
        wanted, others: Numbers of passages, ascending.
        texts: Reads passages by their ascending numbers.
        scratch: Where files without a name may stand; the system's place for such, if None.
        hands: Who hashes the words.
    """
    copies = np.zeros(len(others), dtype=bool)
    with _Rooms(np.dtype("<u8"), scratch) as known, _Rooms(OWNED, scratch) as found:
        for runs, _ in _hashed(_word_runs, texts(wanted), hands):
            known.add(runs)
        sieve, first = _sieve(known), 0
        for runs, counts in _hashed(_all_runs, texts(others), hands):
            passes = _passes(sieve, runs)
            owner = np.repeat(np.arange(first, first + len(counts)), counts)[passes]
            owned = np.empty(len(owner), dtype=OWNED)
            owned["run"], owned["owner"] = runs[passes], owner
            found.add(owned)
            first += len(counts)
        del sieve
        for room in range(1 << ROOM_BITS):
            own = found.read(room)
            copies[own["owner"][np.isin(own["run"], known.read(room))]] = True
    return others[copies]


def unproved_of(
    split: NDArray[np.integer],
    texts: Texts,
    scratch: Path | None = None,
    hands: Hands = ALONE,
) -> Iterator[tuple[int, str]]:
    """Held-out passages that share a run of words with another split, or are too short to tell.

    Args:
        split: (P,) index into `SPLITS` of each passage.
        texts: Reads passages by their ascending numbers.
        scratch: Where files without a name may stand; the system's place for such, if None.
        hands: Who hashes the words.

    Yields:
        `(number of the held-out passage, what is wrong with it)`, ascending by number.
    """
    held_out = np.flatnonzero(split != TRAIN)
    splits = np.asarray(split)[held_out].astype(np.uint8)
    with _Rooms(OWNED, scratch) as wanted, _Rooms(np.dtype("<u8"), scratch) as trained:
        lengths = _spool_held_out(_hashed(_word_runs, texts(held_out), hands), wanted)
        sieve = _sieve(wanted)
        for runs, _ in _hashed(_all_runs, texts(np.flatnonzero(split == TRAIN)), hands):
            trained.add(runs[_passes(sieve, runs)])
        del sieve
        shared = np.zeros(len(held_out), dtype=np.uint8)
        for room in range(1 << ROOM_BITS):
            _compare(wanted.read(room), trained.read(room), splits, shared)
    for row, passage in enumerate(held_out.tolist()):
        if not lengths[row]:
            yield (
                passage,
                f"has fewer than {OVERLAP_WORDS} words to compare, or {OVERLAP_CHARACTERS} "
                "characters of a script without spaces, or none that can be told apart",
            )
        elif shared[row]:
            first = next(name for i, name in enumerate(SPLITS) if shared[row] >> i & 1)
            yield passage, f"{SHARES} of {OVERLAP_WORDS} words with {first}"


def _spool_held_out(hashed: Iterable[Hashed], wanted: _Rooms) -> NDArray[np.int32]:
    """(n,) number of runs of each held-out passage, whose runs go into their rooms."""
    lengths: list[NDArray[np.int32]] = [np.zeros(0, dtype=np.int32)]
    first = 0
    for runs, counts in hashed:
        owned = np.empty(len(runs), dtype=OWNED)
        owned["run"] = runs
        owned["owner"] = np.repeat(np.arange(first, first + len(counts)), counts)
        wanted.add(owned)
        lengths.append(counts)
        first += len(counts)
    return np.concatenate(lengths)


def _hashed(
    play: Callable[[list[str]], Hashed], texts: Iterable[str], hands: Hands
) -> Iterator[Hashed]:
    """Runs of a block of passages after another, and how many each has."""
    return hands.in_order(together(texts, PASSAGES, CHARACTERS), play)


def _word_runs(texts: list[str]) -> Hashed:
    return _joined(map(word_runs, texts))


def _all_runs(texts: list[str]) -> Hashed:
    return _joined(map(all_runs, texts))


def _joined(runs_of: Iterable[Hashes]) -> Hashed:
    runs = [*runs_of]
    return np.concatenate(runs), np.array([len(r) for r in runs], dtype=np.int32)


class _Rooms:
    """Runs by their first bits, as files without a name that begin in memory."""

    def __init__(self, kind: np.dtype[Any], scratch: Path | None) -> None:
        self.kind, self.rows = kind, 0
        place = None if scratch is None else str(scratch)
        self._files: list[IO[bytes]] = [
            tempfile.SpooledTemporaryFile(ROOM, dir=place)  # noqa: SIM115, closed with the rooms
            for _ in range(1 << ROOM_BITS)
        ]

    def __enter__(self) -> _Rooms:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, rows: NDArray[Any]) -> None:
        runs = _runs_in(rows)
        room = (runs >> np.uint64(64 - ROOM_BITS)).astype(np.int64)
        rows = rows[np.argsort(room, kind="stable")]
        ends = np.cumsum(np.bincount(room, minlength=len(self._files)))
        for file, part in zip(self._files, np.split(rows, ends[:-1]), strict=True):
            if len(part):
                file.write(part.tobytes())
        self.rows += len(rows)

    def read(self, room: int) -> NDArray[Any]:
        file = self._files[room]
        file.seek(0)
        return np.frombuffer(file.read(), dtype=self.kind)


def _runs_in(rows: NDArray[Any]) -> Hashes:
    """Runs of rows with or without owners."""
    return rows["run"] if rows.dtype.names else rows


def _sieve(wanted: _Rooms) -> NDArray[np.uint8]:
    """A row of bits, set where the hash of a held-out run points to."""
    size = 2**16
    while size < min(MOST_BITS, BITS_PER_RUN * wanted.rows):
        size *= 2
    sieve = np.zeros(size // 8, dtype=np.uint8)
    for room in range(1 << ROOM_BITS):
        byte, bit = _bit_of(_runs_in(wanted.read(room)), size)
        np.bitwise_or.at(sieve, byte, bit)
    return sieve


def _passes(sieve: NDArray[np.uint8], runs: Hashes) -> NDArray[np.bool_]:
    byte, bit = _bit_of(runs, 8 * len(sieve))
    return np.asarray(sieve[byte] & bit) != 0


def _bit_of(runs: Hashes, size: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    # The lowest bits of a product are the worst mixed ones: the sum takes in higher ones.
    place = (runs ^ (runs >> np.uint64(29))) & np.uint64(size - 1)
    bit = np.left_shift(1, (place & np.uint64(7)).astype(np.uint8)).astype(np.uint8)
    return (place >> np.uint64(3)).astype(np.int64), bit


def _compare(
    held_out: NDArray[Any],
    trained: Hashes,
    splits: NDArray[np.uint8],
    shared: NDArray[np.uint8],
) -> None:
    """Set the bit of every other split that has a run of a held-out passage, in one room.

    Args:
        splits: (n,) split of each held-out passage.
        shared: (n,) bits of the splits found so far; changed in place.
    """
    if not len(held_out):
        return
    known, which = np.unique(held_out["run"], return_inverse=True)
    owner = held_out["owner"]
    own = splits[owner]
    seen = np.zeros(len(known), dtype=np.uint8)
    place = np.minimum(np.searchsorted(known, trained), len(known) - 1)
    seen[place[known[place] == trained]] = 1 << TRAIN
    for split in range(len(SPLITS)):
        seen[which[own == split]] |= np.uint8(1 << split)
    found = seen[which]
    for split in range(len(SPLITS)):
        others = owner[(found >> split & 1).astype(bool) & (own != split)]
        shared[others] |= np.uint8(1 << split)

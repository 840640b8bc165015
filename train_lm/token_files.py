"""Token files: the ids of all documents of a folder, one after another, and where each begins.

    tokens.npy   (M,) ids, of an unsigned type wide enough for the vocabulary
    starts.npy   (P + 1,) where each document begins; the last entry is M

No other file knows this format, nor the number of the training split. Files are written document by
document and read by memory map, so that neither needs the text in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import load_array
from train_lm.checked.rows import write_header

Ids = NDArray[np.unsignedinteger[Any]]
Ints = NDArray[np.int64]

TOKENS = "tokens.npy"
STARTS = "starts.npy"

BLOCK = 2**22  # [ids] that are looked at together

TRAIN = 0  # what a table of documents calls the training split; all above is held out


@dataclass(frozen=True)
class TokenFiles:
    """Tokens of P documents.

    Attributes:
        tokens: (M,) token ids, memory-mapped or in memory.
        starts: (P + 1,) where each document begins; the last entry is M.
    """

    tokens: Ids
    starts: Ints

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or self.tokens.dtype.kind != "u":
            raise ValueError(
                f"expected token ids as one row of unsigned integers, got {self.tokens.dtype} of "
                f"shape {self.tokens.shape}"
            )
        if self.starts.ndim != 1 or not len(self.starts) or self.starts[0] != 0:
            raise ValueError("expected a table of documents that begins with 0, got another")
        if self.starts[-1] != len(self.tokens):
            raise ValueError(
                f"expected {self.starts[-1]} tokens by the table of documents, got "
                f"{len(self.tokens)}"
            )
        # In order, so no document can reach beyond the tokens that there are.
        if (self.starts[1:] < self.starts[:-1]).any():
            at = int(np.flatnonzero(self.starts[1:] < self.starts[:-1])[0])
            raise ValueError(
                f"expected documents one after another, got one that begins at {self.starts[at]} "
                f"and ends at {self.starts[at + 1]}"
            )

    @classmethod
    def open(cls, folder: Path) -> TokenFiles:
        """Open the files of a folder; ids stay on disk until they are asked for.

        Raises:
            ValueError: A file is missing or damaged, or the two do not fit together.
        """
        for name in (TOKENS, STARTS):
            if not (folder / name).is_file():
                raise ValueError(f"expected {name} in {folder}, found none: rebuild it")
        # Only ids are many.
        tokens = load_array(folder / TOKENS, "u", (None,), mmap=True, advice="rebuild it")
        starts = load_array(folder / STARTS, "iu", (None,), advice="rebuild it")
        try:
            return cls(tokens, np.asarray(starts, dtype=np.int64))
        except ValueError as error:
            raise ValueError(
                f"expected whole token files in {folder}: {error}: rebuild it"
            ) from None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """(P,) tokens of each document."""
        return np.diff(self.starts)

    def largest(self) -> int:
        """The largest id, -1 where there is none; read by blocks, so that none of it stays."""
        blocks = range(0, len(self.tokens), BLOCK)
        return max((int(self._block(i).max()) for i in blocks), default=-1)

    def _block(self, i: int) -> Ids:
        found = self.tokens
        if not isinstance(found, np.memmap) or found.filename is None:
            return found[i : i + BLOCK]
        n = min(BLOCK, len(found) - i)
        at = found.offset + i * found.itemsize
        block: Any = np.fromfile(found.filename, found.dtype, n, offset=at)
        return block

    def of(self, documents: Ints) -> TokenFiles:
        """The given documents alone, in their order; a copy in memory."""
        lengths = self.lengths[documents]
        starts = _starts(lengths)
        shift = np.repeat(self.starts[documents] - starts[:-1], lengths)
        return TokenFiles(self.tokens[np.arange(starts[-1]) + shift], starts)

    def save(self, folder: Path) -> None:
        np.save(folder / TOKENS, self.tokens)
        np.save(folder / STARTS, self.starts)


class TokenWriter:
    """Writes token files document by document; they are whole once its context ends without error.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lengths = array("q")
        self._type: np.dtype[Any] | None = None

    def __enter__(self) -> TokenWriter:
        self._stream = (self.folder / TOKENS).open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stream:
            if kind is None:
                # The header was written with room for any number of tokens.
                self._stream.seek(0)
                self._write_header()
        if kind is None:
            np.save(self.folder / STARTS, _starts(self._lengths))

    def append(self, documents: Iterable[Ids]) -> None:
        """Add documents after those before, all of one type of ids.

        Raises:
            ValueError: Ids of another type than before.
        """
        for ids in documents:
            self.append_all(ids, [len(ids)])

    def append_all(self, ids: Ids, lengths: Iterable[int]) -> None:
        """Add documents that stand one after another already.

        Raises:
            ValueError: As of `append`.
        """
        if self._type is None:
            self._type = ids.dtype
            self._write_header()
        if ids.dtype != self._type:
            raise ValueError(
                f"expected ids of type {self._type}, as before, got {ids.dtype}: one "
                "tokenizer has one type"
            )
        self._stream.write(np.ascontiguousarray(ids).tobytes())
        self._lengths.extend(lengths)

    def _write_header(self) -> None:
        shown = np.dtype(np.uint16) if self._type is None else self._type
        write_header(self._stream, shown, (sum(self._lengths),))


def _starts(lengths: Ints | array[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)

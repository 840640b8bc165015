"""Arrays of a `.npy` file that never stand in memory: written by blocks of rows, and read so.

A memory map would do for reading, but its pages count as memory of the process that read them;
where a whole file is gone through, blocks are as fast and cost nothing that stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

ROWS = 2**14  # of a block


def write_header(stream: IO[bytes], kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """The head of a `.npy` file, with room for any number of rows to be written over it later."""
    head = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, head)


class RowWriter:
    """Writes an array by blocks of rows; it is whole once its context ends without error.

    The bytes are those of `np.save`.

    Args:
        file: Where it goes.
        width: Numbers in each row.
        kind: Of the numbers.
    """

    def __init__(self, file: Path, width: int, kind: type[np.generic] = np.float32) -> None:
        self.file, self.width, self.kind = file, width, np.dtype(kind)
        self.rows = 0

    def __enter__(self) -> RowWriter:
        self._stream = self.file.open("wb")
        self._write_header()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stream:
            if kind is None:
                self._stream.seek(0)
                self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        """Add (n, width) rows after those before."""
        assert rows.shape[1:] == (self.width,), rows.shape
        self._stream.write(np.ascontiguousarray(rows, dtype=self.kind).tobytes())
        self.rows += len(rows)

    def _write_header(self) -> None:
        write_header(self._stream, self.kind, (self.rows, self.width))


class RowFile:
    """The rows of an array in a file that this process wrote; each look reads what it asks for.

    Attributes:
        shape: (n, width).
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with file.open("rb") as stream:
            npy.read_magic(stream)
            shape, _, self.kind = npy.read_array_header_1_0(stream)
            self._first = stream.tell()
        self.shape: tuple[int, int] = (shape[0], math.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        low, high, _ = rows.indices(len(self))
        n, width = max(0, high - low), self.shape[1]
        first = self._first + low * width * self.kind.itemsize
        found = np.fromfile(self.file, self.kind, n * width, offset=first)
        return found.reshape(n, width)

    def blocks(self, size: int = ROWS) -> Iterator[tuple[int, NDArray[Any]]]:
        """The first row's number and the rows of one block after another."""
        for low in range(0, len(self), size):
            yield low, self[low : low + size]

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows of these numbers, which ascend."""
        found = np.empty((len(rows), self.shape[1]), dtype=self.kind)
        for low, block in self.blocks():
            first, last = np.searchsorted(rows, [low, low + len(block)])
            found[first:last] = block[rows[first:last] - low]
        return found

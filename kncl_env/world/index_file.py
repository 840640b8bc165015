"""A faiss file read by hand before faiss reads it: faiss trusts numbers that it finds there.

A wrong count makes it take any amount of memory, write past the end of a list, or end the process.
Three kinds of index are known, those that `index.py` writes or once wrote; every byte of them is
accounted for. The layout is that of faiss' `impl/index_write.cpp`: numbers are little-endian, a
vector of numbers begins with its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT, INVERTED, INVERTED_BYTES = b"IxFI", b"IwFl", b"IwSq"
ONE_BYTE = 0  # faiss' number of the form that stores a byte for each number
BLOCK = 2**16  # [numbers] that are looked at together: they fit a cache of the processor
LISTS, ALL_LISTS = b"ilar", b"full"
INNER_PRODUCT = 0


@dataclass(frozen=True)
class IndexFile:
    """What a sound file holds.

    Attributes:
        dimensions: D of every vector.
        vectors: Their number n.
    """

    dimensions: int
    vectors: int


def check_index_file(file: Path, every_byte: bool = True) -> IndexFile:
    """Account for every byte of an index, block by block: none of it stays in memory.

    Args:
        every_byte: If not, only its head is read.

    Raises:
        ValueError: It is of another kind, cut short or too long; or its numbers, rows or vectors
            are not such as can be searched.
    """
    with file.open("rb") as stream:
        reader = _Reader(stream, file.stat().st_size)
        kind = reader.take(4)
        if kind not in (FLAT, INVERTED, INVERTED_BYTES):
            raise ValueError(f"expected a flat or inverted index of vectors, got kind {kind!r}")
        found = _read_header(reader)
        if not every_byte:
            return found
        if kind == FLAT:
            _read_vectors(reader, found)
        else:
            _read_inverted(reader, found, kind)
        if reader.left:
            raise ValueError(f"expected an index of {reader.at:,} bytes, got {reader.size:,}")
    return found


class _Reader:
    """Takes numbers one after another; what is not there is an error, never a guess."""

    def __init__(self, stream: BufferedReader, size: int) -> None:
        self._stream, self.size, self.at = stream, size, 0

    @property
    def left(self) -> int:
        return self.size - self.at

    def take(self, n: int) -> bytes:
        """Raises: ValueError where the file has fewer bytes left; before memory is taken."""
        if n > self.left:
            raise ValueError(f"expected {n:,} more bytes of an index, got {self.left:,}")
        found = self._stream.read(n)
        if len(found) != n:
            raise ValueError(f"expected {n:,} more bytes of an index, got {len(found):,}")
        self.at += n
        return found

    def one(self, kind: str) -> int:
        return int(self.array(kind, 1)[0])

    def array(self, kind: str, n: int) -> NDArray[Any]:
        return np.frombuffer(self.take(n * np.dtype(kind).itemsize), dtype=kind)

    def check_finite(self, kind: str, n: int) -> None:
        """Pass n numbers. Raises: ValueError where one is not finite, or missing."""
        size = n * np.dtype(kind).itemsize
        if size > self.left:
            raise ValueError(f"expected {size:,} more bytes of an index, got {self.left:,}")
        block = np.empty(min(BLOCK, n), dtype=kind)
        for first in range(0, n, BLOCK):
            part = block[: min(BLOCK, n - first)]
            if self._stream.readinto(part.data.cast("B")) != part.nbytes:
                raise ValueError(f"expected {size:,} more bytes of an index, got fewer")
            self.at += part.nbytes
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise ValueError("expected finite vectors, got infinite or no numbers")


def _read_header(reader: _Reader) -> IndexFile:
    dimensions, vectors = reader.one("<i4"), reader.one("<i8")
    reader.take(16)  # two numbers that faiss writes and skips
    trained, metric = reader.one("u1"), reader.one("<i4")
    if dimensions < 1 or vectors < 0:
        raise ValueError(f"expected vectors of some dimensions, got {vectors} of {dimensions}")
    if trained != 1 or metric != INNER_PRODUCT:
        raise ValueError(
            f"expected a trained index by inner product, got trained {trained}, metric {metric}"
        )
    return IndexFile(dimensions, vectors)


def _read_vectors(reader: _Reader, index: IndexFile) -> None:
    numbers = reader.one("<u8")
    if numbers != index.vectors * index.dimensions:
        raise ValueError(
            f"expected {index.vectors} vectors of {index.dimensions} numbers, got {numbers} numbers"
        )
    reader.check_finite("<f4", numbers)


def _read_inverted(reader: _Reader, index: IndexFile, of: bytes) -> None:
    cells, probed = reader.one("<u8"), reader.one("<u8")
    kind = reader.take(4)
    if kind != FLAT:
        raise ValueError(f"expected a flat index of cells, got kind {kind!r}")
    centres = _read_header(reader)
    if (centres.dimensions, centres.vectors) != (index.dimensions, cells) or not probed:
        raise ValueError(
            f"expected {cells} cells of {index.dimensions} dimensions, got {centres.vectors} of "
            f"{centres.dimensions}, {probed} of them probed"
        )
    _read_vectors(reader, centres)
    if (direct := reader.one("u1"), reader.one("<u8")) != (0, 0):
        raise ValueError(f"expected an index without a map of its rows, got map {direct}")
    if of == INVERTED_BYTES:
        _read_form(reader, index)
    _read_lists(reader, index, cells, "u1" if of == INVERTED_BYTES else "<f4")


def _read_form(reader: _Reader, index: IndexFile) -> None:
    """How vectors are stored: as differences from their cell's centre, in bytes over a range."""
    kind, ranges = reader.one("<i4"), (reader.one("<i4"), reader.take(4))
    dimensions, code, trained = (reader.one("<u8") for _ in range(3))
    wanted = (ONE_BYTE, index.dimensions, index.dimensions, 2 * index.dimensions)
    if (kind, dimensions, code, trained) != wanted or ranges != (0, bytes(4)):
        raise ValueError(
            f"expected vectors stored as {wanted}, got {(kind, dimensions, code, trained)}"
        )
    reader.check_finite("<f4", trained)
    if (again := reader.one("<u8"), reader.one("u1")) != (index.dimensions, 1):
        raise ValueError(f"expected differences of {index.dimensions} bytes, got {again}")


def _read_lists(reader: _Reader, index: IndexFile, cells: int, number: str) -> None:
    found = (reader.take(4), reader.one("<u8"), reader.one("<u8"), reader.take(4))
    wanted = (LISTS, cells, np.dtype(number).itemsize * index.dimensions, ALL_LISTS)
    if found != wanted or reader.one("<u8") != cells:
        raise ValueError(f"expected a list of vectors for each of {cells} cells, got {found}")
    sizes = reader.array("<u8", cells).tolist()
    seen = np.zeros(min(index.vectors, reader.left), dtype=bool)
    total = 0
    for size in sizes:
        reader.check_finite(number, size * index.dimensions)
        rows = reader.array("<i8", size)
        if size and not 0 <= rows.min() <= rows.max() < len(seen):
            raise ValueError(f"expected rows from 0 to {index.vectors - 1}, got others")
        seen[rows] = True
        total += size
    if total != index.vectors or not seen.all() or len(seen) != index.vectors:
        raise ValueError(f"expected every row of {index.vectors} in one cell, got others")

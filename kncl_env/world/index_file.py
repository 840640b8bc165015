"""A faiss file read by hand before faiss reads it: faiss trusts numbers that it finds there.

A wrong count makes it take any amount of memory, write past the end of a list, or end the process.
Two kinds of index are known, those that `index.py` writes; every byte of them is accounted for. The
layout is that of faiss' `impl/index_write.cpp`: numbers are little-endian, a vector of numbers
begins with its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT, INVERTED = b"IxFI", b"IwFl"
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


def check_index_file(file: Path) -> IndexFile:
    """Account for every byte of an index.

    Raises:
        ValueError: It is of another kind, cut short or too long; or its numbers, rows or vectors
            are not such as can be searched.
    """
    raw = np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.empty(0, "u1")
    reader = _Reader(raw)
    kind = reader.take(4)
    if kind not in (FLAT, INVERTED):
        raise ValueError(f"expected a flat or inverted index of vectors, got kind {kind!r}")
    found = _read_header(reader)
    if kind == FLAT:
        _read_vectors(reader, found)
    else:
        _read_inverted(reader, found)
    if reader.left:
        raise ValueError(f"expected an index of {reader.at:,} bytes, got {len(raw):,}")
    return found


class _Reader:
    """Takes numbers one after another; what is not there is an error, never a guess."""

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        self.raw, self.at = raw, 0

    @property
    def left(self) -> int:
        return len(self.raw) - self.at

    def take(self, n: int) -> bytes:
        return self.array("u1", n).tobytes()

    def one(self, kind: str) -> int:
        return int(self.array(kind, 1)[0])

    def array(self, kind: str, n: int) -> NDArray[Any]:
        size = n * np.dtype(kind).itemsize
        if size > self.left:
            raise ValueError(f"expected {size:,} more bytes of an index, got {self.left:,}")
        part = self.raw[self.at : self.at + size]
        self.at += size
        return np.frombuffer(part, dtype=kind)


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
    _check_finite(reader.array("<f4", numbers))


def _read_inverted(reader: _Reader, index: IndexFile) -> None:
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
    _read_lists(reader, index, cells)


def _read_lists(reader: _Reader, index: IndexFile, cells: int) -> None:
    found = (reader.take(4), reader.one("<u8"), reader.one("<u8"), reader.take(4))
    wanted = (LISTS, cells, 4 * index.dimensions, ALL_LISTS)
    if found != wanted or reader.one("<u8") != cells:
        raise ValueError(f"expected a list of vectors for each of {cells} cells, got {found}")
    sizes = reader.array("<u8", cells).tolist()
    rows = []
    for size in sizes:
        _check_finite(reader.array("<f4", size * index.dimensions))
        rows.append(reader.array("<i8", size))
    every = np.sort(np.concatenate([np.empty(0, np.int64), *rows]))
    if not np.array_equal(every, np.arange(index.vectors)):
        raise ValueError(f"expected every row of {index.vectors} in one cell, got others")


def _check_finite(numbers: NDArray[np.float32]) -> None:
    if not np.isfinite(numbers).all():
        raise ValueError("expected finite vectors, got infinite or no numbers")

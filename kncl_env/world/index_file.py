"""A faiss file read by hand before faiss reads it: faiss trusts numbers that it finds there.

A wrong count makes it take any amount of memory, write past the end of a list, or end the process.
Four kinds of index are known, those that `index.py` writes or once wrote; every byte of them is
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
# Turned vectors; in them short codes in cells, and bytes: read by `_read_turned`.
TURNED, TURN, REFINED, SHORT, BYTES, BLOCKS = b"IxPT", b"rrot", b"IxRF", b"IwPf", b"IxSQ", b"ilbl"
TOGETHER = 32  # [vectors] whose short codes lie in one block
# faiss' numbers of the forms that store a byte, and two (a half float), for each number.
ONE_BYTE, TWO_BYTES = 0, 4
BLOCK = 2**16  # [numbers] that are looked at together: they fit a cache of the processor
LONGEST = 1000  # times what is asked for that a short list holds, at most
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
        if kind not in (FLAT, INVERTED, INVERTED_BYTES, TURNED):
            raise ValueError(f"expected a flat or inverted index of vectors, got kind {kind!r}")
        found = _read_header(reader)
        if not every_byte:
            return found
        if kind == FLAT:
            _read_vectors(reader, found)
        elif kind == TURNED:
            _read_turned(reader, found)
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
    cells = _read_cells(reader, index)
    if of == INVERTED_BYTES:
        _read_form(reader, index)
        if (again := reader.one("<u8"), reader.one("u1")) != (index.dimensions, 1):
            raise ValueError(f"expected differences of {index.dimensions} bytes, got {again}")
    _read_lists(reader, index, cells, "u1" if of == INVERTED_BYTES else "<f4")


def _read_cells(reader: _Reader, index: IndexFile) -> int:
    """Number of the cells of an inverted file."""
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
    return cells


def _read_turned(reader: _Reader, index: IndexFile) -> None:
    """A rotation; what it hands on to, short codes in cells, and longer ones that a list is ranked
    by: of two bytes for each number, in some worlds of before of one."""
    if (turns := reader.one("<i4"), reader.take(4)) != (1, TURN):
        raise ValueError(f"expected one rotation, got {turns}")
    even = index.dimensions + index.dimensions % 2
    inside = IndexFile(even, index.vectors)
    shape = (reader.one("u1"), reader.one("<u8"))
    if shape != (0, even * index.dimensions):
        raise ValueError(f"expected a rotation from {index.dimensions} to {even}, got {shape}")
    reader.check_finite("<f4", even * index.dimensions)
    turn = (reader.one("<u8"), reader.one("<i4"), reader.one("<i4"), reader.one("u1"))
    if turn != (0, index.dimensions, even, 1):
        raise ValueError(f"expected a rotation from {index.dimensions} to {even}, got {turn}")
    for kind in (REFINED, SHORT):
        _check_head(reader, kind, inside)
    _read_short(reader, inside)
    _check_head(reader, BYTES, inside)
    number = _read_form(reader, inside, (ONE_BYTE, TWO_BYTES))
    code = np.dtype(number).itemsize * even
    if (size := reader.one("<u8")) != index.vectors * code:
        raise ValueError(f"expected {index.vectors} vectors of {code} bytes, got {size} bytes")
    reader.check_finite(number, index.vectors * even)
    longer = float(reader.array("<f4", 1)[0])
    if not 1 <= longer <= LONGEST:
        raise ValueError(f"expected a short list of 1 to {LONGEST} times, got {longer}")


def _check_head(reader: _Reader, kind: bytes, index: IndexFile) -> None:
    found, size = reader.take(4), _read_header(reader)
    if (found, size) != (kind, index):
        raise ValueError(f"expected {index} as {kind!r}, got {size} as {found!r}")


def _read_short(reader: _Reader, index: IndexFile) -> None:
    """Short codes: four bits for each two numbers, vectors by blocks, blocks by cells."""
    cells = _read_cells(reader, index)
    parts = index.dimensions // 2
    even = parts + parts % 2
    found = (
        *(reader.one("u1"), reader.one("<u8"), reader.one("<i4"), reader.one("<u8")),
        *(reader.one("<i4"), reader.one("<u8")),
        *(reader.one("<u8") for _ in range(4)),  # of the quantiser
    )
    of_quantiser = (index.dimensions, parts, 4, 16 * index.dimensions)
    wanted = (1, (parts + 1) // 2, TOGETHER, even, 0, 0, *of_quantiser)
    if found != wanted:
        raise ValueError(f"expected short codes of shape {wanted}, got {found}")
    reader.check_finite("<f4", 16 * index.dimensions)
    size = TOGETHER * even // 2
    lists = (reader.take(4), *(reader.one("<u8") for _ in range(4)))
    # A block has no code of its own: newer faiss says -1.
    if lists not in [(BLOCKS, cells, n, TOGETHER, size) for n in ((parts + 1) // 2, 2**64 - 1)]:
        raise ValueError(f"expected short codes of {cells} cells by blocks, got {lists}")
    rows = _Rows(index, reader.left)
    for _ in range(cells):
        n = reader.one("<u8")
        rows.take(reader.array("<i8", n) if n <= index.vectors else None)
        if (found_bytes := reader.one("<u8")) != -(-n // TOGETHER) * size:
            raise ValueError(f"expected the codes of {n} vectors, got {found_bytes} bytes")
        reader.check_finite("u1", found_bytes)
    rows.check()


def _read_form(reader: _Reader, index: IndexFile, forms: tuple[int, ...] = (ONE_BYTE,)) -> str:
    """How vectors are stored, in bytes over a range or as half floats: the kind of a number."""
    kind, ranges = reader.one("<i4"), (reader.one("<i4"), reader.take(4))
    dimensions, code, trained = (reader.one("<u8") for _ in range(3))
    size = {ONE_BYTE: index.dimensions, TWO_BYTES: 2 * index.dimensions}
    over = {ONE_BYTE: 2 * index.dimensions, TWO_BYTES: 0}  # numbers that tell the range
    wanted = [(form, index.dimensions, size[form], over[form]) for form in forms]
    if (kind, dimensions, code, trained) not in wanted or ranges != (0, bytes(4)):
        raise ValueError(
            f"expected vectors stored as one of {wanted}, got {(kind, dimensions, code, trained)}"
        )
    reader.check_finite("<f4", trained)
    return "u1" if kind == ONE_BYTE else "<f2"


def _read_lists(reader: _Reader, index: IndexFile, cells: int, number: str) -> None:
    found = (reader.take(4), reader.one("<u8"), reader.one("<u8"), reader.take(4))
    wanted = (LISTS, cells, np.dtype(number).itemsize * index.dimensions, ALL_LISTS)
    if found != wanted or reader.one("<u8") != cells:
        raise ValueError(f"expected a list of vectors for each of {cells} cells, got {found}")
    sizes = reader.array("<u8", cells).tolist()
    seen = _Rows(index, reader.left)
    for size in sizes:
        reader.check_finite(number, size * index.dimensions)
        seen.take(reader.array("<i8", size))
    seen.check()


class _Rows:
    """Rows of an index, of which each must come once."""

    def __init__(self, index: IndexFile, left: int) -> None:
        self._n, self._total = index.vectors, 0
        self._seen = np.zeros(min(index.vectors, left), dtype=bool)

    def take(self, rows: NDArray[Any] | None) -> None:
        """Raises: ValueError where there are none such."""
        if rows is None or (len(rows) and not 0 <= rows.min() <= rows.max() < len(self._seen)):
            raise ValueError(f"expected rows from 0 to {self._n - 1}, got others")
        self._seen[rows] = True
        self._total += len(rows)

    def check(self) -> None:
        """Raises: ValueError where one is missing, or came twice."""
        if self._total != self._n or not self._seen.all() or len(self._seen) != self._n:
            raise ValueError(f"expected every row of {self._n} in one cell, got others")

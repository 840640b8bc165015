"""Arrays that come from files: bounded by the file before memory is taken, and finite.

What numpy and zipfile raise of damaged bytes is of many kinds; here it becomes a
ValueError that names the file.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

LONGEST_REASON = 200  # characters
DEFLATED = 1032  # times that DEFLATE makes anything smaller, at most

LOCAL_HEAD = 30  # [bytes] before the name of an archive's member
ENCRYPTED = 1  # a flag of a member

# The head of an array as numpy writes it; whatever else is one, numpy itself reads.
HEAD = re.compile(
    rb"\{'descr': '(?P<kind>[<>|]?[a-zA-Z]\d{1,9})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n"
)

KINDS = {"f": "floating", "i": "signed", "u": "unsigned", "b": "bool", "U": "text"}

Shape = Sequence[int | None]

T = TypeVar("T")


def load_array(
    file: Path, kinds: str, shape: Shape, mmap: bool = False, advice: str = "the file is damaged"
) -> NDArray[Any]:
    """An array of a `.npy` file.

    Args:
        kinds: Letters of the kinds of numbers that are right, as `dtype.kind` has them.
        shape: Length of each dimension; any, where None.
        mmap: Whether its numbers stay on disk until they are asked for; they are not looked at.
        advice: Ends the message.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, of another shape or kind, or with numbers that are not finite.
    """

    def read() -> NDArray[Any]:
        with file.open("rb") as stream:
            found = _array_in(stream, file.stat().st_size, file if mmap else None)
        check_array(found, kinds, shape, finite=not mmap)
        return found

    return told(file, read, advice)


def load_arrays(
    file: Path, wanted: Mapping[str, tuple[str, Shape]], advice: str = "the file is damaged"
) -> dict[str, NDArray[Any]]:
    """Arrays of an `.npz` file.

    Args:
        wanted: Kinds and shape of each, as `load_array` takes them.

    Raises:
        FileNotFoundError: No such file.
        ValueError: As `load_array`, or one of them is missing.
    """

    def read() -> dict[str, NDArray[Any]]:
        found = {}
        with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            for name in wanted:
                data = _member(stream, archive.getinfo(f"{name}.npy"))
                found[name] = _array_in(io.BytesIO(data), len(data))
        for name, (kinds, shape) in wanted.items():
            check_array(found[name], kinds, shape, name=name)
        return found

    return told(file, read, advice)


def told(file: Path, read: Callable[[], T], advice: str = "the file is damaged") -> T:
    """What `read` returns; whatever it raises of a damaged file becomes one clear error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It could not be read.
    """
    if not file.is_file():
        raise FileNotFoundError(f"expected a file at {file}, found none: {advice}")
    try:
        return read()
    # Parsers of foreign bytes raise what they like: numpy SyntaxError and TypeError, zipfile
    # NotImplementedError, safetensors and pyarrow kinds of their own.
    except Exception as error:
        raise ValueError(f"expected {file} whole, got {reason(error)}: {advice}") from None


def reason(error: BaseException) -> str:
    """What another library raised, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def check_array(
    found: NDArray[Any], kinds: str, shape: Shape, name: str = "", finite: bool = True
) -> None:
    """Raises: ValueError where an array is of another kind or shape, or not finite."""
    what = f" as {name}" if name else ""
    fits = len(found.shape) == len(shape) and all(
        n is None or n == got for n, got in zip(shape, found.shape, strict=True)
    )
    if found.dtype.kind not in kinds or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        words = " or ".join(KINDS[kind] for kind in kinds)
        raise ValueError(
            f"an array of {found.dtype} and shape {found.shape}{what} in the place of one of "
            f"{words} and shape ({wanted})"
        )
    if finite and found.dtype.kind == "f" and not np.isfinite(found).all():
        raise ValueError(f"numbers{what} that are not finite")


def _member(stream: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    """What an archive holds under a name, in one piece: `zipfile` takes it in many.

    Raises:
        ValueError, or what zlib raises: It is damaged.
    """
    name, size = entry.filename, entry.file_size
    if size > DEFLATED * (entry.compress_size + 1):
        raise ValueError(f"{name!r} claims {size:,} bytes")
    stream.seek(entry.header_offset)
    head = stream.read(LOCAL_HEAD)
    if len(head) < LOCAL_HEAD or not head.startswith(b"PK\3\4") or entry.flag_bits & ENCRYPTED:
        raise ValueError(f"no member of an archive at {name!r}")
    stream.seek(sum(struct.unpack("<HH", head[-4:])), os.SEEK_CUR)  # a name, and what is extra
    data = stream.read(entry.compress_size)
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
        data = unpacking.decompress(data, size + 1)
        if not unpacking.eof:
            raise ValueError(f"more or less than {size:,} bytes as {name!r}")
    elif entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name!r} packed by method {entry.compress_type}")
    if len(data) != size or zlib.crc32(data) != entry.CRC:
        raise ValueError(f"other bytes as {name!r} than its checksum is of")
    return data


def _array_in(stream: BinaryIO, size: int, mapped: Path | None = None) -> NDArray[Any]:
    """The array of a stream of so many bytes; memory is taken once its head agrees with them.

    Args:
        mapped: The file, where its numbers stay there.

    Raises:
        Exception: Whatever numpy does of a damaged head; ValueError where data are not as many.
    """
    shape, fortran, kind = _head_in(stream)
    if kind.hasobject or not kind.itemsize or any(n < 0 for n in shape):
        raise ValueError(f"an array of {kind} and shape {shape}")
    first, wanted = stream.tell(), math.prod(shape) * kind.itemsize
    if size - first != wanted:
        raise ValueError(f"{size - first:,} bytes of data where its head says {wanted:,}")
    order: Literal["C", "F"] = "F" if fortran else "C"
    if mapped is not None and wanted:
        return np.memmap(mapped, kind, "r", first, shape, order)
    data = np.empty(wanted, dtype=np.uint8)
    if (got := stream.readinto(data.data)) != wanted:  # type: ignore[attr-defined]
        raise ValueError(f"{got:,} bytes of data where its head says {wanted:,}")
    return data.view(kind).reshape(shape, order=order)


def _head_in(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and kind of number, of an array's head."""
    version = npy.read_magic(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    if version != (1, 0):
        raise ValueError(f"version {version} of numpy's format")
    length = stream.read(2)
    text = stream.read(int.from_bytes(length, "little"))
    found = HEAD.fullmatch(text)
    if found is None:  # no head of numpy's own hand
        return npy.read_array_header_1_0(io.BytesIO(length + text))
    shape = tuple(int(n) for n in found["shape"].split(b",") if n.strip())
    return shape, found["fortran"] == b"True", np.dtype(found["kind"].decode())


def rng_state(found: object) -> dict[str, Any]:
    """The state of a generator, tried out on one.

    Raises:
        ValueError: It is none.
    """
    try:
        twin = np.random.default_rng(0)
        twin.bit_generator.state = found  # type: ignore[assignment]
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"expected the state of a generator, got {reason(error)}") from None
    assert isinstance(found, dict)
    return found

"""Arrays and tensors that come from files: bounded by the file before memory is taken, and finite.

What numpy, zipfile and safetensors raise of damaged bytes is of many kinds; here it becomes a
ValueError that names the file.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_REASON = 200  # characters
DEFLATED = 1032  # times that DEFLATE makes anything smaller, at most

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
        with zipfile.ZipFile(file) as archive:
            for name in wanted:
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > DEFLATED * (entry.compress_size + 1):
                    raise ValueError(f"{entry.filename!r} claims {entry.file_size:,} bytes")
                with archive.open(entry) as stream:
                    found[name] = _array_in(stream, entry.file_size)
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


def _array_in(stream: IO[bytes], size: int, mapped: Path | None = None) -> NDArray[Any]:
    """The array of a stream of so many bytes; memory is taken once its head agrees with them.

    Args:
        mapped: The file, where its numbers stay there.

    Raises:
        Exception: Whatever numpy does of a damaged head; ValueError where data are not as many.
    """
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran, kind = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, kind = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"version {version} of numpy's format")
    if kind.hasobject or any(n < 0 for n in shape):
        raise ValueError(f"an array of {kind} and shape {shape}")
    first, wanted = stream.tell(), math.prod(shape) * kind.itemsize
    if size - first != wanted:
        raise ValueError(f"{size - first:,} bytes of data where its head says {wanted:,}")
    order: Literal["C", "F"] = "F" if fortran else "C"
    if mapped is not None and wanted:
        return np.memmap(mapped, kind, "r", first, shape, order)
    # To its end, where an archive compares its checksum; a copy can be written to.
    data = bytearray(stream.read())
    if len(data) != wanted:
        raise ValueError(f"{len(data):,} bytes of data where its head says {wanted:,}")
    return np.frombuffer(data, kind).reshape(shape, order=order)


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


def load_tensors(
    file: Path, advice: str = "the file is damaged", finite: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, and the texts in its head.

    Args:
        finite: Whether all of its numbers have to be.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, or holds numbers that are not finite.
    """

    def read() -> tuple[dict[str, Tensor], dict[str, str]]:
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = opened.metadata() or {}
        for name, tensor in found.items() if finite else ():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"numbers as {name} that are not finite")
        return found, dict(about)

    return told(file, read, advice)


def digest_of(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """What tells tensors and the texts beside them from damaged ones.

    SHA-256 of names, kinds, shapes and texts, and of the CRC-32 of each tensor's bytes: it finds
    every flipped bit and every burst of 32, twice as fast as SHA-256 would. It is no proof against
    somebody who means harm, and none would be: a card can be written anew.
    """
    import hashlib
    import zlib

    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        crc = zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0{crc}\0".encode())
    for name, text in sorted(about.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()

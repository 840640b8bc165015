"""Tensors as safetensors files, written and read in one pass, each with a digest of what it holds.

The format is a length of 8 bytes, a head of JSON that says where each tensor lies, and their bytes
(https://github.com/huggingface/safetensors). The library asks for each tensor apart, and a digest
and a look for numbers that are none would ask again; here one buffer serves all three.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import told
from train_lm.checked.records import LARGEST, Fields, parse_json, shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABOUT = "__metadata__"  # the key of texts in a head
LONGEST_HEAD = 100_000_000  # [bytes], the library's own bound
BLOCK = 2**22  # [numbers] that are looked at together
DIMENSIONS = 64  # of a tensor, at most

# Kinds of numbers by the name that the format gives them, in the order in which it stores them last
# to first: so each begins at a multiple of its size. Bytes of each.
KINDS = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
}
_NAMES = {f"torch.{kind}": name for name, (kind, _) in KINDS.items()}
_RANK = {name: -i for i, name in enumerate(KINDS)}
_name = attrgetter("name")


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor of a file: what it is called and is, and its bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Packed:
    """Tensors and the texts beside them, as bytes; a view of the tensors, and no copy on a CPU.

    Attributes:
        entries: In the order of the file.
        about: Texts by name; None leaves even their place in the head away.
        buffer: Where the bytes of all of them lie side by side, if they do.
    """

    entries: tuple[Entry, ...]
    about: Mapping[str, str] | None
    buffer: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> Packed:
        """Raises: ValueError where the format has no name for a tensor's kind."""
        entries = []
        for name, tensor in tensors.items():
            kind = _NAMES.get(str(tensor.dtype))
            if kind is None:
                raise ValueError(f"expected numbers that a file can hold, got {tensor.dtype}")
            entries.append(Entry(name, kind, tuple(tensor.shape), _bytes_of(tensor)))
        return cls(tuple(sorted(entries, key=lambda e: (_RANK[e.kind], e.name))), about)

    @property
    def head(self) -> bytes:
        """What the file begins with."""
        stated: dict[str, object] = {} if self.about is None else {ABOUT: dict(self.about)}
        at = 0
        for entry in self.entries:
            end = at + len(entry.data)
            stated[entry.name] = {
                "dtype": entry.kind,
                "shape": list(entry.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(stated, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def write(self, stream: IO[bytes]) -> None:
        stream.write(self.head)
        for entry in self.entries:
            stream.write(entry.data.data)

    def digest(self) -> str:
        """What tells these tensors and texts from damaged ones.

        SHA-256 of names, kinds, shapes and texts, and of the CRC-32 of each tensor's bytes: it
        finds every flipped bit and every burst of 32, at twice the speed of SHA-256. It is no proof
        against somebody who means harm, and none would be: a card can be written anew.
        """
        told = [
            f"{e.name}\0torch.{KINDS[e.kind][0]}\0{e.shape}\0{zlib.crc32(e.data)}\0"
            for e in sorted(self.entries, key=_name)
        ]
        told += [f"{name}\0{text}\0" for name, text in sorted((self.about or {}).items())]
        return hashlib.sha256("".join(told).encode()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """The same as tensors, which share the memory of these bytes."""
        import torch

        found: dict[str, Tensor] = {}
        at = 0
        for name, group in groupby(self.entries, key=attrgetter("kind")):
            kind: torch.dtype = getattr(torch, KINDS[name][0])
            own = list(group)
            sizes = [len(entry.data) for entry in own]
            if self.buffer is None or not sum(sizes):
                none = torch.empty(0, dtype=kind)  # of no bytes there is no view
                pieces = [torch.from_numpy(e.data).view(kind) if len(e.data) else none for e in own]
            else:
                joined = torch.from_numpy(self.buffer[at : at + sum(sizes)]).view(kind)
                pieces = list(joined.split([size // kind.itemsize for size in sizes]))
            for entry, piece in zip(own, pieces, strict=True):
                found[entry.name] = piece.view(entry.shape)
            at += sum(sizes)
        return found


def digest_of(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """`Packed.digest` of tensors and the texts beside them."""
    return Packed.of(tensors, about).digest()


def load_packed(file: Path, advice: str = "the file is damaged", finite: bool = True) -> Packed:
    """What a safetensors file holds; memory is taken for it once.

    Args:
        finite: Whether all of its numbers have to be.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, or holds numbers that are not finite.
    """

    def read() -> Packed:
        with file.open("rb") as stream:
            size = file.stat().st_size
            first = int.from_bytes(stream.read(8), "little")
            if size < 8 or first > min(size - 8, LONGEST_HEAD):
                raise ValueError(f"a head of {first:,} bytes in a file of {size:,}")
            head = parse_json(stream.read(first), file.name)
            data = np.empty(size - 8 - first, dtype=np.uint8)
            if stream.readinto(data.data) != len(data):
                raise ValueError(f"fewer than the {len(data):,} bytes that its head says")
        return _packed(Fields.of(head, "its head"), data, finite)

    return told(file, read, advice)


def load_tensors(
    file: Path, advice: str = "the file is damaged", finite: bool = True
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, and the texts in its head; see `load_packed`."""
    found = load_packed(file, advice, finite)
    return found.tensors(), dict(found.about or {})


def _packed(head: Fields, data: NDArray[np.uint8], finite: bool) -> Packed:
    """Every byte belongs to one tensor: no gap, no overlap, none beyond the end."""
    about = None
    if ABOUT in head:
        texts = head.inner(ABOUT)
        about = {name: texts.text(name) for name in texts}
    spans = [_Span.of(head.values[name], name, len(data)) for name in head if name != ABOUT]
    spans.sort(key=lambda span: (span.first, span.end))
    at = 0
    for span in spans:
        if span.first != at:
            raise ValueError(f"a tensor at byte {span.first:,} where the one before ends at {at:,}")
        at = span.end
    if at != len(data):
        raise ValueError(f"{len(data):,} bytes of tensors where its head says {at:,}")
    if finite:
        _check_finite(spans, data)
    entries = tuple(Entry(s.name, s.kind, s.shape, s.bytes_of(data)) for s in spans)
    # A foreign writer may be less careful than ours, who begins at multiples of a size.
    aligned = not any(span.first % KINDS[span.kind][1] for span in spans)
    return Packed(entries, about, data if aligned else None)


@dataclass(frozen=True)
class _Span:
    """Where a tensor lies in a file's data, from a byte to before another."""

    name: str
    kind: str
    shape: tuple[int, ...]
    first: int
    end: int

    @classmethod
    def of(cls, stated: object, name: str, size: int) -> _Span:
        """Raises: ValueError where what is stated is no place of a tensor in so many bytes."""
        try:
            kind, shape, (first, end) = (stated[k] for k in ("dtype", "shape", "data_offsets"))  # type: ignore[index]
            numbers = (*shape, first, end)
            sound = set(map(type, numbers)) == {int} and min(numbers) >= 0 and end <= size
            # An empty tensor may be of any size in its other dimensions.
            sound = sound and len(shape) <= DIMENSIONS
            sound = sound and math.prod(n for n in shape if n) <= LARGEST
            sound = sound and math.prod(shape) * KINDS[kind][1] == end - first
        except (TypeError, LookupError, ValueError):
            sound = False
        if not sound:
            raise ValueError(f"{shown(name)} as {shown(stated)}, which is no tensor of its bytes")
        return cls(name, kind, tuple(shape), first, end)

    def bytes_of(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        own = data[self.first : self.end]
        return own.copy() if self.first % KINDS[self.kind][1] else own


def _check_finite(spans: list[_Span], data: NDArray[np.uint8]) -> None:
    """Raises: ValueError naming a tensor that holds numbers that are not finite."""
    for kind, group in groupby(spans, key=lambda span: span.kind):
        if not KINDS[kind][0].startswith(("float", "bfloat")):
            continue
        together = list(group)
        whole = replace(together[0], end=together[-1].end)  # they lie side by side
        if _finite(kind, whole.bytes_of(data)):
            continue
        wrong = next(span.name for span in together if not _finite(kind, span.bytes_of(data)))
        raise ValueError(f"numbers as {wrong} that are not finite")


def _finite(kind: str, own: NDArray[np.uint8]) -> bool:
    name, size = KINDS[kind]
    for first in range(0, len(own), BLOCK * size):
        block = own[first : first + BLOCK * size]
        if name in ("float16", "float32", "float64"):
            sound = bool(np.isfinite(block.view(name)).all())
        else:
            import torch

            sound = bool(
                torch.from_numpy(block).view(getattr(torch, name)).float().isfinite().all()
            )
        if not sound:
            return False
    return True


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not flat.numel():
        return np.empty(0, dtype=np.uint8)
    found: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return found

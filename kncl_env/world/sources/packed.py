"""Lines and bytes of foreign text files, plain or packed, with the place of whatever is wrong.

Gzip, bzip2, xz and Zstandard are told by their first bytes, not by a file's name. A file that was
cut short, or that unpacks to far more than text does, is refused. It is the one door to zstandard.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from train_lm.checked.inside import checked

LONGEST = 2**27  # [bytes] of a line, twice the largest document: JSON may spell a letter in six
LOOKED_AT = 2**26  # [bytes] unpacked between two looks at how much that was when packed
MOST = 200  # [times] that text grows when unpacked; dumps and web pages grow 3 to 30 times
CHUNK = 2**18  # [bytes] that are read at a time
FEW = 2**12  # [bytes] given to Zstandard at a time, which may grow them 30,000 times

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
SEVEN_ZIP, ZIP = b"7z\xbc\xaf\x27\x1c", b"PK\x03\x04"
PACKED = (".gz", ".bz2", ".xz", ".zst")  # endings that packed files have


def files_of(place: Path, endings: Sequence[str], what: str) -> list[Path]:
    """The file itself, or the files of a folder and its folders with one of these endings, sorted.

    Hidden ones are passed over.

    Args:
        endings: Such as `.jsonl`; in a folder, packed files have one of `PACKED` after it.
        what: Such a file, for the message.

    Raises:
        ValueError: There is none, it is no file, or a link leads out of the folder.
    """
    if not place.exists():
        raise ValueError(f"expected {what} at {place}, found nothing there")
    if not place.is_dir():
        if not place.is_file():
            raise ValueError(f"expected a file at {place}, got something else")
        return [place]
    wanted = tuple(e + packed for e in endings for packed in ("", *PACKED))
    found = [
        file
        for file in sorted(place.rglob("*"))
        if file.name.lower().endswith(wanted)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(place).parts)
    ]
    if not found:
        names = sorted(f.name for f in place.iterdir())[:5]
        raise ValueError(
            f"expected {what} in {place} ({', '.join(endings)}), got "
            f"{', '.join(names) if names else 'an empty folder'}"
        )
    return [checked(file, place) for file in found]


@contextmanager
def unpacked(file: Path, moved: Callable[[int], None]) -> Iterator[BinaryIO]:
    """A stream of what a file holds.

    Args:
        moved: Told how many bytes of the file itself were read so far.

    Raises:
        BrokenError: While reading: it is cut short, damaged, or no text.
    """
    with open(file, "rb") as raw:
        begin = raw.read(6)
        raw.seek(0)
        if begin.startswith((SEVEN_ZIP, ZIP)):
            raise ValueError(
                f"expected text in {file}, plain or packed as .gz, .bz2, .xz or .zst, got an "
                "archive of files: unpack it first"
            )
        yield io.BufferedReader(_Unpacked(file, raw, _opened(begin, raw), moved), CHUNK)


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _opened(begin: bytes, raw: BinaryIO) -> _Bytes:
    if begin.startswith(GZIP):
        return gzip.GzipFile(fileobj=raw)
    if begin.startswith(BZIP2):
        return bz2.BZ2File(raw)
    if begin.startswith(XZ):
        return lzma.LZMAFile(raw)
    return _Zstandard(raw) if begin.startswith(ZSTD) else raw


class BrokenError(ValueError):
    """What a file holds cannot be read on; whoever knows the line says where."""

    def __init__(self, file: Path, why: str, advice: str, place: str = "") -> None:
        self.file, self.why, self.advice, self._place = file, why, advice, place
        super().__init__(f"expected {file} whole, got {why}{place}: {advice}")

    def __reduce__(self) -> tuple[type[BrokenError], tuple[Path, str, str, str]]:
        """Workers send it home; an exception that cannot be made again looks like a killed one."""
        return BrokenError, (self.file, self.why, self.advice, self._place)

    def at(self, line: int) -> BrokenError:
        return BrokenError(self.file, self.why, self.advice, f" after line {line:,}")


class _Unpacked(io.RawIOBase):
    """What a file holds, as long as that is no more than text can be; errors name the file."""

    def __init__(
        self, file: Path, raw: BinaryIO, stream: _Bytes, moved: Callable[[int], None]
    ) -> None:
        self.file, self.raw, self.stream, self.moved = file, raw, stream, moved
        self.size, self.look = 0, LOOKED_AT

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        fetch_again = "fetch or pack it again"
        try:
            found = self.stream.read(len(into))
        except EOFError:
            raise BrokenError(self.file, "an end in the middle", fetch_again) from None
        except (zlib.error, lzma.LZMAError, _DamageError) as error:
            raise BrokenError(self.file, f"damage ({error})", fetch_again) from None
        except OSError as error:
            if error.errno is not None:  # the disk's own
                raise
            raise BrokenError(self.file, f"damage ({error})", fetch_again) from None
        into[: len(found)] = found
        self.size += len(found)
        self.moved(self.raw.tell())
        if self.size > self.look:
            self.look = self.size + LOOKED_AT
            if self.size > MOST * self.raw.tell():
                why = f"what unpacks to more than {MOST} times its size"
                raise BrokenError(self.file, why, "it is no text, and is not read on")
        return len(found)


class _DamageError(Exception):
    """Zstandard's own error."""


class _Zstandard:
    """Unpacks frame after frame, and tells an end from a cut, which the library's reader does not.

    Raises:
        ValueError: The library is missing.
    """

    def __init__(self, raw: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError:
            raise ValueError(
                "expected the library zstandard to read .zst, found none: pip install 'kncl[zst]'"
            ) from None
        self._raw, self._error = raw, zstandard.ZstdError
        # Windows as large as `zstd --long=31` makes them.
        self._begin = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
        self._frame = self._begin()
        self._packed, self._ready, self._at, self._inside = b"", b"", 0, False

    def read(self, size: int, /) -> bytes:
        while self._at == len(self._ready):
            if not self._packed and not (packed := self._raw.read(FEW)):
                if self._inside:
                    raise EOFError
                return b""
            self._packed = self._packed or packed
            try:
                self._ready, self._at = self._frame.decompress(self._packed), 0
            except self._error as error:
                raise _DamageError(error) from None
            self._inside, self._packed = not self._frame.eof, b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, self._begin()
        found = self._ready[self._at : self._at + size]
        self._at += len(found)
        return found


def lines_of(file: Path, moved: Callable[[int], None]) -> Iterator[tuple[int, bytes | None]]:
    """Numbers and bytes of a file's lines, without the break; None for one that is too long.

    A byte order mark is no part of the first line.

    Raises:
        ValueError: The file is damaged; it names the line.
    """
    number = 0
    with unpacked(file, moved) as stream:
        try:
            while line := stream.readline(LONGEST + 1):
                number += 1
                long = len(line) > LONGEST
                while len(line) > LONGEST and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST + 1)
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, None if long else line.rstrip(b"\r\n")
        except BrokenError as broken:
            raise broken.at(number) from None


def decoded(line: bytes, place: object) -> str:
    """Raises: ValueError where it is no UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        found = line[error.start]
        raise ValueError(
            f"expected UTF-8 in {place}, got byte {found:#04x}: save the file as UTF-8"
        ) from None

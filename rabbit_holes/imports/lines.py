"""Numbered lines of a foreign text file, plain or packed, whatever state it is in."""

from __future__ import annotations

import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from rabbit_holes.imports.tally import Tally

GZIP_MAGIC = b"\x1f\x8b"
LONGEST = 2**24  # [bytes] of a line; no walk is as long
LOOKED_AT = 2**26  # [bytes] unpacked between two looks at how much that was when packed
MOST = 100  # [times] that text grows when unpacked; that of games and clicks grows 3 to 20 times


def read_lines(file: pathlib.Path, tally: Tally) -> Iterator[tuple[int, str]]:
    """Stream `(number, line)`, unpacking gzip on the way; empty lines are skipped.

    A byte order mark, which some editors put at the top, is no part of the first line. Lines that
    are not UTF-8 or too long, and the place where an archive breaks off, go to the tally.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it unpacks to far more than text does.
    """
    number = 0
    with open(file, "rb") as raw:
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        try:
            stream: BinaryIO = io.BufferedReader(_Unpacked(file, raw), 2**18) if packed else raw
            for number, line in enumerate(_lines(stream), start=1):
                if len(line) > LONGEST:
                    tally.drop_line(file, number, f"expected at most {LONGEST:,} bytes, got more")
                    continue
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    # Its `object` lacks the byte order mark that was taken off.
                    found = f"expected UTF-8, got {error.object[error.start]:#04x}"
                    tally.drop_line(file, number, found, repr(line)[2:-1])
                    continue
                if text.strip():
                    yield number, text
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            tally.drop_line(file, number + 1, f"the archive is damaged from here on: {error}")


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long the first `LONGEST + 1` bytes, never more in memory."""
    while line := stream.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = stream.readline(LONGEST + 1)


class _Unpacked(io.RawIOBase):
    """What a packed file holds, as long as it is no more than text can be."""

    def __init__(self, file: pathlib.Path, raw: BinaryIO) -> None:
        self.file, self.raw = file, raw
        self.stream = gzip.GzipFile(fileobj=raw)
        self.size, self.look = 0, LOOKED_AT

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        found = self.stream.read1(len(into))
        into[: len(found)] = found
        self.size += len(found)
        if self.size > self.look:
            self.look = self.size + LOOKED_AT
            if self.size > MOST * self.raw.tell():
                raise ValueError(
                    f"expected packed text in {self.file}, got what unpacks to more than {MOST} "
                    "times its size: it is not read on"
                )
        return len(found)

"""Numbered lines of a foreign text file, plain or packed, whatever state it is in."""

from __future__ import annotations

import gzip
import pathlib
import zlib
from collections.abc import Iterable, Iterator

from rabbit_holes.imports.tally import Tally

GZIP_MAGIC = b"\x1f\x8b"


def read_lines(file: pathlib.Path, tally: Tally) -> Iterator[tuple[int, str]]:
    """Stream `(number, line)`, unpacking gzip on the way; empty lines are skipped.

    A byte order mark, which some editors put at the top, is no part of the first line. Lines that
    are not UTF-8, and the place where an archive breaks off, go to the tally.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    number = 0
    with open(file, "rb") as raw:
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        stream: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            for number, line in enumerate(stream, start=1):
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

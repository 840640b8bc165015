"""Folders that tasks read, such as a world: opened where they lie, or fetched once by a node.

They are known by what is in them. Large files count by their size; whoever reads them checks them
against the digests that a small one of the same folder names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from train_lm.files import cache_folder, hash_file, replacing, replacing_folder
from train_lm.outputs import alone

SMALL = 2**20  # [bytes] of a file that is known by its hash
PIECE = 2**24  # [bytes] that are sent at a time

# What is sent of a folder: name of a file, offset in it, content.
Piece: TypeAlias = tuple[str, int, bytes]


@dataclass(frozen=True)
class Folder:
    """A folder as a task names it.

    Attributes:
        path: Where it lies on the machine that asks, and on nodes that share its disk.
        kept_as: Its place below the cache folder of a node that has to fetch it; empty of one
            that is never fetched.
        content: What is in it: name of each file, and its hash or its size.
        cached: Whether it is looked for in the cache alone, since its reader looks there.
    """

    path: str
    kept_as: str
    content: tuple[tuple[str, str], ...]
    cached: bool = False

    @classmethod
    def of(cls, path: Path, kept_as: str, *, cached: bool = False) -> Folder:
        """A folder, or the one file of it that is named.

        Raises:
            FileNotFoundError: There is nothing.
        """
        where = path.resolve()
        content = _content(where.parent, [where.name]) if where.is_file() else _content(where)
        if not content:
            raise FileNotFoundError(f"expected a file or a folder with files at {path}, found none")
        return cls(str(where.parent if where.is_file() else where), kept_as, content, cached)

    def here(self) -> Path | None:
        """Where it is on this machine; None where it has to be fetched."""
        wanted = dict(self.content)
        kept = [cache_folder() / self.kept_as] if self.kept_as else []
        for place in [*([] if self.cached else [Path(self.path)]), *kept]:
            if place.is_dir() and wanted.items() <= dict(_content(place, wanted)).items():
                return place
        return None

    def pieces(self) -> Iterator[Piece]:
        """What has to be sent of it."""
        for name, _ in self.content:
            with (Path(self.path) / name).open("rb") as stream:
                offset = 0
                while True:  # the last piece of a file is a short one, perhaps an empty one
                    piece = stream.read(PIECE)
                    yield name, offset, piece
                    offset += len(piece)
                    if len(piece) < PIECE:
                        break

    def put_back(self, pieces: Iterable[Piece]) -> None:
        """Write what a node sent where the task was to write it: all of it or nothing.

        A kill between two files would leave a folder that some of a task made.
        """
        with replacing_folder(Path(self.path), over=True) as part:
            _write(part, pieces)

    def keep(self, pieces: Iterable[Piece]) -> Path:
        """Write what was sent to this node's cache: once, whoever else is about to.

        Raises:
            ValueError: What came is not the folder.
        """
        place = cache_folder() / self.kept_as
        with alone(place, wait=True):
            if (found := self.here()) is not None:
                return found
            _write(place, pieces)
        if self.here() is None:
            raise ValueError(
                f"expected {self.path} as it is on the machine that asks, got other files at "
                f"{place}: remove that folder"
            )
        return place


# Where folders lie on this machine that tasks name by where they lie on another one.
_PLACES: dict[Path, Path] = {}


def located(path: str | Path) -> Path:
    """Where a folder, or a file of one, is on this machine; the path itself, where none was sent.

    What plays a task calls it for every path that the task names.
    """
    path = Path(path)
    if not _PLACES:
        return path
    whole = path.resolve()
    for asked, here in _PLACES.items():
        if whole.is_relative_to(asked):
            return here / whole.relative_to(asked)
    return path


def settle(folders: Iterable[Folder]) -> None:
    """From now on `located` knows where these folders are on this machine.

    Raises:
        FileNotFoundError: One of them is not here.
    """
    for folder in folders:
        place = folder.here()
        if place is None:
            raise FileNotFoundError(
                f"expected {folder.path} as it was when the run began, found other files"
            )
        if place != Path(folder.path):
            _PLACES[Path(folder.path)] = place


def _content(path: Path, only: Iterable[str] | None = None) -> tuple[tuple[str, str], ...]:
    names = (
        sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())
        if only is None
        else [name for name in only if (path / name).is_file()]
    )
    return tuple((name, _known_by(path / name)) for name in names)


def _known_by(file: Path) -> str:
    size = file.stat().st_size
    return hash_file(file) if size <= SMALL else f"{size} bytes"


def _write(place: Path, pieces: Iterable[Piece]) -> None:
    """Raises: ValueError where a name leads out of the folder, or a file lacks its last piece."""
    for name, own in groupby(pieces, key=itemgetter(0)):
        file = place / name
        file.resolve().relative_to(place.resolve())  # raises where a name leads out
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, durable=False) as part, part.open("wb") as stream:
            size = PIECE
            for _, _, piece in own:
                size = len(piece)
                stream.write(piece)
            if size == PIECE:
                raise ValueError(f"expected all pieces of {name}, got {stream.tell():,} bytes")

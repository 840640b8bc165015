"""What a command read that came from elsewhere: each named, with a digest of what it held.

A file that its writer took a digest of is checked against it. Anybody may write the others, walks
and clicks and models and answers of a server, and nothing tells a damaged one from an honest one.
So each is named on the terminal, and in the record of whatever was made of it: two results of
different inputs can be told apart, and whoever keeps the digest of an input can check it himself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from train_lm.files import hash_file

SHOWN = 12  # hexadecimal digits of a digest that a line shows


@dataclass(frozen=True)
class Input:
    """Something that was read.

    Attributes:
        name: Of the file or folder, or an address.
        sha256: Of what was read of it.
        what: What it held, in a few words.
        checked: Whether all of it agreed with a digest of its writer's.
        said: What else there is to say.
    """

    name: str
    sha256: str
    what: str = ""
    checked: bool = False
    said: str = ""

    def line(self) -> str:
        """For a terminal."""
        held = f"{self.what}, " if self.what else ""
        against = "" if self.checked else ", nothing to check it against"
        more = f"; {self.said}" if self.said else ""
        return f"read {self.name}: {held}sha256 {self.sha256[:SHOWN]}…{against}{more}"


# By place and digest, in the order of reading: a file that changed meanwhile is named twice.
_READ: dict[tuple[str, str], Input] = {}


def forget_inputs() -> None:
    """A command begins."""
    _READ.clear()


def note_input(
    place: Path | str, sha256: str, what: str = "", *, checked: bool = False, said: str = ""
) -> None:
    """Name something that was read.

    Args:
        place: Its path, or an address.
        what: What it held, in a few words.
        checked: Whether all of it agreed with a digest of its writer's: then the record has it,
            and the terminal only what is `said`.
    """
    known = os.path.realpath(place) if isinstance(place, Path) else place
    _READ[(known, sha256)] = Input(str(place), sha256, what, checked, said)


def note_file(file: Path, what: str = "") -> None:
    """Name a file that was read as a whole; nothing vouches for it."""
    note_input(file, hash_file(file), what)


def note_files(folder: Path, names: Iterable[str], what: str = "", called: str = "") -> str:
    """Name a folder of which these files were read, those that are there; returns one digest.

    Args:
        called: What it is named by, where that is no place of this machine.
    """
    there = [name for name in sorted(set(names)) if (folder / name).is_file()]
    digest = hashlib.sha256()
    for name in there:
        digest.update(f"{name}\0{hash_file(folder / name)}\0".encode("utf-8", "surrogateescape"))
    note_input(called or folder, digest.hexdigest(), what or f"{len(there)} files")
    return digest.hexdigest()


def inputs() -> dict[str, str]:
    """Digests by name, for the record of a result: the last part of each path, in any order."""
    found: dict[str, str] = {}
    for one in _READ.values():
        name = one.name if "://" in one.name else (Path(one.name).name or one.name)
        while found.get(name, one.sha256) != one.sha256:
            name += "'"
        found[name] = one.sha256
    return dict(sorted(found.items()))


def read_inputs() -> tuple[Input, ...]:
    """All that was named, in order."""
    return tuple(_READ.values())


def told_inputs() -> Iterator[str]:
    """Lines for a terminal, of all that nothing vouches for."""
    return (one.line() for one in _READ.values() if not one.checked or one.said)

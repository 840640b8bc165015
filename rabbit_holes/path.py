"""A rabbit hole as a tree of visits, and the JSON Lines file that many of them live in.

A walker who goes back and branches leaves a tree, so a chain of titles would lose what was clicked
on from where. This file knows how a path is held, checked, written and read; it knows no world, no
wiki and no measure of a path.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO

from train_lm.files import naming, replacing
from train_lm.inputs import note_input
from train_lm.outputs import Hold, Mine, alone

logger = logging.getLogger(__name__)

SEAL = "seal"  # the last field of a line in a file; see `Chain`

MetaValue = str | int | float | None
StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Visit:
    """One page of a walk.

    Attributes:
        title: The page's title, redirects followed.
        parent: Index in `Path.visits` of the visit whose page was clicked on; None for the root.
        time: [s] since the walk began, None if it was not recorded.
        page_id: The wiki's id of the page.
        revision_id: The wiki's id of the text that was seen.
        offered: Titles of the links the page offered, in reading order where known; empty where
            they were not recorded.
        text: Lead text of the page, on request.
        disambiguation: Whether the wiki marks the page as a list of what its title may mean.
    """

    title: str
    parent: int | None
    time: float | None = None
    page_id: int | None = None
    revision_id: int | None = None
    offered: tuple[str, ...] = ()
    text: str | None = None
    disambiguation: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            raise ValueError(f"expected a title, got {self.title!r}")
        for name in ("parent", "page_id", "revision_id"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 0):
                raise ValueError(f"expected {name} as a whole number >= 0, got {number!r}")
        if self.time is not None and not _is_time(self.time):
            raise ValueError(f"expected time in seconds >= 0, got {self.time!r}")
        if not isinstance(self.offered, tuple) or not all(
            isinstance(title, str) and title for title in self.offered
        ):
            raise ValueError(f"expected offered as a tuple of titles, got {self.offered!r}")
        if self.text is not None and not isinstance(self.text, str):
            raise ValueError(f"expected text as a string, got {self.text!r}")
        if not isinstance(self.disambiguation, bool):
            raise ValueError(f"expected disambiguation as a bool, got {self.disambiguation!r}")

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their default; the root's `parent` is left out."""
        record: dict[str, Any] = {"title": self.title}
        for name in ("parent", "time", "page_id", "revision_id", "text"):
            value = getattr(self, name)
            if value is not None:
                record[name] = value
        if self.offered:
            record["offered"] = list(self.offered)
        if self.disambiguation:
            record["disambiguation"] = True
        return record

    @classmethod
    def from_json(cls, record: Any) -> Visit:
        """Inverse of `to_json`; raises ValueError that names the bad field."""
        _require_fields(record, _VISIT_FIELDS, required=("title",), what="a visit")
        offered = record.get("offered", [])
        if not isinstance(offered, list):
            raise ValueError(f"expected offered as a list of titles, got {offered!r}")
        fields = {"parent": None, **record, "offered": tuple(offered)}
        return cls(**fields)


@dataclass(frozen=True)
class Path:
    """A tree of visits in order of time; visit 0 is its root.

    Attributes:
        id: Unique in its file.
        visits: At least one; a parent's index is below its child's, so no cycle can exist.
        source: Where it comes from: `wikispeedia`, `mediawiki:<host>`, `clickstream`, ….
        walker: Who walked: `person`, `random`, `similar`, `markov`, `lm:<model>`, `policy:<name>`.
        licence: Licence of what is recorded here, as a reader needs it.
        goal: Title that the walker was looking for, if any.
        status: `finished`, `unfinished`, `loop`, …: how the walk ended.
        meta: Anything else worth keeping, as plain numbers and strings.

    Raises:
        ValueError: naming the path and what is wrong with it.
    """

    id: str
    visits: tuple[Visit, ...]
    source: str
    walker: str
    licence: str
    goal: str | None = None
    status: str = "finished"
    meta: Mapping[str, MetaValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip():
            raise ValueError(f"expected a path with an id, got {self.id!r}")
        for name in ("source", "walker", "licence", "status"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"path {self.id!r}: expected {name} as a string, got {value!r}")
        if self.goal is not None and (not isinstance(self.goal, str) or not self.goal.strip()):
            raise ValueError(f"path {self.id!r}: expected goal as a title, got {self.goal!r}")
        if not isinstance(self.meta, Mapping) or not all(
            isinstance(key, str) and _is_meta_value(value) for key, value in self.meta.items()
        ):
            raise ValueError(
                f"path {self.id!r}: expected meta with numbers and strings only, got {self.meta!r}"
            )
        if not isinstance(self.visits, tuple) or not self.visits:
            raise ValueError(f"path {self.id!r}: expected at least one visit, got {self.visits!r}")
        self._check_tree()

    def _check_tree(self) -> None:
        latest = 0.0
        for index, visit in enumerate(self.visits):
            if not isinstance(visit, Visit):
                raise ValueError(f"path {self.id!r}: expected a Visit, got {visit!r}")
            if index == 0 and visit.parent is not None:
                raise ValueError(
                    f"path {self.id!r}: expected visit 0 to be the root, got parent {visit.parent}"
                )
            if index > 0 and (visit.parent is None or visit.parent >= index):
                raise ValueError(
                    f"path {self.id!r}: expected the parent of visit {index} below {index}, got "
                    f"{visit.parent}: a page is clicked on after it was reached, so this is a "
                    "cycle or a second root"
                )
            if visit.time is not None:
                if visit.time < latest:
                    raise ValueError(
                        f"path {self.id!r}: expected visit {index} at {latest} s or later, got "
                        f"{visit.time} s: visits stand in order of time"
                    )
                latest = visit.time

    def __len__(self) -> int:
        return len(self.visits)

    @property
    def titles(self) -> tuple[str, ...]:
        """Titles in order of time."""
        return tuple(visit.title for visit in self.visits)

    def clicks(self) -> Iterator[tuple[int, int]]:
        """`(index of the visit clicked from, index of the visit reached)` in order of time."""
        for index, visit in enumerate(self.visits):
            if visit.parent is not None:
                yield visit.parent, index

    def depths(self) -> list[int]:
        """Clicks between the root and each visit along the tree."""
        depths = [0]
        for parent, _ in self.clicks():
            depths.append(depths[parent] + 1)
        return depths

    def to_json(self) -> dict[str, Any]:
        """A plain dict for `json.dumps`; empty and missing fields are left out."""
        record: dict[str, Any] = {
            "id": self.id,
            "source": self.source,
            "walker": self.walker,
            "licence": self.licence,
            "status": self.status,
        }
        if self.goal is not None:
            record["goal"] = self.goal
        if self.meta:
            record["meta"] = dict(self.meta)
        record["visits"] = [visit.to_json() for visit in self.visits]
        return record

    @classmethod
    def from_json(cls, record: Any) -> Path:
        """Inverse of `to_json`; the seal of a line in a file is no part of its path.

        Raises:
            ValueError: naming the field that is missing, unknown or of the wrong kind.
        """
        if isinstance(record, dict) and SEAL in record:
            record = {name: value for name, value in record.items() if name != SEAL}
        required = ("id", "visits", "source", "walker", "licence")
        _require_fields(record, _PATH_FIELDS, required=required, what="a path")
        if not isinstance(record["visits"], list):
            raise ValueError(f"expected visits as a list, got {record['visits']!r}")
        visits = []
        for index, visit in enumerate(record["visits"]):
            try:
                visits.append(Visit.from_json(visit))
            except ValueError as error:
                raise ValueError(f"path {record['id']!r}, visit {index}: {error}") from None
        return cls(**{**record, "visits": tuple(visits)})


_VISIT_FIELDS = tuple(Visit.__dataclass_fields__)
_PATH_FIELDS = tuple(Path.__dataclass_fields__)


def read_paths(file: StrPath, *, on_error: Callable[[str], None]) -> Generator[Path, None, None]:
    """Stream the paths of a JSON Lines file, one at a time.

    Args:
        file: A file of one JSON object per line, UTF-8.
        on_error: Called with `file:line: reason` for every line that holds no valid path (not JSON,
            wrong encoding, bad field, a cycle, an id that an earlier line has); the line is left
            out.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    for _, path in read_numbered_paths(file, on_error=on_error):
        yield path


def read_numbered_paths(
    file: StrPath, *, on_error: Callable[[str], None]
) -> Iterator[tuple[int, Path]]:
    """Like `read_paths`, each path with the number of its line."""
    seen: set[str] = set()
    digest, chain = hashlib.sha256(), Chain()
    with open(file, "rb") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                digest.update(line)
                if not line.strip():
                    continue
                chain.follow(line, number)
                try:
                    path = _parse_line(line, number)
                    if path.id in seen:
                        raise ValueError(f"expected unique ids, got {path.id!r} again")
                except ValueError as error:
                    on_error(f"{os.fspath(file)}:{number}: {error}")
                    continue
                seen.add(path.id)
                yield number, path
        finally:  # of what was read, all of it or not
            what = f"{len(seen):,} walks{chain.unsealed(len(seen))}"
            place = pathlib.Path(file)
            note_input(place, digest.hexdigest(), what, checked=chain.sound, said=chain.said)


def write_paths(file: StrPath, paths: Iterable[Path], *, force: bool = False) -> int:
    """Write all paths at once, so that the file appears complete or not at all.

    Returns:
        The number of paths written.

    Raises:
        FileExistsError: If the file is there and `force` is not set, or it holds no paths.
        ValueError: If two paths have one id.
    """
    target = pathlib.Path(file)
    with alone(target) as hold:
        hold.begin_anew(force, holds_paths)
        ids: set[str] = set()
        chain = Chain()
        with replacing(target) as partial, open(partial, "wb") as stream:
            for path in paths:
                if path.id in ids:
                    raise ValueError(f"expected unique ids, got {path.id!r} twice")
                ids.add(path.id)
                stream.write(chain.sealed(_to_line(path)))
    return len(ids)


def holds_paths(file: pathlib.Path, sources: tuple[str, ...] = ()) -> bool:
    """Whether a file begins with a path, of one of these sources (`generated:` names a kind)."""
    line = b""
    try:
        with open(file, "rb") as stream:
            line = stream.readline()
        first = _parse_line(line, 1)
    except (OSError, ValueError):
        # A kill may have cut the very first line short.
        return bool(line) and not line.endswith(b"\n") and _begins_a_path(line)
    return not sources or any(
        first.source.startswith(s) if s.endswith(":") else first.source == s for s in sources
    )


def first_of(file: pathlib.Path) -> Path | None:
    """The path that a file begins with; None where it begins with none."""
    try:
        with open(file, "rb") as stream:
            return _parse_line(stream.readline(), 1)
    except (OSError, ValueError):
        return None


class PathWriter:
    """Appends paths to a JSON Lines file so that a kill at any moment loses no written path.

    Each line is flushed and synced before `write` returns. Opening an existing file completes it:
    a last line that a kill cut short is removed (and logged); `ids` holds what is already there,
    and writing one of them again is refused, so a resumed collection cannot double a path.

    Args:
        file: Made if it is not there.
        force: Begin anew, if `mine` finds that the file may be replaced.
        mine: Whether the file is one of the command's own; by default, any file of paths.

    Raises:
        BlockingIOError: If another process writes the file.
        FileExistsError: If it would be replaced, and is not the command's own.
        ValueError: If it holds lines but not one path (a foreign file).
    """

    def __init__(self, file: StrPath, *, force: bool = False, mine: Mine | None = None) -> None:
        self.file = pathlib.Path(file)
        self.ids: set[str] = set()
        self._hold = Hold(self.file)
        self._hold.take()
        try:
            if force:
                self._hold.begin_anew(force, mine or holds_paths)
                self.file.unlink(missing_ok=True)
            self._hold.go_on()
            self._stream: BinaryIO = open(self.file, "ab+")  # noqa: SIM115
            try:
                self._take_over()
            except BaseException:
                self._stream.close()
                raise
        except BaseException:
            self._hold.release()
            raise

    def _take_over(self) -> None:
        """Learn the ids that are there and mend the last line; a foreign file stays untouched."""
        errors: list[str] = []
        start, is_bad = 0, False  # of the last line
        line = b"\n"
        self._stream.seek(0)
        self._chain = last = Chain()
        for number, line in enumerate(self._stream, start=1):
            start, is_bad = self._stream.tell() - len(line), False
            if line.strip():
                last = copy(self._chain)
                self._chain.follow(line, number)
                try:
                    self.ids.add(_parse_line(line, number).id)
                except ValueError as error:
                    errors.append(f"{self.file}:{number}: {error}")
                    is_bad = True
        cut_short = is_bad and not line.endswith(b"\n")
        if errors and not self.ids and not (start == 0 and cut_short and _begins_a_path(line)):
            raise ValueError(
                f"expected a file of paths to append to, got {errors[0]}: name another file"
            )
        for message in errors[: len(errors) - cut_short]:
            logger.warning("%s", message)
        if cut_short:
            logger.warning("%s: removed an unfinished last line: %s", self.file, errors[-1])
            self._stream.truncate(start)
            self._chain = last
        elif not line.endswith(b"\n"):
            self._stream.write(b"\n")
        self._sync()

    def _sync(self) -> None:
        with naming(self.file):
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def write(self, path: Path) -> None:
        """Append one path; on return it is on the disk.

        Raises:
            ValueError: If the file already holds a path of this id.
        """
        if path.id in self.ids:
            raise ValueError(f"expected unique ids in {self.file}, got {path.id!r} again")
        with naming(self.file):
            self._stream.write(self._chain.sealed(_to_line(path)))
            self._sync()
        self.ids.add(path.id)

    def close(self) -> None:
        try:
            with naming(self.file):
                self._stream.close()
        finally:
            self._hold.release()

    def __enter__(self) -> PathWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _to_line(path: Path) -> bytes:
    text = json.dumps(path.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate cannot be UTF-8; escaping the whole line keeps it readable as JSON.
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(path.to_json(), separators=(",", ":")).encode() + b"\n"


class Chain:
    """Follows lines that seal themselves, each with the one before it; a file stays JSON Lines.

    The last field of a line is its seal: the CRC-32 of what stands before it in the line, and that
    of the line before, each as 8 hexadecimal digits. It tells damage by its line, and lines that
    are lost or moved; whoever edits a file may leave it out, or add lines without it.

    Attributes:
        gaps: Numbers of the lines before which others are missing.
    """

    def __init__(self) -> None:
        self._before, self._sealed, self._lines = 0, 0, 0
        self.gaps: list[int] = []

    def sealed(self, line: bytes) -> bytes:
        """The next line of a file, with its seal."""
        text = line.rstrip(b"\n").removesuffix(b"}")
        own = zlib.crc32(text)
        sealed = text + b',"seal":"%08x%08x"}\n' % (own, self._before)
        self._before = own
        return sealed

    def follow(self, line: bytes, number: int) -> None:
        """Read the next line of a file."""
        self._lines += 1
        found = _SEAL.search(line)
        if found is None:
            self._before = zlib.crc32(line.strip().removesuffix(b"}"))
            return
        self._sealed += 1
        # A first line may stand anywhere, where files were joined.
        if int(found[2], 16) not in (0, self._before):
            self.gaps.append(number)
        self._before = int(found[1], 16)

    @property
    def sound(self) -> bool:
        """Whether all lines have seals, and follow one another as they were written."""
        return self._sealed == self._lines and not self.gaps

    @property
    def said(self) -> str:
        if not self.gaps:
            return ""
        others = f" and {len(self.gaps) - 1:,} others" if len(self.gaps) > 1 else ""
        return f"lines are missing or moved before line {self.gaps[0]}{others}"

    def unsealed(self, read: int) -> str:
        """The end of what is told of so many walks."""
        without = self._lines - self._sealed
        return f" ({without:,} lines without a seal)" if without and self._sealed and read else ""


def _unsealed(line: bytes) -> bytes:
    """A line without its seal. Raises: ValueError where it is not the line that was sealed."""
    found = _SEAL.search(line)
    if found is None:
        return line
    text = line[: found.start()].removeprefix(codecs.BOM_UTF8)
    if zlib.crc32(text) != int(found[1], 16):
        raise ValueError(
            "expected a line as it was written, got another: damaged, or edited without taking "
            f"its seal away: {shown(text.decode(errors='replace'))}"
        )
    return text + b"}"


# The last field of a line that one of our own commands wrote.
_SEAL = re.compile(rb',"seal":"([0-9a-f]{8})([0-9a-f]{8})"\}\s*$')


def _begins_a_path(line: bytes) -> bool:
    """Whether a kill may have left this of a first line that `_to_line` wrote."""
    opening = b'{"id":'
    return line.startswith(opening) or opening.startswith(line)


def _parse_line(line: bytes, number: int) -> Path:
    try:
        # Some editors put a byte order mark at the top of a file.
        text = _unsealed(line).decode("utf-8-sig" if number == 1 else "utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got byte {error.object[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"expected one JSON object per line, got {error}: {shown(text)}") from None
    except RecursionError:
        raise ValueError("expected a path, got JSON nested too deeply") from None
    return Path.from_json(record)


def shown(line: str, at_most: int = 120) -> str:
    """A line as a message quotes it: its beginning, with what cannot be seen spelt out."""
    line = line.rstrip("\r\n")
    return repr(line[:at_most]) + (" …" if len(line) > at_most else "")


def _require_fields(
    record: Any, known: tuple[str, ...], *, required: tuple[str, ...], what: str
) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"expected {what} as a JSON object, got {type(record).__name__}")
    for name in required:
        if name not in record:
            raise ValueError(f"expected field {name!r} in {what}, got {sorted(record)}")
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise ValueError(f"expected fields of {what} among {list(known)}, got {unknown[0]!r}")


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _is_meta_value(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))

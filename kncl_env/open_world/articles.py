"""Articles that come while an episode runs: what a source is asked for, and the journal of it all.

The journal keeps every article that was ever fetched for a run, absences included, each once: an
episode that is played again from it sees the same articles, whatever the source says by then.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from train_lm.checked.digests import sealed, unsealed
from train_lm.checked.records import Fields, parse_json
from train_lm.files import Json, append_line, hash_json, replacing

log = logging.getLogger(__name__)

FORMAT = "kncl-articles"
VERSION = 1

REMEDY = "remove the line to have it fetched again"


class SourceError(OSError):
    """A source gives no articles now; what was fetched before is kept."""


@dataclass(frozen=True)
class Fetched:
    """What a title led to.

    Attributes:
        asked: The title that was asked for.
        title: The article's own, redirects followed; empty where there is none.
        revision: Number of the version that was current then.
        paragraphs: Its text in reading order, no paragraph empty; none where there is no article.
        links: Titles that it links to, in reading order, as it writes them.
        absent: Why there is no article, in one word; empty where there is one.
    """

    asked: str
    title: str = ""
    revision: int = 0
    paragraphs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    absent: str = ""

    def __post_init__(self) -> None:
        if not self.asked.strip():
            raise ValueError("expected a title that was asked for, got an empty one")
        if bool(self.absent) == bool(self.paragraphs) or bool(self.absent) == bool(self.title):
            raise ValueError(
                f"expected an article with a title and text, or a reason why there is none, for "
                f"{self.asked!r}"
            )
        if not all(p.strip() for p in self.paragraphs):
            raise ValueError(
                f"expected text in every paragraph of {self.title!r}, got an empty one"
            )

    @property
    def digest(self) -> str:
        """Identity of what it says."""
        return hash_json(asdict(self))

    def to_json(self) -> Json:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Fields) -> Fetched:
        """Raises: ValueError where it is none."""
        return cls(
            asked=found.text("asked"),
            title=found.text("title"),
            revision=found.whole("revision"),
            paragraphs=tuple(found.texts("paragraphs")),
            links=tuple(found.texts("links")),
            absent=found.text("absent"),
        )


class ArticleSource(Protocol):
    """Where articles come from: a live wiki, or the journal of an earlier run.

    Attributes:
        name: For messages.
    """

    @property
    def name(self) -> str: ...

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        """What each title leads to, in their order.

        Raises:
            SourceError: It cannot say so now.
        """

    def close(self) -> None:
        """Whoever waits for it leaves; nothing can be fetched any more."""


class ArticleJournal:
    """Articles on file, a line each, only ever appended. Usable from several threads.

    A process may be killed at any moment: what it left of a line is dropped by the next one, and
    everything before it counts.

    Args:
        file: Made with its first line, if it is not there.
        about: What the articles are of; a file of others is refused.
        read_only: Whether the file is another run's, which may be under way: nothing of it is
            mended, and nothing added.

    Raises:
        ValueError: The file is another kind of file, is damaged, or is about something else.
        FileNotFoundError: It is not there, and only read.
    """

    def __init__(self, file: Path, about: Mapping[str, str], *, read_only: bool = False) -> None:
        self.file, self.read_only = file, read_only
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, int]] = {}  # place of each line in the file
        header = {"format": FORMAT, "version": VERSION, **about}
        whole = file.is_file() and file.stat().st_size and not _is_torn(file, header)
        if not (read_only or whole):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as part:
                part.write_text(json.dumps(sealed(header)) + "\n")
        self._end = self._read(header)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, asked: str) -> bool:
        return asked in self._known

    def get(self, asked: str) -> Fetched | None:
        """What a title led to; None where it was not asked for yet.

        Raises:
            ValueError: The line was changed since it was read first.
        """
        with self._lock:
            place = self._known.get(asked)
            if place is None:
                return None
            with self.file.open("rb") as stream:
                stream.seek(place[0])
                line = stream.read(place[1])
        return _parsed(line, f"{self.file}, byte {place[0]}")

    def add(self, articles: Iterable[Fetched]) -> None:
        """Keep articles; one that is there stays as it is."""
        assert not self.read_only, "a journal of another run"
        with self._lock:
            fresh = {one.asked: one for one in articles if one.asked not in self._known}
            for n, one in enumerate(fresh.values(), 1):
                line = sealed(one.to_json())
                append_line(self.file, line, durable=n == len(fresh))  # one wait for the disk
                size = len(json.dumps(line).encode()) + 1
                self._known[one.asked] = (self._end, size)
                self._end += size

    def _read(self, header: Json) -> int:
        """Where each line stands; returns where the next one will."""
        with self.file.open("rb") as stream:
            first = stream.readline()
            found = Fields.of(parse_json(first, self.file), self.file)
            there = unsealed(dict(found.values), self.file)
            if there.get("format") != FORMAT:
                raise ValueError(
                    f"expected the articles of an open world in {self.file}, got another kind of "
                    "file: name another"
                )
            if there != header:
                raise ValueError(
                    f"expected articles of {_told(header)} in {self.file}, got those of "
                    f"{_told(there)}: name another"
                )
            end = len(first)
            for number, line in enumerate(stream, 2):
                if not line.endswith(b"\n"):
                    log.warning("%s:%d: left out: an unfinished last line", self.file, number)
                    break
                asked = _parsed(line, f"{self.file}:{number}").asked
                if asked in self._known:
                    raise ValueError(
                        f"expected each title once in {self.file}, got {asked!r} again in line "
                        f"{number}: remove the line"
                    )
                self._known[asked] = (end, len(line))
                end += len(line)
            else:
                return end
        if not self.read_only:
            self._cut(end)
        return end

    def _cut(self, end: int) -> None:
        """Drop what a killed process left of its last line: the next would run into it."""
        with self.file.open("rb") as whole, replacing(self.file) as part, part.open("wb") as stream:
            left = end
            while left and (data := whole.read(min(left, 1 << 20))):
                stream.write(data)
                left -= len(data)


class JournalSource:
    """Articles of an earlier run, and no others: its episode plays again without a network.

    Args:
        journal: Of that run.
    """

    def __init__(self, journal: ArticleJournal) -> None:
        self.journal = journal

    @property
    def name(self) -> str:
        return str(self.journal.file)

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        found = [self.journal.get(title) for title in titles]
        lost = [title for title, one in zip(titles, found, strict=True) if one is None]
        if lost:
            raise SourceError(
                f"{len(lost)} of {len(titles)} articles are not in it, the first is {lost[0]!r}"
            )
        return [one for one in found if one is not None]

    def close(self) -> None:
        pass


def _parsed(line: bytes, place: str) -> Fetched:
    found = Fields.of(parse_json(line, place), place, REMEDY)
    try:
        plain = unsealed(dict(found.values), place)
        return Fetched.from_json(Fields(plain, place, REMEDY))
    except ValueError as error:
        raise ValueError(f"{error}: {REMEDY}") from None


def _is_torn(file: Path, header: Json) -> bool:
    """Whether a kill, or a power cut, left a part of our own first line and nothing else."""
    whole = json.dumps(sealed(header)).encode() + b"\n"
    return file.stat().st_size < len(whole) and whole.startswith(file.read_bytes())


def _told(header: Json) -> str:
    return ", ".join(str(v) for k, v in header.items() if k not in ("format", "version"))

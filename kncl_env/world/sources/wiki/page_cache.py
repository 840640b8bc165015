"""Pages that a wiki has already given us, so that nothing is asked for twice.

One SQLite file per wiki: a page appears in it whole or not at all, whenever the process is killed.
It knows no network; what to do on a miss is passed in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from kncl_env.world.sources.wiki.errors import WikiError
from kncl_env.world.sources.wiki.etiquette import Gate
from train_lm.checked.digests import sealed, unsealed
from train_lm.checked.records import Fields, parse_json

# Version 1 knew no disambiguation pages and kept absences; names had no seal before version 3. Both
# are read, and become this one.
_SCHEMA_VERSION = 3

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}

# What SQLite says of a damaged file may hold bytes of it that are no text.
FAULTS = (sqlite3.DatabaseError, UnicodeDecodeError)

LISTS = ("links", "disambiguations")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """An article as the wiki answered.

    Attributes:
        title: Redirects followed.
        page_id: The wiki's id of the page.
        revision_id: The revision that was current when it was asked for.
        links: Titles of the articles it links to, all existing, redirects followed, without itself
            and without repetition. Alphabetical: the API does not tell the reading order.
        text: Lead text; None if it was not asked for or the wiki cannot give it.
        has_text: Whether the lead text was asked for.
        disambiguation: Whether the wiki marks it as a list of what its title may mean; None if that
            was not asked for, as in older caches.
        disambiguations: Those of `links` that the wiki marks so.
    """

    title: str
    page_id: int
    revision_id: int
    links: tuple[str, ...]
    text: str | None = None
    has_text: bool = False
    disambiguation: bool | None = None
    disambiguations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Links:
    """Where the links of an article lead.

    Attributes:
        titles: Of existing articles, redirects followed.
        disambiguations: Those of them that the wiki marks as disambiguation pages.
    """

    titles: tuple[str, ...]
    disambiguations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Absent:
    """A title that leads to no article, and why: `missing`, `invalid_title`, ….

    Attributes:
        title: As it was asked for.
        reason: One word.
        detail: For people.
    """

    title: str
    reason: str
    detail: str


class PageCache:
    """Pages and the licence of one wiki, on disk. Usable from several threads.

    It knows a page by its title and by every name that the wiki has once led there from. What was
    absent it does not keep: somebody may write that page tomorrow.

    Raises:
        ValueError: If the file there is no page cache of this version.
    """

    def __init__(self, folder: Path, api: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"[^a-z0-9.]+", "-", urlsplit(api).netloc.lower())
        self.file = folder / f"{host}-{hashlib.sha256(api.encode()).hexdigest()[:8]}.sqlite"
        self._lock = threading.Lock()
        try:
            self._connect()
        except FAULTS as error:
            if not _is_damage(error):
                raise self._unusable(error) from None
            aside = next(
                place
                for n in count(1)
                if not (place := self.file.with_name(f"{self.file.name}.damaged-{n}")).exists()
            )
            log.warning("%s: set aside as %s, begun anew: %s", self.file, aside.name, error)
            self.file.replace(aside)
            for rest in ("-wal", "-shm"):
                self.file.with_name(self.file.name + rest).unlink(missing_ok=True)
            try:
                self._connect()
            except FAULTS as again:
                raise self._unusable(again) from None

    def _unusable(self, error: Exception) -> Exception:
        number = OF_THE_DISK.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if number is not None:
            return OSError(number, os.strerror(number), str(self.file))
        return ValueError(
            f"expected a page cache in {self.file}, got {error}: delete it or name another "
            "folder with --cache"
        )

    def _connect(self) -> None:
        self._base = sqlite3.connect(self.file, timeout=30, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._base.close()
            raise

    def _open(self) -> None:
        # With a write-ahead log a killed process costs nothing, a power cut the last few pages.
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in range(_SCHEMA_VERSION + 1):
                raise ValueError(
                    f"expected a page cache of version {_SCHEMA_VERSION} in {self.file}, got "
                    f"{version}: name another folder with --cache"
                )
            for table in ("page", "site", "name"):
                self._base.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, record TEXT)"
                )
            self._take_over_names()
            self._base.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def _take_over_names(self) -> None:
        """Of earlier versions, which had them in a table of their own."""
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alias'"
        if self._base.execute(tables).fetchone() is None:
            return
        for asked, title in self._base.execute("SELECT asked, key FROM alias").fetchall():
            if isinstance(asked, str) and isinstance(title, str):
                self._put_name(asked, title)
        self._base.execute("DROP TABLE alias")

    def get(self, asked: str) -> Page | None:
        """The page that a title led to when it was asked for; None if there was none yet."""
        try:
            name = self._record("name", asked)
            title = asked if name is None else _title(name, asked, self.file)
            record = self._record("page", title)
            return None if record is None else _page(record, title, self.file)
        except (ValueError, sqlite3.DatabaseError) as error:
            log.warning("%s: asked for again: %r: %s", self.file, asked, error)
            return None

    def _record(self, table: str, key: str) -> object:
        with self._lock, closing(self._base.cursor()) as cursor:
            found = cursor.execute(f"SELECT record FROM {table} WHERE key = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def put(self, asked: str, page: Page) -> None:
        """Store the page that `asked` led to, under its own title as well."""
        record = json.dumps(sealed(asdict(page)), ensure_ascii=True)
        with self._writing():
            self._base.execute("INSERT OR REPLACE INTO page VALUES (?, ?)", (page.title, record))
            self._base.execute("DELETE FROM name WHERE key = ?", (asked,))
            if asked != page.title:
                self._put_name(asked, page.title)

    def _put_name(self, asked: str, title: str) -> None:
        record = json.dumps(sealed({"asked": asked, "title": title}))
        self._base.execute("INSERT OR REPLACE INTO name VALUES (?, ?)", (asked, record))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction; a damaged file is not worth a run, a full disk ends it."""
        try:
            with self._lock, self._base:
                yield
        except FAULTS as error:
            if not _is_damage(error):
                raise self._unusable(error) from None
            log.warning("%s: a page is not kept: %s", self.file, error)

    def get_licence(self) -> str | None:
        """The licence that the wiki told; None if it has not yet, or version 1 noted as much."""
        try:
            with self._lock:
                row = self._base.execute("SELECT record FROM site").fetchone()
            if row is None:
                return None
            found = _fields(row[0], self.file)
            licence = found.or_none("licence", found.text)
        except (ValueError, sqlite3.DatabaseError) as error:
            log.warning("%s: licence asked for again: %s", self.file, error)
            return None
        return None if licence == "unknown" else licence

    def put_licence(self, licence: str) -> None:
        with self._writing():
            self._base.execute(
                "INSERT OR REPLACE INTO site VALUES ('site', ?)",
                (json.dumps(sealed({"licence": licence})),),
            )

    def close(self) -> None:
        with self._lock:
            self._base.close()


def _is_damage(error: Exception) -> bool:
    if isinstance(error, sqlite3.DatabaseError):
        return error.sqlite_errorcode & 0xFF in DAMAGED
    return True


def _fields(record: object, file: Path) -> Fields:
    """Raises: ValueError where a record is not what was written."""
    if not isinstance(record, str):
        raise ValueError(f"expected text as a record in {file}, got another kind")
    found = Fields.of(parse_json(record, file), file)
    return Fields(unsealed(dict(found.values), file), found.place)


def _title(record: object, asked: str, file: Path) -> str:
    """Raises: ValueError where it does not say where this name leads: an index can be damaged."""
    found = _fields(record, file)
    if found.text("asked") != asked:
        raise found.wrong("asked", repr(asked))
    return found.text("title")


def _page(record: object, title: str, file: Path) -> Page | None:
    """Raises: ValueError where it is not the page of this title."""
    found = _fields(record, file)
    if "reason" in found:  # an absence, which version 1 kept
        return None
    if found.text("title") != title or not title.strip():
        raise found.wrong("title", repr(title))
    lists = {name: found.texts(name) if name in found else [] for name in LISTS}
    return Page(
        title=found.text("title"),
        page_id=found.whole("page_id"),
        revision_id=found.whole("revision_id"),
        links=tuple(lists["links"]),
        text=found.or_none("text", found.text) if "text" in found else None,
        has_text=found.flag("has_text") if "has_text" in found else False,
        disambiguation=(
            found.or_none("disambiguation", found.flag) if "disambiguation" in found else None
        ),
        disambiguations=tuple(lists["disambiguations"]),
    )


class Wiki(Protocol):
    """A wiki that can be walked, such as `kncl_env.world.sources.wiki.wikipedia.PoliteWikipedia`.

    Attributes:
        api: Address of its API.
        gate: Passed by every request.
        needs_text: Whether heads come with the lead text.
    """

    api: str
    gate: Gate
    needs_text: bool

    def fetch_head(self, title: str) -> Page | Absent:
        """The article that a title leads to, its links left empty; raises WikiError."""

    def fetch_links(self, title: str) -> Links:
        """The articles that an article links to; raises WikiError."""

    def fetch_licence(self) -> str | None:
        """Licence of its text; raises WikiError."""


class Library:
    """Pages by title: from the cache, or fetched once even where several walks want one at a time.

    A title is asked for as it is written; under which name the wiki has the page, its answer tells.
    What is absent and what failed is remembered for the length of the run: the wiki has had its
    second chances, and the next run asks again.

    Args:
        cache: Where pages are kept.
        wiki: Asked for what the cache does not hold.
    """

    def __init__(self, cache: PageCache, wiki: Wiki) -> None:
        self.cache = cache
        self.wiki = wiki
        self.from_cache = 0
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._lost: dict[str, Absent | WikiError] = {}

    def get(self, title: str) -> Page | Absent:
        """Raises: WikiError, now and at every later call, if the wiki gave no usable answer."""
        with self._turn("head", title):
            lost = self._lost.get(title)
            if isinstance(lost, WikiError):
                raise lost
            if lost is not None:
                return lost
            known = self.cache.get(title)
            if known is not None and self._suffices(known):
                with self._lock:
                    self.from_cache += 1
                return known
            try:
                outcome = self._fetch(title)
            except WikiError as error:
                self._lost[title] = error
                raise
            if isinstance(outcome, Absent):
                self._lost[title] = outcome
            return outcome

    def _fetch(self, asked: str) -> Page | Absent:
        head = self.wiki.fetch_head(asked)
        if isinstance(head, Absent):
            return head
        # Several names may lead to one article: its links are still asked for once. Whoever holds
        # this turn takes no other, so two names that lead to each other cannot block each other.
        with self._turn("links", head.title):
            known = self.cache.get(head.title)
            if known is not None and known.revision_id == head.revision_id:
                links = Links(known.links, known.disambiguations)
            else:
                links = self.wiki.fetch_links(head.title)
            page = replace(head, links=links.titles, disambiguations=links.disambiguations)
            self.cache.put(asked, page)
        return page

    def _turn(self, kind: str, title: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault((kind, title), threading.Lock())

    def _suffices(self, known: Page) -> bool:
        has_text = known.has_text or not self.wiki.needs_text
        return has_text and known.disambiguation is not None

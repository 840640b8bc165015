"""Pages that a wiki has already given us, so that nothing is asked for twice.

One SQLite file per wiki: a page appears in it whole or not at all, whenever the process is killed.
It knows no network; what to do on a miss is passed in.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
import unicodedata
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from rabbit_holes.live.errors import WikiError

_SCHEMA_VERSION = 1


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
    """

    title: str
    page_id: int
    revision_id: int
    links: tuple[str, ...]
    text: str | None = None
    has_text: bool = False


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


@dataclass(frozen=True)
class Site:
    """What a wiki says of itself.

    Attributes:
        name: Its own name.
        licence: Of its text; `unknown` where the wiki does not say.
        first_letter: Whether titles begin with a capital whatever one writes.
    """

    name: str
    licence: str
    first_letter: bool = True


def normal_title(title: str, *, first_letter: bool = True) -> str:
    """A title as MediaWiki writes it, as far as that can be known without asking.

    Args:
        title: As somebody typed it.
        first_letter: Whether the wiki's titles begin with a capital.
    """
    title = unicodedata.normalize("NFC", " ".join(title.replace("_", " ").split()))
    capital = title[:1].upper()
    return capital + title[1:] if first_letter and len(capital) == 1 else title


class PageCache:
    """Pages, absences and the site record of one wiki, on disk. Usable from several threads.

    Raises:
        ValueError: If the file there is no page cache of this version.
    """

    def __init__(self, folder: Path, api: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"[^a-z0-9.]+", "-", urlsplit(api).netloc.lower())
        self.file = folder / f"{host}-{hashlib.sha256(api.encode()).hexdigest()[:8]}.sqlite"
        self._lock = threading.Lock()
        self._base = sqlite3.connect(self.file, timeout=30, check_same_thread=False)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise ValueError(
                f"expected a page cache in {self.file}, got {error}: delete it or name another "
                "folder with --cache"
            ) from None
        except ValueError:
            self._base.close()
            raise

    def _open(self) -> None:
        # With a write-ahead log a killed process costs nothing, a power cut the last few pages.
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                raise ValueError(
                    f"expected a page cache of version {_SCHEMA_VERSION} in {self.file}, got "
                    f"{version}: name another folder with --cache"
                )
            for table in ("page", "site"):
                self._base.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, record TEXT)"
                )
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS alias (asked TEXT PRIMARY KEY, key TEXT)"
            )
            self._base.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def get(self, asked: str) -> Page | Absent | None:
        """What a title led to when it was asked for; None if it never was."""
        with self._lock, closing(self._base.cursor()) as cursor:
            row = cursor.execute(
                "SELECT record FROM page WHERE key = coalesce("
                "(SELECT key FROM alias WHERE asked = ?), ?)",
                (asked, asked),
            ).fetchone()
        if row is None:
            return None
        fields = json.loads(row[0])
        if "reason" in fields:
            return Absent(**fields)
        return Page(**{**fields, "links": tuple(fields["links"])})

    def put(self, asked: str, outcome: Page | Absent) -> None:
        """Store what `asked` led to, under the title it led to as well."""
        record = json.dumps(asdict(outcome), ensure_ascii=True)
        with self._lock, self._base:
            self._base.execute("INSERT OR REPLACE INTO page VALUES (?, ?)", (outcome.title, record))
            if asked != outcome.title:
                self._base.execute(
                    "INSERT OR REPLACE INTO alias VALUES (?, ?)", (asked, outcome.title)
                )

    def get_site(self) -> Site | None:
        with self._lock:
            row = self._base.execute("SELECT record FROM site").fetchone()
        return None if row is None else Site(**json.loads(row[0]))

    def put_site(self, site: Site) -> None:
        with self._lock, self._base:
            self._base.execute(
                "INSERT OR REPLACE INTO site VALUES ('site', ?)", (json.dumps(asdict(site)),)
            )

    def close(self) -> None:
        with self._lock:
            self._base.close()


class Wiki(Protocol):
    """What `Library` asks of a wiki; both raise WikiError."""

    def fetch_head(self, title: str) -> Page | Absent:
        """The article that a title leads to, its links left empty."""

    def fetch_links(self, title: str) -> tuple[str, ...]:
        """The articles that an article links to."""


class Library:
    """Pages by title: from the cache, or fetched once even where several walks want one at a time.

    A failure is remembered for the length of the run: the wiki has had its second chances.

    Args:
        cache: Where pages are kept.
        wiki: Asked for what the cache does not hold.
        needs_text: Whether a cached page without lead text counts as a miss.
        first_letter: Whether the wiki's titles begin with a capital.
    """

    def __init__(
        self,
        cache: PageCache,
        wiki: Wiki,
        *,
        needs_text: bool = False,
        first_letter: bool = True,
    ) -> None:
        self.cache = cache
        self.from_cache = 0
        self.fetched = 0
        self._wiki = wiki
        self._needs_text = needs_text
        self.first_letter = first_letter
        self._lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self._failed: dict[str, WikiError] = {}

    def get(self, title: str) -> Page | Absent:
        """Raises: WikiError, now and at every later call, if the wiki gave no usable answer."""
        asked = normal_title(title, first_letter=self.first_letter)
        with self._turn("head", asked):
            if asked in self._failed:
                raise self._failed[asked]
            known = self.cache.get(asked)
            if known is not None and self._suffices(known):
                with self._lock:
                    self.from_cache += 1
                return known
            try:
                outcome = self._fetch(asked)
            except WikiError as error:
                self._failed[asked] = error
                raise
            with self._lock:
                self.fetched += 1
            return outcome

    def _fetch(self, asked: str) -> Page | Absent:
        head = self._wiki.fetch_head(asked)
        if isinstance(head, Absent):
            self.cache.put(asked, head)
            return head
        # Several names may lead to one article: its links are still asked for once. Whoever holds
        # this turn takes no other, so two names that lead to each other cannot block each other.
        with self._turn("links", head.title):
            known = self.cache.get(head.title)
            if isinstance(known, Page) and known.revision_id == head.revision_id:
                links = known.links
            else:
                links = self._wiki.fetch_links(head.title)
            page = replace(head, links=links)
            self.cache.put(asked, page)
        return page

    def _turn(self, kind: str, title: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault((kind, title), threading.Lock())

    def _suffices(self, known: Page | Absent) -> bool:
        return isinstance(known, Absent) or known.has_text or not self._needs_text

"""ZIM archives, as Kiwix distributes them: pages, their links in reading order, redirects.

It is the one door to libzim, an extra of its own because of its licence (GPL 3 or later).
"""

from __future__ import annotations

import posixpath
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import (
    LARGEST,
    Document,
    Moved,
    Origin,
    Wanted,
    Watch,
    corpus_of,
)
from kncl_env.world.sources.html_text import page_text
from kncl_env.world.sources.names import Head, Place
from kncl_env.world.sources.packed import files_of
from kncl_env.world.sources.paragraphs import one_line

if TYPE_CHECKING:
    from libzim.reader import Archive, Entry

PAGE = "text/html"


def read_zim(place: Path, wanted: Wanted, watch: Watch | None = None) -> Corpus:
    """Articles of a ZIM archive, in the order of their paths.

    Tables, notes, menus and pictures are left out; links are those of the text that is left.

    Raises:
        ValueError: libzim is missing, there is no file, or it is no ZIM or cut short.
    """
    shelf = ZimShelf(place)
    return corpus_of(shelf, Origin("zim", place, shelf.licence, shelf.citation), wanted, watch)


class _Named(NamedTuple):
    """An entry with its names, which are bytes of the file and may be damaged."""

    entry: Entry
    path: str
    title: str


class ZimShelf:
    """The pages of one archive."""

    def __init__(self, place: Path) -> None:
        try:
            from libzim.reader import Archive
        except ImportError:
            raise ValueError(
                "expected the library libzim for the source zim, found none: "
                "pip install 'kncl[zim]'"
            ) from None
        (self._file, *more) = files_of(place, (".zim",), "a ZIM archive")
        if more:
            raise ValueError(f"expected one ZIM archive, got several in {place}: name one of them")
        with self._readable("it is none, or was cut short"):
            self._archive: Archive = Archive(self._file)
        self.size = self._file.stat().st_size
        self.licence = self._said("License")
        self.citation = ", ".join(filter(None, map(self._said, ("Title", "Creator", "Date"))))

    def heads(self, moved: Moved) -> Iterator[Head]:
        for place, named, target in self._entries(moved):
            if target is not None:
                yield Head(named.path, place, redirects_to=target)
                if named.title not in ("", named.path):
                    yield Head(named.title, place, redirects_to=target)
            elif self._is_page(named):
                yield Head(_title(named), place, named.path)

    def documents(self, tally: Tally, moved: Moved) -> Iterator[Document]:
        for place, named, target in self._entries(moved):
            if target is not None:
                tally["redirects_read"] += 1
            elif not self._is_page(named):
                tally.drop("entries_that_are_no_pages_dropped", named.path, str(place))
            else:
                title = _title(named)
                if (text := self._text(named.entry, place)) is None:
                    yield Document(title, place, (), is_too_large=True)
                else:
                    page = page_text(text, title)
                    linked = (_path(link, named.path) for link in page.links)
                    yield Document(title, place, page.paragraphs, [path for path in linked if path])

    def _entries(self, moved: Moved) -> Iterator[tuple[Place, _Named, str | None]]:
        """Place and entry of each, and the path that it redirects to, if it does."""
        n = self._archive.entry_count
        for number in range(n):
            place = Place(str(self._file), number + 1, "entry")
            with self._readable(f"{place.unit} {place.line:,} is damaged"):
                entry = self._archive._get_entry_by_id(number)
                named = _Named(entry, entry.path, one_line(entry.title))
                target = entry.get_redirect_entry().path if entry.is_redirect else None
            yield place, named, target
            moved(self.size * (number + 1) // n)

    def _is_page(self, named: _Named) -> bool:
        with self._readable(f"{one_line(named.path)} is damaged"):
            return bool(named.entry.get_item().mimetype.startswith(PAGE))

    def _text(self, entry: Entry, place: Place) -> str | None:
        """What a page holds; None where that is too much."""
        with self._readable(f"{place.unit} {place.line:,} is damaged"):
            item = entry.get_item()
            content = None if item.size > LARGEST else bytes(item.content)
        return None if content is None else content.decode(errors="replace")

    @contextmanager
    def _readable(self, why: str) -> Iterator[None]:
        """Raises: ValueError for what the library raises, which is nothing more precise.

        Names that are no UTF-8 it tells as such, without the file.
        """
        try:
            yield
        except (RuntimeError, ValueError, LookupError) as error:
            raise ValueError(
                f"expected a ZIM archive at {self._file}, got {one_line(str(error))}: {why}"
            ) from None

    def _said(self, name: str) -> str:
        with self._readable(f"what it says as {name} is damaged"):
            if name not in self._archive.metadata_keys:
                return ""
            return one_line(self._archive.get_metadata(name).decode(errors="replace"))


def _title(named: _Named) -> str:
    return named.title or one_line(named.path)


def _path(link: str, page: str) -> str:
    """The path in the archive that a link of a page leads to; empty where it leads out of it."""
    try:
        parts = urllib.parse.urlsplit(link)
    except ValueError:
        return ""
    if parts.scheme or parts.netloc or not parts.path:
        return ""
    path = urllib.parse.unquote(parts.path)
    joined = path if path.startswith("/") else posixpath.join(posixpath.dirname(page), path)
    return posixpath.normpath(joined).lstrip("/")

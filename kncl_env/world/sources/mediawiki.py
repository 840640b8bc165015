"""XML dumps of MediaWiki, as Wikimedia publishes them: one page after another, plain or packed.

Pages outside of the main namespace are dropped, redirects are followed. Of several revisions of a
page the last one counts. A document type, which no dump has, is refused: it could make a few bytes
stand for any number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.parsers import expat

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import (
    LARGEST,
    Document,
    Moved,
    Origin,
    Wanted,
    Watch,
    corpus_of,
    moved_on,
)
from kncl_env.world.sources.names import Head, Place
from kncl_env.world.sources.packed import BrokenError, files_of, unpacked
from kncl_env.world.sources.paragraphs import one_line, paragraphs_of
from kncl_env.world.sources.wikitext import Namespaces, read_wikitext
from train_lm.checked.records import shown

CHUNK = 2**16  # [bytes] given to the parser at a time
MODEL = "wikitext"  # of content; scripts and data have others
WIKIMEDIA = "wikipedia.org"
# Dumps of before 2012 state redirects in the text alone.
_OLD_REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^\]|]+)", re.IGNORECASE)
LICENCE = "CC BY-SA 4.0 (Wikipedia)"


def read_mediawiki(place: Path, wanted: Wanted, watch: Watch | None = None) -> Corpus:
    """Articles of a dump, or of the dumps of one wiki in a folder.

    Categories become labels, `category.` and their name.

    Raises:
        ValueError: There is no dump; later, while reading: it is no XML, or was cut short.
    """
    shelf = DumpShelf(place)
    licence = LICENCE if WIKIMEDIA in shelf.site.base else ""
    citation = ", ".join(filter(None, (shelf.site.name, shelf.site.base)))
    return corpus_of(shelf, Origin("mediawiki", place, licence, citation), wanted, watch)


@dataclass
class Page:
    """A page, as its elements come in."""

    line: int
    title: str = ""
    space: str = "0"
    text: str = ""
    model: str = MODEL
    redirects_to: str | None = None


@dataclass
class Site:
    """What a dump says of its wiki."""

    name: str = ""
    base: str = ""
    case: str = "first-letter"
    names: dict[str, int] = field(default_factory=dict)

    @property
    def namespaces(self) -> Namespaces:
        numbers = {**Namespaces().numbers, **self.names}
        return Namespaces(numbers, self.case == "first-letter")


class DumpShelf:
    """The articles of dumps.

    Attributes:
        site: What the first of them says of the wiki.
    """

    def __init__(self, place: Path) -> None:
        self._files = files_of(place, (".xml",), "an XML dump")
        self.size = sum(file.stat().st_size for file in self._files)
        reader = _Reader(self._files[0])
        next(reader.pages(lambda _: None), None)
        self.site = reader.site

    def heads(self, moved: Moved) -> Iterator[Head]:
        namespaces = self.site.namespaces
        for place, page in self._pages(Tally(), moved):
            title = one_line(page.title)
            if page.redirects_to is not None:
                target = namespaces.title(page.redirects_to.partition("#")[0])
                yield Head(title, place, redirects_to=target)
            else:
                yield Head(title, place)

    def documents(self, tally: Tally, moved: Moved) -> Iterator[Document]:
        namespaces = self.site.namespaces
        for place, page in self._pages(tally, moved):
            title = one_line(page.title)
            if page.redirects_to is not None:
                tally["redirects_read"] += 1
            elif len(page.text) > LARGEST:
                yield Document(title, place, (), is_too_large=True)
            elif page.model != MODEL:
                yield Document(title, place, paragraphs_of(page.text))
            else:
                found = read_wikitext(page.text, namespaces)
                labels = [f"category.{c.replace('.', ' ')}" for c in found.categories if c]
                yield Document(title, place, found.paragraphs, found.links, labels)

    def _pages(self, tally: Tally, moved: Moved) -> Iterator[tuple[Place, Page]]:
        before = 0
        for file in self._files:
            for page in _Reader(file).pages(partial(moved_on, moved, before)):
                place = Place(str(file), page.line)
                if page.space != "0":
                    tally.drop("pages_of_other_namespaces_dropped", page.title, str(place))
                elif not page.title.strip():
                    tally.drop("documents_without_title_dropped", page.text, str(place))
                else:
                    yield place, page
            before += file.stat().st_size


class _Reader:
    """Reads one dump, a chunk at a time, and hands out pages as they end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.site = Site()
        self._ready: list[Page] = []
        self._page: Page | None = None
        self._parts: list[str] = []
        self._size = 0
        self._key = ""  # of a namespace
        self._root = ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse

    def pages(self, moved: Moved) -> Iterator[Page]:
        """Raises: ValueError naming file and line, where it is no dump, damaged or cut short."""
        line = 0
        try:
            with unpacked(self._file, moved) as stream:
                while chunk := stream.read(CHUNK):
                    self._parser.Parse(chunk, False)
                    line = self._parser.CurrentLineNumber
                    yield from self._ready
                    self._ready.clear()
                self._parser.Parse(b"", True)
                yield from self._ready
        except BrokenError as broken:
            raise broken.at(line) from None
        except expat.ExpatError as error:
            why = expat.ErrorString(error.code)
            raise ValueError(
                f"expected a whole XML dump in {self._file}, got {why} at line "
                f"{error.lineno:,}: it is damaged or was cut short, fetch it again"
            ) from None
        if self._root != "mediawiki":
            raise ValueError(
                f"expected a dump of MediaWiki in {self._file}, got XML of {shown(self._root)}"
            )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._root = self._root or tag
        self._parts, self._size = [], 0
        if tag == "page":
            self._page = Page(self._parser.CurrentLineNumber)
        elif tag == "redirect" and self._page is not None:
            self._page.redirects_to = attributes.get("title", "")
        elif tag == "namespace":
            self._key = attributes.get("key", "")

    def _text(self, text: str) -> None:
        self._size += len(text)
        if self._size <= LARGEST + 2**20:  # enough to see that it is too large
            self._parts.append(text)

    def _end(self, tag: str) -> None:
        text = "".join(self._parts)
        self._parts, self._size = [], 0
        if self._page is None:
            self._of_site(tag, text)
        elif tag == "page":
            if self._page.redirects_to is None and (old := _OLD_REDIRECT.match(self._page.text)):
                self._page.redirects_to = old[1]
            self._ready.append(self._page)
            self._page = None
        elif tag == "title":
            self._page.title = text
        elif tag == "ns":
            self._page.space = text.strip()
        elif tag == "model":
            self._page.model = text.strip()
        elif tag == "text":
            self._page.text = text

    def _of_site(self, tag: str, text: str) -> None:
        if tag == "sitename":
            self.site.name = one_line(text)
        elif tag == "base":
            self.site.base = one_line(text)
        elif tag == "case":
            self.site.case = text.strip()
        elif tag == "namespace" and text.strip() and self._key.lstrip("-").isdigit():
            self.site.names[" ".join(text.split()).lower()] = int(self._key)

    def _refuse(self, *_: object) -> None:
        raise ValueError(
            f"expected a dump of MediaWiki in {self._file}, got XML with a document type at line "
            f"{self._parser.CurrentLineNumber:,}: no dump has one"
        )

"""Documents of any source as the articles of a corpus: named, linked, counted, one after another.

A source's own file knows its format, and hands out `Document`s. What all sources share is here:
unique titles, links by id, title or redirect, links of a file beside it, what is dropped and why.
Nothing of the texts is kept: whoever reads again, reads the files again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeAlias

from kncl_env.world.corpus import Article, Corpus, Tally
from kncl_env.world.sources.names import Head, Names, Place, plain_name

LARGEST = 2**26  # [characters] of a document; the longest books are a tenth of it

Moved: TypeAlias = Callable[[int], None]  # told how many bytes of the source were read so far
# Shows progress: given what is done and how many bytes there are (None: nobody knows).
Watch: TypeAlias = Callable[[str, int | None], AbstractContextManager[Moved]]


@dataclass(frozen=True)
class Document:
    """What a source says of one topic.

    Attributes:
        title: As its head has it.
        paragraphs: Empty where it has no text.
        links: Ids, titles or redirects, in reading order.
        labels: Regions, dots between their levels.
        is_too_large: Of more than `LARGEST` characters, and not read for that.
    """

    title: str
    place: Place
    paragraphs: tuple[str, ...]
    links: Sequence[str] = ()
    labels: Sequence[str] = ()
    is_too_large: bool = False


class Shelf(Protocol):
    """Documents in some format, to be read any number of times, always in the same order."""

    @property
    def size(self) -> int | None:
        """Bytes of its files."""

    def heads(self, moved: Moved) -> Iterator[Head]:
        """How every document is called, and every redirect."""

    def documents(self, tally: Tally, moved: Moved) -> Iterator[Document]:
        """The documents of `heads`, without redirects; what else is dropped goes to the tally."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source, whatever its format.

    Attributes:
        links: File of further links between documents.
        limit: Documents to read, at most; all, if None.
        licence: Of the texts; what the source says itself, if empty.
        outward: Whether links that mean none of the documents are handed on as they are written,
            because another corpus may have what they mean; if not, they are dropped and counted.
    """

    links: Path | None = None
    limit: int | None = None
    licence: str = ""
    outward: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a --limit of at least 1 document, got {self.limit}")
        if self.links is not None and not self.links.is_file():
            raise ValueError(f"expected a file of links at {self.links}, found none")


@dataclass(frozen=True)
class Origin:
    """What a source says of itself.

    Attributes:
        name: Of its format.
        licence: Empty where it states none.
        citation: What to cite; may be empty.
        place: Where it lies: a file, a folder, a name.
    """

    name: str
    place: object
    licence: str = ""
    citation: str = ""


def corpus_of(shelf: Shelf, origin: Origin, wanted: Wanted, watch: Watch | None = None) -> Corpus:
    """The documents of a shelf as a corpus that is read anew each time."""
    articles = _Articles(shelf, wanted, watch or _unseen)
    licence = wanted.licence or origin.licence or "not stated"
    return Corpus(
        articles,
        origin.name,
        licence,
        origin.citation,
        articles.counts,
        articles.first_dropped,
        place=str(origin.place),
    )


def moved_on(moved: Moved, before: int, now: int) -> None:
    """Tell of bytes read of a file, after those of the files before it."""
    moved(before + now)


def _unseen(_: str, __: int | None) -> AbstractContextManager[Moved]:
    return nullcontext(lambda _: None)


@dataclass
class _Articles:
    """Iterates over the articles of a shelf.

    Attributes:
        counts: What was read and dropped the last time that all of it was read.
        first_dropped: The first of each that was dropped.
    """

    shelf: Shelf
    wanted: Wanted
    watch: Watch
    counts: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, str] = field(default_factory=dict)
    _names: Names | None = None
    _named: Tally = field(default_factory=Tally)
    _more: Callable[[int], Sequence[int]] | None = None

    def __iter__(self) -> Iterator[Article]:
        """Raises: ValueError, OSError where the source is damaged or cannot be read."""
        names = self._all_names()
        tally = Tally()
        tally.update(self._named)
        tally.first.update(self._named.first)
        twins: dict[int, int] = {}
        with self.watch("reading articles", self.shelf.size) as moved:
            documents = self.shelf.documents(tally, moved)
            for number, document in enumerate(islice(documents, self.wanted.limit)):
                tally["documents_read"] += 1
                tally.place = str(document.place)
                if article := self._article(number, document, names, tally, twins):
                    tally["articles"] += 1
                    yield article
        self.counts.clear()
        self.counts.update(tally)
        self.first_dropped.clear()
        self.first_dropped.update(tally.first)

    def _all_names(self) -> Names:
        if self._names is None:
            self._named = Tally()
            with self.watch("reading titles", self.shelf.size) as moved:
                self._names = Names(lambda: self._heads(moved), self._named)
            if self.wanted.links is not None:
                from kncl_env.world.sources.link_file import links_of

                self._more = links_of(self.wanted.links, self._names, self._named)
        return self._names

    def _heads(self, moved: Moved) -> Iterator[Head]:
        n = 0
        for head in self.shelf.heads(moved):
            if head.redirects_to is None:
                if n == self.wanted.limit:
                    return
                n += 1
            yield head

    def _article(
        self, number: int, document: Document, names: Names, tally: Tally, twins: dict[int, int]
    ) -> Article | None:
        if number >= len(names) or names.written(number) != document.title:
            raise ValueError(
                f"expected {document.place} as it was before, got another document there: the "
                "source was changed while it was read"
            )
        title = names.title(number)
        if document.is_too_large or sum(map(len, document.paragraphs)) > LARGEST:
            reason = f"documents_of_more_than_{LARGEST / 1e6:.0f}_million_characters_dropped"
            tally.drop(reason, title)
            return None
        if not document.paragraphs:
            tally.drop("documents_without_text_dropped", title)
            return None
        twin = twins.setdefault(hash(document.paragraphs), number)
        tally["articles_same_as_earlier"] += twin != number
        return Article(
            title,
            document.paragraphs,
            tuple((title, "link") for title in self._links(number, document, names, tally)),
            tuple(dict.fromkeys(document.labels)),
            same_as=None if twin == number else names.title(twin),
        )

    def _links(self, number: int, document: Document, names: Names, tally: Tally) -> list[str]:
        """Titles that one links to, each once, in reading order."""
        found: list[int] = names.find(document.links).tolist() if document.links else []
        tally["links_read"] += len(found)
        titles = []
        for name, target in zip(document.links, found, strict=True):
            if target >= 0:
                titles += [names.title(target)] if target != number else []
            elif self.wanted.outward:
                titles.append(plain_name(name))
            else:
                tally.drop("links_to_nowhere_dropped", name)
        tally["links_to_self_dropped"] += found.count(number)
        if self._more is not None:
            titles += [names.title(n) for n in self._more(number) if n >= 0 and n != number]
        return list(dict.fromkeys(titles))

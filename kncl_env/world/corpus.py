"""What a source of text has to deliver: articles with links, before any split exists.

Articles are read one after another and never all in memory, so that a corpus may be larger than it.
A corpus knows nothing of tokens, passages, splits or graphs as arrays; `world.py` makes those.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kncl_env.world.graph import LINK_TYPES
from train_lm.inputs import note_input

QUOTED = 60  # [characters] of what was dropped, at most
TOLD = 200  # [characters] of a licence on the terminal, at most; the card has all of it


@dataclass(frozen=True)
class Article:
    """A topic's text, its links and what the source says about it.

    Attributes:
        title: Unique in its corpus; the topic's name.
        paragraphs: The text in reading order; never empty, no empty paragraph.
        links: `(title of the target, link type)` in reading order; targets that the corpus lacks,
            self-links and repetitions are dropped when the graph is built.
        labels: Hierarchical region names such as `subject.Science.Biology`; every dotted prefix
            counts as a region too.
        is_noise: Truth known to the source alone (a generated world's junk topic). It is kept for
            accounting and is never shown to a policy.
        same_as: Title of an earlier article whose text is identical; both get the same split.
    """

    title: str
    paragraphs: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()
    is_noise: bool = False
    same_as: str | None = None

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError("expected an article with a title, got an empty one")
        if not self.paragraphs or not all(p.strip() for p in self.paragraphs):
            raise ValueError(
                f"expected text in every paragraph of {self.title!r}, got an empty one: "
                "a source must drop articles without text itself and count them"
            )
        unknown = {kind for _, kind in self.links} - set(LINK_TYPES)
        if unknown:
            raise ValueError(f"expected link types among {LINK_TYPES}, got {sorted(unknown)}")


@dataclass(frozen=True)
class Corpus:
    """Articles of one source, and where they come from.

    Attributes:
        articles: Any iterable that can be begun anew and gives the same articles each time: a
            tuple, or an object that reads its files again. Their number need not be known, and they
            are checked as they are read: `read` says what is wrong with them.
        source: Name of the source, for example `pydoc`.
        licence: Licence of the text, as a reader needs it.
        citation: What the distributor asks to be cited; may be empty.
        counts: What was read and what was dropped, by reason; whole once they were read through.
        first_dropped: The first of what was dropped, by reason, quoted with its place. It is for
            whoever builds and stands in no world: it may name files of this machine.
        fingerprint: What changes whenever the articles may have changed, and costs no reading: the
            files' sizes and times, say, and the options. A build that was interrupted goes on where
            it agrees; without one it reads all articles again to see that they are the same.
        beside: Files that the world keeps for the source, by name: what JSON each holds.
        place: Where it lies, for messages to whoever builds; may be empty.
    """

    articles: Iterable[Article]
    source: str
    licence: str
    citation: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    beside: dict[str, object] = field(default_factory=dict)
    place: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.articles, Iterator):  # asking it for one could open files
            raise ValueError(
                f"expected articles of {self.source!r} that can be read more than once, got an "
                f"iterator, {type(self.articles).__name__}: give an object whose `__iter__` begins "
                "anew"
            )

    def read(self) -> Reading:
        """Begin to read, from the first article."""
        return Reading(self)

    def losses(self) -> Iterator[str]:
        """What was dropped: how many, why, and the first of them."""
        for reason, first in self.first_dropped.items():
            yield f"{self.counts.get(reason, 1):,} {reason.replace('_', ' ')}, the first: {first}"

    @property
    def sha256(self) -> str:
        """Hash of every title, paragraph and link; reads all of it."""
        reading = self.read()
        for _ in reading:
            pass
        return reading.sha256


class Reading:
    """One way through a corpus: hands its articles on, and checks and hashes what it hands on.

    Attributes:
        n: Articles so far.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._hash = new_hash()
        self._titles: set[str] = set()
        self.n = 0

    def __iter__(self) -> Iterator[Article]:
        """Raises: ValueError at a title that was there before, or if there is no article."""
        for article in self._corpus.articles:
            if article.title in self._titles:
                raise ValueError(f"expected unique titles, got {article.title!r} more than once")
            self._titles.add(article.title)
            self.n += 1
            links = (f"{title}\t{kind}" for title, kind in article.links)
            add_texts(self._hash, (article.title, *article.paragraphs, *links, *article.labels))
            yield article
        if not self.n:
            why = "; ".join(self._corpus.losses()) or "check that the source holds text"
            place = self._corpus.place or f"source {self._corpus.source!r}"
            raise ValueError(f"expected a corpus with articles, got none from {place}: {why}")
        named = self._corpus.place or self._corpus.source
        said = "; ".join(
            f"{what}: {text if len(text) <= TOLD else f'{text[:TOLD]}…'}"
            for what, text in (
                ("licence", self._corpus.licence),
                ("to be cited", self._corpus.citation),
            )
            if text
        )
        note_input(named, self.sha256, f"{self.n:,} articles", said=said)

    @property
    def sha256(self) -> str:
        """Hash of every title, paragraph and link so far: the identity of what was read."""
        return self._hash.hexdigest()


class Tally(Counter[str]):
    """Counts of what a source reads and drops, by reason; it keeps the first of each that it drops.

    Attributes:
        place: What is being read, for the quotes.
        first: By reason, the place and the first text that was dropped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.place = ""
        self.first: dict[str, str] = {}

    def drop(self, reason: str, text: str, place: str = "") -> None:
        """Count something that is left out.

        Args:
            text: What it is; its beginning is quoted.
            place: Where it stands; `self.place`, if not stated.
        """
        self[reason] += 1
        if reason not in self.first:
            line = " ".join(text.split())
            shown = repr(line if len(line) <= QUOTED else line[:QUOTED] + "…")
            self.first[reason] = ": ".join(filter(None, (place or self.place, shown)))


def hash_texts(texts: Iterable[str]) -> str:
    """SHA-256 over texts, each closed by a separator so that no two splits of a text agree."""
    digest = new_hash()
    add_texts(digest, texts)
    return digest.hexdigest()


def new_hash() -> hashlib._Hash:
    """Of no texts yet."""
    return hashlib.sha256()


def add_texts(digest: hashlib._Hash, texts: Iterable[str]) -> None:
    """Go on with a hash of texts."""
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\x1e")

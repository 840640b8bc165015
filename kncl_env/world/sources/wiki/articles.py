"""A live wiki as a source of whole articles: many titles a request, links in reading order.

What a wiki's client answers becomes what an open world asks for; every error becomes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from kncl_env.open_world.articles import Fetched, SourceError
from kncl_env.open_world.outward import Outward
from kncl_env.world.sources.wiki.errors import StoppedError, WikiError
from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
from kncl_env.world.sources.wiki.page_cache import Absent
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia, Text
from kncl_env.world.sources.wikitext import Namespaces, read_wikitext
from kncl_env.world.world import World

TOGETHER = 50  # [titles] of one request; a wiki takes no more from whom it does not know
LONGEST = 6000  # [characters] of their names in an address, which servers limit to 8,000 or so


class WikiSource:
    """Articles of one wiki, asked for politely.

    Args:
        wiki: Its client.
        namespaces: What tells its links to articles from others; see `fetch_namespaces`.
    """

    def __init__(self, wiki: PoliteWikipedia, namespaces: Namespaces) -> None:
        self.wiki = wiki
        self.namespaces = namespaces

    @property
    def name(self) -> str:
        return self.wiki.api

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        """Raises: SourceError where the wiki gave no usable answer, further attempts included."""
        found: list[Fetched] = []
        try:
            for some in _batches(titles):
                texts = self.wiki.fetch_texts(some)
                found += [self._read(a, t) for a, t in zip(some, texts, strict=True)]
        except (WikiError, StoppedError) as error:
            raise SourceError(str(error) or "the wiki is asked for nothing any more") from None
        return found

    def close(self) -> None:
        self.wiki.gate.close()  # whoever waits there leaves
        self.wiki.close()

    def _read(self, asked: str, text: Text | Absent) -> Fetched:
        if isinstance(text, Absent):
            return Fetched(asked, absent=text.reason)
        read = read_wikitext(text.wikitext, self.namespaces)
        if not read.paragraphs:
            return Fetched(asked, absent="no_text")
        links = tuple(dict.fromkeys(read.links))
        return Fetched(asked, text.title, text.revision_id, read.paragraphs, links)


def wiki_of(world: World, etiquette: Etiquette) -> WikiSource:
    """The wiki that a world was built from; whoever opens it closes it.

    Raises:
        ValueError: It was not built from one.
    """
    outward = Outward.of(world)
    namespaces = Namespaces(dict(outward.namespaces), outward.first_letter)
    return WikiSource(PoliteWikipedia(etiquette, Gate(etiquette.rate), outward.api), namespaces)


def _batches(titles: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    length = 0
    for title in titles:
        size = len(quote(title, safe="")) + 3
        if some and (len(some) == TOGETHER or length + size > LONGEST):
            yield some
            some, length = [], 0
        some.append(title)
        length += size
    if some:
        yield some

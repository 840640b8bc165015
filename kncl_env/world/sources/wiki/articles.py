"""A live wiki as a source of whole articles: many titles a request, text and links in reading order.

What a wiki's client answers becomes what an open world asks for; every error becomes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from kncl_env.open_world.articles import Fetched, SourceError
from kncl_env.world.sources.wiki.errors import StoppedError, WikiError
from kncl_env.world.sources.wiki.page_cache import Absent
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia, Site, Text
from kncl_env.world.sources.wiki.wikitext import read_wikitext

TOGETHER = 50  # [titles] of one request; a wiki takes no more from whom it does not know
LONGEST = 6000  # [characters] of their names in an address, which servers limit to 8,000 or so


class WikiSource:
    """Articles of one wiki, asked for politely.

    Args:
        wiki: Its client.
        site: What it says of itself; see `PoliteWikipedia.fetch_site`.
    """

    def __init__(self, wiki: PoliteWikipedia, site: Site) -> None:
        self.wiki = wiki
        self.site = site
        self._other = frozenset(site.prefixes)

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
        self.wiki.gate.close()

    def _read(self, asked: str, text: Text | Absent) -> Fetched:
        if isinstance(text, Absent):
            return Fetched(asked, absent=text.reason)
        paragraphs, links = read_wikitext(
            text.wikitext, self._other.__contains__, self.site.first_letter
        )
        if not paragraphs:
            return Fetched(asked, absent="no_text")
        return Fetched(asked, text.title, text.revision_id, paragraphs, links)


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

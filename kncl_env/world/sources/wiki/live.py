"""A small world out of a live wiki: a few articles and what they link to, as far as is asked for.

Articles are fetched breadth first, in reading order, and kept in a journal beside the world: a
build that was killed goes on with what it has, and asks for nothing twice. What else the articles
link to is kept in the world, which can grow there while it is played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kncl_env.open_world.articles import ArticleJournal, ArticleSource, Fetched, SourceError
from kncl_env.open_world.outward import OUTWARD, Outward
from kncl_env.world.corpus import Article, Corpus, Tally
from kncl_env.world.sources.wiki.articles import WikiSource
from kncl_env.world.sources.wiki.errors import WikiError
from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia
from train_lm.files import hash_json
from train_lm.outputs import alone

MOST = 50  # [titles] that are asked for at a time


@dataclass
class Crawl:
    """Articles reached from some titles.

    Attributes:
        begin: Titles that they are reached from.
        n: Articles in all, at most.
        articles: Found so far, in order, each once.
        names: Title of the article that each name leads to, absences aside.
        absent: Names that lead to no article, and why.
    """

    begin: Sequence[str]
    n: int
    articles: dict[str, Fetched] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.begin or not all(title.strip() for title in self.begin):
            raise ValueError(
                f"expected titles to begin at, got {list(self.begin)}: name some with --titles"
            )
        if self.n < len(set(self.begin)):
            raise ValueError(
                f"expected at least as many articles as titles to begin at, "
                f"{len(set(self.begin))}, got {self.n}"
            )

    def run(
        self, journal: ArticleJournal, source: ArticleSource, moved: Callable[[int], None]
    ) -> None:
        """Fetch what is not in the journal.

        Raises:
            SourceError: The source gives nothing now; the journal keeps what it gave before.
            ValueError: A title to begin at leads to no article.
        """
        while some := self._next():
            missing = [title for title in some if title not in journal]
            if missing:
                try:
                    journal.add(source.fetch(missing))
                except SourceError as error:
                    raise SourceError(
                        f"expected {len(missing)} articles of {source.name}, got {error}: "
                        f"{len(journal)} are kept in {journal.file}, the same command goes on"
                    ) from None
            for title in some:
                one = journal.get(title)
                assert one is not None
                self._take(one)
            moved(len(self.articles))

    def _next(self) -> list[str]:
        """Titles to ask for: those to begin at, then the links of each article in turn."""
        rows = (self.begin, *(one.links for one in self.articles.values()))
        known = self.names.keys() | self.absent.keys()
        fresh = dict.fromkeys(title for row in rows for title in row if title not in known)
        return list(fresh)[: min(MOST, self.n - len(self.articles))]

    def _take(self, one: Fetched) -> None:
        if one.absent:
            if one.asked in self.begin:
                raise ValueError(
                    f"expected an article to begin at, got {one.asked!r}, which is none: "
                    f"{one.absent.replace('_', ' ')}"
                )
            self.absent[one.asked] = one.absent
            return
        self.names[one.asked] = self.names[one.title] = one.title
        self.articles.setdefault(one.title, one)


def read_live(
    api: str,
    etiquette: Etiquette,
    begin: Sequence[str],
    n: int,
    kept: Path,
    moved: Callable[[int], None] = lambda _: None,
) -> Corpus:
    """Articles of a live wiki, from some titles on.

    Args:
        api: Address of its `api.php`.
        begin: Titles of articles.
        n: Articles in all, at most.
        kept: Journal of what was fetched; what is there is not asked for again.
        moved: Told how many articles there are.

    Raises:
        SourceError: The wiki gives nothing now; the journal keeps what it gave before.
        ValueError: An address, a contact or a title that is none.
    """
    crawl = Crawl(begin, n)
    wiki = PoliteWikipedia(etiquette, Gate(etiquette.rate), api)
    try:
        with alone(kept):
            journal = ArticleJournal(kept, {"api": api})
            try:
                namespaces, licence = wiki.fetch_namespaces(), wiki.fetch_licence()
            except WikiError as error:
                raise SourceError(
                    f"expected what the wiki at {api} says of itself, got {error}: "
                    f"{len(journal)} articles are kept in {kept}, the same command goes on"
                ) from None
            crawl.run(journal, WikiSource(wiki, namespaces), moved)
    finally:
        wiki.close()
    spaces = tuple(sorted(namespaces.numbers.items()))
    outward = Outward(api, spaces, namespaces.first_letter)
    return corpus_of_crawl(
        crawl, f"mediawiki:{urlsplit(api).netloc}", licence or "not stated", outward
    )


def corpus_of_crawl(crawl: Crawl, source: str, licence: str, outward: Outward) -> Corpus:
    """Its articles as a corpus; links lead to other articles of it, under their own titles."""
    tally = Tally()
    tally["articles"] = len(crawl.articles)
    for name, reason in crawl.absent.items():
        tally.drop(f"links_to_{reason}_dropped", name)
    articles = tuple(
        Article(
            one.title,
            one.paragraphs,
            tuple((crawl.names[t], "link") for t in one.links if t in crawl.names),
        )
        for one in crawl.articles.values()
    )
    links = [list(one.links) for one in crawl.articles.values()]
    aliases = {name: title for name, title in crawl.names.items() if name != title}
    told = outward.with_links(links, aliases, sorted(crawl.absent))
    return Corpus(
        articles,
        source,
        licence,
        counts=dict(tally),
        first_dropped=tally.first,
        fingerprint=hash_json([one.digest for one in crawl.articles.values()]),
        beside={OUTWARD: told.to_json()},
    )

"""A user's own documents as the target of a corpus from elsewhere: one corpus, read in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from kncl_env.world.corpus import Article, Corpus, Tally

TARGET = "target"  # region of one's own documents


def with_target(corpus: Corpus, documents: Corpus) -> Corpus:
    """The corpus, then the documents as topics of a region of their own, `target`.

    A document whose title the corpus has is called `TITLE (target)`. Links of documents lead to
    documents, or else to articles of the corpus by their title, and are counted; labels of their
    own are left aside.

    Raises (from reading):
        ValueError: The corpus has a region `target`, or there is no document.
    """
    licence, citation = corpus.licence, corpus.citation
    if documents.licence != licence:
        licence = f"{licence}; of the target: {documents.licence}"
    if documents.citation and documents.citation != citation:
        citation = " ".join(part for part in (citation, documents.citation) if part)
    known, places = (corpus.fingerprint, documents.fingerprint), (corpus.place, documents.place)
    joined = _Joined(corpus, documents)
    return replace(
        corpus,
        articles=joined,
        licence=licence,
        citation=citation,
        counts=joined.counts,
        first_dropped=joined.first_dropped,
        fingerprint="\n".join(known) if all(known) else "",
        place=" and ".join(places) if all(places) else "",
    )


@dataclass(frozen=True)
class _Joined:
    corpus: Corpus
    documents: Corpus
    counts: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Article]:
        taken: set[str] = set()
        for article in self.corpus.articles:
            for label in article.labels:
                if label == TARGET or label.startswith(f"{TARGET}."):
                    raise ValueError(
                        f"expected no region {TARGET!r} in a corpus beside documents that are the "
                        f"target, got {label!r} of {article.title!r}: name that region by "
                        "--region, or call it otherwise"
                    )
            taken.add(article.title)
            yield article
        names, tally = self._names(taken), Tally()
        for document in self.documents.read():
            if document.title not in names:
                raise ValueError(
                    f"expected the documents of the target as they were a moment ago, got another, "
                    f"{document.title!r}: they changed while they were read, begin anew"
                )
            yield replace(
                document,
                title=names[document.title],
                links=tuple(self._links(document, names, taken, tally)),
                labels=(TARGET,),
                same_as=None if document.same_as is None else names[document.same_as],
            )
        self.counts.clear()
        self.first_dropped.clear()
        for begin, corpus in (("", self.corpus), (f"{TARGET}_", self.documents)):
            self.counts.update((begin + name, n) for name, n in corpus.counts.items())
            self.first_dropped.update(
                (begin + k, first) for k, first in corpus.first_dropped.items()
            )
        self.counts.update((f"{TARGET}_{name}", n) for name, n in tally.items())
        self.first_dropped.update((f"{TARGET}_{k}", first) for k, first in tally.first.items())

    def _links(
        self, document: Article, names: dict[str, str], taken: set[str], tally: Tally
    ) -> Iterator[tuple[str, str]]:
        """Where a document's links lead: a document of the name comes before an article."""
        for title, kind in document.links:
            if title in names:
                yield names[title], kind
            elif title in taken:
                tally["links_to_the_corpus"] += 1
                yield title, kind
            else:
                place = ", ".join(filter(None, (self.documents.place, repr(document.title))))
                tally.drop("links_to_nowhere_dropped", title, place)

    def _names(self, taken: set[str]) -> dict[str, str]:
        """How each document is called beside the corpus's articles, by its own title."""
        names = {document.title: document.title for document in self.documents.articles}
        used = taken | set(names)
        for title in names:
            if title in taken:
                ways = (f"{title} ({TARGET}{f' {n}' if n > 1 else ''})" for n in count(1))
                names[title] = next(name for name in ways if name not in used)
                used.add(names[title])
        return names

"""A user's own documents as the target of a corpus from elsewhere: one corpus, read in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from kncl_env.world.corpus import Article, Corpus

TARGET = "target"  # region of one's own documents


def with_target(corpus: Corpus, documents: Corpus) -> Corpus:
    """The corpus, then the documents as topics of a region of their own, `target`.

    A document whose title the corpus has is called `TITLE (target)`. Links of documents lead to
    documents; labels of their own are left aside.

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
        names = self._names(taken)
        for document in self.documents.read():
            if document.title not in names:
                raise ValueError(
                    f"expected the documents of the target as they were a moment ago, got another, "
                    f"{document.title!r}: they changed while they were read, begin anew"
                )
            yield replace(
                document,
                title=names[document.title],
                links=tuple((names.get(title, title), kind) for title, kind in document.links),
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

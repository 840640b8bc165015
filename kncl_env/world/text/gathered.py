"""Topics for a corpus whose documents are none: documents gathered by likeness, and named.

Messages, abstracts or answers are too short to hold anything out of, and too many to choose among.
They are embedded, clustered by k-means, and what lies together becomes one article. The text as a
whole decides where a document belongs, as it would for whoever files it; the world's own vectors
are fitted later, on training text alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import AUTO, BuildConfig
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.embedding import TextSpace
from kncl_env.world.index import k_means
from kncl_env.world.text.names import group_names
from kncl_env.world.text.spaces import fit_space

FITTED_ON = 20_000_000  # [characters] of documents that vectors are fitted on, about
AT_ONCE = 256_000_000  # [characters] of documents that are held in memory, about
TOGETHER = 256  # [documents] that are embedded at a time

ENOUGH = 8  # [passages] of a topic that can hold text out
USUAL = 40  # [passages] of a topic, where their number is left to us
MOST = 4000  # topics, where their number is left to us

Say = Callable[[str], None]


def gathered(corpus: Corpus, config: BuildConfig, say: Say) -> Corpus:
    """The corpus, or one whose articles are clusters of its documents, if the settings ask for it.

    Nothing is read before its articles are.
    """
    if config.clusters is None:
        return corpus
    return replace(corpus, articles=_Gathered(corpus, config, say))


@dataclass(frozen=True)
class _Gathered:
    """Clusters as articles; what they are made of is found on the first reading.

    Raises (from reading):
        ValueError: More clusters than documents, or too few words to tell them apart.
    """

    corpus: Corpus
    config: BuildConfig
    say: Say = field(compare=False)

    def __iter__(self) -> Iterator[Article]:
        if self._clusters is None:
            return iter(self.corpus.articles)
        return self._clusters.articles(self.corpus)

    @cached_property
    def _clusters(self) -> _Clusters | None:
        """None where the documents can be topics themselves."""
        lengths, sample, titles = self._first_look()
        n = self._number(lengths)
        if n is None:
            self.say("the articles are long enough to be topics: each of them is one")
            return None
        self.say(f"gathering {len(lengths):,} documents into {n:,} topics")
        space = fit_space(sample, self.config)
        cluster = k_means(self._vectors(space), n, self.config.seed)
        sizes = np.bincount(cluster)
        self.say(
            f"  {len(sizes):,} topics of {sizes.min():,} to {sizes.max():,} documents, median "
            f"{np.median(sizes):g}"
        )
        names = group_names(_Texts(self.corpus, cluster), len(sizes))
        number = dict(zip(titles, cluster.tolist(), strict=True))
        return _Clusters(cluster, lengths, names, number)

    def _first_look(self) -> tuple[NDArray[np.int64], list[str], list[str]]:
        """Characters of each document, a sample of texts, and all titles."""
        lengths, titles, sample = [], [], list[str]()
        held, every = 0, 1
        for i, article in enumerate(self.corpus.read()):
            text = text_of(article)
            lengths.append(len(text))
            titles.append(article.title)
            if i % every == 0:
                sample.append(text)
                held += len(text)
                if held > FITTED_ON and len(sample) > 1:
                    # Every second of them, so that the sample stays even over the corpus.
                    sample, every = sample[::2], 2 * every
                    held = sum(map(len, sample))
        return np.array(lengths, dtype=np.int64), sample, titles

    def _number(self, lengths: NDArray[np.int64]) -> int | None:
        """How many topics; None where each document is one."""
        n, size = len(lengths), self.config.passage_bytes
        if self.config.clusters != AUTO:
            wanted = int(self.config.clusters or 0)
            if wanted > n:
                raise ValueError(
                    f"expected at most {n:,} clusters, the number of documents, got {wanted:,}: "
                    "ask for fewer, or leave --clusters out"
                )
            return wanted
        if 2 * (lengths >= ENOUGH * size).sum() >= n:
            return None
        return int(np.clip(lengths.sum() // (USUAL * size), min(2, n), min(MOST, max(1, n // 2))))

    def _vectors(self, space: TextSpace) -> NDArray[np.float32]:
        found, group = [], list[str]()
        for article in self.corpus.articles:
            group.append(text_of(article))
            if len(group) == TOGETHER:
                found.append(space(group))
                group = []
        if group:
            found.append(space(group))
        return np.concatenate(found)


def text_of(article: Article) -> str:
    """Title and text."""
    return "\n".join((article.title, *article.paragraphs))


@dataclass(frozen=True)
class _Texts:
    """`(cluster, text)` of every document."""

    corpus: Corpus
    cluster: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return zip(self.cluster.tolist(), map(text_of, self.corpus.articles), strict=True)


@dataclass(frozen=True)
class _Clusters:
    """Which document is in which cluster.

    Attributes:
        cluster: Of each document.
        lengths: Of each document [characters].
        names: Of the clusters; each is unique.
        number: Cluster of each document by its title.
    """

    cluster: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: list[str]
    number: dict[str, int]

    def articles(self, corpus: Corpus) -> Iterator[Article]:
        """Each cluster as one article; reads the corpus once for so much text as memory holds."""
        sizes = np.bincount(self.cluster, weights=self.lengths)
        batch = np.cumsum(sizes) // AT_ONCE
        for now in np.unique(batch):
            held: defaultdict[int, list[Article]] = defaultdict(list)
            for cluster, document in zip(self.cluster.tolist(), corpus.articles, strict=True):
                if batch[cluster] == now:
                    held[cluster].append(document)
            for cluster in sorted(held):
                yield self._article(cluster, held.pop(cluster))

    def _article(self, cluster: int, documents: Iterable[Article]) -> Article:
        documents = list(documents)
        links = [
            (self.names[self.number[title]], kind)
            for document in documents
            for title, kind in document.links
            if title in self.number and self.number[title] != cluster
        ]
        labels = Counter(label for d in documents for label in set(d.labels))
        return Article(
            title=self.names[cluster],
            paragraphs=tuple(p for document in documents for p in document.paragraphs),
            links=tuple(dict.fromkeys(links)),
            labels=tuple(sorted(x for x, n in labels.items() if 2 * n >= len(documents))),
            is_noise=all(document.is_noise for document in documents),
        )

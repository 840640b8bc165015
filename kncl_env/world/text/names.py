"""Readable names of groups of texts: the words that set each group apart from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.text.words import terms_of

WORDS = 3  # of a name
APART = 2.0  # times that a term is as frequent in a group as elsewhere, at least
MORE = 6  # at most, where names would be the same
TERMS = 10_000  # most frequent ones, that can be part of a name

Grouped = Iterable[tuple[int, str]]  # (group, text), iterable anew


def group_names(texts: Grouped, groups: int) -> list[str]:
    """A name of its own for each group, such as `photosynthesis/leaf/chlorophyll`.

    Terms are ranked by class-based TF-IDF (Grootendorst 2022, arXiv:2203.05794): the frequency of a
    term in a group times log(1 + A / f), f being its count in all texts and A the mean number of
    terms in a group. Of n times in one text 1 + log(n) count: no single text names its group. A
    term comes first where it is twice as frequent as in all texts.

    Args:
        texts: Whole ones, such as a document or all of a topic; read twice.
        groups: Their number.
    """
    vocabulary = _most_frequent(texts, TERMS)
    counts = _counts(texts, groups, vocabulary)
    total = counts.sum(0)
    share = counts / np.maximum(1.0, counts.sum(1, keepdims=True))
    weight = share * np.log1p(counts.sum() / max(1, groups) / np.maximum(1.0, total))
    weight[share < APART * total / max(1.0, total.sum())] *= 1e-3  # only where nothing else is
    return _unique([_telling(row, vocabulary) for row in weight])


def _most_frequent(texts: Grouped, n: int) -> list[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = Counter[str]()
    for _, text in texts:
        found.update(terms_of(text))
        if len(found) > 50 * n:  # rare terms name nothing
            found = Counter(dict(found.most_common(10 * n)))
    telling = (
        term for term, _ in found.most_common() if term not in ENGLISH_STOP_WORDS and _names(term)
    )
    return list(islice(telling, n))


def _names(term: str) -> bool:
    return not term.replace("_", "").isdigit()


def _counts(texts: Grouped, groups: int, vocabulary: Sequence[str]) -> NDArray[np.float32]:
    """(groups, V) what counts of each term."""
    column = {term: i for i, term in enumerate(vocabulary)}
    counts = np.zeros((groups, len(vocabulary)), dtype=np.float32)
    for group, text in texts:
        for term, times in Counter(terms_of(text)).items():
            if term in column:
                counts[group, column[term]] += 1.0 + np.log(times)
    return counts


def _telling(weight: NDArray[np.float32], vocabulary: Sequence[str]) -> list[str]:
    """Terms that tell most of a group, the best first; of `cell` and `cells` one is enough."""
    chosen: list[str] = []
    best = np.argpartition(-weight, min(len(weight) - 1, 4 * MORE))[: 4 * MORE + 1]
    for i in best[np.argsort(-weight[best], kind="stable")]:
        term = vocabulary[int(i)]
        alike = any(term[:4] == other[:4] and len(term) > 3 for other in chosen)
        if weight[i] > 0 and not alike:
            chosen.append(term)
    return chosen[:MORE]


def _unique(terms: Sequence[Sequence[str]]) -> list[str]:
    """Names of three terms; more where two groups would be called the same, or a number."""

    def names(length: int) -> list[str]:
        return ["/".join(own[:length]) or "other" for own in terms]

    found = names(WORDS)
    for length in range(WORDS + 1, MORE + 1):
        twice = {name for name, n in Counter(found).items() if n > 1}
        found = [
            long if name in twice else name for name, long in zip(found, names(length), strict=True)
        ]
    return list(_numbered(found))


def _numbered(names: Sequence[str]) -> Iterator[str]:
    taken = set(names)
    seen = Counter[str]()
    for name in names:
        seen[name] += 1
        own, n = name, seen[name]
        while n > 1 and (own := f"{name}/{n}") in taken:
            n += 1
        taken.add(own)
        yield own

"""Whether a sample is in the language of a corpus: by the words that the corpus uses often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kncl_env.world.text.words import terms_of

# A word is frequent that is one of ten thousand, or more: of an encyclopaedia of school subjects
# these make up 0.59 of its biology, and 0.04 of German, 0.07 of Spanish, 0.16 of French prose.
FREQUENT = 1e-4
LEAST_KNOWN = 0.2  # [share of the running words] below which it is another language

READ = 20_000_000  # [characters] of the corpus that its words are counted in, about


def check_language(sample: Iterable[str], corpus: Iterable[str], region: str) -> float:
    """`share_known`. Raises: ValueError where the sample is in another language than the corpus."""
    known = share_known(sample, corpus)
    if known < LEAST_KNOWN:
        raise ValueError(
            f"expected a target in the language of the corpus, got {region}, of whose visible "
            f"sample {100 * known:.0f} % of the words are among the corpus's frequent ones, not "
            f"{100 * LEAST_KNOWN:.0f} % or more: choose a corpus in its language"
        )
    return known


def share_known(sample: Iterable[str], corpus: Iterable[str]) -> float:
    """Share of the running words of a sample that are frequent in a corpus.

    Words of scripts without spaces are pairs of characters.

    Args:
        corpus: Texts, evenly chosen: as many are read as hold about `READ` characters.
    """
    own = Counter(term for text in sample for term in terms_of(text))
    found, n, read = Counter[str](), 0, 0
    for text in corpus:
        terms = terms_of(text)
        n += len(terms)
        found.update(term for term in terms if term in own)
        read += len(text)
        if read > READ:
            break
    known = sum(times for term, times in own.items() if found[term] > FREQUENT * n)
    return known / max(1, own.total())

"""Titles that stand in other topics' text: links for a corpus that has none.

It reads words and knows no grammar: a title counts where its words stand one after another,
capitals and punctuation aside; the longest title wins, and no word counts twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from kncl_env.world.text.words import words_of, written_words

# `Mercury (planet)` is called Mercury in a text, where no other title is.
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")

# A title in the text of more than this share of the topics is a phrase like any other; one word
# that is mostly written small (`set`, `family`, `city`) is so earlier than a name.
TOO_COMMON, WORD_TOO_COMMON = 0.5, 0.1
SOME = 5  # [topics] that may mention any title


class TitleFinder:
    """Finds titles in text.

    A title counts without a remark in brackets at its end, too, where no other title is called so.

    Args:
        titles: (N,) of the topics.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        own = [tuple(words_of(title)) for title in titles]
        short = [tuple(words_of(_IN_BRACKETS.sub("", title))) for title in titles]
        claims = Counter(short)
        self._topics: dict[tuple[str, ...], int] = {}
        for names, alone in ((own, True), (short, False)):
            for topic, words in enumerate(names):
                # A lone letter or number stands in any text.
                telling = sum(map(len, words)) > 1 and not all(w.isdigit() for w in words)
                if telling and (alone or claims[words] == 1):
                    self._topics.setdefault(words, topic)
        lengths: dict[str, set[int]] = {}
        for words in self._topics:
            lengths.setdefault(words[0], set()).add(len(words))
        self._lengths = {first: sorted(n, reverse=True) for first, n in lengths.items()}
        self.is_word = [len(words) == 1 for words in short]

    def found(self, text: str) -> list[tuple[int, bool]]:
        """`(topic, whether written small)` for each title in a text, in reading order."""
        written = written_words(text)
        words, at, topics = [word.casefold() for word in written], 0, []
        while at < len(words):
            read = 1
            for length in self._lengths.get(words[at], ()):
                topic = self._topics.get(tuple(words[at : at + length]))
                if topic is not None:
                    topics.append((topic, words[at] == written[at]))
                    read = length
                    break
            at += read
        return topics


def mentions(titles: Sequence[str], texts: Iterable[tuple[int, str]]) -> list[list[int]]:
    """(N,) topics that the text of each topic mentions, in reading order, each once.

    Args:
        texts: `(topic, text)` of every text that counts.
    """
    finder, n = TitleFinder(titles), len(titles)
    rows: list[dict[int, None]] = [{} for _ in titles]  # ordered sets
    written, small = Counter[int](), Counter[int]()
    for topic, text in texts:
        found = finder.found(text)
        rows[topic].update(dict.fromkeys(target for target, _ in found))
        written.update(target for target, _ in found)
        small.update(target for target, is_small in found if is_small)
    for topic, row in enumerate(rows):
        row.pop(topic, None)

    def most(target: int) -> float:
        is_word = finder.is_word[target] and 2 * small[target] > written[target]
        return max(SOME, (WORD_TOO_COMMON if is_word else TOO_COMMON) * n)

    mentioned = Counter(target for row in rows for target in row)
    common = {target for target, times in mentioned.items() if times > most(target)}
    return [[target for target in row if target not in common] for row in rows]

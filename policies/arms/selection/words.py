"""Hashes of words and of pairs of words, of many texts at once.

A word is a run of letters, digits and marks, or of other visible characters, as NLTK's `wordpunct`
has it; case is left aside. In scripts without spaces a character stands for a word.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.scripts import DENSE

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

SPACE, LETTER, ALONE, OTHER = range(4)  # kinds of characters
TOLD_APART = 0x40000  # code points that are looked up one by one; beyond it, nothing is a letter

# Odd multipliers of 64 bits: of places in a word, and of the first word of a pair.
PLACE, FIRST = np.uint64(6364136223846793005), np.uint64(0x9E3779B97F4A7C15)


def words_of(texts: Sequence[str]) -> tuple[Hashes, Ints]:
    """(n,) hash of every word of the texts, in order, and (n,) the number of the text it is in."""
    small = [text.lower() for text in texts]
    # A space between two texts keeps their words apart.
    codes = np.frombuffer(" ".join([*small, ""]).encode("utf-32-le", "replace"), np.uint32)
    kinds = _kinds()[np.minimum(codes, TOLD_APART)]
    begins = np.ones(len(codes), dtype=bool)
    begins[1:] = (kinds[1:] != kinds[:-1]) | (kinds[1:] == ALONE)
    first = np.flatnonzero(begins)
    if not len(first):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    place = np.arange(len(codes)) - np.repeat(first, np.diff(first, append=len(codes)))
    powers = np.ones(int(place.max()) + 1, dtype=np.uint64)
    np.multiply.accumulate(np.full(len(powers) - 1, PLACE), out=powers[1:])
    hashes = np.add.reduceat(codes.astype(np.uint64) * powers[place], first)
    word = kinds[first] != SPACE
    ends = np.cumsum([len(text) + 1 for text in small], dtype=np.int64)
    return _mixed(hashes[word]), np.searchsorted(ends, first[word], side="right")


def pairs_of(words: Hashes, text: Ints) -> tuple[Hashes, Ints]:
    """(m,) hash of every pair of words that follow each other in a text, and (m,) its number."""
    together = text[1:] == text[:-1]
    return _mixed(words[:-1] * FIRST + words[1:])[together], text[1:][together]


def buckets(hashes: Hashes, n: int) -> Ints:
    """The bucket of each, 0 to n - 1."""
    return (hashes % np.uint64(n)).astype(np.int64)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the result depends on all bits (the end of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


@cache
def _kinds() -> NDArray[np.uint8]:
    """(TOLD_APART + 1,) kind of each code point, and of all beyond."""
    kinds = np.full(TOLD_APART + 1, OTHER, dtype=np.uint8)
    for code in range(min(TOLD_APART, sys.maxunicode)):
        letter = chr(code)
        if letter.isalnum() or letter == "_" or unicodedata.category(letter)[0] == "M":
            kinds[code] = LETTER
        elif letter.isspace():
            kinds[code] = SPACE
    for low, high in DENSE:
        dense = kinds[low : min(high, TOLD_APART - 1) + 1]
        dense[dense == LETTER] = ALONE
    return kinds

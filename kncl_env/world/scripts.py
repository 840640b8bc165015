"""Words, sentences and safe places to cut, in any script.

Most scripts put spaces between words. Some do not (Chinese, Japanese, Thai, Khmer and more): there
a character, with the marks above and below it, stands for a word, and runs are twice as long.
"""

from __future__ import annotations

import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Two passages overlap when they share a run of this many words. Eight is short enough to catch a
# copied sentence, and long enough that ordinary prose seldom repeats it (7 % of passages did).
OVERLAP_WORDS = 8
# ... or characters, where these stand for words: an English word is about two Chinese characters.
OVERLAP_CHARACTERS = 2 * OVERLAP_WORDS

# [bytes for a character] of a text on average, above which its script is not Latin.
LATIN_BYTES = 1.4

# [letters] that a script's words have at most, on average: German's have six. Where they have more,
# there are no words that we can tell apart, and a copied sentence may be a part of one.
LONGEST_WORDS = 24

# Blocks whose scripts put no spaces between words.
DENSE = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF),  # Tai Le, New Tai Lue, Khmer's symbols, Buginese, Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),
    (0x3041, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)
_DENSE = "".join(f"{chr(low)}-{chr(high)}" for low, high in DENSE)
MARKS_UP_TO = 0x20000  # beyond it and below the selectors of variants are no combining marks
VARIANTS = "\U000e0100-\U000e01ef"

# What a reader does not see, or may leave out: it makes no two texts differ. Soft hyphens, joiners,
# marks of direction, the Arabic stroke that stretches a word, vowels of Arabic and Hebrew.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u0640\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc]"
)
# A Turkish i with and without its dot: small letters of English have one i for both.
_ONE_I = str.maketrans({"\u0131": "i", "\u0307": None})

_WORD = re.compile(r"\w+")
# A word, or a dotted name of documentation; single letters carry no topic.
_TERM = re.compile(r"\b\w[\w.]*\w\b")
# A full stop ends a sentence before a space; the marks of other scripts do so anywhere.
_CLOSED = "[\"'\u201d\u2019)\\]\u00bb]*"
_CLOSED_TOO = "[\"'\u201d\u2019)\\]\u00bb\u300d\u300f\uff09\u3011]*"
_STOPS = (
    "\u3002\uff01\uff1f\uff1b\uff61\uff0e"  # Chinese and Japanese
    "\u061f\u06d4\u0589\u0964\u0965"  # Arabic, Urdu, Armenian, of India
    "\u1362\u1367\u1368\u17d4\u17d5\u104b\u0f0e"  # Ethiopic, Khmer, Myanmar, Tibetan
    "\u166e\u1803\u1809\u203c\u2047\u2048\u2049"  # Canadian syllabics, Mongolian; doubled marks
)
_ENDS = re.compile(rf"[.!?;:]+{_CLOSED}\s+|[{_STOPS}]+{_CLOSED_TOO}\s*|\n+")


@cache
def _marks() -> str:
    """Combining marks, as a class of characters without its brackets."""
    return _ranges(lambda c: unicodedata.category(c).startswith("M")) + VARIANTS


@cache
def _tokens() -> re.Pattern[str]:
    """Words with their marks; a character of a dense script, with its own, is one."""
    marks = _marks()
    return re.compile(rf"((?=\w)[{_DENSE}][{marks}]*)|(?:(?![{_DENSE}])[\w{marks}])+")


@cache
def _terms() -> re.Pattern[str]:
    """As `_TERM`, with marks, and of no character that stands for a word."""
    own = rf"(?![{_DENSE}])[\w{_marks()}]"
    return re.compile(rf"{own}(?:(?![{_DENSE}])[\w.{_marks()}])*{own}")


@cache
def _clusters() -> re.Pattern[str]:
    """Characters with their marks and what a joiner joins to them: no cut goes through one."""
    return re.compile(rf"(?s:.)(?:\u200d(?s:.)|[{_marks()}\u200c\U0001f3fb-\U0001f3ff])*")


def _ranges(wanted: Callable[[str], bool]) -> str:
    found, start = [], -1
    for code in range(min(MARKS_UP_TO, sys.maxunicode) + 1):
        if wanted(chr(code)):
            start = code if start < 0 else start
        elif start >= 0:
            found.append(f"{chr(start)}-{chr(code - 1)}")
            start = -1
    return "".join(found)


def is_latin(texts: Iterable[str]) -> bool:
    """Whether texts together are in Latin letters, for the most part."""
    n_bytes, n = 0, 0
    for text in texts:
        n_bytes += len(text.encode())
        n += len(text)
    return n_bytes <= LATIN_BYTES * n


def word_runs(text: str) -> NDArray[np.uint64]:
    """Hashes of all runs of `OVERLAP_WORDS` words of a text; of characters, twice as many.

    Case, punctuation and what a reader does not see are left aside. In a text in Latin letters,
    what stands between two spaces is a word, whatever script it is in. Empty where the text is too
    short, or in a script whose words cannot be told apart: no copy of it could be found.
    """
    if text.isascii():
        return _runs_of(_WORD.findall(text.lower()))
    plain = _folded(text)
    return _runs_of(_WORD.findall(plain)) if is_latin([text]) else _runs_in_any_script(plain)


def all_runs(text: str) -> NDArray[np.uint64]:
    """Those of `word_runs`, and those that a text in another script would look for in this one."""
    if text.isascii():
        return word_runs(text)
    plain = _folded(text)
    return np.concatenate([_runs_of(_WORD.findall(plain)), _runs_in_any_script(plain)])


def terms_of(text: str) -> list[str]:
    """Words that may tell a text's topic: of two letters or more, or pairs of characters that stand
    for words.
    """
    if text.isascii() or is_latin([text]):
        return _TERM.findall(text)
    pairs = (
        one[0] + other[0]
        for one, other in pairwise(_tokens().finditer(text))
        if one[1] and other[1] and one.end() == other.start()
    )
    return [*_terms().findall(text), *pairs]


def _folded(text: str) -> str:
    plain = _UNSEEN.sub("", unicodedata.normalize("NFC", text))
    return unicodedata.normalize("NFC", plain.casefold().translate(_ONE_I))


def _runs_in_any_script(plain: str) -> NDArray[np.uint64]:
    found = list(_tokens().finditer(plain))
    words = [token[0] for token in found]
    if sum(map(len, words)) > LONGEST_WORDS * len(words):
        return np.zeros(0, dtype=np.uint64)
    dense = np.array([token[1] is not None for token in found], dtype=bool)
    return _runs_of(words, dense)


def _runs_of(words: Sequence[str], dense: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
    """Args: dense: (n,) words that are characters of a script without spaces; none, if None."""
    if len(words) < OVERLAP_WORDS:
        return np.zeros(0, dtype=np.uint64)
    codes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
    if dense is None or not dense.any():
        return _hashed(codes, OVERLAP_WORDS)
    # A character's code is that of the nine from it on, so that eight codes say 16 characters.
    codes, known = _with_following(codes, dense)
    runs = _hashed(codes, OVERLAP_WORDS)
    whole = np.ones(len(runs), dtype=bool)
    for i in range(OVERLAP_WORDS):
        whole &= known[i : i + len(runs)]
    return runs[whole]


def _with_following(
    codes: NDArray[np.uint64], dense: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Codes, those of characters with what follows, and (n,) whether all of that is there."""
    span = OVERLAP_CHARACTERS - OVERLAP_WORDS + 1
    n = len(codes) - span + 1
    known = ~dense
    if n > 0:
        codes = codes.copy()
        codes[:n] = np.where(dense[:n], _hashed(codes, span), codes[:n])
        known[:n] = True
    return codes, known


def _hashed(codes: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """(n - length + 1,) hash of every run of codes."""
    n = len(codes) - length + 1
    runs = np.zeros(n, dtype=np.uint64)
    for i in range(length):
        # Polynomial hash modulo 2^64 with an odd multiplier (Knuth's MMIX constant).
        runs = runs * np.uint64(6364136223846793005) + codes[i : i + n] + np.uint64(1)
    return runs


def cut_anywhere(paragraph: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` bytes, in order: whole sentences where they fit, then words, then
    characters with their marks. Nothing is lost but white space between pieces.
    """
    start = end = filled = 0
    for atom in _atoms(paragraph, size):
        length = len(atom.rstrip().encode())
        if filled and filled + length > size:
            if piece := paragraph[start:end].strip():
                yield piece
            start, filled = end, 0
        end += len(atom)
        filled += len(atom.encode())
    if piece := paragraph[start:].strip():
        yield piece


def _atoms(paragraph: str, size: int) -> Iterator[str]:
    """The paragraph, in parts that may be cut from each other."""
    for sentence in _parts(paragraph, _ENDS):
        if len(sentence.encode()) <= size:
            yield sentence
            continue
        for word in _parts(sentence, _SPACE):
            if len(word.encode()) <= size:
                yield word
                continue
            for cluster in _clusters().findall(word):
                # Marks without end on one character: not even that stays whole.
                yield from [cluster] if len(cluster.encode()) <= size else cluster


_SPACE = re.compile(r"\s+")


def _parts(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """Slices of a text, each with the end that closes it."""
    at = 0
    for found in ends.finditer(text):
        yield text[at : found.end()]
        at = found.end()
    if at < len(text):
        yield text[at:]

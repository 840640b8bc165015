"""Words and terms of a text in any script: what titles are looked up by and groups are named by."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kncl_env.world.scripts import DENSE

# Characters of scripts that put no space between words: each counts as a word of its own, and two
# neighbours as a term.
SPACELESS = "".join(f"{chr(low)}-{chr(high)}" for low, high in DENSE)
_WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")
_RUN = re.compile(rf"[{SPACELESS}]+|[^\W_{SPACELESS}]{{2,}}")
_UNSPACED = re.compile(rf"[{SPACELESS}]")


def written_words(text: str) -> list[str]:
    """Words as they stand, in reading order."""
    return _WORD.findall(text)


def words_of(text: str) -> list[str]:
    """Words in small letters, in reading order."""
    return [word.casefold() for word in written_words(text)]


def terms_of(text: str) -> list[str]:
    """Terms in small letters: words of two letters or more; of scripts without spaces, bigrams."""
    return list(_terms(text))


def _terms(text: str) -> Iterator[str]:
    for run in _RUN.findall(text):
        if _UNSPACED.match(run):
            yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))
        else:
            yield run.casefold()

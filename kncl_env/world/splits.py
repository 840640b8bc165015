"""Which passage may be trained on, and which is held out; `overlap.py` proves them apart.

Passages are cut and split before any tokenizer, vector, index or batch exists.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kncl_env.world.corpus import Article, hash_texts
from kncl_env.world.scripts import cut_anywhere, is_latin

# The policy sees the loss on `reward`; `select` chooses checkpoints and settings; `test` is read
# once, by an evaluation. Tables have their numbers: that of `train` is `token_files.TRAIN`.
SPLITS = ("train", "reward", "select", "test")
HELD_OUT = SPLITS[1:]

# Times the size asked for, above which a piece of an article in Latin letters is cut once more.
# Such articles are cut as they always were, at the spaces after their stops.
MOST = 2

_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")


@dataclass(frozen=True)
class Passage:
    """A retrievable piece of a topic's text.

    Attributes:
        topic: Number of the topic.
        split: One of `SPLITS`.
        text: Never empty.
        noise: Kind of junk, or an empty string; for accounting only, never shown to a policy.
    """

    topic: int
    split: str
    text: str
    noise: str = ""


def hash_passages(passages: Iterable[Passage]) -> str:
    """Identity of passages with their splits: what an index is bound to."""
    return hash_texts(part for p in passages for part in (str(p.topic), p.split, p.text, p.noise))


def cut_passages(paragraphs: Iterable[str], size: int) -> list[str]:
    """Join short paragraphs and cut long ones into passages of about `size` bytes."""
    paragraphs = tuple(paragraphs)
    passages: list[str] = []
    room: list[str] = []
    filled = 0
    for piece in _pieces(paragraphs, size, is_latin(paragraphs)):
        length = len(piece.encode())
        if room and filled + length > size:
            passages.append("\n".join(room))
            room, filled = [], 0
        room.append(piece)
        filled += length
    if room:
        passages.append("\n".join(room))
    return passages


def _pieces(paragraphs: Iterable[str], size: int, latin: bool) -> Iterable[str]:
    for paragraph in paragraphs:
        if len(paragraph.encode()) <= size:
            yield paragraph
        elif not latin:
            yield from cut_anywhere(paragraph, size)
        else:
            for piece in _sentences_up_to(paragraph, size):
                if len(piece.encode()) > MOST * size:  # without a space, or of another script
                    yield from cut_anywhere(piece, size)
                else:
                    yield piece


def _sentences_up_to(paragraph: str, size: int) -> Iterable[str]:
    current = ""
    for sentence in _SENTENCE_END.split(paragraph):
        for part in _words_up_to(sentence, size):
            if current and len(current.encode()) + len(part.encode()) >= size:
                yield current
                current = part
            else:
                current = f"{current} {part}" if current else part
    if current:
        yield current


def _words_up_to(sentence: str, size: int) -> Iterable[str]:
    if len(sentence.encode()) <= size:
        yield sentence
        return
    current = ""
    for word in sentence.split():
        if current and len(current) + len(word) >= size:
            yield current
            current = word
        else:
            current = f"{current} {word}" if current else word
    if current:
        yield current


def split_article(article: Article, n_passages: int, share: float, seed: int) -> list[str]:
    """The split of each of an article's passages, in order.

    One contiguous section per held-out split, each in another third of the article. An article
    too short to spare three passages is trained on whole. Identical texts get identical splits,
    because the draw depends on the name of the first of them.

    Args:
        share: Share of the passages held out for each of the three splits.
    """
    splits = ["train"] * n_passages
    block = max(1, round(share * n_passages))
    if n_passages < 8 or 3 * block > n_passages // 2:
        return splits
    rng = np.random.default_rng([seed, zlib.crc32((article.same_as or article.title).encode())])
    for third, name in enumerate(rng.permutation(HELD_OUT)):
        low, high = third * n_passages // 3, (third + 1) * n_passages // 3 - block
        start = int(rng.integers(low, high + 1))
        splits[start : start + block] = [str(name)] * block
    return splits

"""An article made ready to join a world: cut, split, tokenised and embedded as its build would.

It depends on the article and on what is fixed of the world (tokenizer, embedder, settings), never
on what else has come: it can be done ahead, by whoever has time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.open_world.articles import Fetched
from kncl_env.world.corpus import Article
from kncl_env.world.scripts import all_runs, word_runs
from kncl_env.world.splits import cut_passages, split_article
from kncl_env.world.world import title_text
from train_lm.checked.records import Fields
from train_lm.tokenizer import encode

if TYPE_CHECKING:
    from kncl_env.world.world import World


@dataclass(frozen=True, eq=False)
class Prepared:
    """An article as passages.

    Attributes:
        article: What it was made of.
        texts: (P,) of the passages, in reading order.
        splits: (P,) names.
        tokens: (P,) ids of each.
        vectors: (P, D) unit rows.
        topic_vector: (D,) of the training text, under its title.
        title_vector: (D,).
        runs: (P,) hashes of each passage's runs of words, for the proof that nothing leaks.
    """

    article: Fetched
    texts: tuple[str, ...]
    splits: tuple[str, ...]
    tokens: tuple[NDArray[np.unsignedinteger[Any]], ...]
    vectors: NDArray[np.float32]
    topic_vector: NDArray[np.float32]
    title_vector: NDArray[np.float32]
    runs: tuple[NDArray[np.uint64], ...]


def prepare(world: World, articles: Sequence[Fetched]) -> list[Prepared]:
    """Articles of a wiki, as passages of a world; absences are left out."""
    settings = Fields.of(world.card["settings"], f"settings of {world.path}", "rebuild the world")
    size, seed = settings.whole("passage_bytes", 1), settings.whole("seed")
    share = settings.number("held_out", 0, 1)
    found = []
    for one in (a for a in articles if not a.absent):
        texts = tuple(cut_passages(one.paragraphs, size))
        article = Article(one.title, one.paragraphs)
        splits = tuple(split_article(article, len(texts), share, seed))
        rows = world.embed([*texts, topic_text(one.title, texts, splits), title_text(one.title)])
        found.append(
            Prepared(
                one,
                texts,
                splits,
                tuple(encode(world.tokenizer, texts)),
                rows[:-2],
                rows[-2],
                rows[-1],
                tuple(runs_of(t, s) for t, s in zip(texts, splits, strict=True)),
            )
        )
    return found


def runs_of(text: str, split: str) -> NDArray[np.uint64]:
    """Runs of words that a passage must not share with another split, as a build has them."""
    return all_runs(text) if split == "train" else word_runs(text)


def topic_text(title: str, texts: Sequence[str], splits: Sequence[str]) -> str:
    """What a topic's vector is made of: its title and its training text, as a build has it."""
    training = (text for text, split in zip(texts, splits, strict=True) if split == "train")
    return f"{title}\n" + "\n".join(training)

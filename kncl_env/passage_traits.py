"""What is measured of a passage: traits, as ranks among the training passages of its world.

Ranks mean the same in every world. They are read off text, vectors and the goal alone: nobody tells
which passage is junk. `taste.py` says which of them are preferred.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.cached import cached_array
from train_lm.token_files import TRAIN
from train_lm.tokenizer import bytes_per_token

if TYPE_CHECKING:
    from kncl_env.topic_table import Goal
    from kncl_env.world.world import World

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TEXT_TRAITS = (
    "unigram_loss",  # bits per byte by the frequency of its tokens: rare words, other languages
    "bigram_gain",  # bits per byte that the token before tells: word order, set phrases
    "distinct_tokens",  # distinct share of its tokens
    "topic_similarity",  # cosine to its own topic
    "nearest_similarity",  # cosine to the nearest other training passage: copies
)
GOAL_TRAITS = (
    "goal_similarity",  # cosine to the centroid of the goal
    "goal_closest",  # cosine to the closest goal topic
)
TRAITS = (*TEXT_TRAITS, *GOAL_TRAITS)

# Ends of the levels of a trait, as shares of the training passages: finer towards both ends, where
# a few passages of a kind of their own are found.
EDGES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
LEVELS = len(EDGES) + 1

# Raised whenever a trait would come out with other values.
TRAITS_VERSION = 2

# Tokens' worth of unigram statistics that a bigram's own are mixed with.
BACKOFF = 50.0

_MEASURING = Lock()

DENSE = 2**26  # [keys] that are counted in one array, without sorting them


class PassageTraits:
    """Levels of every passage of a world.

    Args:
        world: Where the passages come from.
        goal: What is looked for; without one the goal's traits are the same for all.
    """

    def __init__(self, world: World, goal: Goal | None) -> None:
        self.world, self.goal = world, goal
        self._levels: NDArray[np.int8] | None = None

    @property
    def levels(self) -> NDArray[np.int8]:
        """(P, TRAITS) level of each trait, by its rank among the training passages."""
        # Environments side by side would all begin to measure.
        with _MEASURING:
            if self._levels is None:
                self._levels = self._measure()
            return self._levels

    def _measure(self) -> NDArray[np.int8]:
        world = self.world
        columns = list(text_traits(world).T)
        if self.goal is None:
            columns += [np.zeros(len(world.passage_split))] * len(GOAL_TRAITS)
        else:
            vectors = _passage_vectors(world)
            columns += [vectors @ self.goal.centroid, _closest(vectors, self.goal.vectors)]
        training = world.passage_split == TRAIN
        levels = [np.digitize(x, np.quantile(x[training], EDGES)) for x in columns]
        return np.stack(levels, axis=1).astype(np.int8)

    def shares(self, passages: Ints) -> Floats:
        """(TRAITS, LEVELS) share of the passages at each level of each trait."""
        levels = self.levels[passages]
        counts = [np.bincount(levels[:, i], minlength=LEVELS) for i in range(len(TRAITS))]
        return np.array(counts) / len(passages)

    def worth(self, worth: Floats) -> Floats:
        """(P,) sum over traits of what a passage's levels are worth, given (TRAITS, LEVELS)."""
        return np.asarray(worth[np.arange(len(TRAITS)), self.levels].sum(1))

    def best(self, worth: Floats, share: float) -> NDArray[np.bool_]:
        """(P,) the `share` of the training passages that are worth most, ties included."""
        of_passage = self.worth(worth)
        training = self.world.passage_split == TRAIN
        least = np.quantile(of_passage[training], 1 - share)
        return np.asarray(training & (of_passage >= least))


def text_traits(world: World) -> Floats:
    """(P, TEXT_TRAITS), computed once per world."""

    def measure() -> Floats:
        vectors = _passage_vectors(world)
        columns = [
            *_token_traits(world),
            (vectors * world.topic_vectors[world.passage_topic]).sum(1),
            world.index.nearest_other(len(vectors)),
        ]
        return np.stack(columns, axis=1).astype(np.float64)

    made_from = {"world": world.hash, "version": TRAITS_VERSION, "traits": TEXT_TRAITS}
    shape = (len(world.passage_split), len(TEXT_TRAITS))
    return cached_array("traits", made_from, shape, measure)


def _passage_vectors(world: World) -> NDArray[np.float32]:
    """(P, D) unit rows of the training passages, zeros elsewhere."""
    vectors = np.zeros((len(world.passage_topic), world.topic_vectors.shape[1]), dtype=np.float32)
    vectors[world.index.passages] = world.index.vectors()
    return vectors


def _closest(vectors: NDArray[np.float32], wanted: NDArray[np.float32]) -> Floats:
    found = [(vectors[i : i + 4096] @ wanted.T).max(1) for i in range(0, len(vectors), 4096)]
    return np.concatenate(found).astype(np.float64)


def _token_traits(world: World) -> tuple[Floats, Floats, Floats]:
    """`unigram_loss`, `bigram_gain` and `distinct_tokens`, each (P,).

    Frequencies are those of the training text without the passage itself: a passage must not look
    likely for being there.
    """
    tokens, starts = world.tokens()
    lengths = np.diff(starts)
    n, n_tokens = len(lengths), world.tokenizer.get_vocab_size()
    passage = np.repeat(np.arange(n), lengths)
    training = (world.passage_split == TRAIN)[passage]
    total, here, distinct = _counts(tokens, n_tokens, passage, training, n)
    rest = training.sum() - np.where(training, lengths[passage], 0)
    likely = (total - here + 1.0) / (rest + n_tokens)
    pair = np.flatnonzero(passage[1:] == passage[:-1])  # the first of two tokens of one passage
    before, after = tokens[pair], tokens[pair + 1]
    # As int64: a vocabulary of 2^20 ids has pairs far below 2^63.
    both, both_here, _ = _counts(
        before * n_tokens + after, n_tokens**2, passage[pair], training[pair], n
    )
    first, first_here, _ = _counts(before, n_tokens, passage[pair], training[pair], n)
    chained = (both - both_here + BACKOFF * likely[pair + 1]) / (first - first_here + BACKOFF)
    size = np.bincount(passage, weights=bytes_per_token(world.tokenizer)[tokens], minlength=n)
    size = np.maximum(1.0, size)
    unigram = np.bincount(passage, weights=-np.log2(likely), minlength=n) / size
    gain = np.log2(chained) - np.log2(likely[pair + 1])
    gain = np.bincount(passage[pair], weights=gain, minlength=n) / size
    return unigram, gain, distinct / np.maximum(1, lengths)


def _counts(
    keys: Ints, n_keys: int, passage: Ints, training: NDArray[np.bool_], n: int
) -> tuple[Floats, Floats, Floats]:
    """Of each key: how often the training text has it, how often its own training passage has.

    Returns:
        Both counts, (M,) each, and the number of distinct keys of each passage, (n,).
    """
    if n_keys > DENSE:
        known, keys = np.unique(keys, return_inverse=True)
        n_keys = len(known)
    total = np.bincount(keys[training], minlength=n_keys)[keys]
    found, place, counts = np.unique(
        passage * n_keys + keys, return_inverse=True, return_counts=True
    )
    distinct = np.bincount(found // max(1, n_keys), minlength=n)
    here = np.where(training, counts[place], 0)
    return total.astype(np.float64), here.astype(np.float64), distinct.astype(np.float64)

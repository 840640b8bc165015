"""Moore-Lewis selection: difference of cross-entropies (Moore & Lewis 2010, ACL).

A passage scores H_I(s) - H_N(s): its cross-entropy under a model of the target's sample minus that
under a model of the corpus, per word. The lowest are read. As in the paper, both models know the
words that the sample has twice or more, and take all others for one; and the corpus' model is made
from as many passages of the corpus as the sample has. Both are of pairs of words (the paper has
four, which such samples do not fill):

    p(w | v) = 1/2 c(v, w) / c(v) + 1/2 (c(w) + 1) / (C + V)    (the second alone, and whole,
                                                                 where v was never followed)

Words are told apart by 2^16 buckets, pairs by 2^20.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from kncl_env.world.cached import cached_array
from policies.arms.arm import Ints, Listed, Rng, expands
from policies.arms.selection.chosen import (
    budget_of,
    candidates_of,
    filling,
    selects,
    texts_of,
)
from policies.arms.selection.topic_scores import TopicScores, best_slot, of_retrieval
from policies.arms.selection.words import buckets, pairs_of, words_of
from policies.arms.shared import Shared
from train_lm.files import hash_json
from train_lm.token_files import TRAIN

Floats = NDArray[np.float64]

WORDS, PAIRS = 2**16, 2**20
TWICE = 2  # times that a word stands in the sample, at least, to be known
VERSION = 2  # raised whenever a score would come out another


def vocabulary(blocks: Iterable[Sequence[str]]) -> Ints:
    """(WORDS,) number of the words of each bucket: from 1 on where they are known, else 0."""
    counts = np.zeros(WORDS, dtype=np.int64)
    for texts in blocks:
        counts += np.bincount(buckets(words_of(texts)[0], WORDS), minlength=WORDS)
    known = counts >= TWICE
    return np.where(known, np.cumsum(known), 0)


@dataclass(frozen=True, eq=False)
class PairModel:
    """Counts of words and of pairs of words.

    Attributes:
        number: Of the words of each bucket; see `vocabulary`.
        words: (V,) by number.
        followed: (V,) how often a word was followed by another.
        pairs: By bucket of the pair.
    """

    number: Ints
    words: Floats
    followed: Floats
    pairs: Floats

    @classmethod
    def of(cls, blocks: Iterable[Sequence[str]], number: Ints) -> PairModel:
        v = int(number.max()) + 1
        model = cls(number, np.zeros(v), np.zeros(v), np.zeros(PAIRS))
        for texts in blocks:
            words, text = model.numbered(texts)
            model.words[:] += np.bincount(words, minlength=v)
            first = words[:-1][text[1:] == text[:-1]]
            model.followed[:] += np.bincount(first, minlength=v)
            model.pairs[:] += np.bincount(_pairs(words, text), minlength=PAIRS)
        return model

    def numbered(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """(n,) number of every word of the texts, and (n,) of the text it is in."""
        words, text = words_of(texts)
        return self.number[buckets(words, WORDS)], text

    def log_probabilities(self, words: Ints, text: Ints) -> Floats:
        """(n,) log p of each word after the one before it in its text [nats]."""
        single = (self.words[words] + 1) / (self.words.sum() + len(self.words))
        found = single.copy()
        after = np.flatnonzero(text[1:] == text[:-1]) + 1  # words with one before them
        times = self.followed[words[after - 1]]
        known = times > 0
        pair = self.pairs[_pairs(words, text)]
        found[after[known]] = 0.5 * pair[known] / times[known] + 0.5 * single[after[known]]
        return np.asarray(np.log(found))


def _pairs(words: Ints, text: Ints) -> Ints:
    return buckets(pairs_of(words.astype(np.uint64), text)[0], PAIRS)


def difference(texts: Sequence[str], sample: PairModel, corpus: PairModel) -> Floats:
    """(n,) H_I - H_N of each text [nats per word]; 0 where it has no word."""
    words, text = sample.numbered(texts)
    gain = corpus.log_probabilities(words, text) - sample.log_probabilities(words, text)
    n = np.bincount(text, minlength=len(texts))
    return np.asarray(np.bincount(text, gain, minlength=len(texts)) / np.maximum(1, n))


def _differences(stage: Stage) -> Floats:
    world = stage.world
    train = np.flatnonzero(world.passage_split == TRAIN)

    def made() -> Floats:
        n = min(len(stage.sample), len(train))
        general = np.sort(np.random.default_rng(0).choice(train, n, replace=False))
        number = vocabulary(texts for _, texts in texts_of(world, stage.sample))
        sample, corpus = (
            PairModel.of((texts for _, texts in texts_of(world, own)), number)
            for own in (stage.sample, general)
        )
        found = np.zeros(len(world.passage_split))
        for passages, texts in texts_of(world, train):
            found[passages] = difference(texts, sample, corpus)
        return found

    made_from = {"world": world.hash, "sample": hash_json(stage.sample.tolist())}
    shape = (len(world.passage_split),)
    return cached_array("moore-lewis", {**made_from, "version": VERSION}, shape, made)


# (P,) difference of every training passage, 0 elsewhere.
differences = Shared(_differences)
# All passages, the lowest difference first.
_order = Shared(lambda stage: np.argsort(differences(stage), kind="stable"))
_scores = Shared(lambda stage: TopicScores(stage, -differences(stage)), of_retrieval)


def _choose(env: TopicExpansionEnv, rng: Rng) -> Ints:
    order = _order(env.stage)
    return filling(env.stage.store, order[candidates_of(env)[order]], budget_of(env))


def _choose_slot(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    return best_slot(env, _scores(env.stage))


ARMS = {
    "moore-lewis": Listed(
        selects(_choose),
        "selection",
        "Lowest cross-entropy per word under a model of the sample's pairs of words minus that "
        "under one of as much of the corpus, with the sample's words alone; read in random order.",
        "Moore & Lewis 2010",
    ),
    "moore-lewis-frontier": Listed(
        expands(_choose_slot),
        "selection",
        "The candidate whose own passages have the lowest mean difference of moore-lewis.",
        "after Moore & Lewis 2010",
    ),
}

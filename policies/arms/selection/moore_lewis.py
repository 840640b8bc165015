"""Moore-Lewis selection: difference of cross-entropies (Moore & Lewis 2010, ACL).

A passage scores H_I(s) - H_N(s): its cross-entropy under a model of the target's sample minus that
under a model of the corpus, per word. The lowest are read. Both models are of pairs of words,

    p(w | v) = 1/2 c(v, w) / c(v) + 1/2 (c(w) + 1) / (C + V)    (the second alone, and whole,
                                                                 where v was never followed)

with hashed words: V = 2^16 buckets of words, 2^20 of pairs. As in the paper, the corpus' model is
made from a sample of the corpus as large as the target's.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from policies.arms.selection.topic_scores import TopicScores, best_slot
from policies.arms.selection.words import Hashes, buckets, pairs_of, words_of
from policies.arms.shared import Shared
from train_lm.files import hash_json
from train_lm.token_files import TRAIN

Floats = NDArray[np.float64]

WORDS, PAIRS = 2**16, 2**20
VERSION = 1  # raised whenever a score would come out another


@dataclass(frozen=True, eq=False)
class PairModel:
    """Counts of words and of pairs of words.

    Attributes:
        words: (V,) by bucket.
        followed: (V,) how often a word of the bucket was followed by another.
        pairs: By bucket of the pair.
    """

    words: Floats
    followed: Floats
    pairs: Floats

    @classmethod
    def of(cls, blocks: Sequence[Sequence[str]]) -> PairModel:
        model = cls(np.zeros(WORDS), np.zeros(WORDS), np.zeros(PAIRS))
        for texts in blocks:
            words, text = words_of(texts)
            bucket = buckets(words, WORDS)
            model.words[:] += np.bincount(bucket, minlength=WORDS)
            first = bucket[:-1][text[1:] == text[:-1]]
            model.followed[:] += np.bincount(first, minlength=WORDS)
            pair = buckets(pairs_of(words, text)[0], PAIRS)
            model.pairs[:] += np.bincount(pair, minlength=PAIRS)
        return model

    def log_probabilities(self, words: Hashes, text: Ints) -> Floats:
        """(n,) log p of each word after the one before it in its text [nats]."""
        bucket = buckets(words, WORDS)
        single = (self.words[bucket] + 1) / (self.words.sum() + len(self.words))
        found = single.copy()
        after = np.flatnonzero(text[1:] == text[:-1]) + 1  # words with one before them
        times = self.followed[bucket[after - 1]]
        pair = self.pairs[buckets(pairs_of(words, text)[0], PAIRS)]
        known = times > 0
        both = 0.5 * pair[known] / times[known] + 0.5 * single[after[known]]
        found[after[known]] = both
        return np.log(found)


def difference(texts: Sequence[str], sample: PairModel, corpus: PairModel) -> Floats:
    """(n,) H_I - H_N of each text [nats per word]; 0 where it has no word."""
    words, text = words_of(texts)
    gain = corpus.log_probabilities(words, text) - sample.log_probabilities(words, text)
    n = np.bincount(text, minlength=len(texts))
    return np.asarray(np.bincount(text, gain, minlength=len(texts)) / np.maximum(1, n))


def _differences(stage: Stage) -> Floats:
    world = stage.world
    train = np.flatnonzero(world.passage_split == TRAIN)

    def made() -> Floats:
        n = min(len(stage.sample), len(train))
        general = np.sort(np.random.default_rng(0).choice(train, n, replace=False))
        sample, corpus = (
            PairModel.of([texts for _, texts in texts_of(world, own)])
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
_scores = Shared(lambda stage: TopicScores(stage, -differences(stage)))


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
        "under one of as much of the corpus, interpolated and hashed; read in random order.",
        "Moore & Lewis 2010",
    ),
    "moore-lewis-frontier": Listed(
        expands(_choose_slot),
        "selection",
        "The candidate whose own passages have the lowest mean difference of moore-lewis.",
        "after Moore & Lewis 2010",
    ),
}

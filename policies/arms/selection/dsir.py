"""DSIR: data selection by importance resampling (Xie et al. 2023, arXiv:2302.03169).

A text is the bag of its words and pairs of words, hashed into 10,000 buckets. The target's sample
and the corpus are such bags, too, and a passage's weight is how much likelier the sample's bag
makes it: log w = sum over its words and pairs of log p(bucket) - log q(bucket). Passages are
resampled without replacement: the highest log w plus Gumbel noise.

As the authors' code does, 1e-8 is added to each share. So a bucket that the sample lacks outweighs
ten that it has: of a small sample, passages with few others are taken, which are often short. One
added to each count instead brings up lists of names that neither bag knows well; on Wikispeedia
that was worse than uniform draws.
"""

from __future__ import annotations

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

BUCKETS = 10_000
FLOOR = 1e-8  # added to each share
VERSION = 2  # raised whenever a weight would come out another


def bag(texts: list[str]) -> tuple[Ints, Ints]:
    """Bucket of every word and pair of words of the texts, and the number of its text."""
    words, text = words_of(texts)
    pairs, pair_text = pairs_of(words, text)
    return buckets(np.concatenate([words, pairs]), BUCKETS), np.concatenate([text, pair_text])


def log_ratio(sample: Floats, corpus: Floats) -> Floats:
    """(B,) log p - log q of counts (B,) each."""
    p, q = sample / sample.sum(), corpus / corpus.sum()
    return np.asarray(np.log(p + FLOOR) - np.log(q + FLOOR))


def gumbel_top(log_weights: Floats, most: int, rng: Rng) -> Ints:
    """Numbers in the order in which they are drawn without replacement by these weights: the first
    `most`, or all.
    """
    noisy = -(log_weights + rng.gumbel(size=len(log_weights)))
    top = np.argpartition(noisy, most)[:most] if most < len(noisy) else np.arange(len(noisy))
    return np.asarray(top[np.argsort(noisy[top], kind="stable")])


def _counted(stage: Stage, passages: Ints) -> Floats:
    counts = np.zeros(BUCKETS)
    for _, texts in texts_of(stage.world, passages):
        counts += np.bincount(bag(texts)[0], minlength=BUCKETS)
    return counts


def _weights(stage: Stage) -> Floats:
    world = stage.world
    train = np.flatnonzero(world.passage_split == TRAIN)

    def made() -> Floats:
        ratio = log_ratio(_counted(stage, stage.sample), _counted(stage, train))
        found = np.zeros(len(world.passage_split))
        for passages, texts in texts_of(world, train):
            bucket, text = bag(texts)
            found[passages] = np.bincount(text, ratio[bucket], minlength=len(texts))
        return found

    made_from = {"world": world.hash, "sample": hash_json(stage.sample.tolist())}
    shape = (len(world.passage_split),)
    return cached_array("dsir", {**made_from, "version": VERSION}, shape, made)


# (P,) log weight of every training passage, 0 elsewhere.
weights = Shared(_weights)
_scores = Shared(lambda stage: TopicScores(stage, weights(stage)), of_retrieval)


def _choose(env: TopicExpansionEnv, rng: Rng) -> Ints:
    found, n = np.flatnonzero(candidates_of(env)), budget_of(env)
    # Each holds a window: no more of them are needed than the budget has windows.
    return filling(env.stage.store, found[gumbel_top(weights(env.stage)[found], n, rng)], n)


def _choose_slot(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
    return best_slot(env, _scores(env.stage))


ARMS = {
    "dsir": Listed(
        selects(_choose),
        "selection",
        "Importance weights of words and pairs of words in 10,000 buckets, as in the authors' "
        "code; passages with the highest log weight plus Gumbel noise, until they hold the "
        "episode's windows, read in random order.",
        "arXiv:2302.03169",
    ),
    "dsir-frontier": Listed(
        expands(_choose_slot),
        "selection",
        "The candidate whose own passages have the highest mean log weight of dsir.",
        "after arXiv:2302.03169",
    ),
}

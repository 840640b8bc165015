"""Which topics a learner begins with, and how much of the world that is.

By title, by a text that is looked up in the space of the topics, or on their own: central and
covering. It trains nothing.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.topics import nucleate
from kncl_env.world.world import World
from train_lm.command_line import comma_separated

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """How a nucleus is asked for: by titles, by a text, or by nothing but a number.

    Attributes:
        titles: Its topics.
        text: What it is about: phrases by comma, such as `photosynthesis, cells`.
        topics: Their number, where no titles are given; a thirtieth of the topics, 8 to 150, if 0.
    """

    titles: tuple[str, ...] = ()
    text: str = ""
    topics: int = 0


def seeds_of(world: World, wanted: Wanted, region: str | None, context: int) -> Ints:
    """Topics of the nucleus, in the order in which they were chosen.

    Args:
        region: Target region, which topics that choose themselves keep out of; that of the world,
            if None. What is asked for by title or text may lie in it.
        context: Tokens that a topic must have more than, unless it is asked for by title.

    Raises:
        ValueError: An unknown title, a text without a known word, or more topics than there are.
    """
    if wanted.titles:
        return np.array([world.topic_of(t) for t in wanted.titles], dtype=np.int64)
    allowed = world.train_tokens_of > context
    n = wanted.topics or int(np.clip(world.n_topics // 30, 8, 150))
    if wanted.text.strip():
        return nearest_to_text(world, wanted.text, min(n, int(allowed.sum())), allowed)
    region = region or world.target_region
    if region is not None:
        allowed[world.region(region)] = False
    return nucleate(world.graph, world.topic_vectors, n, allowed)


def nearest_to_text(world: World, text: str, n: int, allowed: NDArray[np.bool_]) -> Ints:
    """The n allowed topics nearest to a text, each of its phrases in turn choosing its next.

    A phrase that is a title chooses its topic first.

    Args:
        text: Phrases by comma.

    Raises:
        ValueError: A phrase has no word that the world knows.
    """
    try:
        phrases = comma_separated(text)
    except ArgumentTypeError:
        raise ValueError(
            f"expected phrases by comma as a nucleus text, got {text!r}: say what it is about"
        ) from None
    vectors = world.embed(phrases)  # (phrases, D)
    for phrase, vector in zip(phrases, vectors, strict=True):
        if not vector.any():
            raise ValueError(
                f"expected a nucleus text in words that {world.path} knows, got {phrase!r}, of "
                "which it knows none: use words of its articles, or titles (--nucleus-titles)"
            )
    if not allowed.any():
        raise ValueError(f"expected topics with training text in {world.path}, got none")
    number = {title.casefold(): topic for topic, title in enumerate(world.titles)}
    ranked = []
    for phrase, vector in zip(phrases, vectors, strict=True):
        likeness = world.topic_vectors @ vector
        if (own := number.get(phrase.casefold())) is not None:
            likeness[own] = np.inf
        order = np.argsort(-likeness, kind="stable")
        ranked.append(iter(order[allowed[order]].tolist()))
    chosen: dict[int, None] = {}
    while len(chosen) < n:
        for nearest in ranked:
            topic = next((t for t in nearest if t not in chosen), None)
            if topic is not None and len(chosen) < n:
                chosen[topic] = None
    return np.array(list(chosen), dtype=np.int64)


@dataclass(frozen=True)
class NucleusReport:
    """A nucleus measured against its world.

    Attributes:
        topics: Its topics.
        frontier: Topics one link away.
        within_two_links: Share of all topics that are at most two links away, itself included.
        coverage: Mean over all topics of the cosine to the nearest of the nucleus, 0 at least.
        mean_rank: Mean rank of its topics by PageRank, as a share: 1 is the most central topic.
        pagerank: Share of all PageRank that it holds.
        passages: Training passages that it brings.
        bytes: Their size.
        tokens: Their tokens.
        share: Share of the world's training tokens.
    """

    topics: int
    frontier: int
    within_two_links: float
    coverage: float
    mean_rank: float
    pagerank: float
    passages: int
    bytes: int
    tokens: int
    share: float

    @classmethod
    def of(cls, world: World, seeds: Ints) -> NucleusReport:
        graph, vectors = world.graph, world.topic_vectors
        distance = graph.distances(seeds.tolist())
        nearest = np.zeros(len(graph), dtype=np.float32)
        for seed in seeds:
            nearest = np.maximum(nearest, vectors @ vectors[seed])
        rank = np.argsort(np.argsort(graph.pagerank, kind="stable"), kind="stable")
        own = np.concatenate([world.passages_of(int(topic)) for topic in seeds])
        tokens = world.train_tokens_of
        return cls(
            topics=len(seeds),
            frontier=int((distance == 1).sum()),
            within_two_links=float(((distance >= 0) & (distance <= 2)).mean()),
            coverage=float(nearest.mean()),
            mean_rank=float(rank[seeds].mean() / max(1, len(graph) - 1)),
            pagerank=float(graph.pagerank[seeds].sum()),
            passages=len(own),
            bytes=sum(len(world.passage_text(int(passage)).encode()) for passage in own),
            tokens=int(tokens[seeds].sum()),
            share=float(tokens[seeds].sum() / max(1, tokens.sum())),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> Sequence[str]:
        """As a command prints it."""
        return (
            f"coverage: {self.coverage:.3f} mean cosine of a topic to the nearest of these "
            f"{self.topics:,}; {self.frontier:,} topics one link away, "
            f"{100 * self.within_two_links:.1f} % of the world within two links",
            f"centrality: mean rank {self.mean_rank:.3f} by PageRank (1 is the most central), "
            f"{100 * self.pagerank:.1f} % of all PageRank",
            f"text: {self.passages:,} training passages, {self.bytes:,} bytes, {self.tokens:,} "
            f"tokens, {100 * self.share:.2f} % of the training text",
        )

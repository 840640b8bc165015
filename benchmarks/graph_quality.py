"""How good are links made of text alone? Those of a world with links, made again without them.

    python benchmarks/graph_quality.py WORLD [--out FILE]

A pair of topics counts once, whichever way it is linked: that is how a frontier grows. Precision is
the share of found pairs that the world's own links join, recall the share of those that are found.
Chance is twofold: any pair of topics, and pairs of a graph with the same degrees that is rewired at
random, which knows how popular each topic is and nothing else. Intervals are 95 %, by bootstrap
over topics. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kncl_env.world.build_config import BuildConfig
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.rewiring import rewired
from kncl_env.world.splits import SPLITS
from kncl_env.world.topics import connected, nearest_topics
from kncl_env.world.world import World
from train_lm.command_line import say
from train_lm.files import write_json

RESAMPLES = 2000
NEIGHBOURS = (5, 10, 20, 40)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Quality:
    """A graph against the true links.

    Attributes:
        pairs: That it joins.
        precision: Share of them that are true.
        recall: Share of the true pairs that it joins.
        precision_interval: 95 %.
        recall_interval: 95 %.
        chance: Precision of any pairs.
        rewired_precision: Of a random graph with the same degrees.
        rewired_recall: Of the same.
        parts: Components.
        largest: Share of the topics in the largest.
        reached: Share of the true pairs that are at most two links apart in it.
    """

    pairs: int
    precision: float
    recall: float
    precision_interval: Interval
    recall_interval: Interval
    chance: float
    rewired_precision: float
    rewired_recall: float
    parts: int
    largest: float
    reached: float


def quality(found: TopicGraph, truth: TopicGraph, seed: int = 0) -> Quality:
    n = len(truth)
    both = found.undirected.multiply(truth.undirected)
    hits = np.asarray(both.sum(1)).ravel()
    precision, precision_interval = _share(hits, found.degree, seed)
    recall, recall_interval = _share(hits, truth.degree, seed)
    random = rewired(found, seed)
    random_hits = np.asarray(random.undirected.multiply(truth.undirected).sum(1)).ravel()
    shape = found.shape()
    near = sparse.csr_array(found.undirected @ found.undirected + found.undirected)
    near.data[:] = 1.0
    return Quality(
        pairs=int(found.degree.sum() // 2),
        precision=precision,
        recall=recall,
        precision_interval=precision_interval,
        recall_interval=recall_interval,
        chance=float(truth.degree.sum() / (n * (n - 1))),
        rewired_precision=float(random_hits.sum() / random.degree.sum()),
        rewired_recall=float(random_hits.sum() / truth.degree.sum()),
        parts=shape.components,
        largest=shape.largest,
        reached=float(near.multiply(truth.undirected).sum() / truth.undirected.sum()),
    )


def _share(hits: NDArray[np.float64], of: NDArray[np.int64], seed: int) -> tuple[float, Interval]:
    """A share over all topics, and its interval: topics are drawn anew with their pairs."""
    rng, n = np.random.default_rng(seed), len(hits)
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(0, n, n)
        drawn.append(hits[some].sum() / max(1, of[some].sum()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(hits.sum() / max(1, of.sum())), (float(low), float(high))


@dataclass(frozen=True)
class Training:
    """`(topic, text)` of a world's training passages."""

    world: World

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return ((p.topic, p.text) for p in self.world.passages() if p.split == SPLITS[0])


def measured(world: World) -> dict[str, Quality]:
    """The graphs of text alone, by name."""
    n, truth = world.n_topics, world.graph
    nothing = TopicGraph.from_links(n, [[]] * n)
    similar = LINK_TYPES.index("similar")
    found = {}
    for k in NEIGHBOURS:
        nearest = nearest_topics(world.topic_vectors, k)
        rows = [[(int(t), similar) for t in row] for row in nearest]
        found[f"similar, {k} neighbours"] = quality(TopicGraph.from_links(n, rows), truth)
        if k == BuildConfig.neighbours:
            usual = rows
    config = BuildConfig(connect=("mentions",))
    named = connected(nothing, world.titles, world.topic_vectors, Training(world), config)
    found["mentions"] = quality(named, truth)
    both = [a + b for a, b in zip(named.rows(), usual, strict=True)]
    found["mentions and similar, as by default"] = quality(TopicGraph.from_links(n, both), truth)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("world", type=Path, help="a world with links of its own")
    parser.add_argument("--out", type=Path, default=Path("out/graph_quality.json"))
    args = parser.parse_args()
    world = World.open(args.world)
    found = measured(world)
    say(f"{args.world}: {world.n_topics:,} topics, {world.graph.degree.sum() // 2:,} true pairs")
    say(
        f"{'graph':37}{'pairs':>9}  {'precision':24}{'recall':24}{'any pair':>9}{'rewired':>9}"
        f"{'rew. rec.':>10}{'parts':>7}{'<= 2 links':>11}"
    )
    for name, one in found.items():
        (a, b), (c, d) = one.precision_interval, one.recall_interval
        say(
            f"{name:37}{one.pairs:>9,}  {f'{one.precision:.3f} [{a:.3f}, {b:.3f}]':24}"
            f"{f'{one.recall:.3f} [{c:.3f}, {d:.3f}]':24}{one.chance:>9.4f}"
            f"{one.rewired_precision:>9.4f}{one.rewired_recall:>10.4f}{one.parts:>7,}"
            f"{one.reached:>11.3f}"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, {name: asdict(one) for name, one in found.items()})
    say(f"wrote {args.out}")


if __name__ == "__main__":
    main()

"""A distant world's target, set aside: which topics it is, what of it is visible, what is hidden.

Of each target topic's passages, a third at most is for the visible sample; `select` and `test`
share the rest. The sample is filled by turns, a passage of each topic at a time, so that it tells
of as many topics as it can. Which passages it takes depends on titles, numbers and sizes of
passages alone, never on what the hidden ones say.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import LEAST_SAMPLE_KB, SAMPLE_KB, BuildConfig
from kncl_env.world.cut import Cut
from kncl_env.world.graph import TopicGraph
from kncl_env.world.splits import HELD_OUT, SPLITS
from kncl_env.world.target.documents import TARGET
from kncl_env.world.topics import (
    Regions,
    farthest_region,
    fitting_regions,
    has_held_out,
    region_of,
)
from train_lm.files import Json, replacing
from train_lm.token_files import TRAIN

ASIDE = "aside.npz"
SAMPLE, SELECT, TEST = (SPLITS.index(name) for name in HELD_OUT)
KB = 1000  # [bytes]
# Of the whole target: a third of it falls to each split, about, some of one by lot to another.
ENOUGH_KB = 5 * LEAST_SAMPLE_KB

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Aside:
    """What of a cut corpus is the target's.

    Attributes:
        region: Name of the target.
        topics: Its topics, ascending.
        split: (P,) split of every passage of the cut, the target's among them.
    """

    region: str
    topics: Ints
    split: Ints

    @classmethod
    def load(cls, scratch: Path) -> Aside:
        """Of the build that works there."""
        with np.load(scratch / ASIDE) as found:
            topics, split = (found[name].astype(np.int64) for name in ("topics", "split"))
            return cls(str(found["region"]), topics, split)

    def save(self, scratch: Path) -> None:
        split = self.split.astype(np.int8)
        with replacing(scratch / ASIDE, durable=False) as part, part.open("wb") as stream:
            np.savez(stream, region=np.array(self.region), topics=self.topics, split=split)

    def of_target(self, topic: Ints) -> NDArray[np.bool_]:
        """(n,) whether each of these topics is one of the target."""
        return np.isin(topic, self.topics)


def choose_region(
    config: BuildConfig,
    regions: Regions,
    cut: Cut,
    links: Callable[[], TopicGraph],
    is_noise: NDArray[np.bool_],
    place: object,
) -> str:
    """The region that is the target: the one that was named, one's own documents, or the region
    with the greatest mean number of links from central topics.

    Text chooses nothing here: the hidden part of a target must not say that it is one.

    Raises:
        ValueError: No such region, or none that fits, or no links to tell how far one is.
    """
    if config.target is not None:
        return TARGET
    if config.region is not None:
        region_of(regions, config.region, place)
        return config.region
    usable = has_held_out(cut.topic, cut.split, len(is_noise)) & ~is_noise
    fitting, graph = fitting_regions(regions, usable), links()
    if not fitting or not graph.n_edges:
        lack = "links between its articles" if fitting else "regions of 8 or more long articles"
        raise ValueError(
            f"expected a target for the distant scenario, got none, and a corpus without {lack} to "
            "choose one by: name a region (--region) or documents of your own (--target)"
        )
    same = np.zeros((len(graph), 1), dtype=np.float32)
    return farthest_region(fitting, graph, same, np.ones(len(graph), dtype=bool))


def set_aside(
    config: BuildConfig,
    cut: Cut,
    topics: Ints,
    titles: Sequence[str],
    is_noise: NDArray[np.bool_],
    region: str,
) -> Aside:
    """The target's text in its three splits; that of other topics stays as it was split.

    Args:
        topics: Target topics, ascending.
        titles: Of all topics.
        is_noise: (N,) topics of junk; those of the region are hidden whole, and nobody measures
            them.

    Raises:
        ValueError: The sample that was asked for is larger than a third of the target.
    """
    split, sizes = cut.split.copy(), cut.sizes()
    begins = np.searchsorted(cut.topic, topics)
    ends = np.searchsorted(cut.topic, topics, side="right")
    waiting, rest = list[list[int]](), list[int]()
    for topic, begin, end in zip(topics.tolist(), begins.tolist(), ends.tolist(), strict=True):
        rng = np.random.default_rng([config.seed, zlib.crc32(titles[topic].encode()), 1])
        # Rounded up or down by lot, so that topics of one passage fall to all splits alike.
        edges = (np.arange(4) * (end - begin) + rng.integers(3)) // 3 + begin
        for part, name in enumerate(rng.permutation([SAMPLE, SELECT, TEST]).tolist()):
            split[edges[part] : edges[part + 1]] = name
            if name == SAMPLE:
                waiting.append(list(range(edges[part], edges[part + 1])))
        rest.append(int(rng.choice([SELECT, TEST])))
        if is_noise[topic]:
            split[begin:end], waiting[-1] = rest[-1], []
    most = int(sizes[[p for own in waiting for p in own]].sum())
    wanted = KB * (SAMPLE_KB if config.sample_kb is None else config.sample_kb)
    if config.sample_kb is not None and wanted > most:
        raise ValueError(
            f"expected a visible sample of at most {most // KB} kB, a third of the text of "
            f"{_called(region)}, got --sample-kb {config.sample_kb}: ask for less"
        )
    order = np.random.default_rng([config.seed, 2]).permutation(len(topics)).tolist()
    taken = _by_turns([waiting[i] for i in order], sizes, wanted)
    for own, name in zip(waiting, rest, strict=True):
        left = [p for p in own if p not in taken]
        split[left] = name
    return Aside(region, topics, split)


def _called(region: str) -> str:
    return "the target" if region == TARGET else f"the target {region}"


def _by_turns(queues: Sequence[Sequence[int]], sizes: Ints, wanted: int) -> set[int]:
    """Passages, one of each queue at a time, until they are so many bytes."""
    taken: set[int] = set()
    filled = 0
    for turn in range(max((len(queue) for queue in queues), default=0)):
        for queue in queues:
            if turn < len(queue) and filled < wanted:
                filled += int(sizes[queue[turn]])
                taken.add(queue[turn])
    return taken


def check_sizes(cut: Cut, aside: Aside, kept: Ints) -> Json:
    """What the target has in each split, of the passages that stay.

    Raises:
        ValueError: There is nothing left to train on, or too little in one of the splits.
    """
    of_target, split = aside.of_target(cut.topic[kept]), aside.split[kept]
    region, sizes = aside.region, cut.sizes()[kept]
    if not (split == TRAIN).any():
        raise ValueError(
            f"expected text to train on outside of {_called(region)}, got none: it leaves "
            "nothing of the corpus, choose a smaller target"
        )
    found: Json = {}
    for name, what in (("reward", "sample"), ("select", "select"), ("test", "test")):
        here = of_target & (split == SPLITS.index(name))
        found[f"{what}_passages"] = int(here.sum())
        found[f"{what}_bytes"] = int(sizes[here].sum())
        if found[f"{what}_bytes"] < KB * LEAST_SAMPLE_KB:
            seen = "its visible sample" if what == "sample" else f"its hidden {what} text"
            raise ValueError(
                f"expected {LEAST_SAMPLE_KB} kB or more of {_called(region)} in {seen}, got "
                f"{found[f'{what}_bytes'] / KB:.1f} kB: nothing could be measured on so little, "
                f"choose a larger target ({ENOUGH_KB} kB of text or more)"
            )
    return found

"""Link cloze: held-out text that names a linked topic, and titles that could stand there as well.

A topic u links to v, and a passage of u that nobody trains on names v. Is v's title likelier there
than titles of topics that u has no link with? The other titles are as much linked to as v and about
as long in the world's tokens, so that neither being frequent nor being short tells the answer.

Each item has a stranger's context beside its own: text of another topic, cut where a title stood,
with no link to any of the item's titles. What is right there as well is a title's frequency, and no
knowledge of a link.

Items are drawn once per world and seed; it knows no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.cached import cached_array
from kncl_env.world.splits import HELD_OUT, SPLITS
from kncl_env.world.world import World
from train_lm.tokenizer import encode

Ints = NDArray[np.int64]

CLOZE_VERSION = 1  # raised whenever other items would be drawn
OTHERS = 9  # titles beside the right one
LEAST = 100  # [bytes] of text before a mention
MOST = 1000  # [characters] of a context: more tokens than any setting asks for
ALIKE = 300  # topics of the likest in-degree, among which the others are the likest in length
LENDERS = 8  # contexts that are lent to other items: the first ones, so that they are read once

_IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")
_SOURCE, _PASSAGE, _AT, _STRANGER, _TOPICS = range(5)  # columns of a draw; the topics come last


@dataclass(frozen=True, eq=False)
class LinkCloze:
    """Items drawn from a world.

    Attributes:
        world: Where they come from.
        rows: (n, 5 + others) topic u, passage, where in it the title stands, the item whose context
            is the stranger's, v, the other topics.
    """

    world: World
    rows: Ints

    @classmethod
    def of(
        cls, world: World, split: str = "select", n: int = 400, others: int = OTHERS, seed: int = 0
    ) -> LinkCloze:
        """At most n items of a held-out split, drawn once and kept in the cache.

        Topics are used as evenly as the text allows, on both ends of the links. The items of a
        smaller n, of 8 or more, are the first of a larger one's.

        Raises:
            ValueError: No such split, sizes that make no question, or no passage of the split
                names a linked topic.
        """
        if split not in HELD_OUT or n < 1 or others < 1:
            raise ValueError(
                f"expected a split among {', '.join(HELD_OUT)}, an item or more and another title "
                f"or more, got {split}, {n} and {others}: see --split, --items and --others"
            )
        made_from = {"world": world.hash, "split": split, "n": n, "others": others}
        made_from |= {"seed": seed, "version": CLOZE_VERSION}
        rows = cached_array(
            "cloze",
            made_from,
            (None, _TOPICS + 1 + others),
            lambda: _drawn(world, split, n, others, seed),
        )
        if not len(rows):
            raise ValueError(
                f"expected text of split {split} of world {world.path} that names a topic which "
                "its own topic links to, got none: its texts do not name what they link to, or "
                "its passages are too short (raise --passage-bytes)"
            )
        return cls(world, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sources(self) -> Ints:
        """(n,) topics whose text it is."""
        return self.rows[:, _SOURCE]

    @property
    def topics(self) -> Ints:
        """(n, 1 + others) topics whose titles could stand there; the right one first."""
        return self.rows[:, _TOPICS:]

    @property
    def strangers(self) -> Ints:
        """(n,) the item whose context is the stranger's."""
        return self.rows[:, _STRANGER]

    @cached_property
    def contexts(self) -> list[str]:
        """Of each item: the text before the title, without the space between them."""
        texts = (self.world.passage_text(int(p)) for p in self.rows[:, _PASSAGE])
        ends = self.rows[:, _AT].tolist()
        return [
            text[max(0, end - 1 - MOST) : end - 1] for text, end in zip(texts, ends, strict=True)
        ]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(N,) titles as a text has them; empty where two topics would have the same."""
        return names_of(self.world.titles)

    @cached_property
    def clusters(self) -> Ints:
        """(n,) topic that each item counts to: of the ends of the links, that with fewer topics.

        Items that share a topic are no independent evidence; the rarer end is where they share.
        """
        ends = (self.sources, self.topics[:, 0])
        return min(ends, key=lambda end: len(np.unique(end)))


def names_of(titles: Sequence[str]) -> tuple[str, ...]:
    """(N,) titles without a remark in brackets, as a text has them; empty where ambiguous."""
    bare = [_IN_BRACKETS.sub("", title).strip() for title in titles]
    times = Counter(name.lower() for name in bare)
    telling = [name if times[name.lower()] == 1 and len(name) > 1 else "" for name in bare]
    return tuple("" if name.isdigit() else name for name in telling)


def hops_of(world: World, seeds: Ints, sources: Ints, targets: Ints) -> Ints:
    """(n,) links from the nucleus to the farther end of each link; -1 where none leads there.

    0: a link within the nucleus; 1: one that leads out of it, or between topics beside it.
    """
    distance = world.graph.distances(seeds.tolist())
    ends = np.stack([distance[sources], distance[targets]])
    return np.where((ends < 0).any(0), -1, ends.max(0))


Mention = tuple[int, int, int, int]  # u, passage, where, v


def _drawn(world: World, split: str, n: int, others: int, seed: int) -> Ints:
    names = names_of(world.titles)
    rng = np.random.default_rng(seed)
    found = [*_mentions(world, split, names)]
    shuffled = [found[i] for i in rng.permutation(len(found))]
    lengths = np.array([len(ids) for ids in encode(world.tokenizer, [f" {t}" for t in names])])
    chosen: list[tuple[Mention, Ints, str]] = []
    for mention in _evenly(shuffled):
        if len(chosen) == n:
            break
        before = world.passage_text(mention[1])[: mention[2]].lower()
        alike = _others(world, mention, names, lengths, before, others, seed)
        if len(alike) == others:
            chosen.append((mention, alike, before))
    lenders = [(mention[0], before) for mention, _, before in chosen[:LENDERS]]
    rows = np.empty((len(chosen), _TOPICS + 1 + others), dtype=np.int64)
    for i, ((source, passage, at, target), alike, _) in enumerate(chosen):
        topics = [target, *alike.tolist()]
        rows[i] = [
            source,
            passage,
            at,
            _stranger(world, i, source, topics, names, lenders),
            *topics,
        ]
    return rows


def _mentions(world: World, split: str, names: Sequence[str]) -> Iterator[Mention]:
    """The first place of each linked topic's name in each passage, far enough into the text."""
    held_out = np.flatnonzero(world.passage_split == SPLITS.index(split))
    patterns: dict[int, re.Pattern[str] | None] = {}
    number = {name: topic for topic, name in enumerate(names) if name}
    for passage, row in zip(held_out.tolist(), world.passage_rows(held_out), strict=True):
        source, text = row.topic, row.text
        if source not in patterns:
            linked = [names[t] for t in world.graph.out(source) if names[t]]
            own = world.titles[source].lower()
            linked = sorted((t for t in linked if t.lower() not in own), key=len, reverse=True)
            each = "|".join(map(re.escape, linked))
            patterns[source] = re.compile(rf"(?<= )(?:{each})(?![\w-])") if linked else None
        pattern = patterns[source]
        seen: set[str] = set()
        for match in pattern.finditer(text) if pattern is not None else ():
            name, at = match[0], match.start()
            before = text[:at]
            far = len(before.encode()) > LEAST
            if name not in seen and far and name.lower() not in before.lower():
                yield source, passage, at, number[name]
            seen.add(name)


def _evenly(mentions: Sequence[Mention]) -> Iterator[Mention]:
    """All links once, so that at any time no topic is used much more often than it must be."""
    left, used, links = list(mentions), Counter[tuple[str, int]](), set[tuple[int, int]]()
    most = 0
    while left:
        most += 1
        later = []
        for mention in left:
            source, _, _, target = mention
            ends = [("from", source), ("to", target)]
            if (source, target) in links:
                continue
            if any(used[end] >= most for end in ends):
                later.append(mention)
                continue
            links.add((source, target))
            used.update(ends)
            yield mention
        left = later


def _others(
    world: World,
    mention: Mention,
    names: Sequence[str],
    lengths: Ints,
    before: str,
    n: int,
    seed: int,
) -> Ints:
    """Topics as the right one in in-degree and length, that its text has no link with."""
    source, _, _, target = mention
    rng = np.random.default_rng([seed, source, target])
    degree = np.log1p(world.graph.in_degree)
    allowed = np.array([bool(name) for name in names])
    allowed[[source, target]] = False
    allowed[world.graph.around(source)] = False
    right = names[target].lower()
    topics = rng.permutation(np.flatnonzero(allowed))
    near = topics[np.argsort(np.abs(degree[topics] - degree[target]), kind="stable")]
    alike: list[int] = []
    for topic in near.tolist():
        name = names[topic].lower()
        # One that begins as the other is always the likelier; one that was read is a copy.
        apart = not (name.startswith(right) or right.startswith(name))
        if apart and name not in before:
            alike.append(topic)
        if len(alike) == ALIKE:
            break
    found = np.array(alike, dtype=np.int64)
    closest = np.argsort(np.abs(lengths[found] - lengths[target]), kind="stable")
    return found[closest[:n]]


def _stranger(
    world: World,
    item: int,
    source: int,
    topics: Sequence[int],
    names: Sequence[str],
    lenders: Sequence[tuple[int, str]],
) -> int:
    """The lender that has least to do with an item's titles; with the first of equals in turn."""

    def ties(lender: int) -> int:
        own, text = lenders[lender]
        linked = {own, *world.graph.around(own).tolist()}
        return sum(t in linked for t in topics) + sum(names[t].lower() in text for t in topics)

    turn = [(item + 1 + i) % len(lenders) for i in range(len(lenders))]
    away = [i for i in turn if i != item and lenders[i][0] != source] or turn
    return min(away, key=ties)

"""A world with articles that came after it was built: the same world to whoever plays in it.

Numbers of topics, passages, tokens and windows are only ever appended, so what was known of them
stays true. The target, its held-out text, tokenizer and embedder are those of the world as it was
built; the graph, and all that is read off it, is what is known so far.

A grown world is a value: growing it gives another one, and a snapshot keeps the one it was taken
in. Which one it is depends on the titles that were asked for and on what they led to, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.open_world.articles import Fetched
from kncl_env.open_world.outward import OUTWARD, Outward
from kncl_env.open_world.prepare import Prepared, runs_of, topic_text
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import PassageIndex
from kncl_env.world.splits import HELD_OUT, SPLITS
from kncl_env.world.world import World
from train_lm.files import hash_json
from train_lm.token_files import TRAIN, TokenFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from kncl_env.world.embedding import TextSpace

Ints = NDArray[np.int64]
Rows = NDArray[np.float32]
Runs = NDArray[np.uint64]


class Names:
    """Numbers for titles, in the order in which they are first met. Usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._number)

    def of(self, titles: Sequence[str]) -> Ints:
        """(n,) numbers."""
        with self._lock:
            known = self._number
            return np.array([known.setdefault(t, len(known)) for t in titles], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of titles in a grown world.

    Attributes:
        topic_of: Topic that each title leads to; -1 where it leads to none.
        rows: Titles that each topic links to, in reading order.
        numbers: The same as numbers.
    """

    topic_of: Mapping[str, int]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[Ints, ...]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a world on disk reads from its files, of a world that has grown.

    Attributes:
        titles: (N,)
        topic_vectors, title_vectors: (N, D)
        passage_topic, passage_split: (P,)
        came: Texts of the passages that are not in the world as it was built.
        tokens: Of all passages.
        index: Of all training passages.
        index_vectors: (n, D) of these, in the order of the index.
        runs: Of words that each split has, by split, each array sorted.
    """

    titles: tuple[str, ...]
    topic_vectors: Rows
    title_vectors: Rows
    passage_topic: Ints
    passage_split: Ints
    came: tuple[str, ...]
    tokens: TokenFiles
    index: PassageIndex
    index_vectors: Rows
    runs: Mapping[str, tuple[Runs, ...]]


class GrownWorld(World):
    """A world and what came to it.

    Attributes:
        base: As it was built.
        known: Of titles.
        parts: Of all topics and passages.
        left_out: Passages that came and share a run of words with another split, or are held out
            and too short to tell: nobody reads them.
    """

    def __init__(
        self, base: World, known: Known, parts: Parts, identity: str, left_out: int = 0
    ) -> None:
        super().__init__(base.path, {**base.card, "hash": identity})
        self.base, self.known, self.parts, self.left_out = base, known, parts, left_out

    @classmethod
    def begin(cls, base: World, names: Names) -> GrownWorld:
        """A world to which nothing has come yet.

        Raises:
            ValueError: It was not built from a live wiki, or what leads out of it is damaged.
        """
        outward = Outward.of(base)
        topic_of = {title: i for i, title in enumerate(base.titles)}
        try:
            topic_of |= {name: topic_of[title] for name, title in outward.aliases}
        except KeyError as error:
            raise ValueError(
                f"expected {OUTWARD} of {base.path} to name its topics, got {error}: rebuild it"
            ) from None
        topic_of |= dict.fromkeys(outward.absent, -1)
        known = Known(topic_of, outward.links, tuple(names.of(row) for row in outward.links))
        runs: dict[str, list[Runs]] = {split: [] for split in SPLITS}
        for passage in base.passage_rows():
            runs[passage.split].append(runs_of(passage.text, passage.split))
        parts = Parts(
            titles=base.titles,
            topic_vectors=base.topic_vectors,
            title_vectors=base.title_vectors,
            passage_topic=base.passage_topic,
            passage_split=base.passage_split,
            came=(),
            tokens=base._token_files,
            index=base.index,
            index_vectors=base.index.vectors(),
            runs={split: (_merged(found),) for split, found in runs.items()},
        )
        found = cls(base, known, parts, base.hash)
        same = len(outward.links) == base.n_topics and _graph_of(found, names)
        if not same or not (
            np.array_equal(same.indptr, base.graph.indptr)
            and np.array_equal(same.indices, base.graph.indices)
        ):
            raise ValueError(
                f"expected {OUTWARD} of {base.path} to say what its topics link to, got other "
                "links than its graph has: an open world takes no noise, rebuild it"
            )
        vars(found)["graph"] = base.graph
        return found

    def grow(
        self, came: Sequence[Fetched], ready: Mapping[str, Prepared], names: Names
    ) -> GrownWorld:
        """The world with further articles, in their order.

        Args:
            came: What titles led to that were asked for.
            ready: The articles among them, prepared, by title.
        """
        topic_of = dict(self.known.topic_of)
        joining: list[Prepared] = []
        for one in came:
            if one.absent:
                topic_of.setdefault(one.asked, -1)
                continue
            if one.title not in topic_of:
                topic_of[one.title] = self.n_topics + len(joining)
                joining.append(ready[one.title])
            topic_of.setdefault(one.asked, topic_of[one.title])
        rows = tuple(one.article.links for one in joining)
        numbers = tuple(names.of(row) for row in rows)
        known = Known(topic_of, (*self.known.rows, *rows), (*self.known.numbers, *numbers))
        identity = hash_json([self.hash, [one.digest for one in came]])
        kept = _without_leaks(joining, self.parts.runs)
        left_out = sum(len(p.texts) for p in joining) - sum(len(k) for k in kept)
        parts = self._joined(list(zip(joining, kept, strict=True)), identity)
        grown = GrownWorld(self.base, known, parts, identity, self.left_out + left_out)
        vars(grown)["graph"] = _graph_of(grown, names)
        return grown

    def _joined(self, came: Sequence[tuple[Prepared, Ints]], identity: str) -> Parts:
        """With topics, and those of their passages that are kept, after all others."""
        old = self.parts
        splits = [one.splits[i] for one, keep in came for i in keep]
        split = np.array([SPLITS.index(s) for s in splits], dtype=np.int64)
        topics = np.repeat(np.arange(len(came)) + self.n_topics, [len(keep) for _, keep in came])
        ids = [one.tokens[i] for one, keep in came for i in keep]
        ends = old.tokens.starts[-1] + np.cumsum([len(x) for x in ids], dtype=np.int64)
        training = np.flatnonzero(split == TRAIN)
        rows = np.concatenate([old.index_vectors[:0], *(one.vectors[keep] for one, keep in came)])
        vectors = np.concatenate([old.index_vectors, rows[training]])
        passages = np.concatenate([old.index.passages, len(old.passage_topic) + training])
        own = [self._topic_vector(one, keep)[None] for one, keep in came]
        return Parts(
            titles=(*old.titles, *(one.article.title for one, _ in came)),
            topic_vectors=np.concatenate([old.topic_vectors, *own]),
            title_vectors=np.concatenate(
                [old.title_vectors, *(one.title_vector[None] for one, _ in came)]
            ),
            passage_topic=np.concatenate([old.passage_topic, topics]).astype(np.int64),
            passage_split=np.concatenate([old.passage_split, split]),
            came=(*old.came, *(one.texts[i] for one, keep in came for i in keep)),
            tokens=TokenFiles(
                np.concatenate(
                    [old.tokens.tokens, *(x.astype(old.tokens.tokens.dtype) for x in ids)]
                ),
                np.concatenate([old.tokens.starts, ends]),
            ),
            index=PassageIndex.build(vectors, passages, identity),
            index_vectors=vectors,
            runs=_with_runs(old.runs, came),
        )

    def _topic_vector(self, one: Prepared, kept: Ints) -> Rows:
        if len(kept) == len(one.texts):
            return one.topic_vector
        texts, splits = [one.texts[i] for i in kept], [one.splits[i] for i in kept]
        return self.base.embed([topic_text(one.article.title, texts, splits)])[0]

    # -- what a world on disk reads from its files --------------------------------------------

    @property
    def titles(self) -> tuple[str, ...]:
        return self.parts.titles

    @property
    def topic_vectors(self) -> Rows:
        return self.parts.topic_vectors

    @property
    def title_vectors(self) -> Rows:
        return self.parts.title_vectors

    @property
    def passage_topic(self) -> Ints:
        return self.parts.passage_topic

    @property
    def passage_split(self) -> Ints:
        return self.parts.passage_split

    @property
    def _token_files(self) -> TokenFiles:
        return self.parts.tokens

    @property
    def index(self) -> PassageIndex:
        return self.parts.index

    @property
    def tokenizer(self) -> Tokenizer:
        return self.base.tokenizer

    @property
    def embedder(self) -> TextSpace:
        return self.base.embedder

    @property
    def passage_is_noise(self) -> NDArray[np.bool_]:
        return np.zeros(len(self.passage_topic), dtype=bool)  # an open world takes none

    @property
    def topic_is_noise(self) -> NDArray[np.bool_]:
        return np.zeros(self.n_topics, dtype=bool)

    @property
    def regions(self) -> dict[str, Ints]:
        return self.base.regions

    def passage_text(self, passage: int) -> str:
        n = len(self.base.passage_topic)
        return self.base.passage_text(passage) if passage < n else self.parts.came[passage - n]

    def target_topics(self, region: str | None = None) -> Ints:
        """Those of the world as it was built: what counts does not change."""
        return self.base.target_topics(region)


def _graph_of(world: GrownWorld, names: Names) -> TopicGraph:
    """Links to topics that are known, in reading order, each once."""
    n = world.n_topics
    titles = list(world.known.topic_of)
    numbers = names.of(titles)
    leads = np.full(len(names), -1, dtype=np.int64)
    leads[numbers] = [world.known.topic_of[title] for title in titles]
    rows = world.known.numbers
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    source = np.repeat(np.arange(len(rows)), sizes)
    target = leads[np.concatenate([np.zeros(0, dtype=np.int64), *rows])]
    there = (target >= 0) & (target != source)
    source, target = source[there], target[there]
    first = np.sort(np.unique(source * n + target, return_index=True)[1])
    source, target = source[first], target[first]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n))]).astype(np.int64)
    types = np.full(len(target), LINK_TYPES.index("link"), dtype=np.int8)
    return TopicGraph(indptr, target, types)


def _without_leaks(joining: Sequence[Prepared], before: Mapping[str, Sequence[Runs]]) -> list[Ints]:
    """Of each article, the passages that share no run of words with another split.

    Whoever comes later gives way: training text that repeats what is held out, and held-out text
    that was read.
    """
    every = [runs for one in joining for runs in one.runs]
    owner = np.repeat(np.arange(len(every)), [len(runs) for runs in every])
    flat = np.concatenate([np.zeros(0, dtype=np.uint64), *every])
    seen = {
        split: np.bincount(owner, weights=_is_in(flat, parts), minlength=len(every)) > 0
        for split, parts in before.items()
    }
    among: dict[int, set[str]] = {}  # of runs that came in these articles
    kept: list[Ints] = []
    at = 0
    for one in joining:
        keep = []
        for i, (split, runs) in enumerate(zip(one.splits, one.runs, strict=True)):
            others = [s for s in SPLITS if s != split]
            own = runs.tolist()
            leaks = any(seen[s][at] for s in others)
            leaks = leaks or any(among.get(run, set()) - {split} for run in own)
            if not leaks and (len(own) or split not in HELD_OUT):
                keep.append(i)
                for run in own:
                    among.setdefault(run, set()).add(split)
            at += 1
        kept.append(np.array(keep, dtype=np.int64))
    return kept


def _with_runs(
    before: Mapping[str, tuple[Runs, ...]], pairs: Sequence[tuple[Prepared, Ints]]
) -> dict[str, tuple[Runs, ...]]:
    return {
        split: (
            *parts,
            _merged([one.runs[i] for one, keep in pairs for i in keep if one.splits[i] == split]),
        )
        for split, parts in before.items()
    }


def _merged(parts: Sequence[Runs]) -> Runs:
    return np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *parts]))


def _is_in(values: Runs, tables: Sequence[Runs]) -> NDArray[np.bool_]:
    found = np.zeros(len(values), dtype=bool)
    for table in tables:
        if len(table):
            place = np.minimum(np.searchsorted(table, values), len(table) - 1)
            found |= table[place] == values
    return found

"""From a corpus to `passages.parquet`: cut, split, prove apart, mix in noise.

Each step reads files, and nothing holds the text in memory: what grows with the corpus are the
titles of its topics, and some bytes for each passage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import QUOTED, Corpus, add_texts, new_hash
from kncl_env.world.cut import (
    ARTICLES,
    Cut,
    CutWriter,
    JunkFile,
    TextsOf,
    TopicRow,
    first_of,
    read_topic_rows,
)
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.overlap import unproved_of
from kncl_env.world.splits import SPLITS, Passage, cut_passages, split_article
from kncl_env.world.stages import Say
from kncl_env.world.tables import PassageWriter, read_places
from kncl_env.world.topics import check_target, has_held_out, regions_of
from train_lm.files import Json, read_json, write_json
from train_lm.token_files import TRAIN

DOOMED, PASSAGES = "doomed.npy", "passages.parquet"
JUNK, JUNK_TEXT = "junk.json", "junk.txt"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Draft:
    """What later stages need of the topics and passages of a world in the making.

    Args:
        world: Folder of the world's files.
        scratch: Folder of what no world keeps.
    """

    world: Path
    scratch: Path

    @cached_property
    def _junk(self) -> list[Json]:
        """Topics that noise brought, with their links as numbers."""
        file = self.scratch / JUNK
        found: list[Json] = read_json(file) if file.is_file() else []
        return found

    @cached_property
    def titles(self) -> list[str]:
        """(N,) of the topics; those of junk come last."""
        return [row.title for row in self._rows()] + [junk["title"] for junk in self._junk]

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """(N,) region names of each topic."""
        kept: dict[tuple[str, ...], tuple[str, ...]] = {}  # most topics share theirs with others
        own = [kept.setdefault(row.labels, row.labels) for row in self._rows()]
        return own + [()] * len(self._junk)

    @cached_property
    def is_noise(self) -> NDArray[np.bool_]:
        """(N,) whether a topic holds nothing but junk."""
        return np.array([r.is_noise for r in self._rows()] + [True] * len(self._junk), dtype=bool)

    def _rows(self) -> Iterator[TopicRow]:
        return read_topic_rows(self.scratch / ARTICLES)

    @property
    def n_topics(self) -> int:
        return len(self.is_noise)

    @cached_property
    def _places(self) -> tuple[Ints, Ints]:
        return read_places(self.world / PASSAGES)

    @property
    def topic(self) -> Ints:
        """(P,) number of each passage's topic, ascending."""
        return self._places[0]

    @property
    def split(self) -> Ints:
        """(P,) index into `SPLITS` of each passage."""
        return self._places[1]

    def usable(self) -> NDArray[np.bool_]:
        """(N,) topics that can be a target: with text in every held-out split, and no junk."""
        return has_held_out(self.topic, self.split, self.n_topics) & ~self.is_noise

    def graph(self, say: Say) -> TopicGraph:
        """The links, by numbers; of those that lead nowhere, how many and the first is said."""
        number = {
            title: i for i, title in enumerate(self.titles[: len(self.titles) - self._n_junk])
        }
        added: dict[int, list[tuple[int, int]]] = defaultdict(list)
        link = LINK_TYPES.index("link")
        for i, junk in enumerate(self._junk):
            for source in junk["linked_from"]:
                added[source].append((len(number) + i, link))
        lost: list[tuple[str, str]] = []
        n_lost = 0

        def rows() -> Iterator[Iterable[tuple[int, int]]]:
            nonlocal n_lost
            for topic, row in enumerate(self._rows()):
                known = [
                    (number[t], LINK_TYPES.index(kind)) for t, kind in row.links if t in number
                ]
                if len(known) < len(row.links):
                    n_lost += len(row.links) - len(known)
                    if not lost:
                        lost.append((row.title, next(t for t, _ in row.links if t not in number)))
                yield known + added[topic] if topic in added else known
            for junk in self._junk:
                yield [(target, link) for target in junk["links"]]

        graph = TopicGraph.from_links(self.n_topics, rows())
        if lost:
            (source, target), *_ = lost
            say(
                f"{n_lost:,} links left out that lead to no article, the first from "
                f"{source!r} to {target!r}"
            )
        return graph

    @property
    def _n_junk(self) -> int:
        return len(self._junk)


def read_articles(corpus: Corpus, config: BuildConfig, scratch: Path, say: Say) -> Json:
    """Cut every article into passages and split them; reads the corpus once."""
    reading = corpus.read()
    with CutWriter(scratch) as writer:
        for article in reading:
            texts = cut_passages(article.paragraphs, config.passage_bytes)
            splits = split_article(article, len(texts), config.held_out, config.seed)
            writer.add(article, texts, splits)
    say(f"{corpus.source}: {reading.n:,} articles read")
    for loss in corpus.losses():
        say(f"  {loss}")
    return {"sha256": reading.sha256, "counts": corpus.counts}


def prove_apart(corpus: Corpus, config: BuildConfig, draft: Draft, say: Say) -> Json:
    """Find held-out passages that another split gives away; refuses a target that cannot be one."""
    cut = Cut(draft.scratch)
    doomed: list[int] = []
    for passage, reason in unproved_of(cut.split, cut.texts, draft.scratch):
        if not doomed:
            first, why = passage, reason
        doomed.append(passage)
    if doomed:
        title = first_of(draft.scratch / ARTICLES, int(cut.topic[first])).title
        say(
            f"{len(doomed):,} held-out passages left out, the first of {title!r}: it {why}: "
            f"{_begin(cut.text(first))}"
        )
    if not (cut.split == TRAIN).any():
        raise ValueError("expected training text, got none: every article is too short")
    if config.scenario == "focused" and any(draft.labels):
        # Before the long stages; without labels, regions are known only after them.
        kept = np.delete(np.arange(len(cut)), doomed)
        usable = has_held_out(cut.topic[kept], cut.split[kept], draft.n_topics) & ~draft.is_noise
        check_target(regions_of(draft.labels), usable, config.region, corpus.source)
    np.save(draft.scratch / DOOMED, np.array(doomed, dtype=np.int64))
    return {"dropped": len(doomed)}


def write_passages(config: BuildConfig, draft: Draft) -> Json:
    """Write the passages that stay, with junk among them in the noisy scenario."""
    cut = Cut(draft.scratch)
    junk = _noise(config, cut, draft) if config.scenario == "noisy" else ()
    kept = np.delete(np.arange(len(cut)), np.load(draft.scratch / DOOMED))
    is_noise, digest = draft.is_noise, new_hash()
    splits = dict.fromkeys(SPLITS, 0)
    n_bytes = n_noise = train_bytes = train_characters = 0
    with PassageWriter(draft.world / PASSAGES) as writer:
        for p in _in_order(cut, kept, junk):
            add_texts(digest, (str(p.topic), p.split, p.text, p.noise))
            size = len(p.text.encode())
            splits[p.split] += 1
            n_bytes += size
            n_noise += bool(p.noise) or bool(is_noise[p.topic])
            if p.split == "train":
                train_bytes += size
                train_characters += len(p.text)
            writer.add(p)
    return {
        "corpus_hash": digest.hexdigest(),
        "splits": splits,
        "bytes": n_bytes,
        "noise": n_noise,
        "train_bytes": train_bytes,
        "train_characters": train_characters,
    }


def _in_order(cut: Cut, kept: NDArray[np.int64], junk: Iterable[Passage]) -> Iterator[Passage]:
    """By topic; a topic's junk comes last."""
    places = zip(cut.topic[kept].tolist(), cut.split[kept].tolist(), strict=True)
    texts = zip(places, cut.texts(kept), strict=True)
    own = (Passage(topic, SPLITS[split], text) for (topic, split), text in texts)
    return merge(own, junk, key=lambda passage: passage.topic)


def _noise(config: BuildConfig, cut: Cut, draft: Draft) -> Iterator[Passage]:
    """Junk by topic; what new topics link to goes to `junk.json`."""
    from kncl_env.world.noise import draw_noise

    with JunkFile(draft.scratch / JUNK_TEXT) as file:
        topics = draw_noise(
            TextsOf(cut, np.flatnonzero(cut.split == TRAIN)),
            [row.title for row in read_topic_rows(draft.scratch / ARTICLES)],
            config.noise_share,
            np.random.default_rng(config.seed),
            lambda junk: file.keep(junk.topic, junk.text, junk.kind),
        )
    found = [{"title": t.title, "links": t.links, "linked_from": t.linked_from} for t in topics]
    write_json(draft.scratch / JUNK, found)
    return file.by_topic()


def _begin(text: str, words: int = 8) -> str:
    return " ".join(text.split()[:words])[:QUOTED] + " …"

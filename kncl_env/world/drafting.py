"""From a corpus to `passages.parquet`: cut, split, set a target aside, prove apart, mix in noise.

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
from kncl_env.world.overlap import SHARES, copies_of, unproved_of
from kncl_env.world.scripts import OVERLAP_WORDS
from kncl_env.world.splits import SPLITS, Passage, cut_passages, split_article
from kncl_env.world.stages import Say
from kncl_env.world.tables import PassageWriter, read_places
from kncl_env.world.target.aside import (
    ASIDE,
    SAMPLE,
    Aside,
    check_sizes,
    choose_region,
    set_aside,
)
from kncl_env.world.target.language import READ, check_language
from kncl_env.world.topics import check_target, has_held_out, regions_of
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, read_json, write_json
from train_lm.plain_text import counted
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

    @cached_property
    def cut(self) -> Cut:
        """The corpus as it was cut, with a target set aside where there is one."""
        found = self.aside
        return Cut(self.scratch, None if found is None else found.split)

    @cached_property
    def aside(self) -> Aside | None:
        """What of the cut is a distant world's target; None in another world."""
        return Aside.load(self.scratch) if (self.scratch / ASIDE).is_file() else None

    @cached_property
    def target(self) -> Ints:
        """Topics whose text is set aside, ascending; none but in a distant world."""
        return np.zeros(0, dtype=np.int64) if self.aside is None else self.aside.topics

    @cached_property
    def told(self) -> NDArray[np.bool_]:
        """(P,) passages that tell where topics lie: training text, a target's visible sample."""
        return (self.split == TRAIN) | (np.isin(self.topic, self.target) & (self.split == SAMPLE))

    @cached_property
    def unseen(self) -> Ints:
        """Target topics of which nothing is visible, ascending."""
        return np.setdiff1d(self.target, self.topic[self.told])

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


def set_target_aside(corpus: Corpus, config: BuildConfig, draft: Draft, say: Say) -> Json:
    """Choose a distant world's target, and split its text: nothing of it is trained on."""
    cut, regions = Cut(draft.scratch), regions_of(draft.labels)
    region = choose_region(
        config, regions, cut, lambda: draft.graph(lambda _: None), draft.is_noise, corpus.source
    )
    topics = regions[region]
    set_aside(config, cut, topics, draft.titles, draft.is_noise, region).save(draft.scratch)
    named = region if config.target is None else "documents of one's own"
    say(f"  target: {named}, {counted(len(topics), 'topic')}, none of whose text is trained on")
    return {"region": region, "topics": len(topics)}


def prove_apart(
    corpus: Corpus, config: BuildConfig, draft: Draft, say: Say, hands: Hands = ALONE
) -> Json:
    """Find held-out passages that another split gives away; refuses a target that cannot be one."""
    if draft.aside is not None:
        return _prove_distant(draft, draft.aside, say, hands)
    cut = Cut(draft.scratch)
    doomed: list[int] = []
    for passage, reason in unproved_of(cut.split, cut.texts, draft.scratch, hands):
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


def _prove_distant(draft: Draft, aside: Aside, say: Say, hands: Hands) -> Json:
    """Leave out copies of the target's text, all of it, then what gives held-out text away.

    Of two passages of the target that share a run, the visible one stays: what is hidden must not
    choose what can be seen.
    """
    cut = draft.cut
    of_target = aside.of_target(cut.topic)
    own, others = np.flatnonzero(of_target), np.flatnonzero(~of_target)
    copies = copies_of(own, others, cut.texts, draft.scratch, hands)
    trained = copies[cut.split[copies] == TRAIN]
    found: Json = {
        "copies_passages": len(trained),
        "copies_bytes": int(cut.sizes()[trained].sum()),
        "copies_held_out_elsewhere": len(copies) - len(trained),
    }
    if len(trained):
        title = first_of(draft.scratch / ARTICLES, int(cut.topic[trained[0]])).title
        share = found["copies_bytes"] / max(1, int(cut.sizes()[cut.split == TRAIN].sum()))
        example = f"of {title!r}: {_begin(cut.text(int(trained[0])))}"
        say(
            f"{len(trained):,} training passages left out, {100 * share:.1f} % of the text, that "
            f"share a run of {OVERLAP_WORDS} words with the target's text, the first {example}"
        )
        found["copies_example"] = example
    kept = np.delete(np.arange(len(cut)), copies)
    alone = unproved_of(cut.split[kept], lambda rows: cut.texts(kept[rows]), draft.scratch, hands)
    visible = of_target & (cut.split == SAMPLE)
    doomed = [int(kept[row]) for row, why in alone if not (visible[kept[row]] and SHARES in why)]
    if doomed:
        say(f"{len(doomed):,} held-out passages left out that another split gives away")
    dropped = np.sort(np.concatenate([copies, np.array(doomed, dtype=np.int64)]))
    np.save(draft.scratch / DOOMED, dropped)
    kept = np.delete(np.arange(len(cut)), dropped)
    found |= check_sizes(cut, aside, kept)
    training = kept[cut.split[kept] == TRAIN]
    every = -(-int(cut.sizes()[training].sum()) // READ)  # so many characters, evenly chosen
    seen = cut.texts(np.flatnonzero(visible & np.isin(np.arange(len(cut)), kept)))
    found["sample_words_known"] = round(
        check_language(seen, cut.texts(training[::every]), aside.region), 4
    )
    return {"dropped": len(doomed) + found["copies_held_out_elsewhere"], "target": found}


def write_passages(config: BuildConfig, draft: Draft) -> Json:
    """Write the passages that stay, with junk among them in the noisy scenario."""
    cut = draft.cut
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

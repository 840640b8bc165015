"""From a corpus to a world directory: cut, split, (add noise,) tokenise, embed, link, index.

Each stage writes its files into a folder beside the world's place. The world is hashed once, at the
end, and moved there whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import BuildConfig
from kncl_env.world.card import WORLD_FORMAT, world_hash
from kncl_env.world.corpus import Article, Corpus, Reading
from kncl_env.world.embedding import Embedder
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import PassageIndex
from kncl_env.world.splits import (
    SPLITS,
    Passage,
    cut_passages,
    hash_passages,
    split_article,
    unproved,
)
from kncl_env.world.topics import (
    check_target,
    clusters,
    farthest_region,
    fitting_regions,
    has_held_out,
    nearest_neighbours,
    regions_of,
    target_of,
    transfer_regions,
)
from kncl_env.world.world import World
from train_lm.checked.digests import sealed
from train_lm.files import hash_file, read_json, replacing_folder, write_json
from train_lm.outputs import alone, holds_json
from train_lm.token_files import TokenWriter
from train_lm.tokenizer import bytes_per_token, encode, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_BYTES = 20_000_000  # of text, about, that the tokenizer is trained on
TOGETHER = 4096  # [passages] that are tokenised at a time

Say = Callable[[str], None]


@dataclass
class Draft:
    """A world in the making: what later stages need of earlier ones.

    Attributes:
        titles: (N,) of the topics.
        labels: (N,) region names of each topic.
        is_noise: (N,) whether a topic holds nothing but junk.
        links: (N,) `(target, link type)` of each topic.
        passages: (P,) by ascending topic.
        overlapping: Held-out passages that were dropped.
    """

    titles: list[str]
    labels: list[list[str]]
    is_noise: list[bool]
    links: list[list[tuple[int, int]]]
    passages: list[Passage]
    overlapping: int

    @property
    def n_topics(self) -> int:
        return len(self.titles)

    @property
    def training(self) -> list[Passage]:
        return [p for p in self.passages if p.split == "train"]

    def usable(self) -> NDArray[np.bool_]:
        """(N,) topics that can be a target: with text in every held-out split, and no junk."""
        topic = np.array([p.topic for p in self.passages], dtype=np.int64)
        split = np.array([SPLITS.index(p.split) for p in self.passages], dtype=np.int64)
        return has_held_out(topic, split, self.n_topics) & ~np.array(self.is_noise, dtype=bool)


def build_world(corpus: Corpus, out: Path, config: BuildConfig, say: Say = lambda _: None) -> World:
    """Write a world directory; it appears whole or not at all.

    Args:
        say: Told about each stage as it begins, and of what is left out.

    Raises:
        ValueError: The corpus is too small, or the region is unknown.
        FileExistsError: `out` is a file, or the folder that we stand in.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"expected a place for a directory, got the file {out}: name another")
    if out.exists() and out.samefile("."):
        raise FileExistsError(
            f"expected another place than the current folder, got {out}: it would be replaced"
        )
    with alone(out), replacing_folder(out, over=True) as part:
        say("cutting and splitting")
        reading = corpus.read()
        draft = _cut(corpus, reading, config, say)
        if config.scenario == "noisy":
            say("mixing in noise")
            _mix_noise(draft, config)
        _write_passages(part, draft)
        say("training the tokenizer")
        tokenizer = _train_tokenizer(part, draft, config)
        say("tokenising")
        n_tokens, compression = _tokenise(part, draft, tokenizer)
        say("embedding")
        topic_vectors, passage_vectors = _embed(part, draft, config)
        say("linking")
        graph = _link(part, draft, topic_vectors, config)
        say("indexing")
        corpus_hash = hash_passages(draft.passages)
        trained = np.array([i for i, p in enumerate(draft.passages) if p.split == "train"])
        PassageIndex.build(passage_vectors, trained, corpus_hash).save(part)
        card: dict[str, Any] = {
            "format": WORLD_FORMAT,
            "source": corpus.source,
            "licence": corpus.licence,
            "citation": corpus.citation,
            "source_sha256": reading.sha256,
            "corpus_hash": corpus_hash,
            "settings": asdict(config),
            "scenario": _scenario(draft, graph, topic_vectors, corpus, config),
            "counts": {
                "topics": draft.n_topics,
                "links": graph.n_edges,
                "passages": len(draft.passages),
                "bytes": sum(len(p.text.encode()) for p in draft.passages),
                "tokens": n_tokens,
                "bytes_per_token": round(compression, 4),
                **{f"{s}_passages": sum(p.split == s for p in draft.passages) for s in SPLITS},
                "overlapping_held_out_passages_dropped": draft.overlapping,
                "noise_passages": sum(
                    bool(p.noise) or draft.is_noise[p.topic] for p in draft.passages
                ),
            },
            "source_counts": corpus.counts,
            "hash": "",
        }
        for name, value in corpus.beside.items():
            write_json(part / name, value)
        say("hashing")
        card["files"] = {f.name: hash_file(f) for f in sorted(part.iterdir())}
        card["hash"] = world_hash(card)
        write_json(part / "world.json", sealed(card))
    return World.open(out)


def is_world(path: Path) -> bool:
    """Whether a folder is a world and holds nothing else."""
    if not holds_json(path / "world.json", format=WORLD_FORMAT):
        return False
    files = read_json(path / "world.json").get("files")
    return isinstance(files, dict) and {f.name for f in path.iterdir()} <= {*files, "world.json"}


def _cut(corpus: Corpus, reading: Reading, config: BuildConfig, say: Say) -> Draft:
    """Passages and their splits, proved not to overlap; refuses a target that cannot be one."""
    passages: list[Passage] = []
    articles = tuple(reading)
    say(f"{corpus.source}: {reading.n:,} articles read")
    for loss in corpus.losses():
        say(f"  {loss}")
    for topic, article in enumerate(articles):
        texts = cut_passages(article.paragraphs, config.passage_bytes)
        splits = split_article(article, len(texts), config.held_out, config.seed)
        passages += [Passage(topic, s, t) for s, t in zip(splits, texts, strict=True)]
    doomed = dict(unproved(passages))
    if doomed:
        first, reason = next(iter(doomed.items()))
        say(
            f"{len(doomed):,} held-out passages left out, the first of "
            f"{articles[passages[first].topic].title!r}: it {reason}: "
            f"{_begin(passages[first].text)}"
        )
    draft = Draft(
        titles=[a.title for a in articles],
        labels=[list(a.labels) for a in articles],
        is_noise=[a.is_noise for a in articles],
        links=_numbered_links(articles, say),
        passages=[p for i, p in enumerate(passages) if i not in doomed],
        overlapping=len(doomed),
    )
    if not draft.training:
        raise ValueError("expected training text, got none: every article is too short")
    if config.scenario == "focused" and any(draft.labels):
        # Before the long stages; without labels, regions are known only after them.
        check_target(regions_of(draft.labels), draft.usable(), config.region, corpus.source)
    return draft


def _numbered_links(articles: Sequence[Article], say: Say) -> list[list[tuple[int, int]]]:
    number = {a.title: i for i, a in enumerate(articles)}
    lost = [(a.title, t) for a in articles for t, _ in a.links if t not in number]
    if lost:
        say(
            f"{len(lost):,} links left out that lead to no article, the first from "
            f"{lost[0][0]!r} to {lost[0][1]!r}"
        )
    return [
        [(number[t], LINK_TYPES.index(kind)) for t, kind in a.links if t in number]
        for a in articles
    ]


def _mix_noise(draft: Draft, config: BuildConfig) -> None:
    from kncl_env.world.noise import add_noise

    junk = add_noise(
        [(p.topic, p.text) for p in draft.training],
        draft.titles,
        config.noise_share,
        np.random.default_rng(config.seed),
    )
    link = LINK_TYPES.index("link")
    for topic in junk.topics:
        for source in topic.linked_from:
            draft.links[source].append((draft.n_topics, link))
        draft.titles.append(topic.title)
        draft.labels.append([])
        draft.is_noise.append(True)
        draft.links.append([(target, link) for target in topic.links])
    added = [Passage(p.topic, "train", p.text, p.kind) for p in junk.passages]
    # Stable: junk comes last.
    draft.passages = sorted([*draft.passages, *added], key=lambda p: p.topic)


def _write_passages(part: Path, draft: Draft) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    passages = draft.passages
    table = pa.table(
        {
            "topic": pa.array([p.topic for p in passages], pa.int32()),
            "split": pa.array([SPLITS.index(p.split) for p in passages], pa.int8()),
            "text": pa.array([p.text for p in passages], pa.string()),
            "noise": pa.array([p.noise for p in passages], pa.string()),
        }
    )
    pq.write_table(table, part / "passages.parquet")


def _train_tokenizer(part: Path, draft: Draft, config: BuildConfig) -> Tokenizer:
    texts = _sample([p.text for p in draft.training], TOKENIZER_BYTES, config.seed)
    tokenizer = train_tokenizer(texts, config.vocab_size)
    tokenizer.save(str(part / "tokenizer.json"))
    return tokenizer


def _sample(texts: list[str], limit: int, seed: int) -> list[str]:
    """Whole texts up to about `limit` bytes: byte pairs need no more, and it bounds the time."""
    total = sum(map(len, texts))
    if total <= limit:
        return texts
    keep = np.random.default_rng(seed).random(len(texts)) < limit / total
    return [t for t, k in zip(texts, keep, strict=True) if k]


def _tokenise(part: Path, draft: Draft, tokenizer: Tokenizer) -> tuple[int, float]:
    """Number of tokens, and bytes per token."""
    sizes = bytes_per_token(tokenizer)
    counts = np.zeros(len(sizes), dtype=np.int64)
    with TokenWriter(part) as writer:
        for i in range(0, len(draft.passages), TOGETHER):
            encoded = encode(tokenizer, [p.text for p in draft.passages[i : i + TOGETHER]])
            writer.append(encoded)
            counts += np.bincount(np.concatenate(encoded), minlength=len(sizes))
    return int(counts.sum()), float((counts * sizes).sum() / counts.sum())


def _embed(
    part: Path, draft: Draft, config: BuildConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of the topics and of the training passages; the embedder sees training text alone."""
    of_topic: list[list[str]] = [[] for _ in draft.titles]
    for p in draft.training:
        of_topic[p.topic].append(p.text)
    texts = [
        f"{title}\n" + "\n".join(parts) for title, parts in zip(draft.titles, of_topic, strict=True)
    ]
    embedder = Embedder.fit(texts, config.dimensions, config.max_terms, config.seed)
    embedder.save(part / "embedder.npz")
    topic_vectors = embedder(texts)
    np.save(part / "topic_vectors.npy", topic_vectors)
    return topic_vectors, embedder([p.text for p in draft.training])


def _link(
    part: Path, draft: Draft, vectors: NDArray[np.float32], config: BuildConfig
) -> TopicGraph:
    """The graph; a corpus without links or labels gets them by likeness."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    graph = TopicGraph.from_links(draft.n_topics, draft.links)
    if graph.n_edges == 0:
        graph = nearest_neighbours(vectors, k=10)
    if not any(draft.labels):
        draft.labels = clusters(vectors, config.seed)
    with (part / "graph.npz").open("wb") as stream:
        np.savez(stream, indptr=graph.indptr, indices=graph.indices, types=graph.types)
    table = pa.table(
        {
            "title": pa.array(draft.titles, pa.string()),
            "labels": pa.array(draft.labels, pa.list_(pa.string())),
            "noise": pa.array(draft.is_noise, pa.bool_()),
        }
    )
    pq.write_table(table, part / "topics.parquet")
    return graph


def _scenario(
    draft: Draft,
    graph: TopicGraph,
    vectors: NDArray[np.float32],
    corpus: Corpus,
    config: BuildConfig,
) -> dict[str, Any]:
    """What counts, and on which regions no policy may be trained."""
    regions, usable = regions_of(draft.labels), draft.usable()
    fitting = fitting_regions(regions, usable)
    region, target = None, np.zeros(0, dtype=np.int64)
    if config.scenario == "focused":
        check_target(regions, usable, config.region, corpus.source)
        has_training = np.zeros(draft.n_topics, dtype=bool)
        has_training[[p.topic for p in draft.training]] = True
        region = config.region or farthest_region(fitting, graph, vectors, has_training)
        target_of(regions, usable, region, corpus.source)
        target = regions[region]
    return {
        "name": config.scenario,
        "region": region,
        "transfer_regions": transfer_regions(fitting, target, config.seed),
    }


def _begin(text: str, words: int = 8) -> str:
    return " ".join(text.split()[:words]) + " …"

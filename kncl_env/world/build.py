"""From a corpus to a world directory: cut, split, (add noise,) tokenise, embed, index."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.corpus import Corpus, hash_texts
from kncl_env.world.embedding import Embedder
from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import PassageIndex
from kncl_env.world.splits import SPLITS, Passage, cut_passages, split_article, unproved
from kncl_env.world.topics import clusters, farthest_region, nearest_neighbours, transfer_regions
from kncl_env.world.world import WORLD_FORMAT, World
from train_lm.files import hash_file, hash_json, write_json
from train_lm.tokenizer import bytes_per_token, encode, train_tokenizer

SCENARIOS = ("broad", "focused", "noisy")


@dataclass(frozen=True)
class BuildConfig:
    """How a corpus becomes a world.

    Attributes:
        scenario: `broad`: every topic counts alike; `focused`: one region far from the nucleus
            counts; `noisy`: as broad, with unlabelled junk in the training text.
        region: Target region of the focused scenario; the farthest fitting one, if not named.
        vocab_size: Token ids of the world's tokenizer.
        passage_bytes: Size of a passage [bytes], about.
        held_out: Share of a topic's passages in each of the three held-out splits.
        dimensions: Size D of topic vectors, at most.
        max_terms: Terms of the embedding's vocabulary, at most.
        noise_share: Share of the training bytes that is junk in the noisy scenario.
        seed: Seed of splits, noise and vectors.
    """

    scenario: str = "broad"
    region: str | None = None
    vocab_size: int = 512
    passage_bytes: int = 600
    held_out: float = 0.05
    dimensions: int = 128
    max_terms: int = 30_000
    noise_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"expected a scenario among {SCENARIOS}, got {self.scenario!r}")
        if self.region is not None and self.scenario != "focused":
            raise ValueError(
                f"expected no region in the {self.scenario} scenario, got {self.region!r}: "
                "use --scenario focused"
            )
        if not 0 < self.held_out <= 1 / 6:
            raise ValueError(f"expected 0 < held_out <= 1/6, got {self.held_out}")
        if not 0 < self.noise_share < 1:
            raise ValueError(f"expected 0 < noise_share < 1, got {self.noise_share}")
        if self.passage_bytes < 50:
            raise ValueError(f"expected passages of at least 50 bytes, got {self.passage_bytes}")


def build_world(
    corpus: Corpus,
    out: Path,
    config: BuildConfig,
    say: Callable[[str], None] = lambda _: None,
) -> World:
    """Write a world directory; it appears whole or not at all.

    Args:
        say: Told about each stage as it begins.

    Raises:
        ValueError: The corpus is too small, or the region is unknown.
    """
    say("cutting and splitting")
    passages, dropped = _passages(corpus, config)
    titles = [a.title for a in corpus.articles]
    labels = [list(a.labels) for a in corpus.articles]
    noise = [a.is_noise for a in corpus.articles]
    rows = _link_rows(corpus)
    if config.scenario == "noisy":
        from kncl_env.world.noise import add_noise

        say("mixing in noise")
        junk = add_noise(
            [(p.topic, p.text) for p in passages if p.split == "train"],
            titles,
            config.noise_share,
            np.random.default_rng(config.seed),
        )
        link = LINK_TYPES.index("link")
        for topic in junk.topics:
            for source in topic.linked_from:
                rows[source].append((len(titles), link))
            titles.append(topic.title)
            labels.append([])
            noise.append(True)
            rows.append([(target, link) for target in topic.links])
        added = [Passage(p.topic, "train", p.text, p.kind) for p in junk.passages]
        passages = sorted([*passages, *added], key=lambda p: p.topic)  # stable: junk comes last
    n_topics = len(titles)

    say("training the tokenizer")
    train_texts = [p.text for p in passages if p.split == "train"]
    if not train_texts:
        raise ValueError("expected training text, got none: every article is too short")
    tokenizer = train_tokenizer(_sample(train_texts, 20_000_000, config.seed), config.vocab_size)
    say("tokenising")
    encoded = encode(tokenizer, [p.text for p in passages])
    starts = np.concatenate([[0], np.cumsum([len(t) for t in encoded])])

    say("embedding")
    of_topic: list[list[str]] = [[] for _ in range(n_topics)]
    for p in passages:
        if p.split == "train":
            of_topic[p.topic].append(p.text)
    texts = [f"{title}\n" + "\n".join(parts) for title, parts in zip(titles, of_topic, strict=True)]
    embedder = Embedder.fit(texts, config.dimensions, config.max_terms, config.seed)
    topic_vectors = embedder(texts)
    train_rows = np.array([i for i, p in enumerate(passages) if p.split == "train"])
    passage_vectors = embedder(train_texts)

    say("linking")
    graph = TopicGraph.from_links(n_topics, rows)
    if graph.n_edges == 0:
        graph = nearest_neighbours(topic_vectors, k=10)
    if not any(labels):
        labels = clusters(topic_vectors, config.seed)

    say("writing")
    corpus_hash = hash_texts(
        part for p in passages for part in (str(p.topic), p.split, p.text, p.noise)
    )
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_tables(part, passages, titles, labels, noise)
    np.save(part / "tokens.npy", np.concatenate(encoded))
    np.save(part / "starts.npy", starts)
    np.save(part / "topic_vectors.npy", topic_vectors)
    tokenizer.save(str(part / "tokenizer.json"))
    embedder.save(part / "embedder.npz")
    with (part / "graph.npz").open("wb") as stream:
        np.savez(stream, indptr=graph.indptr, indices=graph.indices, types=graph.types)
    PassageIndex.build(passage_vectors, train_rows, corpus_hash).save(part)
    card: dict[str, Any] = {
        "format": WORLD_FORMAT,
        "source": corpus.source,
        "licence": corpus.licence,
        "citation": corpus.citation,
        "source_sha256": corpus.sha256,
        "corpus_hash": corpus_hash,
        "settings": asdict(config),
        "scenario": {"name": config.scenario, "region": None, "transfer_regions": []},
        "counts": {
            "topics": n_topics,
            "links": graph.n_edges,
            "passages": len(passages),
            "bytes": sum(len(p.text.encode()) for p in passages),
            "tokens": int(starts[-1]),
            "bytes_per_token": round(_compression(tokenizer, encoded), 4),
            **{f"{s}_passages": sum(p.split == s for p in passages) for s in SPLITS},
            "overlapping_held_out_passages_dropped": dropped,
            "noise_passages": sum(bool(p.noise) or noise[p.topic] for p in passages),
        },
        "source_counts": corpus.counts,
    }
    card["hash"] = ""
    card_file = part / "world.json"
    write_json(card_file, card)
    world = World.open(part)
    if config.scenario == "focused":
        region = config.region or farthest_region(world)
        world.target_topics(region)  # raises where the region is unknown or has no held-out text
        card["scenario"]["region"] = region
    card["scenario"]["transfer_regions"] = transfer_regions(world, card["scenario"]["region"])
    card["files"] = {f.name: hash_file(f) for f in sorted(part.iterdir()) if f != card_file}
    card["hash"] = world_hash(card)
    write_json(card_file, card)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return World.open(out)


def world_hash(card: dict[str, Any]) -> str:
    """Identity of a world: every file of it, its target and its settings."""
    return hash_json({k: card[k] for k in ("format", "files", "settings", "scenario")})


def _passages(corpus: Corpus, config: BuildConfig) -> tuple[list[Passage], int]:
    passages: list[Passage] = []
    for topic, article in enumerate(corpus.articles):
        texts = cut_passages(article.paragraphs, config.passage_bytes)
        splits = split_article(article, len(texts), config.held_out, config.seed)
        passages += [Passage(topic, s, t) for s, t in zip(splits, texts, strict=True)]
    doomed = {i for i, _ in unproved(passages)}
    return [p for i, p in enumerate(passages) if i not in doomed], len(doomed)


def _link_rows(corpus: Corpus) -> list[list[tuple[int, int]]]:
    number = {a.title: i for i, a in enumerate(corpus.articles)}
    return [
        [(number[t], LINK_TYPES.index(kind)) for t, kind in a.links if t in number]
        for a in corpus.articles
    ]


def _sample(texts: list[str], limit: int, seed: int) -> list[str]:
    """Whole texts up to about `limit` bytes: byte pairs need no more, and it bounds the time."""
    total = sum(map(len, texts))
    if total <= limit:
        return texts
    keep = np.random.default_rng(seed).random(len(texts)) < limit / total
    return [t for t, k in zip(texts, keep, strict=True) if k]


def _compression(tokenizer: object, encoded: list[NDArray[np.uint16]]) -> float:
    sizes = bytes_per_token(tokenizer)  # type: ignore[arg-type]
    counts = np.bincount(np.concatenate(encoded), minlength=len(sizes))
    return float((counts * sizes).sum() / counts.sum())


def _write_tables(
    folder: Path,
    passages: list[Passage],
    titles: list[str],
    labels: list[list[str]],
    noise: list[bool],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table(
            {
                "topic": pa.array([p.topic for p in passages], pa.int32()),
                "split": pa.array([SPLITS.index(p.split) for p in passages], pa.int8()),
                "text": pa.array([p.text for p in passages], pa.string()),
                "noise": pa.array([p.noise for p in passages], pa.string()),
            }
        ),
        folder / "passages.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "title": pa.array(titles, pa.string()),
                "labels": pa.array(labels, pa.list_(pa.string())),
                "noise": pa.array(noise, pa.bool_()),
            }
        ),
        folder / "topics.parquet",
    )

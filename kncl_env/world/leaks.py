"""Proof that a world is whole and leaks nothing: what `kncl-env check` runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kncl_env.world.corpus import QUOTED
from kncl_env.world.overlap import unproved_of
from kncl_env.world.splits import SPLITS, Passage, hash_passages
from kncl_env.world.world import World
from train_lm.files import hash_file
from train_lm.token_files import TRAIN

SEEN = {"reward": "sample"}  # what a card calls a target's text of this split

PARTS = ("graph", "topic_vectors", "embedder", "tokenizer", "train_tokens_of", "index")


class _AsFound(World):
    """A world whose files are read whatever their digests: that they differ is said apart."""

    def _whole(self, name: str) -> Path:
        file = self.path / name
        if not file.is_file():
            raise ValueError(f"expected {name}, found none")
        return file


def faults(world: World) -> list[str]:
    """Everything wrong with a world, one line each; empty where it is sound.

    Checks that texts, links and index are those that the card was written for, that the card counts
    what is there, that the index and the splits agree, and that no held-out passage shares a run of
    words with another split; of a distant world, that its target has no training text, either.
    """
    found: list[str] = []
    world = _AsFound(world.path, world.card)
    for name, sha256 in world.card["files"].items():
        if not (world.path / name).is_file():
            found.append(f"expected {name}, found none")
        elif hash_file(world.path / name) != sha256:
            found.append(f"expected {name} as it was built, got another: it was changed since")
    try:
        n_bytes = 0

        def measured() -> Iterator[Passage]:
            nonlocal n_bytes
            for p in world.passage_rows():
                n_bytes += len(p.text.encode())
                yield p

        corpus_hash = hash_passages(measured())
        titles = world.titles
    except ValueError as error:
        return list(dict.fromkeys([*found, str(error)]))
    broken = []
    for part in PARTS:
        try:
            getattr(world, part)
        except ValueError as error:
            broken.append(str(error))
    found += dict.fromkeys(fault for fault in broken if fault not in found)
    if corpus_hash != world.corpus_hash:
        found.append(
            f"expected passages with hash {world.corpus_hash[:12]}, got {corpus_hash[:12]}: "
            "passages.parquet or the card was changed after the build"
        )
    unproved = dict(
        unproved_of(world.passage_split, lambda rows: (p.text for p in world.passage_rows(rows)))
    )
    leaks = zip(unproved.items(), world.passage_rows(np.array([*unproved], int)), strict=True)
    for (i, reason), p in leaks:
        start = " ".join(p.text.split()[:8])[:QUOTED]
        found.append(f"leak: {p.split} passage {i} of {titles[p.topic]!r} {reason}: {start} …")
    if not broken:
        found += _card_faults(world, n_bytes)
        found += _target_faults(world) if world.is_distant else []
        found += _index_faults(world)
    return found


def _card_faults(world: World, n_bytes: int) -> list[str]:
    """What the card says otherwise than the files."""
    n_tokens = world.n_tokens
    splits = np.bincount(world.passage_split, minlength=len(SPLITS)).tolist()
    counted = {
        "topics": world.n_topics,
        "links": world.graph.n_edges,
        "passages": len(world.passage_split),
        "bytes": n_bytes,
        "tokens": n_tokens,
        "bytes_per_token": round(n_bytes / n_tokens, 4),
        **{f"{s}_passages": n for s, n in zip(SPLITS, splits, strict=True)},
        "noise_passages": int(world.passage_is_noise.sum()),
    }
    stated = world.card["counts"]
    found = [
        f"expected {n:,} as {name} in world.json, got {stated.get(name)}: the card was edited"
        for name, n in counted.items()
        if stated.get(name) != n
    ]
    scenario = world.card["scenario"]
    named = [scenario["region"], *scenario["transfer_regions"]]
    found += [
        f"expected a region of the world in its scenario, got {name!r}: the card was edited"
        for name in named
        if name is not None and name not in world.regions
    ]
    return found


def _target_faults(world: World) -> list[str]:
    """Where a distant world has its target's text, and what the card says of it."""
    region = world.target_region
    if region is None:
        return ["expected a target region in the card of a distant world, got none: it was edited"]
    if region not in world.regions:
        return []  # which was said
    topics = world.regions[region]
    own = np.isin(world.passage_topic, topics)
    found = [
        f"leak: training passage {i} is of {world.titles[world.passage_topic[i]]!r}, a topic of "
        f"the target {region}"
        for i in np.flatnonzero(own & (world.passage_split == TRAIN)).tolist()
    ]
    counts = np.bincount(world.passage_split[own], minlength=len(SPLITS)).tolist()
    counted = {"topics": len(topics)}
    counted |= {f"{SEEN.get(s, s)}_passages": n for s, n in zip(SPLITS, counts, strict=True)}
    stated = world.card.get("target", {})
    return found + [
        f"expected {n:,} as {name} of the target in world.json, got {stated.get(name)}: the card "
        "was edited"
        for name, n in counted.items()
        if name != "train_passages" and stated.get(name) != n
    ]


def _index_faults(world: World) -> list[str]:
    index = world.index
    indexed = np.zeros(len(world.passage_split), dtype=bool)
    inside = (index.passages >= 0) & (index.passages < len(indexed))
    if not inside.all():
        return ["expected passages of this world in the index, got others"]
    indexed[index.passages] = True
    held_out = np.flatnonzero(indexed & (world.passage_split != TRAIN))
    found = [f"leak: the index holds held-out passage {i}" for i in held_out]
    missing = int((~indexed & (world.passage_split == TRAIN)).sum())
    if missing:
        found.append(f"expected every training passage in the index, {missing} are missing")
    return found

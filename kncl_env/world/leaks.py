"""Proof that a world is whole and leaks nothing: what `kncl-env check` runs."""

from __future__ import annotations

import numpy as np

from kncl_env.world.splits import hash_passages, unproved
from kncl_env.world.world import World, world_hash
from train_lm.files import hash_file
from train_lm.inside import is_plain
from train_lm.token_files import TRAIN


def faults(world: World) -> list[str]:
    """Everything wrong with a world, one line each; empty where it is sound.

    Checks that texts, links and index are those that the card was written for, that the index and
    the splits agree, and that no held-out passage shares a run of words with another split.
    """
    found: list[str] = []
    passages = world.passages()
    corpus_hash = hash_passages(passages)
    if corpus_hash != world.corpus_hash:
        found.append(
            f"expected passages with hash {world.corpus_hash[:12]}, got {corpus_hash[:12]}: "
            "passages.parquet was changed after the build"
        )
    if world_hash(world.card) != world.hash:
        found.append("expected the card of the build, got another: world.json was edited")
    for name, sha256 in world.card["files"].items():
        if not is_plain(name):
            found.append(f"expected plain names of files in world.json, got {name!r}")
        elif not (world.path / name).is_file():
            found.append(f"expected {name}, found none")
        elif hash_file(world.path / name) != sha256:
            found.append(f"expected {name} as it was built, got another: it was changed since")
    for i, reason in unproved(passages):
        p = passages[i]
        start = " ".join(p.text.split()[:8])
        found.append(
            f"leak: {p.split} passage {i} of {world.titles[p.topic]!r} {reason}: {start} …"
        )
    found += _index_faults(world)
    for part in ("embedder", "tokenizer", "topic_vectors"):
        try:
            getattr(world, part)
        except ValueError as error:
            found.append(str(error))
    return found


def _index_faults(world: World) -> list[str]:
    try:
        index = world.index
    except ValueError as error:
        return [str(error)]
    indexed = np.zeros(len(world.passage_split), dtype=bool)
    indexed[index.passages[index.passages < len(indexed)]] = True
    held_out = np.flatnonzero(indexed & (world.passage_split != TRAIN))
    found = [f"leak: the index holds held-out passage {i}" for i in held_out]
    missing = int((~indexed & (world.passage_split == TRAIN)).sum())
    if missing:
        found.append(f"expected every training passage in the index, {missing} are missing")
    return found

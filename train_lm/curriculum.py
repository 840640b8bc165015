"""A recorded order of reading: which passages at which step, and the world they are of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train_lm.batches import TokenStore
from train_lm.files import read_json

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CurriculumStep:
    """One expansion or rehearsal.

    Attributes:
        passages: Passages to read.
        tokens: Budget of the step.
    """

    passages: Ints
    tokens: int


@dataclass(frozen=True)
class Curriculum:
    """Steps in order, and the hash of the world whose passages they name."""

    world: str
    steps: tuple[CurriculumStep, ...]


def read_curriculum(file: Path) -> Curriculum:
    """Read JSON Lines: a header, then a step per line.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line is not as expected; file and line are named.
    """
    world = ""
    steps: list[CurriculumStep] = []
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            try:
                record = json.loads(line)
                if number == 1:
                    if record["format"] != "kncl-curriculum" or record["version"] != 1:
                        raise ValueError("expected the header of a kncl-curriculum, version 1")
                    world = str(record["world"])
                    continue
                passages = np.array(record["passages"], dtype=np.int64)
                if not len(passages) or not record["tokens"] > 0:
                    raise ValueError("expected passages and tokens above 0")
                steps.append(CurriculumStep(passages, int(record["tokens"])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}:{number}: not a step of a curriculum: {error}") from None
    if not steps:
        raise ValueError(f"expected steps in curriculum {file}, got none")
    return Curriculum(world, tuple(steps))


def open_store(world: Path, curriculum: Curriculum, context: int) -> TokenStore:
    """The windows of the curriculum's world, refusing another world and held-out passages.

    Raises:
        FileNotFoundError: No world there.
        ValueError: The curriculum is of another world, or names what must not be trained on.
    """
    import pyarrow.parquet as pq

    if not (world / "world.json").is_file():
        raise FileNotFoundError(f"expected a world directory at {world}, found no world.json there")
    found = read_json(world / "world.json")["hash"]
    if found != curriculum.world:
        raise ValueError(
            f"expected a curriculum of world {found[:12]}, got one of world "
            f"{curriculum.world[:12]}: name the world that it was recorded in"
        )
    table = pq.read_table(world / "passages.parquet", columns=["topic", "split"])
    topic, split = (table[name].to_numpy().astype(np.int64) for name in ("topic", "split"))
    named = np.unique(np.concatenate([step.passages for step in curriculum.steps]))
    if named[0] < 0 or named[-1] >= len(topic) or split[named].any():
        raise ValueError("expected training passages only, got one that is held out or unknown")
    key = topic * (split.max() + 1) + split
    segment = np.cumsum(np.diff(key, prepend=key[0]) != 0)
    return TokenStore(
        np.load(world / "tokens.npy", mmap_mode="r"),
        np.load(world / "starts.npy"),
        segment,
        context,
    )

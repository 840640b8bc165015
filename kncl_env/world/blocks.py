"""Blocks of text that any process can work on: texts in, arrays out, in the order of the blocks.

Blocks are as large whoever works on them, so that a world's bytes do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.text.spaces import load_space
from train_lm.crew.folders import Folder, located
from train_lm.crew.hands import Hands
from train_lm.files import hash_file
from train_lm.tokenizer import encode, load_tokenizer

Result = TypeVar("Result")
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Block:
    """Some texts, and the file that tells what becomes of them.

    Attributes:
        file: Where the machine that asks has it.
        sha256: Of the file.
    """

    texts: list[str]
    file: str
    sha256: str


def through(
    file: Path, groups: Iterable[list[str]], play: Callable[[Block], Result], hands: Hands
) -> Iterator[Result]:
    """What `play` makes of each group of texts, in order; few groups are in memory at a time.

    Args:
        file: That `play` needs; nodes that do not have it fetch it.
        play: A function of this module.

    Raises:
        ValueError, ConnectionError, ChildProcessError: As of `Hands.played`.
    """
    sha256 = hash_file(file)
    blocks = (Block(texts, str(file.resolve()), sha256) for texts in groups)
    # By its hash: another build's file of the same name and size is another one.
    folders = [Folder.of(file, f"building/{sha256[:32]}")] if hands.ray is not None else []
    try:
        yield from hands.in_order(blocks, play, folders)
    finally:
        _opened.cache_clear()


def tokenise(block: Block) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int64]]:
    """Token ids of the texts, one after another, and how many each has."""
    encoded = encode(_opened(load_tokenizer, block.file, block.sha256), block.texts)
    return np.concatenate(encoded), np.array([len(ids) for ids in encoded], dtype=np.int64)


def embed(block: Block) -> NDArray[np.float32]:
    """(n, D) unit rows."""
    return _opened(load_space, block.file, block.sha256)(block.texts)


@lru_cache(maxsize=1)
def _opened(load: Callable[[Path], Opened], file: str, sha256: str) -> Opened:
    """Raises: ValueError where the file is another one."""
    place = located(file)
    found = hash_file(place)
    if found != sha256:
        raise ValueError(
            f"expected {place} with hash {sha256[:12]}, got {found[:12]}: remove that file, and "
            "it is fetched again"
        )
    return load(place)

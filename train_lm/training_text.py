"""The training passages of a world as memory-mapped tokens of any tokenizer.

It reads the files of a world directory and refuses to hand out anything that is held out: what is
not in its token file cannot be trained on. A world is tokenised once per tokenizer and cached by
hash.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import load_array, told
from train_lm.checked.digests import read_sealed, sealed, verify
from train_lm.checked.inside import check_links
from train_lm.curriculum import Curriculum
from train_lm.files import (
    Json,
    cache_folder,
    hash_file,
    hash_json,
    remove_folder,
    replacing_folder,
    sweep,
    write_json,
)
from train_lm.token_files import STARTS, TOKENS, TRAIN, Ids, Ints, TokenFiles
from train_lm.tokenizer import id_type

log = logging.getLogger(__name__)

CACHED, ROW_OF = "card.json", "row_of.npy"  # beside the token files of a cached text

# Files of a world that training reads.
READ = ("passages.parquet", "tokenizer.json", TOKENS, STARTS)

VERSION = 2  # raised whenever the cached files would hold other bytes


class TextTokenizer(Protocol):
    """What turns text into token ids; a transformers tokenizer is one."""

    eos_token_id: int | None

    def __call__(
        self, text: list[str], add_special_tokens: bool, split_special_tokens: bool
    ) -> Any: ...
    def get_vocab(self) -> dict[str, int]: ...


@dataclass(frozen=True)
class TrainingText:
    """Token ids of the training passages, one after another.

    Attributes:
        tokens: (M,) token ids, memory-mapped.
        starts: (R + 1,) where each training passage begins.
        row_of: (P,) row of each passage of the world in `starts`; -1 where it is held out.
    """

    tokens: Ids
    starts: Ints
    row_of: Ints

    def rows_of(self, curriculum: Curriculum) -> list[Ints]:
        """Rows of each step's passages, ascending and each once.

        Raises:
            ValueError: A step names a passage that is held out or not of this world.
        """
        rows = []
        for step in curriculum.steps:
            known = (step.passages >= 0) & (step.passages < len(self.row_of))
            found = np.where(known, self.row_of[np.where(known, step.passages, 0)], -1)
            if (found < 0).any():
                wrong = int(step.passages[found < 0][0])
                raise ValueError(
                    f"{curriculum.file}:{step.line}: expected training passages only, got "
                    f"{wrong}, which is held out or unknown"
                )
            rows.append(np.unique(found))
        return rows


def check_world(world: Path, curriculum: Curriculum) -> str:
    """Refuse a curriculum of another world, and a world that is damaged.

    A world that grew and was saved takes the curricula of all worlds that it was on the way:
    passages keep their numbers.

    Returns:
        The world's hash.

    Raises:
        FileNotFoundError: No world there.
        ValueError: The curriculum is of another world, or a file that training reads is not the one
            that the world was built with.
    """
    if not (world / "world.json").is_file():
        raise FileNotFoundError(f"expected a world directory at {world}, found no world.json there")
    check_links(world)
    card = read_sealed(world / "world.json", "rebuild the world")
    found = card.text("hash")
    on_the_way = card.inner("grown").texts("worlds") if "grown" in card else ()
    if curriculum.world not in (found, *on_the_way):
        raise ValueError(
            f"expected a curriculum of world {found[:12]}, got one of world "
            f"{curriculum.world[:12]}: name the world that it was recorded in"
        )
    files = card.inner("files")
    for name in READ:
        if (world / name).is_file() and not verify(world / name, files.text(name)):
            raise ValueError(
                f"expected {name} of world {world} whole, got other bytes than were built: it is "
                "damaged or was changed since, rebuild it"
            )
    return found


def open_text(world: Path, world_hash: str, tokenizer: TextTokenizer | None) -> TrainingText:
    """Training text in tokens of the given tokenizer; of the world's own, if None.

    Raises:
        ValueError: The world's files are missing or do not fit together.
    """
    own = "world" if tokenizer is None else tokenizer_hash(tokenizer)
    key = hash_json({"world": world_hash, "tokenizer": own, "version": VERSION})
    folder = cache_folder() / f"text-{key[:32]}"
    sweep(folder.parent, folder.name)
    made = {"world": world_hash, "tokenizer": own}
    try:
        return _opened(folder, made)
    except FileNotFoundError:
        pass
    except ValueError as error:
        log.warning("training text: made again: %s", error)
        remove_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing_folder(folder) as part:
            _write(world, tokenizer, part)
            files = {file.name: hash_file(file) for file in sorted(part.iterdir())}
            write_json(part / CACHED, sealed({**made, "files": files}))
    except OSError:
        if not (folder / CACHED).is_file():
            raise
        # Another process was faster; its files are the same.
    return _opened(folder, made)


def _opened(folder: Path, made: Json) -> TrainingText:
    """Raises: FileNotFoundError, or ValueError where a file of the cache is damaged."""
    card = read_sealed(folder / CACHED)
    for name, value in made.items():
        if card.text(name) != value:
            raise card.wrong(name, repr(value))
    if "files" in card:  # one of before there were digests has none
        digests = card.inner("files")
        for name in (TOKENS, STARTS, ROW_OF):
            file = folder / name
            if not file.is_file() or not verify(file, digests.text(name)):
                raise ValueError(f"expected {file} as it was written, got another or none")
    text = TokenFiles.open(folder)
    row_of = load_array(folder / ROW_OF, "i", (None,))
    if not len(row_of) or not -1 <= row_of.min() <= row_of.max() < len(text):
        raise ValueError(f"expected rows of {len(text)} passages in {folder / ROW_OF}, got others")
    return TrainingText(text.tokens, text.starts, row_of)


def tokenizer_hash(tokenizer: TextTokenizer) -> str:
    """Identity of a tokenizer: its whole definition, or at least its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hash_json([backend.to_str(), tokenizer.eos_token_id])
    return hash_json([type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.eos_token_id])


def _write(world: Path, tokenizer: TextTokenizer | None, folder: Path) -> None:
    import pyarrow.parquet as pq

    for name in ("passages.parquet", "tokenizer.json"):
        if not (world / name).is_file():
            raise ValueError(f"expected {name} in world {world}, found none: rebuild it")
    file = world / "passages.parquet"
    table = told(
        file,
        lambda: pq.read_table(file, columns=["split", "text"], use_threads=False),
        "rebuild the world",
    )
    train = np.flatnonzero(table["split"].to_numpy() == TRAIN)
    text = (
        _kept(world, train, table.num_rows)
        if tokenizer is None
        else _encoded(table["text"].take(train).to_pylist(), tokenizer)
    )
    text.save(folder)
    row_of = np.full(table.num_rows, -1, dtype=np.int64)
    row_of[train] = np.arange(len(train))
    np.save(folder / ROW_OF, row_of)


def _kept(world: Path, train: Ints, n_passages: int) -> TokenFiles:
    """The world's own tokens, without those of held-out passages."""
    own = TokenFiles.open(world)
    if len(own) != n_passages:
        raise ValueError(
            f"expected the tokens of {n_passages} passages in world {world}, got those of "
            f"{len(own)}: rebuild it"
        )
    return own.of(train)


def _encoded(texts: list[str], tokenizer: TextTokenizer) -> TokenFiles:
    kind = id_type(tokenizer.get_vocab().values())
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts: list[NDArray[Any]] = []
    for i in range(0, len(texts), 1000):
        # A text that spells out a special token is text: nobody forges an end.
        encoded = tokenizer(
            texts[i : i + 1000], add_special_tokens=False, split_special_tokens=True
        )
        parts += [np.array([*ids, *end], dtype=kind) for ids in encoded["input_ids"]]
    starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
    return TokenFiles(np.concatenate(parts), starts)

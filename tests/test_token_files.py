"""Token files: written by stream, read by memory map, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kncl_env.world.splits import SPLITS
from train_lm.token_files import STARTS, TOKENS, TRAIN, TokenFiles, TokenWriter

DOCUMENTS: tuple[list[int], ...] = ([3, 1, 4], [], [1, 5], [9, 2, 6, 5])


def ids_of(kind: type[np.unsignedinteger]) -> list[np.ndarray]:
    return [np.array(ids, dtype=kind) for ids in DOCUMENTS]


def test_the_training_split_has_one_number() -> None:
    assert SPLITS.index("train") == TRAIN


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_files_written_by_stream_have_the_bytes_of_files_written_at_once(
    tmp_path: Path, kind: type[np.unsignedinteger]
) -> None:
    documents = ids_of(kind)
    with TokenWriter(tmp_path) as writer:
        writer.append(documents[:1])
        writer.append(iter(documents[1:]))
    np.save(tmp_path / "plain.npy", np.concatenate(documents))
    np.save(tmp_path / "begins.npy", np.array([0, 3, 3, 5, 9]))
    assert (tmp_path / TOKENS).read_bytes() == (tmp_path / "plain.npy").read_bytes()
    assert (tmp_path / STARTS).read_bytes() == (tmp_path / "begins.npy").read_bytes()
    # A number of tokens with many digits leaves the header as long.
    many = np.zeros(123_457, dtype=kind)
    with TokenWriter(tmp_path) as writer:
        writer.append([many])
    np.save(tmp_path / "plain.npy", many)
    assert (tmp_path / TOKENS).read_bytes() == (tmp_path / "plain.npy").read_bytes()


def test_tokens_stay_on_disk_and_documents_come_alone(tmp_path: Path) -> None:
    with TokenWriter(tmp_path) as writer:
        writer.append(ids_of(np.uint16))
    files = TokenFiles.open(tmp_path)
    assert isinstance(files.tokens, np.memmap)
    assert len(files) == 4
    assert files.lengths.tolist() == [3, 0, 2, 4]
    some = files.of(np.array([3, 1, 0]))
    assert some.tokens.tolist() == [9, 2, 6, 5, 3, 1, 4]
    assert some.tokens.dtype == np.uint16
    assert some.starts.tolist() == [0, 4, 4, 7]


def test_no_documents_are_no_tokens(tmp_path: Path) -> None:
    with TokenWriter(tmp_path):
        pass
    assert len(TokenFiles.open(tmp_path)) == 0


def test_a_writer_takes_ids_of_one_type(tmp_path: Path) -> None:
    with TokenWriter(tmp_path) as writer:
        writer.append(ids_of(np.uint16))
        with pytest.raises(ValueError, match="expected ids of type uint16, as before, got uint32"):
            writer.append(ids_of(np.uint32))


def test_an_interrupted_writer_leaves_no_table_behind(tmp_path: Path) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from ids_of(np.uint16)
        raise KeyboardInterrupt

    writer = TokenWriter(tmp_path)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.append(interrupted())
    with pytest.raises(ValueError, match="rebuild"):
        TokenFiles.open(tmp_path)


def test_files_that_are_missing_damaged_or_of_two_folders_are_refused(tmp_path: Path) -> None:
    with TokenWriter(tmp_path) as writer:
        writer.append(ids_of(np.uint16))
    whole = (tmp_path / TOKENS).read_bytes()
    (tmp_path / TOKENS).write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"tokens\.npy whole, got 16 bytes of data.*18: rebuild"):
        TokenFiles.open(tmp_path)
    for wrong, reason in (
        (np.array([1, 2, 3], dtype=np.uint16), "expected 9 tokens by the table"),
        (np.zeros(9, dtype=np.int64), "unsigned"),
        (np.zeros((3, 3), dtype=np.uint16), r"shape \(3, 3\)"),
    ):
        np.save(tmp_path / TOKENS, wrong)
        with pytest.raises(ValueError, match=reason):
            TokenFiles.open(tmp_path)
    for name in (TOKENS, STARTS):
        (tmp_path / TOKENS).write_bytes(whole)
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=f"expected {name} in .*, found none: rebuild it"):
            TokenFiles.open(tmp_path)

"""A crafted faiss file is refused in one line, before faiss sees it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from kncl_env.cli import main
from kncl_env.world import index as module
from kncl_env.world.index import PassageIndex
from kncl_env.world.index_file import IndexFile, check_index_file
from kncl_env.world.world import World

N, D = 200, 8
HEADER = 33  # [bytes] after the kind: i4, i8, 2 i8, u1, i4
KINDS = ("flat", "inverted", "bytes", "short", "short of before")


def of_before(vectors: np.ndarray, form: str) -> PassageIndex:
    """An index as worlds of before have it: they stay readable."""
    index = faiss.index_factory(D, f"IVF56,{form}", faiss.METRIC_INNER_PRODUCT)
    if "Refine" in form:
        turn = faiss.RandomRotationMatrix(D, D)
        turn.init(5)
        index = faiss.IndexPreTransform(turn, index)
    index.train(vectors)
    index.add(vectors)
    faiss.extract_index_ivf(index).nprobe = 8
    return PassageIndex(index, np.arange(0, 2 * N, 2), "abc", {"kind": f"IVF56,{form}"})


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "EXACT", N if request.param == "flat" else N - 1)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    forms = {"inverted": "Flat", "bytes": "SQ8", "short of before": "PQ4x4fsr,Refine(SQ8)"}
    if request.param in forms:
        of_before(vectors, forms[request.param]).save(tmp_path)
    else:
        PassageIndex.build(vectors, np.arange(0, 2 * N, 2), "abc").save(tmp_path)
    return tmp_path


def test_a_sound_file_is_read_to_its_last_byte(folder: Path) -> None:
    assert check_index_file(folder / "passages.faiss") == IndexFile(D, N)
    opened = PassageIndex.open(folder, "abc", D, 2 * N)
    assert (opened.made_as is None) == ((folder / "passages.faiss").read_bytes()[:4] == b"IxFI")
    np.testing.assert_array_equal(opened.search(opened.vectors()[:5], 1)[:, 0], opened.passages[:5])


def test_an_empty_index_is_sound(tmp_path: Path) -> None:
    PassageIndex.build(np.empty((0, D), np.float32), np.arange(0), "abc").save(tmp_path)
    assert check_index_file(tmp_path / "passages.faiss") == IndexFile(D, 0)


def put(form: str, at: int, *values: float) -> Callable[[bytearray], None]:
    return lambda raw: struct.pack_into(form, raw, at, *values)


def put_before(mark: bytes, form: str, shift: int, value: float) -> Callable[[bytearray], None]:
    return lambda raw: struct.pack_into(form, raw, raw.index(mark) + shift, value)


def cut(n: int) -> Callable[[bytearray], None]:
    def spoil(raw: bytearray) -> None:
        del raw[-n:]

    return spoil


def kind(name: bytes) -> Callable[[bytearray], None]:
    def spoil(raw: bytearray) -> None:
        raw[:4] = name

    return spoil


SPOILT = {
    "nothing": lambda raw: raw.clear(),
    "another kind": kind(b"IxF2"),
    "a kind with code of its own": kind(b"IxPq"),
    "a map of rows": kind(b"IxMp"),
    "dimensions": put("<i", 4, D + 1),
    "no dimensions": put("<i", 4, 0),
    "negative dimensions": put("<i", 4, -D),
    "huge dimensions": put("<i", 4, 2**31 - 1),
    "vectors": put("<q", 8, N + 1),
    "negative vectors": put("<q", 8, -1),
    "huge vectors": put("<q", 8, 2**62),
    "untrained": put("<B", 32, 0),
    "another metric": put("<i", 33, 1),
    "unknown metric": put("<i", 33, 99),
    "cut": cut(1),
    "half": lambda raw: raw.__delitem__(slice(len(raw) // 2, None)),
    "header alone": lambda raw: raw.__delitem__(slice(4 + HEADER, None)),
    "too long": lambda raw: raw.extend(b"\0"),
    "infinite": put("<f", 0, 0.0),
}
FLAT_ALONE = {
    "numbers": put("<Q", 37, N * D + 1),
    "huge numbers": put("<Q", 37, 2**63),
    "more numbers than 64 bits tell": put("<Q", 37, 2**64 - 1),
}
INVERTED_ALONE = {
    "cells": put("<Q", 37, 5),
    "huge cells": put("<Q", 37, 2**61),
    "none probed": put("<Q", 45, 0),
    "cells of another kind": lambda raw: raw.__setitem__(slice(53, 57), b"IxF2"),
    "cells of other dimensions": put("<i", 57, D + 1),
    "number of lists": put_before(b"ilar", "<Q", 4, 2**40),
    "size of a code": put_before(b"ilar", "<Q", 12, 1),
    "sparse lists": lambda raw: raw.__setitem__(
        slice(raw.index(b"full"), raw.index(b"full") + 4), b"sprs"
    ),
    "number of sizes": put_before(b"full", "<Q", 4, 7),
    "size of a list": put_before(b"full", "<Q", 12, 2**50),
    "a map": put_before(b"ilar", "<B", -9, 1),
    "a map's length": put_before(b"ilar", "<Q", -8, 2**40),
    "a row twice": put("<q", -8, 0),
    "a row out of range": put("<q", -8, N),
    "a negative row": put("<q", -8, -2),
}
FORM = 4 + 4 + 4 + 3 * 8 + 2 * D * 4 + 8 + 1  # [bytes] of how vectors are stored, before the lists
BYTES_ALONE = {
    "another form": put_before(b"ilar", "<i", -FORM, 4),
    "a range": put_before(b"ilar", "<i", 4 - FORM, 1),
    "dimensions of the form": put_before(b"ilar", "<Q", 12 - FORM, D + 1),
    "a code's size": put_before(b"ilar", "<Q", 20 - FORM, 2**40),
    "numbers of the form": put_before(b"ilar", "<Q", 28 - FORM, 2**40),
    "an infinite range": put_before(b"ilar", "<f", 36 - FORM, float("inf")),
    "another code's size": put_before(b"ilar", "<Q", -9, D + 1),
    "no differences": put_before(b"ilar", "<B", -1, 0),
}
# From the end: the bytes of the vectors and their number, before them how they are stored.
TAIL = 4 + 2 * N * D + 8
SHORT_FORM = TAIL + 4 + 4 + 4 + 3 * 8
SCAN = 33 + 4 * 8 + 4 * 16 * D  # [bytes] of how codes are made, before their lists
SHORT_ALONE = {
    "a number of rotations": put("<i", 37, 2),
    "another transform": lambda raw: raw.__setitem__(slice(41, 45), b"LTra"),
    "a bias": put("<B", 45, 1),
    "a rotation of another size": put("<Q", 46, 2**40),
    "no numbers in a rotation": put("<f", 54, float("nan")),
    "another rotation": put_before(b"IxRF", "<i", -5, D + 2),
    "no refinement": lambda raw: raw.__setitem__(
        slice(raw.index(b"IxRF"), raw.index(b"IxRF") + 4), b"IxRp"
    ),
    "vectors inside": put_before(b"IxRF", "<q", 8, N + 1),
    "other cells": put_before(b"IwPf", "<Q", 37, 3),
    "differences": put_before(b"ilbl", "<B", -SCAN, 0),
    "a short code": put_before(b"ilbl", "<Q", 1 - SCAN, 2**40),
    "a block": put_before(b"ilbl", "<i", 9 - SCAN, 64),
    "parts": put_before(b"ilbl", "<Q", 13 - SCAN, 2),
    "a way to search": put_before(b"ilbl", "<i", 21 - SCAN, 12),
    "bits of a code": put_before(b"ilbl", "<Q", 49 - SCAN, 8),
    "an infinite code": put_before(b"ilbl", "<f", 65 - SCAN, float("inf")),
    "lists by blocks": put_before(b"ilbl", "<Q", 4, 2**40),
    "rows of a block": put_before(b"ilbl", "<Q", 20, 16),
    "bytes of a block": put_before(b"ilbl", "<Q", 28, 2**40),
    "rows of a list": put_before(b"ilbl", "<Q", 36, 2**61),
    "another form": lambda raw: struct.pack_into("<i", raw, len(raw) - SHORT_FORM, 3),
    "a byte instead of two": lambda raw: struct.pack_into("<i", raw, len(raw) - SHORT_FORM, 0),
    "half of a code": lambda raw: struct.pack_into("<Q", raw, len(raw) - SHORT_FORM + 20, D),
    "an infinite vector": lambda raw: struct.pack_into("<e", raw, len(raw) - 8, float("inf")),
    "bytes of all vectors": lambda raw: struct.pack_into("<Q", raw, len(raw) - TAIL, 2**40),
    "an endless short list": lambda raw: struct.pack_into("<f", raw, len(raw) - 4, 1e9),
    "no short list": lambda raw: struct.pack_into("<f", raw, len(raw) - 4, float("nan")),
}
# Before the form of the vectors stands the map.
MAPS = {
    "a map": put_before(b"ilar", "<B", -9 - FORM, 1),
    "a map's length": put_before(b"ilar", "<Q", -8 - FORM, 2**40),
}


ROWS = ("a row twice", "a row out of range", "a negative row")
CRAFTED = [("flat", fault) for fault in (*SPOILT, *FLAT_ALONE)]
CRAFTED += [("inverted", fault) for fault in (*SPOILT, *INVERTED_ALONE)]
CRAFTED += [("bytes", fault) for fault in (*SPOILT, *INVERTED_ALONE, *BYTES_ALONE)]
CRAFTED += [("short", fault) for fault in (*SPOILT, *SHORT_ALONE)]
CRAFTED += [("short", fault) for fault in ROWS]


@pytest.mark.parametrize(("folder", "fault"), CRAFTED, indirect=["folder"])
def test_a_crafted_file_is_refused_before_faiss_reads_it(
    folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "passages.faiss"
    raw = bytearray(file.read_bytes())
    flat, in_bytes, short = (raw[:4] == name for name in (b"IxFI", b"IwSq", b"IxPT"))
    if short and fault == "infinite":
        struct.pack_into("<f", raw, raw.index(b"IxFI") + 4 + HEADER + 8, float("nan"))
    elif short and fault in ROWS:
        at = raw.index(b"ilbl") + 36
        while struct.unpack_from("<Q", raw, at)[0] < 2:  # a cell with two vectors
            n = struct.unpack_from("<Q", raw, at)[0]
            at += 16 + 8 * n + struct.unpack_from("<Q", raw, at + 8 + 8 * n)[0]
        first = struct.unpack_from("<q", raw, at + 8)[0]
        value = {"a row twice": first}.get(fault, N if "range" in fault else -2)
        struct.pack_into("<q", raw, at + 16, value)
    elif short and fault in SHORT_ALONE:
        SHORT_ALONE[fault](raw)
    elif fault == "infinite":
        # Of a cell's centre, where a vector has no number that could be.
        lists = raw.index(b"full") + 12 + 8 * int(4 * np.sqrt(N)) if not flat else 45
        struct.pack_into("<f", raw, 57 + HEADER + 8 if in_bytes else lists, float("nan"))
    elif fault in ROWS:
        # The last number of the file is the row of the last vector, if its cell has any.
        value = {"a row twice": struct.unpack_from("<q", raw, len(raw) - 16)[0]}.get(
            fault, N if "range" in fault else -2
        )
        struct.pack_into("<q", raw, len(raw) - 8, value)
    else:
        every = SPOILT | FLAT_ALONE | INVERTED_ALONE | BYTES_ALONE
        (every | MAPS if in_bytes else every)[fault](raw)
    assert bytes(raw) != file.read_bytes()
    file.write_bytes(raw)
    monkeypatch.setattr("faiss.read_index", None)
    with pytest.raises(ValueError, match=rf"expected a whole passage index in {folder}, got .+: "):
        PassageIndex.open(folder, "abc")


@pytest.mark.parametrize(
    "passages",
    [
        np.arange(N - 1),
        np.arange(2 * N).reshape(N, 2),
        np.arange(N) - 1,
        np.arange(N) + N + 1,
        np.zeros(N, np.int64),
        np.arange(N).astype(float),
        np.arange(N).astype("U3"),
        np.full(N, 2**64 - 1, np.uint64),
    ],
    ids=["few", "shape", "negative", "out of range", "twice", "fractions", "words", "huge"],
)
def test_rows_that_are_no_passages_are_refused(folder: Path, passages: np.ndarray) -> None:
    np.save(folder / "indexed_passages.npy", passages)
    with pytest.raises(ValueError, match="expected a whole passage index"):
        PassageIndex.open(folder, "abc", D, 2 * N)


def test_an_array_of_objects_or_of_a_huge_shape_is_not_opened(folder: Path) -> None:
    file = folder / "indexed_passages.npy"
    np.save(file, np.array([print] * N, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="expected a whole passage index"):
        PassageIndex.open(folder, "abc")
    np.save(file, np.arange(N))
    sound = file.read_bytes()
    for shape in (b"(2000000000,), }", b"(200,            "):
        crafted = sound.replace(b"(200,), }".ljust(len(shape)), shape)
        assert crafted != sound
        file.write_bytes(crafted)
        with pytest.raises(ValueError, match="expected a whole passage index"):
            PassageIndex.open(folder, "abc")


def test_vectors_of_other_dimensions_than_the_worlds_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="expected vectors of 9, got 8 numbers"):
        PassageIndex.open(folder, "abc", D + 1, 2 * N)


def test_a_world_with_a_crafted_index_is_told_in_one_line(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(shutil.copytree(small_world.path, tmp_path / "world"))
    file = place / "passages.faiss"
    raw = bytearray(file.read_bytes())
    struct.pack_into("<q", raw, 8, 2**60)
    file.write_bytes(raw)
    assert main(["check", str(place)]) == 1
    assert f"expected a whole passage index in {place}" in capsys.readouterr().err

"""Tensors in files: the bytes of the library that the format is of, and no damage unseen."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train_lm.checked.tensors import KINDS, Packed, digest_of, load_packed, load_tensors
from train_lm.files import write_tensors

TENSORS = {
    'a "name" of ÿ': torch.tensor([[1.5, -2.0], [0.25, 4.0]]),
    "scalar": torch.tensor(3.0),
    "nothing": torch.empty(0, 3),
    **{kind: torch.tensor([1, 0, 1]).to(getattr(torch, kind)) for kind, _ in KINDS.values()},
    "every other": torch.arange(10)[::2],
}


@pytest.mark.parametrize("about", [None, {}, {"format": "pt"}, {"a": 'ü"\n'}])
def test_files_have_the_bytes_that_the_formats_own_library_writes(
    about: dict[str, str] | None, tmp_path: Path
) -> None:
    save_file({k: v.contiguous() for k, v in TENSORS.items()}, tmp_path / "a", metadata=about)
    write_tensors(tmp_path / "b", TENSORS, about)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    found, texts = load_tensors(tmp_path / "b")
    assert texts == (about or {})
    for name, tensor in load_file(tmp_path / "a").items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].double(), tensor.double())
        assert found[name].shape == tensor.shape


@pytest.mark.parametrize("others", [{}, {"b": torch.ones(2)}])
def test_tensors_without_numbers_are_read_back(
    others: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    empty = {"a": torch.empty(0, 2, dtype=torch.int64), "c": torch.empty(0, dtype=torch.int64)}
    write_tensors(tmp_path / "a", {**empty, **others})
    found, _ = load_tensors(tmp_path / "a")
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        name: (t.dtype, t.shape) for name, t in {**empty, **others}.items()
    }


def test_a_digest_is_the_same_of_tensors_and_of_their_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS, {"x": "y"})
    assert load_packed(tmp_path / "a").digest() == digest_of(TENSORS, {"x": "y"})
    # Kept from before: checkpoints and adapters that there are carry such digests.
    weights = {"b": torch.tensor([0.5, 2.0]), "a": torch.tensor(7)}
    assert digest_of(weights, {"x": "y"}).startswith(KEPT)


KEPT = "5ec5f3616cba606b"


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    weights = {"b": torch.arange(4, dtype=torch.float32), "a": torch.tensor([1, 2])}
    write_tensors(tmp_path / "a", weights, {"x": "y"})
    data, digest = (tmp_path / "a").read_bytes(), digest_of(weights, {"x": "y"})
    missed = 0
    for bit in range(8 * len(data)):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a").write_bytes(other)
        with suppress(ValueError):
            missed += load_packed(tmp_path / "a").digest() == digest
    # The blanks that fill up a head may be other blanks.
    assert missed < 8


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_that_are_none_are_named_by_their_tensor(kind: str, tmp_path: Path) -> None:
    weights = {n: torch.ones(5).to(getattr(torch, kind)) for n in ("a", "b", "c")}
    weights["b"][3] = np.nan
    write_tensors(tmp_path / "a", weights)
    with pytest.raises(ValueError, match="numbers as b that are not finite"):
        load_tensors(tmp_path / "a")
    assert torch.isnan(load_tensors(tmp_path / "a", finite=False)[0]["b"][3])


@pytest.mark.parametrize(
    "head",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b'{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}',
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},'
        b'"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2' + b",1" * 64 + b'],"data_offsets":[0,8]}}',
        b'{"a":[1]}',
        b"[]",
        b'{"a":' + b"[" * 20000,
    ],
)
def test_a_head_that_is_not_of_these_bytes_is_refused_by_name(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(ValueError, match=r"expected .*/a whole, got"):
        load_tensors(tmp_path / "a")


def test_a_foreign_files_tensors_may_lie_anywhere(tmp_path: Path) -> None:
    head = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    body = b"\7" + np.array([1.5, 2.5], dtype="<f4").tobytes()
    (tmp_path / "a").write_bytes(len(head).to_bytes(8, "little") + head + body)
    found, _ = load_tensors(tmp_path / "a")
    assert found["a"].tolist() == [7]
    assert found["b"].tolist() == [1.5, 2.5]
    assert Packed.of(found).digest() == load_packed(tmp_path / "a").digest()

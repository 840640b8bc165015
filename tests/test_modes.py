"""What is written may be read by whom the umask says, whatever a library does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fakes import corpus_of

from kncl_env.world.build import BuildConfig, build_world
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from train_lm.files import write_json
from train_lm.model import ModelConfig, build_model, save_model
from train_lm.tokenizer import as_transformers, train_tokenizer
from train_lm.trainer import save_snapshot


def a_policy(out: Path) -> None:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig())).save(out / "policy")


def a_snapshot(out: Path) -> None:
    save_snapshot({"weight": torch.zeros(3)}, out / "snapshot.safetensors")


def a_model(out: Path) -> None:
    own = as_transformers(train_tokenizer(["the ant"] * 5, 300))
    save_model(out / "model", build_model(ModelConfig(32, 1, 32), 300), own)


def a_card(out: Path) -> None:
    write_json(out / "card.json", {})


def a_world(out: Path) -> None:
    build_world(corpus_of(12), out / "world", BuildConfig(vocab_size=300, passage_bytes=200))


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("write", [a_policy, a_snapshot, a_model, a_card, a_world])
def test_every_file_and_folder_has_the_mode_of_the_umask(
    tmp_path: Path, umask: int, write: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out)
    found = {p.relative_to(out): p.stat().st_mode & 0o777 for p in out.rglob("*")}
    assert found
    for name, mode in found.items():
        wanted = (0o777 if (out / name).is_dir() else 0o666) & ~umask
        assert mode == wanted, f"{name} has {mode:o}, not {wanted:o}"

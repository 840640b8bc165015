"""A world's training text in the tokens of any tokenizer: nothing forged, nothing too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kncl_env.world.world import World
from train_lm import training_text
from train_lm.tokenizer import END_OF_TEXT, as_transformers, train_tokenizer
from train_lm.training_text import open_text

TEXTS = ["the cat sat on the mat", "naïve café, 東京 and 🦉"]
# A byte-level one of the tokenizers library, and one that is written in Python.
KINDS = ("tokenizers", "python")


def foreign(kind: str) -> tuple[Any, str]:
    """A tokenizer and how its end of text is spelled."""
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    if kind == "python":
        return ByT5Tokenizer(), "</s>"
    bpe = train_tokenizer(TEXTS * 4, 300)
    bpe.encode_special_tokens = False  # as somebody else's file would be opened
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT), END_OF_TEXT


@pytest.fixture(scope="module", params=KINDS)
def other(request: pytest.FixtureRequest) -> tuple[Any, str]:
    return foreign(request.param)


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.text(max_size=8) | st.none(), max_size=4))
def test_no_text_forges_an_end_and_none_of_its_bytes_are_lost(
    other: tuple[Any, str], pieces: list[str | None]
) -> None:
    tokenizer, end = other
    text = "".join(end if piece is None else piece for piece in pieces)
    encoded = training_text._encoded([text, "next"], tokenizer)
    ids, starts = encoded.tokens, encoded.starts
    assert np.flatnonzero(ids == tokenizer.eos_token_id).tolist() == (starts[1:] - 1).tolist()
    assert tokenizer.decode(ids[: starts[1] - 1], clean_up_tokenization_spaces=False) == text


def test_ordinary_text_has_the_ids_that_its_tokenizer_gives_it(other: tuple[Any, str]) -> None:
    tokenizer, _ = other
    encoded = training_text._encoded(TEXTS, tokenizer)
    ids, starts = encoded.tokens, encoded.starts
    for text, first, last in zip(TEXTS, starts[:-1], starts[1:], strict=True):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids[first:last].tolist() == [*expected, tokenizer.eos_token_id]


def test_a_tokenizer_keeps_looking_for_its_special_tokens_elsewhere(
    other: tuple[Any, str],
) -> None:
    tokenizer, end = other
    training_text._encoded([f"a{end}b"], tokenizer)
    assert tokenizer.eos_token_id in tokenizer(f"a{end}b", add_special_tokens=False)["input_ids"]
    assert not tokenizer.split_special_tokens


def test_a_cache_that_cannot_be_written_is_no_other_process_that_was_faster(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    with pytest.raises(OSError, match="read-only"):
        open_text(small_world.path, small_world.hash, None)
    assert not list((tmp_path / "cache").iterdir())

    def too_late(part: Path, folder: Path) -> Path:
        rename(part, folder)
        part.mkdir()
        return rename(part, folder)  # as if this process had come second

    monkeypatch.setattr(Path, "rename", too_late)
    assert len(open_text(small_world.path, small_world.hash, None).tokens)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_worlds_tokenizer_as_transformers_knows_it_gives_the_worlds_own_tokens(
    small_world: World,
) -> None:
    own = open_text(small_world.path, small_world.hash, None)
    again = open_text(small_world.path, small_world.hash, as_transformers(small_world.tokenizer))
    assert np.array_equal(own.tokens, again.tokens)
    assert np.array_equal(own.starts, again.starts)

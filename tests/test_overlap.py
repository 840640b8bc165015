"""The proof that splits share no run of words: exact, whatever its memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kncl_env.world import overlap
from kncl_env.world.overlap import copies_of, unproved
from kncl_env.world.scripts import OVERLAP_WORDS
from kncl_env.world.splits import SPLITS, Passage


def passages_of(n: int, seed: int) -> list[Passage]:
    """Passages of a language of so few words that many runs are shared, and short ones."""
    rng = np.random.default_rng(seed)
    words = ["a", "b", "c"]
    sizes = rng.integers(3, 40, n)
    texts = [" ".join(rng.choice(words, size)) for size in sizes]
    return [Passage(i // 4, str(rng.choice(SPLITS)), text) for i, text in enumerate(texts)]


def by_hand(passages: list[Passage]) -> dict[int, set[str]]:
    """Splits that share a run with each held-out passage."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[i : i + OVERLAP_WORDS]) for i in range(len(words) - OVERLAP_WORDS + 1)}

    seen = {s: set().union(*(runs(p.text) for p in passages if p.split == s)) for s in SPLITS}
    return {
        i: {s for s in SPLITS if s != p.split and runs(p.text) & seen[s]}
        for i, p in enumerate(passages)
        if p.split != "train"
    }


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_shared_run_is_found_and_no_other(
    bounded: bool, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bounded:
        monkeypatch.setattr(overlap, "ROOM", 64)  # rooms on disk
        monkeypatch.setattr(overlap, "MOST_BITS", 2**8)  # a filter that lets most through
        monkeypatch.setattr(overlap, "PASSAGES", 5)
    passages = passages_of(200, seed)
    found = dict(unproved(passages, tmp_path))
    short = {i for i, p in enumerate(passages) if len(p.text.split()) < OVERLAP_WORDS}
    for i, shared in by_hand(passages).items():
        if i in short:
            assert "fewer than" in found[i]
        elif shared:
            first = next(s for s in SPLITS if s in shared)
            assert found[i] == f"shares a run of {OVERLAP_WORDS} words with {first}"
        else:
            assert i not in found
    assert list(found) == sorted(found)
    assert 10 < len(found) < len([p for p in passages if p.split != "train"])
    assert not list(tmp_path.iterdir())


def test_nothing_held_out_is_nothing_to_prove() -> None:
    assert unproved([Passage(0, "train", "some words")]) == []
    assert unproved([]) == []


@pytest.mark.parametrize("bounded", [False, True])
def test_every_copy_of_wanted_passages_is_found_and_no_other(
    bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bounded:
        monkeypatch.setattr(overlap, "ROOM", 64)
        monkeypatch.setattr(overlap, "MOST_BITS", 2**8)
        monkeypatch.setattr(overlap, "PASSAGES", 5)
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(6)]
    texts = [" ".join(rng.choice(words, size)) for size in rng.integers(3, 300, 400)]

    def runs(text: str) -> set[tuple[str, ...]]:
        own = text.split()
        return {tuple(own[i : i + OVERLAP_WORDS]) for i in range(len(own) - OVERLAP_WORDS + 1)}

    wanted, others = np.arange(0, 400, 8), np.setdiff1d(np.arange(400), np.arange(0, 400, 8))
    known = set[tuple[str, ...]]().union(*(runs(texts[i]) for i in wanted))
    expected = [i for i in others.tolist() if runs(texts[i]) & known]
    assert 50 < len(expected) < 300
    found = copies_of(wanted, others, lambda rows: (texts[i] for i in rows), tmp_path)
    assert found.tolist() == expected

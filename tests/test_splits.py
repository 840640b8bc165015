"""Passages and splits: nothing lost, nothing shared."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncl_env.world.corpus import Article
from kncl_env.world.overlap import unproved
from kncl_env.world.scripts import word_runs
from kncl_env.world.splits import (
    HELD_OUT,
    Passage,
    cut_passages,
    split_article,
)

WORDS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905


@given(
    st.lists(st.text("abc .\n", min_size=1).filter(str.strip), min_size=1, max_size=8),
    st.integers(50, 300),
)
def test_cutting_loses_no_word_and_keeps_their_order(paragraphs: list[str], size: int) -> None:
    passages = cut_passages(paragraphs, size)
    assert " ".join(passages).split() == " ".join(paragraphs).split()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(50, 300))
def test_no_passage_is_larger_than_asked_line_breaks_aside(lengths: list[int], size: int) -> None:
    paragraph = " ".join("x" * n for n in lengths)
    passages = cut_passages([paragraph] * 3, size)
    assert all(len(p.encode()) - p.count("\n") <= size for p in passages)


@pytest.mark.parametrize("n", [8, 20, 137])
def test_each_held_out_split_is_one_contiguous_section(n: int) -> None:
    for seed in range(20):
        splits = split_article(Article("T", ("x",)), n, 0.05, seed)
        runs = [name for name, _ in groupby(splits)]
        assert sorted(r for r in runs if r != "train") == sorted(HELD_OUT)
        sizes = {name: splits.count(name) for name in HELD_OUT}
        assert len(set(sizes.values())) == 1


def test_a_short_article_is_trained_on_whole_and_twins_are_split_alike() -> None:
    assert set(split_article(Article("T", ("x",)), 7, 0.05, 0)) == {"train"}
    a = split_article(Article("A", ("x",)), 40, 0.05, 0)
    b = split_article(Article("B", ("x",), same_as="A"), 40, 0.05, 0)
    c = split_article(Article("C", ("x",)), 40, 0.05, 0)
    assert a == b
    assert a != c


def test_word_runs_ignore_case_and_punctuation_and_nothing_else() -> None:
    text = " ".join(WORDS[:9])
    assert len(word_runs(text)) == 2
    assert np.array_equal(word_runs(text), word_runs(text.title().replace(" ", ", ")))
    swapped = " ".join([*WORDS[:7], WORDS[8], WORDS[7]])
    assert not np.isin(word_runs(swapped), word_runs(text)).any()
    assert len(word_runs("too short")) == 0


def test_a_shared_run_of_eight_words_is_found_and_seven_are_not() -> None:
    filler = "lorem ipsum dolor sit amet consetetur sadipscing elitr sed diam"
    eight, seven = " ".join(WORDS[:8]), " ".join(WORDS[:7])
    held = Passage(0, "test", f"{eight} {filler}")

    def found(text: str, split: str = "train") -> list[tuple[int, str]]:
        return unproved([held, Passage(1, split, text)])

    assert found(f"alpha {eight} omega")[0][0] == 0
    assert "with train" in found(f"alpha {eight} omega")[0][1]
    assert found(f"alpha {seven} omega alpha beta") == []
    assert [i for i, _ in found(f"alpha {eight} omega", "reward")] == [0, 1]


def test_a_held_out_passage_too_short_to_compare_is_not_called_proved() -> None:
    assert "fewer than 8 words" in unproved([Passage(0, "test", "only four short words")])[0][1]

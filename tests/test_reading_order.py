"""The stream that a run reads: every token in its place, nothing twice before all was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kncl_env.world.world import World
from train_lm.curriculum import Curriculum, CurriculumStep
from train_lm.reading_order import ReadingOrder, plan_order
from train_lm.training_text import TrainingText, open_text

LENGTHS = np.array([5, 3, 7, 4, 6, 5])


def text_of(lengths: np.ndarray = LENGTHS) -> TrainingText:
    """Passage r holds the tokens 100 r, 100 r + 1, ..."""
    tokens = np.concatenate([100 * r + np.arange(n) for r, n in enumerate(lengths)])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return TrainingText(tokens.astype(np.uint16), starts, np.arange(len(lengths)))


def stream(order: ReadingOrder) -> np.ndarray:
    """The tokens one by one, by the plain definition."""
    starts = order.text.starts
    return np.concatenate([order.text.tokens[starts[r] : starts[r + 1]] for r in order.order])


def steps(*of: tuple[list[int], int]) -> list[tuple[np.ndarray, int]]:
    return [(np.array(rows), tokens) for rows, tokens in of]


def test_windows_are_the_stream_cut_up_so_that_each_token_is_predicted_once() -> None:
    order = plan_order(text_of(), steps(([0, 1, 2], 12), ([3, 4, 5], 12)), 0.0, seed=0)
    context, n = 4, 6
    expected = stream(order)
    windows = np.concatenate([order.windows(i, 2, context) for i in range(0, n, 2)])
    assert windows.shape == (n, context + 1)
    assert windows[:, 1:].ravel().tolist() == expected[1 : n * context + 1].tolist()
    assert windows[:, 0].tolist() == expected[: n * context : context].tolist()


def test_a_step_reads_its_own_passages_and_none_twice_before_all_were_read() -> None:
    order = plan_order(text_of(), steps(([0, 1, 2], 15), ([1, 3, 4, 5], 14)), 0.0, seed=3)
    assert sorted(order.order[:3]) == [0, 1, 2]
    rest = order.order[3:]
    assert set(rest) <= {3, 4, 5}, "passage 1 was read already"
    assert len(set(rest)) == len(rest)


def test_a_budget_larger_than_the_text_reads_everything_equally_often() -> None:
    order = plan_order(text_of(), steps(([0, 1, 2, 3, 4, 5], 4 * 30 - 1)), 0.0, seed=0)
    assert np.bincount(order.order).tolist() == [4] * 6


def test_what_a_step_reads_too_much_the_next_reads_less() -> None:
    lengths = np.full(40, 7)
    order = plan_order(text_of(lengths), steps(*(([*range(40)], 10) for _ in range(25))), 0.0, 0)
    assert 25 * 10 < len(order) <= 25 * 10 + 7


def test_replay_rereads_earlier_steps_for_its_share() -> None:
    lengths = np.full(400, 5)
    order = plan_order(
        text_of(lengths), steps(([*range(200)], 500), ([*range(200, 400)], 500)), 0.4, seed=0
    )
    second = order.order[100:]
    assert (second < 200).mean() == pytest.approx(0.4, abs=0.02)


def test_the_same_seed_reads_in_the_same_order_and_another_does_not() -> None:
    of = steps(([0, 1, 2, 3, 4, 5], 29))
    a, b, c = (plan_order(text_of(), of, 0.0, seed=s).order.tolist() for s in (1, 1, 2))
    assert a == b != c


def test_passages_without_a_token_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        plan_order(text_of(np.array([0, 4])), steps(([0], 5)), 0.0, seed=0)


def test_a_worlds_text_holds_every_training_passage_and_nothing_that_is_held_out(
    small_world: World,
) -> None:
    text = open_text(small_world.path, small_world.hash, None)
    assert isinstance(text.tokens, np.memmap)
    train = np.flatnonzero(small_world.passage_split == 0)
    assert (text.row_of >= 0).nonzero()[0].tolist() == train.tolist()
    tokens, starts = (np.load(small_world.path / f"{n}.npy") for n in ("tokens", "starts"))
    for passage in train[::17]:
        row = text.row_of[passage]
        found = text.tokens[text.starts[row] : text.starts[row + 1]]
        assert found.tolist() == tokens[starts[passage] : starts[passage + 1]].tolist()


def test_a_held_out_passage_is_named_with_its_line(small_world: World) -> None:
    text = open_text(small_world.path, small_world.hash, None)
    secret = int(small_world.passages_of(3, "select")[0])
    step = CurriculumStep(np.array([int(small_world.passages_of(3)[0]), secret]), 100, line=7)
    with pytest.raises(ValueError, match=rf"c\.jsonl:7: .* {secret}, which is held out"):
        text.rows_of(Curriculum(Path("c.jsonl"), small_world.hash, (step,), ""))

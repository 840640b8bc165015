"""Tasks in processes of their own: every result once, whatever becomes of a worker."""

from __future__ import annotations

from pathlib import Path

import pytest
from killed_once import Square, square

from train_lm.crew.hands import Hands
from train_lm.crew.local import TRIES


def tasks(marks: Path, *deaths: int) -> list[Square]:
    return [Square(number, str(marks), n) for number, n in enumerate(deaths)]


def test_one_worker_plays_the_tasks_here_and_in_order(tmp_path: Path) -> None:
    assert list(Hands(1).played(tasks(tmp_path, 0, 0, 0), square)) == [(0, 0), (1, 1), (2, 4)]


def test_a_task_whose_worker_was_killed_is_tried_again(tmp_path: Path) -> None:
    found = sorted(Hands(2).played(tasks(tmp_path, 0, 1, 0, 0), square))
    assert found == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert [mark.name for mark in tmp_path.iterdir()] == ["1-0"]


def test_a_task_that_always_kills_its_worker_is_given_up_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=f"killed {TRIES} times in a row"):
        list(Hands(2).played(tasks(tmp_path, 9, 9), square))


def test_no_worker_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected processes >= 1, got 0"):
        list(Hands(0).played(tasks(tmp_path, 0), square))

"""Work for tests: workers that are killed the first time they play a task."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kncl_env.world.blocks import Block, tokenise


@dataclass(frozen=True)
class Square:
    """A number to square; its worker is killed while `marks` holds fewer marks than `deaths`."""

    number: int
    marks: str
    deaths: int = 0


def square(task: Square) -> int:
    marks = Path(task.marks)
    before = len(list(marks.glob(f"{task.number}-*")))
    if before < task.deaths:
        (marks / f"{task.number}-{before}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task.number**2


def tokenise_killed_once(block: Block) -> Any:
    """As `tokenise`; the first worker that comes here is killed."""
    mark = Path(block.file).parents[2] / "killed"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tokenise(block)


def tokenise_on_three(block: Block) -> Any:
    """As `tokenise_killed_once`; the first block of each node waits for those of two others."""
    import ray

    marks = Path(block.file).parents[2] / "nodes"
    marks.mkdir(exist_ok=True)
    (marks / ray.get_runtime_context().get_node_id()).touch()
    end = time.monotonic() + 60
    while len([*marks.iterdir()]) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    return tokenise_killed_once(block)


@dataclass
class Adds:
    """Keeps a number; its worker is killed the first time it is told of a mark."""

    number: int

    def plus(self, other: int, mark: str = "") -> int:
        if mark and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if other < 0:
            raise ValueError("expected a number of 0 or more, got less")
        return self.number + other

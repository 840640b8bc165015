"""Work for `test_workers.py`: a worker that is killed the first time it plays a task."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path


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

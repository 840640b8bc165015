"""Tasks under way: asked for one after another, no sooner than there is room for them.

A task may bring its data along, such as a block of text: then what is in memory are the tasks under
way, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

AHEAD = 2  # tasks under way for each core
SPAN = 4  # times as many, from the oldest to the newest, where results are wanted in order

Task = TypeVar("Task")


class UnderWay(Generic[Task]):
    """What was handed out and has no result yet.

    Args:
        tasks: Asked for as there is room.
        in_order: Whether results are kept until all before them are there; so a slow task holds up
            those long after it.

    Attributes:
        tasks: By their numbers, ascending.
    """

    def __init__(self, tasks: Iterable[Task], in_order: bool = False) -> None:
        self._source = enumerate(tasks)
        self._in_order = in_order
        self._next = 0
        self.tasks: dict[int, Task] = {}

    def begin(self, n: int) -> int:
        """Take in up to n tasks; how many there are."""
        self.tasks.update(islice(self._source, n))
        self._next += len(self.tasks)
        return len(self.tasks)

    def more(self, cores: int) -> Iterator[int]:
        """Take in what there is room for; the numbers of the new ones."""
        room = AHEAD * max(1, cores)
        while len(self.tasks) < room:
            if self._in_order and self._next >= min(self.tasks, default=self._next) + SPAN * room:
                return
            for number, task in islice(self._source, 1):
                self.tasks[number] = task
                self._next += 1
                yield number
                break
            else:
                return

    def done(self, number: int) -> Task:
        """It has its result."""
        return self.tasks.pop(number)

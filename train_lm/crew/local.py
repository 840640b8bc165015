"""Plays independent tasks in local processes; a worker that is killed costs its task's time alone.

A task is data and playing it a function of the task alone, so that it does not matter which
process plays it, how often it is tried, or in which order. What is told is in order of completion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from train_lm.processes import without_interrupts, worker_pool

log = logging.getLogger(__name__)

# The address of a cluster of this machine alone, started for the command and ended with it.
HERE = "local"

TRIES = 3  # times in a row that workers may die before anything more is finished

Task = TypeVar("Task")
Result = TypeVar("Result")


def played_here(
    tasks: Sequence[Task], play: Callable[[Task], Result], workers: int
) -> Iterator[tuple[int, Result]]:
    """(number of the task, its result) of every task, as they are finished.

    Args:
        play: A function of a module, which workers import.
        workers: Processes; with one, the tasks are played in this process.

    Raises:
        ChildProcessError: Workers died `TRIES` times and nothing was finished in between.
        Exception: What `play` raised; the other tasks are given up.
    """
    if workers == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):
            yield number, play(task)
        return
    waiting = dict(enumerate(tasks))
    died = 0
    while waiting:
        try:
            for number, result in _pooled(waiting, play, min(workers, len(waiting))):
                del waiting[number]
                died = 0
                yield number, result
        except BrokenProcessPool:
            died += 1
            if died == TRIES:
                raise ChildProcessError(
                    f"expected {len(waiting)} tasks to be played, but workers were killed {died} "
                    "times in a row: start fewer, or look for what ends them, such as too little "
                    "memory"
                ) from None
            log.warning("a worker was killed: %d tasks are tried again", len(waiting))


def _pooled(
    waiting: dict[int, Task], play: Callable[[Task], Result], workers: int
) -> Iterator[tuple[int, Result]]:
    with worker_pool(workers) as pool:
        with without_interrupts():
            futures = {pool.submit(play, task): number for number, task in waiting.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()

"""Plays independent tasks in local processes; a worker that is killed costs its task's time alone.

A task is data and playing it a function of the task alone, so that it does not matter which
process plays it, how often it is tried, or in which order. What is told is in order of completion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from train_lm.crew.under_way import UnderWay
from train_lm.processes import without_interrupts, worker_pool

log = logging.getLogger(__name__)

# The address of a cluster of this machine alone, started for the command and ended with it.
HERE = "local"

TRIES = 3  # times in a row that workers may die before anything more is finished

Task = TypeVar("Task")
Result = TypeVar("Result")


def played_here(
    tasks: Iterable[Task], play: Callable[[Task], Result], workers: int, in_order: bool = False
) -> Generator[tuple[int, Result]]:
    """(number of the task, its result) of every task, as they are finished.

    Args:
        tasks: Asked for as there is room.
        play: A function of a module, which workers import.
        workers: Processes; with one, the tasks are played in this process.
        in_order: As of `UnderWay`.

    Raises:
        ChildProcessError: Workers died `TRIES` times and nothing was finished in between.
        Exception: What `play` raised; the other tasks are given up.
    """
    under_way = UnderWay(tasks, in_order)
    # As many as there is work for: they share the cores, whatever becomes of one of them.
    workers = under_way.begin(workers)
    if workers < 2:
        while under_way.tasks or [*under_way.more(1)]:
            number = min(under_way.tasks)
            yield number, play(under_way.done(number))
        return
    died = 0
    while True:
        try:
            for number, result in _pooled(under_way, play, workers):
                died = 0
                yield number, result
            return
        except BrokenProcessPool:
            died += 1
            n = len(under_way.tasks)
            if died == TRIES:
                raise ChildProcessError(
                    f"expected {n} tasks to be played, but workers were killed {died} times in a "
                    "row: start fewer, or look for what ends them, such as too little memory"
                ) from None
            log.warning("a worker was killed: %d tasks are tried again", n)


def _pooled(
    under_way: UnderWay[Task], play: Callable[[Task], Result], workers: int
) -> Iterator[tuple[int, Result]]:
    futures: dict[Future[Result], int] = {}
    with worker_pool(workers) as pool:

        def hand_out(numbers: Iterable[int]) -> None:
            for number in numbers:
                with without_interrupts():
                    futures[pool.submit(play, under_way.tasks[number])] = number

        hand_out([*under_way.tasks])
        hand_out(under_way.more(workers))
        while futures:
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                result, number = future.result(), futures.pop(future)
                under_way.done(number)
                yield number, result
            hand_out(under_way.more(workers))

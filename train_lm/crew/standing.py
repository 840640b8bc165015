"""Workers that keep something between calls, such as environments: one bank for each of them.

What a worker keeps is a function of what it was made from and of the calls since a point from
which it begins anew. So a worker that dies is made again and told these calls again: the next
answer is what it would have been.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from train_lm.machine.cores import CORES, cores
from train_lm.processes import end_with_parent, without_interrupts

log = logging.getLogger(__name__)

TRIES = 5  # times in a row that one worker may die

Made = TypeVar("Made")


class WorkerDiedError(Exception):
    """A worker is gone, and what it kept with it."""


class Worker(Protocol):
    """One of them, wherever it is."""

    def ask(self, method: str, args: tuple[Any, ...]) -> None:
        """Call a method of what it keeps; does not wait for it."""

    def answer(self) -> Any:
        """What the method returned.

        Raises:
            WorkerDiedError: The worker is gone.
            Exception: What the method raised.
        """

    def close(self) -> None:
        """It is needed no more."""


class Standing(Generic[Made]):
    """Workers side by side, each of which keeps one thing.

    They are asked all at once (`each`), or each for itself (`ask`, `first`).

    Args:
        start: Gives a worker for a number.
        n: Of workers.
        ready: Which of some workers can answer, by their places; waits for one, or so many seconds.
        share: What stands in the arguments of a call for something that many workers are told.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        n: int,
        ready: Callable[[Sequence[Any], float], list[int]],
        share: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self._start, self._ready, self.share = start, ready, share
        self._workers = [start(i) for i in range(n)]
        self._since: list[list[tuple[str, tuple[Any, ...]]]] = [[] for _ in range(n)]
        self._died = [0] * n

    def __len__(self) -> int:
        return len(self._workers)

    def begin_anew(self) -> None:
        """The next call makes what is kept independent of all before it."""
        for calls in self._since:
            calls.clear()

    def each(self, method: str, args: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every worker's thing at once; the answers in their order.

        Raises:
            ChildProcessError: A worker died several times in a row.
            Exception: What a method raised.
        """
        for calls, own in zip(self._since, args, strict=True):
            calls.append((method, own))
        asked = [self._asked(i) for i in range(len(self))]
        return [self._answer(i, was) for i, was in enumerate(asked)]

    def ask(self, i: int, method: str, args: tuple[Any, ...]) -> None:
        """Call a method of one worker's thing, with an answer that hangs on nothing before it.

        Does not wait; `first` has the answer.
        """
        self._since[i], self._died[i] = [(method, args)], 0
        if not self._asked(i):
            self._anew(i)

    def first(self, among: Sequence[int], seconds: float) -> list[tuple[int, Any]]:
        """(worker, answer) of those that can answer first; none, where none can in this time.

        Args:
            among: Workers that were asked.

        Raises:
            ChildProcessError: A worker died several times in a row.
            Exception: What a method raised.
        """
        found = []
        for place in self._ready([self._workers[i] for i in among], seconds):
            i = among[place]
            try:
                found.append((i, self._workers[i].answer()))
            except WorkerDiedError:
                self._anew(i)
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _anew(self, i: int) -> None:
        """Make a worker again and ask it again; the others are not kept waiting."""
        asked = False
        while not asked:
            self._died[i] += 1
            if self._died[i] > TRIES:
                raise self._given_up(i)
            log.warning("worker %d was killed: it plays its call again", i + 1)
            self._workers[i].close()
            self._workers[i] = self._start(i)
            asked = self._asked(i)

    def _given_up(self, i: int) -> ChildProcessError:
        return ChildProcessError(
            f"expected worker {i + 1} of {len(self)} to answer, but it was killed {TRIES} times in "
            "a row: look for what ends it, such as too little memory"
        )

    def _asked(self, i: int) -> bool:
        try:
            self._workers[i].ask(*self._since[i][-1])
        except WorkerDiedError:
            return False
        return True

    def _answer(self, i: int, asked: bool) -> Any:
        for _ in range(TRIES):
            try:
                if asked:
                    return self._workers[i].answer()
                return self._again(i)
            except WorkerDiedError:
                asked = False
        raise self._given_up(i)

    def _again(self, i: int) -> Any:
        calls = self._since[i]
        log.warning("worker %d was killed: it plays %d calls again", i + 1, len(calls))
        self._workers[i].close()
        self._workers[i] = self._start(i)
        found = None
        for method, args in calls:
            self._workers[i].ask(method, args)
            found = self._workers[i].answer()
        return found


class LocalWorker:
    """A process of this machine.

    Args:
        make: Gives what it keeps; a function of a module.
        spec: What it is made from.
        share: Cores of its own.
    """

    def __init__(self, make: Callable[[Any], Any], spec: Any, share: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        args = (os.getpid(), share, make, spec, other)
        self._process: BaseProcess = context.Process(target=_serve, args=args, daemon=True)
        with without_interrupts():
            self._process.start()
        other.close()

    def ask(self, method: str, args: tuple[Any, ...]) -> None:
        try:
            self._pipe.send((method, args))
        except OSError:
            raise WorkerDiedError from None

    def answer(self) -> Any:
        try:
            good, found = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerDiedError from None
        if not good:
            raise found
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    @staticmethod
    def ready(workers: Sequence[LocalWorker], seconds: float) -> list[int]:
        """As `Standing` takes it; one that is gone can say so."""
        found = wait([worker._pipe for worker in workers], seconds)
        return [i for i, worker in enumerate(workers) if worker._pipe in found]


def _serve(
    parent: int, share: int, make: Callable[[Any], Any], spec: Any, pipe: Connection
) -> None:
    end_with_parent(parent)
    # A terminal sends a Ctrl-C to all; the parent tells this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[CORES] = str(share)
    made, error = None, None
    try:
        made = make(spec)
    except Exception as caught:  # told with the first answer
        error = caught
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if error is not None:
                raise error
            pipe.send((True, getattr(made, method)(*args)))
        except Exception as caught:
            pipe.send((False, caught))


def local_workers(make: Callable[[Any], Made], specs: Sequence[Any]) -> Standing[Made]:
    """A process for each spec; the cores of this one are shared among them."""
    share = max(1, cores() // max(1, len(specs)))
    return Standing(lambda i: LocalWorker(make, specs[i], share), len(specs), LocalWorker.ready)

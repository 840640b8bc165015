"""Errands: calls that whichever standing worker is free does, handed out while the asker is busy.

An errand's answer is a function of the errand alone. So it does not matter who does it, or when;
a slow worker does fewer of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from train_lm.crew.standing import Standing

LOOK = 0.05  # [s] between looks for a new errand, while somebody is free
PATIENCE = 1.0  # [s] of waiting for an answer, while nobody is

Made = TypeVar("Made")


class Errands(Generic[Made]):
    """Hands out errands on a thread of its own, in the order in which they were given.

    Args:
        workers: Who does them; closed with this.
    """

    def __init__(self, workers: Standing[Made]) -> None:
        self.workers = workers
        self._waiting: deque[tuple[Hashable, str, tuple[Any, ...]]] = deque()
        self._done: dict[Hashable, Any] = {}
        self._error: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="errands")
        self._thread.start()

    def give(self, key: Hashable, method: str, args: tuple[Any, ...]) -> None:
        """Have a method called by the next who is free."""
        with self._changed:
            self._waiting.append((key, method, args))
            self._changed.notify_all()

    def answer(self, key: Hashable) -> Any:
        """Wait for the answer; it is told once.

        Raises:
            ChildProcessError: A worker died several times in a row.
            Exception: What a method raised.
        """
        with self._changed:
            while key not in self._done:
                if self._error is not None:
                    raise self._error
                self._changed.wait(PATIENCE)
            return self._done.pop(key)

    def close(self) -> None:
        """What is under way is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.workers.close()

    def _run(self) -> None:
        busy: dict[int, Hashable] = {}
        try:
            while self._hand_out(busy):
                patience = LOOK if len(busy) < len(self.workers) else PATIENCE
                found = self.workers.first([*busy], patience)
                with self._changed:
                    for worker, answer in found:
                        self._done[busy.pop(worker)] = answer
                    self._changed.notify_all()
        except Exception as error:  # told to whoever waits for an answer
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _hand_out(self, busy: dict[int, Hashable]) -> bool:
        """Give the free ones something to do; whether there is anything to wait for."""
        with self._changed:
            while not (busy or self._waiting or self._closed):
                self._changed.wait()
            if self._closed:
                return False
            free = [i for i in range(len(self.workers)) if i not in busy]
            given = [(i, self._waiting.popleft()) for i in free[: len(self._waiting)]]
        for i, (key, method, args) in given:
            self.workers.ask(i, method, args)
            busy[i] = key
        return True

"""N callers, each with a trainer of its own, and one bank that does their work at once.

Code that drives a single trainer needs no change to drive a bank: it is given a member, which has
a trainer's methods, and runs beside N - 1 others. Whenever all of them wait for their learner, the
bank serves them together. What a caller gets does not depend on who comes first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_lm.adapters import Adapter
from train_lm.bank.bank import LearnerBank
from train_lm.steps.anchors import Anchor
from train_lm.steps.costs import Cost
from train_lm.steps.schedule import Schedule
from train_lm.trainer import Snapshot, TrainerConfig

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Result = TypeVar("Result")


@dataclass(eq=False)
class _Request:
    """What a member waits for."""

    learner: int
    kind: str  # "train" or "nll"
    windows: Ints  # (m, T + 1)
    answer: Floats | None = None
    error: Exception | None = None

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """Requests of one group are served by one call of the bank."""
        return self.kind, self.windows.shape

    @property
    def served(self) -> bool:
        return self.answer is not None or self.error is not None


class Lockstep:
    """Gathers the requests of a bank's members.

    Attributes:
        members: One per learner, in their order.

    Args:
        bank: Does the work; nobody else may use it meanwhile.
    """

    def __init__(self, bank: LearnerBank) -> None:
        self.bank = bank
        self.members = [Member(self, i) for i in range(bank.n)]
        self._change = threading.Condition()
        self._running = 0
        self._stopped = False
        self._waiting: list[_Request] = []
        self._threads = ThreadPoolExecutor(bank.n, "member")

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run tasks side by side, at most one per member, and return what they return.

        Raises:
            ValueError: More tasks than members.
            Exception: The first task's error, after all tasks have ended.
        """
        if len(tasks) > self.bank.n:
            raise ValueError(f"expected at most {self.bank.n} tasks, got {len(tasks)}")
        with self._change:
            self._running, self._stopped = len(tasks), False
        futures = [self._threads.submit(self._run_one, task) for task in tasks]
        try:
            for future in futures:
                future.exception()
        except BaseException:  # an interrupt reaches this thread alone; the tasks must end too
            with self._change:
                self._stopped = True
                self._change.notify_all()
            raise
        return [future.result() for future in futures]

    def _run_one(self, task: Callable[[], Result]) -> Result:
        try:
            return task()
        finally:
            with self._change:
                self._running -= 1
                self._serve_if_all_wait()

    def close(self) -> None:
        """Free the threads; nothing can be run any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.bank.close()

    def ask(self, request: _Request) -> Floats:
        """Return when the request was served; a call outside of `run` is served at once.

        Raises:
            InterruptedError: `run` was interrupted meanwhile.
        """
        with self._change:
            self._waiting.append(request)
            self._serve_if_all_wait()
            self._change.wait_for(lambda: request.served or self._stopped)
            if self._stopped:
                self._waiting.clear()
                raise InterruptedError("the tasks beside this one were interrupted")
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    def _serve_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._running:
            return
        requests, self._waiting = sorted(self._waiting, key=lambda r: r.learner), []
        for group in dict.fromkeys(r.group for r in requests):
            together = [r for r in requests if r.group == group]
            learners = [r.learner for r in together]
            windows = np.stack([r.windows for r in together])
            call = self.bank.train if group[0] == "train" else self.bank.nll
            try:
                answers = call(windows, learners)
            except Exception as error:  # every caller of the group has to know
                for r in together:
                    r.error = error
                continue
            for r, answer in zip(together, answers, strict=True):
                r.answer = np.asarray(answer)
        self._change.notify_all()


class Member:
    """One learner of a bank, with what an episode needs of a `Trainer`."""

    def __init__(self, lockstep: Lockstep, learner: int) -> None:
        self.lockstep = lockstep
        self.bank = lockstep.bank
        self.learner = learner
        self.n_parameters = self.bank.n_parameters
        self.n_trained = self.bank.n_trained

    @property
    def config(self) -> TrainerConfig:
        return self.bank.configs[self.learner]

    @property
    def device(self) -> torch.device:
        return self.bank.device

    @property
    def updates(self) -> int:
        return int(self.bank.updates[self.learner])

    @property
    def schedule(self) -> Schedule:
        return self.bank.schedules[self.learner]

    @property
    def flops_per_token(self) -> float:
        return self.bank.flops_per_token

    def begin_phase(self, updates: int, *, decay: bool, averaging: str = "none") -> None:
        self.bank.begin_phase(updates, decay=decay, averaging=averaging, learners=[self.learner])

    def learning_rate(self) -> float:
        return self.schedule.rate(self.updates)

    def train(self, windows: Ints) -> float:
        """As `Trainer.train`: (n, T + 1) token ids, B at a time, to their mean loss [nats]."""
        return float(self.lockstep.ask(_Request(self.learner, "train", windows)))

    def nll(self, windows: Ints) -> Floats:
        """As `Trainer.nll`: (n, T + 1) token ids to (n,) summed losses [nats]."""
        if not len(windows):
            return np.zeros(0)
        return self.lockstep.ask(_Request(self.learner, "nll", windows))

    def anchor(self, anchor: Anchor | None) -> None:
        self.bank.anchor(self.learner, anchor)

    def importance(self, windows: Ints, labels: str = "model", seed: int = 0) -> dict[str, Tensor]:
        return self.bank.importance(self.learner, windows, labels, seed)

    def gradient(self, windows: Ints) -> dict[str, Tensor]:
        return self.bank.gradient(self.learner, windows)

    def weights(self) -> dict[str, Tensor]:
        return self.bank.weights(self.learner)

    def measured_weights(self) -> dict[str, Tensor]:
        return self.bank.measured_weights(self.learner)

    def merged(self) -> dict[str, Tensor]:
        return self.bank.merged(self.learner)

    def cost(self, since: Snapshot | None = None) -> Cost:
        return self.bank.cost(self.learner, since)

    def take_adapter(self) -> Adapter:
        return self.bank.take_adapter(self.learner)

    def put_adapter(self, adapter: Adapter) -> None:
        self.bank.put_adapter(self.learner, adapter)

    def merge_and_reset(self, rewarm: int | None = None) -> None:
        self.bank.merge_and_reset(self.learner, rewarm)

    def snapshot(self) -> dict[str, Tensor]:
        return self.bank.snapshot(self.learner)

    def restore(self, snapshot: Snapshot) -> None:
        self.bank.restore(self.learner, snapshot)

    def adopt(self, snapshot: Snapshot) -> None:
        self.bank.adopt(self.learner, snapshot)

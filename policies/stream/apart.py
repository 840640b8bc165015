"""Adapters that were trained apart from each other on one frozen base, and then put together.

After stage i the first i adapters are there. Routed, each text is read with one of them; merged,
all texts are read with what they make together. Nothing is trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.stream.cells import Cost, StreamRecord, StreamTask
from policies.stream.course import Course
from policies.stream.methods import Method
from policies.stream.sequential import Keep, Reading, cost_of

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.adapters import Adapter
    from train_lm.trainer import Trainer

Floats = NDArray[np.float64]


def play_apart(course: Course, task: StreamTask, keep: Keep) -> list[StreamRecord]:
    """Train an adapter for each neighbourhood, and put the first i together in every way asked."""
    reading = Reading(course, task.training, task.seed)
    snapshots, costs = [], []
    seconds = 0.0
    for number in range(len(course)):
        trainer = course.trainer(task.training, task.rate)
        windows = reading.stage(number)
        began = time.perf_counter()
        trainer.begin_phase(course.layout.updates, decay=True)
        trainer.train(course.stage.store.read(windows))
        seconds += time.perf_counter() - began
        costs.append(cost_of(course, trainer))
        snapshots.append(trainer.snapshot())
        keep(number + 1, snapshots[-1])
    cost = Cost(
        changed=float(np.mean([one.changed for one in costs])),
        rank=float(np.mean([one.rank for one in costs])),
        trained=costs[0].trained,
        optimizer_bytes=costs[0].optimizer_bytes,
        tokens=costs[0].tokens,
    )
    together = Together(course, task, snapshots.__getitem__)
    return [
        StreamRecord(key, course.names, together.losses(method), cost, seconds)
        for method, key in zip(task.methods, task.keys, strict=True)
    ]


def apart_again(
    course: Course, task: StreamTask, method: Method, kept: Callable[[int], Mapping[str, Tensor]]
) -> Floats:
    """(T + 1, T + 1) losses of adapters that `play_apart` kept, put together anew."""
    return Together(course, task, lambda number: kept(number + 1)).losses(method)


class Together:
    """Adapters of a course, put together.

    Args:
        snapshot: Of the trainer of each neighbourhood's adapter, by its number.
    """

    def __init__(
        self, course: Course, task: StreamTask, snapshot: Callable[[int], Mapping[str, Tensor]]
    ) -> None:
        self.course = course
        self.trainer: Trainer = course.trainer(task.training, task.rate)
        self.base = course.nll(self.trainer)  # a fresh adapter changes nothing
        alone: list[Floats] = []
        self.adapters: list[Adapter] = []
        for number in range(len(course)):
            self.trainer.restore(snapshot(number))
            alone.append(course.nll(self.trainer))
            self.adapters.append(self.trainer.take_adapter())
        self.alone = np.stack(alone)  # (T, T * W + B) [nats], each adapter on every window

    def losses(self, method: Method) -> Floats:
        """(T + 1, T + 1) held-out losses before the first stage and after each [bits per byte]."""
        rows = [self.base]
        for there in range(1, len(self.course) + 1):
            if method.compose == "own":
                rows.append(self._chosen(self._own(there)))
            elif method.compose == "routed":
                rows.append(self._chosen(self._nearest(there)))
            else:
                rows.append(self._merged(method.compose, self.adapters[:there]))
        return np.stack([self.course.losses(row) for row in rows])

    def _own(self, there: int) -> NDArray[np.int64]:
        """The adapter of a window's own neighbourhood; -1, the base, where there is none yet."""
        column = self.course.column
        return np.where(column < there, column, -1)

    def _nearest(self, there: int) -> NDArray[np.int64]:
        """The adapter whose neighbourhood's centre is nearest to the window's passage."""
        return self.course.nearness[:, :there].argmax(1)

    def _chosen(self, adapter: NDArray[np.int64]) -> Floats:
        alone = np.vstack([self.alone, self.base])  # the last row is the base: number -1
        return np.asarray(alone[adapter, np.arange(alone.shape[1])])

    def _merged(self, how: str, adapters: Sequence[Adapter]) -> Floats:
        if len(adapters) == 1:
            return np.asarray(self.alone[0])
        return self.course.merged_nll(adapters, how)

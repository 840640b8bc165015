"""One learner that goes from stage to stage, with whatever memory and rule its method has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.reading_list import ReadingList
from policies.stream.cells import Cost, StreamRecord, StreamTask
from policies.stream.cost import effective_rank, share_changed
from policies.stream.course import Course
from policies.stream.methods import Method
from train_lm.windows import draw_least_read

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.trainer import Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

READING = 22  # joins the seed in the generator of what is read, the same for all methods

# Told the number of stages that are done, and the learner's weights then.
Keep = Callable[[int, "Mapping[str, Tensor]"], None]


class Reading:
    """Draws what each stage reads.

    Args:
        course: What is learned.
        method: Its memory; only `replay` reads anything but the stage's own text here.
    """

    def __init__(self, course: Course, method: Method, seed: int) -> None:
        self.course, self.method = course, method
        self.rng = np.random.default_rng([seed, READING])
        share = method.share if method.memory == "replay" else 0.0
        self.list = ReadingList(course.stage.store, share)
        # The nucleus is the first of what there is to look back on.
        self.list.pools.append(course.nucleus_windows)

    def stage(self, number: int) -> Ints:
        """Windows of one stage, by number, in the order in which they are read."""
        course = self.course
        n = course.windows_per_stage
        if not self.method.joint:
            return self.list.expand(course.passages(number), n, self.rng)
        pools = [course.stage.store.windows_of(course.passages(i)) for i in range(len(course))]
        counts = np.diff(np.linspace(0, n, len(pools) + 1).round().astype(int))
        drawn = [
            draw_least_read(pool, self.list.times_read, int(count), self.rng)
            for pool, count in zip(pools, counts, strict=True)
        ]
        return self.rng.permutation(np.concatenate(drawn))


def play_sequential(course: Course, task: StreamTask, keep: Keep | None = None) -> StreamRecord:
    """All stages in turn; what the learner loses of every neighbourhood is measured after each."""
    method = task.training
    trainer = course.trainer(course.config(task.rate))
    reading = Reading(course, method, task.seed)
    begun = weights_of(trainer)
    rows = [course.losses(course.nll(trainer))]
    seconds = 0.0
    for number in range(len(course)):
        tokens = course.stage.store.read(reading.stage(number))
        began = time.perf_counter()
        trainer.begin_phase(course.layout.updates, decay=True)
        trainer.train(tokens)
        seconds += time.perf_counter() - began
        rows.append(course.losses(course.nll(trainer)))
        if keep is not None:
            keep(number + 1, weights_of(trainer))
    ended = weights_of(trainer)
    cost = Cost(
        changed=share_changed(begun, ended),
        rank=effective_rank(begun, ended),
        trained=trainer.n_parameters,
        optimizer_bytes=0,
        tokens=len(course) * course.tokens_per_stage,
    )
    return StreamRecord(task.keys[0], course.names, np.stack(rows), cost, seconds)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of the weights alone, by their names in a snapshot."""
    taken = trainer.snapshot()
    return {name: value for name, value in taken.items() if name.startswith("model.")}

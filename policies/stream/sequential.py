"""One learner that goes from stage to stage, with whatever memory and rule its method has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.memory import OWN, by_lot
from kncl_env.reading_list import ReadingList
from policies.stream.cells import Cost, StreamRecord, StreamTask
from policies.stream.course import Course
from policies.stream.methods import Method
from policies.stream.own_text import written
from train_lm.windows import draw_least_read

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.trainer import Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

READING = 22  # joins the seed in the generator of what is read, the same for all methods
IMPORTANT = 64  # [windows] that a stage's importance is measured on

# Told the number of the stage that is done, and a snapshot of the learner then.
Keep = Callable[[int, "Mapping[str, Tensor]"], None]


class Reading:
    """Draws what each stage reads.

    Args:
        course: What is learned.
        method: Its memory; `replay` and `self` read more than the stage's own text.
    """

    def __init__(self, course: Course, method: Method, seed: int) -> None:
        self.course, self.method = course, method
        self.rng = np.random.default_rng([seed, READING])
        share = method.share if method.memory in ("replay", "self") else 0.0
        self.list = ReadingList(course.stage.store, share)
        # The nucleus is the first of what there is to look back on.
        self.list.pools.append(course.nucleus_windows)

    def stage(self, number: int) -> Ints:
        """Windows of one stage in the order in which they are read; `OWN` is the learner's own."""
        course = self.course
        n = course.windows_per_stage
        if not self.method.joint:
            return self.list.expand(course.passages(number), n, self.rng, self._recall)
        pools = [course.stage.store.windows_of(course.passages(i)) for i in range(len(course))]
        counts = np.diff(np.linspace(0, n, len(pools) + 1).round().astype(int))
        drawn = [
            draw_least_read(pool, self.list.times_read, int(count), self.rng)
            for pool, count in zip(pools, counts, strict=True)
        ]
        return self.rng.permutation(np.concatenate(drawn))

    def _recall(self, n: int, rng: np.random.Generator) -> Ints:
        """Old text: the nucleus or an earlier stage by lot, then one of its windows."""
        if self.method.memory == "self":
            return np.full(n, OWN, dtype=np.int64)
        drawn: Ints = by_lot(self.list.pools, n, rng)
        return drawn

    def tokens(self, windows: Ints, trainer: Trainer) -> Ints:
        """(n, T + 1) tokens of a stage's windows; the learner, as it is now, writes its own."""
        store, own = self.course.stage.store, windows == OWN
        found = store.read(np.where(own, 0, windows))
        if own.any():
            # One token each of old text is where it begins.
            first = store.read(by_lot(self.list.pools[:-1], int(own.sum()), self.rng))[:, 0]
            seed = int(self.rng.integers(2**31))
            found[own] = written(trainer, first, found.shape[1], seed)
        return found


class Elastic:
    """Holds weights where they matter to what was learned: online elastic weight consolidation.

    Schwarz et al. 2018 (arXiv 1805.06370): importances of all stages so far are summed, and the
    anchor moves to where the last one ended. The nucleus is the first stage.
    """

    def __init__(self, course: Course, strength: float, seed: int) -> None:
        self.course, self.strength = course, strength
        self.rng = np.random.default_rng([seed, READING, 1])
        self.importance: dict[str, Tensor] = {}

    def hold(self, trainer: Trainer, windows: Ints) -> None:
        """Keep what was just learned from these windows."""
        from train_lm.steps.anchors import Anchor

        chosen = self.rng.choice(windows, min(IMPORTANT, len(windows)), replace=False)
        tokens = self.course.stage.store.read(np.sort(chosen))
        for name, value in trainer.importance(tokens, seed=self.course.seed).items():
            before = self.importance.get(name)
            self.importance[name] = value if before is None else before + value
        trainer.anchor(Anchor(trainer.weights(), self.importance, self.strength))


def play_sequential(course: Course, task: StreamTask, keep: Keep) -> StreamRecord:
    """All stages in turn; what the learner loses of every neighbourhood is measured after each."""
    method = task.training
    trainer = course.trainer(method, task.rate)
    reading = Reading(course, method, task.seed)
    elastic = Elastic(course, method.strength, task.seed) if method.memory == "ewc" else None
    rows = [course.losses(course.nll(trainer))]
    seconds = 0.0
    windows = course.nucleus_windows
    for number in range(len(course)):
        began = time.perf_counter()
        if elastic is not None:
            elastic.hold(trainer, windows)
        if method.adapter == "relora" and number:
            trainer.merge_and_reset()
        windows = reading.stage(number)
        tokens = reading.tokens(windows, trainer)
        trainer.begin_phase(course.layout.updates, decay=True)
        trainer.train(tokens)
        seconds += time.perf_counter() - began
        rows.append(course.losses(course.nll(trainer)))
        keep(number + 1, trainer.snapshot())
    cost = cost_of(course, trainer)
    return StreamRecord(task.keys[0], course.names, np.stack(rows), cost, seconds)


def cost_of(course: Course, trainer: Trainer) -> Cost:
    """What a trainer changed of the course's nucleated learner, and what that took."""
    found = trainer.cost(course.weights())
    return Cost(
        changed=(found.parameters_changed or 0) / found.parameters,
        rank=found.effective_rank or 0.0,
        trained=found.trained,
        optimizer_bytes=found.optimizer_bytes,
        tokens=len(course) * course.tokens_per_stage,
    )


def sequential_again(
    course: Course, task: StreamTask, kept: Callable[[int], Mapping[str, Tensor]]
) -> Floats:
    """(T + 1, T + 1) losses of snapshots that `play_sequential` kept."""
    trainer = course.trainer(task.training, task.rate)
    rows = [course.losses(course.nll(trainer))]
    for number in range(len(course)):
        trainer.restore(kept(number + 1))
        rows.append(course.losses(course.nll(trainer)))
    return np.stack(rows)

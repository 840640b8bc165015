"""A stream from its plan to its results: every finished cell is a line of a journal.

A run that is killed at any moment goes on with the cells that are missing, and ends with the same
scores: a cell depends on nothing but its task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.world.world import World
from policies.play.episodes import folder_of
from policies.play.journal import REMEDY, Journal, key_of
from policies.stream.cells import StreamRecord, StreamTask
from policies.stream.course import SPLIT, Layout, learner_of, parts_of
from policies.stream.methods import Method, methods_of
from policies.stream.playing import kept_in, kept_places, measured_again, play, prepare
from train_lm.checkpoint import claim_run
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json
from train_lm.outputs import alone

COMMAND = "kncl-policy stream"
FORMAT = "kncl-stream-1"
STREAM_VERSION = 1  # raised whenever a cell would come out with other numbers
STEP = 3.0  # between learning rates


@dataclass(frozen=True)
class StreamPlan:
    """What is played.

    Attributes:
        methods: As `method_of` takes them.
        rates: Learning rates of each method, a factor of `STEP` apart.
        seeds: Of each method and rate: the learner, the order of neighbourhoods and of text.
        rate: Middle learning rate of a stage, where its method does not scale it; a third of what
            the nucleus phase was trained at, if None.
        hands: Who plays.
        keep: Whether weights are kept after every stage.
    """

    methods: Sequence[str]
    rates: int = 3
    seeds: int = 5
    rate: float | None = None
    hands: Hands = ALONE
    keep: bool = False

    def __post_init__(self) -> None:
        for name in ("rates", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.rate is not None and not 0 < self.rate < np.inf:
            raise ValueError(f"expected a rate above 0, got {self.rate}")
        methods_of(self.methods)

    def rates_of(self, method: Method, settings: Settings) -> list[float]:
        """Ascending; in the middle, or the lower of two, the method's own."""
        centre = self.rate or settings.learner.learning_rate / STEP
        first = -((self.rates - 1) // 2)
        return [method.rate_scale * centre * STEP ** (first + i) for i in range(self.rates)]


def run_stream(
    world: World,
    settings: Settings,
    layout: Layout,
    plan: StreamPlan,
    out: Path,
    on_record: Callable[[StreamRecord], None] = lambda _: None,
) -> list[StreamRecord]:
    """Play the cells that `out` does not hold yet; returns all that were asked for, in order.

    Args:
        on_record: Told each record, those of the journal first.

    Raises:
        ValueError: The neighbourhoods are not to be had, or `out` holds a stream of another world,
            other settings or another layout.
    """
    parts_of(world, layout.stage_settings(settings), layout)
    about = {"world": world.hash, "learner": learner_of(settings), "layout": layout.to_json()}
    versions = {"stream": STREAM_VERSION, "nucleus": NUCLEUS_VERSION, "split": SPLIT}
    run: Json = {**about, "versions": versions}
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        claim_run(out, run, defaults={"learner": learner_of(Settings())}, made_by=COMMAND)
        journal = Journal(out / "cells.jsonl", {"format": FORMAT, **run})
        tasks = tasks_of(world, settings, layout, plan, out)
        found = _found(journal, tasks, on_record)
        waiting = [left for task in tasks if (left := _left(task, found)) is not None]
        learners = {task.settings.learner.seed: task for task in waiting}
        for _ in plan.hands.played([*learners.values()], prepare, [folder_of(world)]):
            pass
        for _, records in plan.hands.played(waiting, play, [folder_of(world)], kept_places):
            for record in records:
                line = record.to_json()
                journal.append(line)
                found[key_of(line)] = record
                on_record(record)
        return [found[key_of(key)] for task in tasks for key in task.keys]


def tasks_of(
    world: World, settings: Settings, layout: Layout, plan: StreamPlan, out: Path
) -> list[StreamTask]:
    """Seed by seed, so that a stopped run has whole rows of methods to compare."""
    families: dict[str, list[Method]] = {}
    for method in methods_of(plan.methods):
        families.setdefault(method.training.name, []).append(method)
    first = settings.learner.seed
    return [
        StreamTask(
            world=str(world.path),
            settings=settings.with_learner_seed(first + seed),
            layout=layout,
            methods=tuple(family),
            rate=rate,
            seed=seed,
            keep=str(out / "kept") if plan.keep else "",
        )
        for seed in range(plan.seeds)
        for family in families.values()
        for rate in plan.rates_of(family[0], settings)
    ]


def _found(
    journal: Journal, tasks: Sequence[StreamTask], on_record: Callable[[StreamRecord], None]
) -> dict[tuple[str, ...], StreamRecord]:
    found = {}
    for task in tasks:
        for key in map(key_of, task.keys):
            if key in journal.lines:
                place = f"{journal.file}, cell of {key[0]}, seed {key[2]}"
                try:
                    found[key] = StreamRecord.from_json(journal.lines[key], place)
                except ValueError as error:
                    raise ValueError(f"{error}: {REMEDY}") from None
                on_record(found[key])
    return found


def _left(task: StreamTask, found: dict[tuple[str, ...], StreamRecord]) -> StreamTask | None:
    """The task with the methods that have no record yet; None where all have one."""
    pairs = zip(task.methods, task.keys, strict=True)
    missing = tuple(method for method, key in pairs if key_of(key) not in found)
    return replace(task, methods=missing) if missing else None


def check_kept(
    world: World,
    settings: Settings,
    layout: Layout,
    plan: StreamPlan,
    records: Sequence[StreamRecord],
    out: Path,
) -> int:
    """Measure the kept weights of every cell again; returns how many cells have any.

    Raises:
        ValueError: A matrix comes out with other numbers than are written, or weights are damaged.
    """
    checked = 0
    by_key = {key_of(record.key): record for record in records}
    for task in tasks_of(world, settings, layout, plan, out):
        for method, key in zip(task.methods, map(key_of, task.keys), strict=True):
            folder = kept_in(task)
            if not folder.is_dir():
                continue
            found = measured_again(task, method)
            if not np.array_equal(found, by_key[key].losses):
                raise ValueError(
                    f"expected the losses in {out} to come out again from {folder}, got others "
                    f"(by up to {np.abs(found - by_key[key].losses).max():.3g} bits per byte): "
                    "the weights or the line are not of this run"
                )
            checked += 1
    return checked

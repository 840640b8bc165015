"""A stream from its plan to its results: every finished cell is a line of a journal.

A run that is killed at any moment goes on with the cells that are missing, and ends with the same
scores: a cell depends on nothing but its task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.world.world import World
from policies.play.journal import REMEDY, Journal, key_of
from policies.stream.cells import StreamRecord, StreamTask
from policies.stream.course import SPLIT, Layout, parts_of
from policies.stream.methods import methods_of
from policies.stream.playing import play
from policies.stream.workers import played
from train_lm.checkpoint import claim_run
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
        rates: Learning rates of each method, a factor of `STEP` apart, about the learner's own.
        seeds: Of each method and rate: the learner, the order of neighbourhoods and of text.
        workers: Processes that play.
        keep: Whether weights are kept after every stage.
    """

    methods: Sequence[str]
    rates: int = 3
    seeds: int = 5
    workers: int = 1
    keep: bool = False

    def __post_init__(self) -> None:
        for name in ("rates", "seeds", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        methods_of(self.methods)

    def rates_about(self, centre: float) -> list[float]:
        """Ascending; the centre is the middle one, or the lower of two."""
        first = -((self.rates - 1) // 2)
        return [centre * STEP ** (first + i) for i in range(self.rates)]


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
    about = {"world": world.hash, "settings": settings.to_json(), "layout": layout.to_json()}
    versions = {"stream": STREAM_VERSION, "nucleus": NUCLEUS_VERSION, "split": SPLIT}
    run: Json = {**about, "versions": versions}
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        claim_run(out, run, defaults={"settings": Settings().to_json()}, made_by=COMMAND)
        journal = Journal(out / "cells.jsonl", {"format": FORMAT, **run})
        tasks = tasks_of(world, settings, layout, plan, out)
        found = _found(journal, tasks, on_record)
        waiting = [left for task in tasks if (left := _left(task, found)) is not None]
        for _, records in played(waiting, play, plan.workers):
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
    families: dict[str, list[str]] = {}
    methods = methods_of(plan.methods)
    for method in methods:
        families.setdefault(method.training.name, []).append(method.name)
    first = settings.learner.seed
    return [
        StreamTask(
            world=str(world.path),
            settings=settings.with_learner_seed(first + seed),
            layout=layout,
            methods=tuple(method for method in methods if method.name in family),
            rate=rate,
            seed=seed,
            keep=str(out / "kept") if plan.keep else "",
        )
        for seed in range(plan.seeds)
        for family in families.values()
        for rate in plan.rates_about(settings.learner.learning_rate)
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

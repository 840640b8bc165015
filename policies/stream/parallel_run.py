"""Neighbourhoods side by side, from a plan to results: tasks in processes, a journal, scores.

A worker that is killed costs its task's time, and a run that is killed goes on: the adapters, the
records and the scores are the same bytes, whoever played the tasks and how often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.world.world import World
from policies.play.episodes import folder_of
from policies.play.journal import REMEDY, Journal, key_of
from policies.stream.course import SPLIT, Layout, learner_of, open_course, parts_of
from policies.stream.methods import Method, method_of
from policies.stream.parallel import (
    APART,
    FULL,
    JOINT,
    RANDOM,
    SEQUENCE,
    PartRecord,
    PartTask,
    TogetherRecord,
    TogetherTask,
    adapters_of,
    play_part,
    play_together,
)
from policies.stream.runs import STEP
from train_lm.checkpoint import claim_run
from train_lm.composing.adapter_files import WEIGHTS
from train_lm.crew.folders import Folder
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, hash_file, hash_json
from train_lm.outputs import alone

COMMAND = "kncl-policy neighbourhoods"
FORMAT = "kncl-neighbourhoods-1"
PARALLEL_VERSION = 1  # raised whenever a task would come out with other numbers


@dataclass(frozen=True)
class ParallelPlan:
    """What is played.

    Attributes:
        seeds: Of the learner, the order of neighbourhoods and of text.
        rank: Of adapters.
        rate: Learning rate of whole models; a third of the nucleus phase's, if None. Adapters take
            ten times as much.
        hands: Who trains.
        timed: Whether the first seed's adapters are trained twice more, by one process and by all,
            to measure the speed-up.
    """

    seeds: int = 5
    rank: int = 8
    rate: float | None = None
    hands: Hands = ALONE
    timed: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.rate is not None and not 0 < self.rate < np.inf:
            raise ValueError(f"expected a rate above 0, got {self.rate}")

    @property
    def adapter(self) -> Method:
        return method_of(f"lora/{self.rank}")

    def rate_of(self, method: Method, settings: Settings) -> float:
        return method.rate_scale * (self.rate or settings.learner.learning_rate / STEP)


@dataclass(frozen=True)
class Speed:
    """How long the adapters of one seed took.

    Attributes:
        workers: Processes that trained side by side.
        one: Seconds from the first to the last training, by one process.
        side_by_side: The same by all of them.
        wall: Seconds of all that, start of the processes included, by all of them.
        same: Whether all adapters came out with the same bytes.
    """

    workers: int
    one: float
    side_by_side: float
    wall: float
    same: bool

    @property
    def speed_up(self) -> float:
        return self.one / self.side_by_side


@dataclass(frozen=True)
class Played:
    """All records of a run, and the speed where it was measured."""

    parts: Sequence[PartRecord]
    together: Sequence[TogetherRecord]
    speed: Speed | None


def run_parallel(
    world: World,
    settings: Settings,
    layout: Layout,
    plan: ParallelPlan,
    out: Path,
    on_task: Callable[[], None] = lambda: None,
) -> Played:
    """Play the tasks that `out` does not hold yet, and put the adapters together.

    Args:
        on_task: Told of each task, as it is done.

    Raises:
        ValueError: The neighbourhoods are not to be had, or `out` holds a run of another world,
            other settings or another layout.
    """
    parts_of(world, layout.stage_settings(settings), layout)
    about = {"world": world.hash, "learner": learner_of(settings), "layout": layout.to_json()}
    versions = {"parallel": PARALLEL_VERSION, "nucleus": NUCLEUS_VERSION, "split": SPLIT}
    run: Json = {**about, "versions": versions}
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        claim_run(out, run, defaults={"learner": learner_of(Settings())}, made_by=COMMAND)
        journal = Journal(out / "tasks.jsonl", {"format": FORMAT, **run})
        tasks = part_tasks(world, settings, layout, plan, out / "adapters")
        firsts = {task.seed: task for task in tasks if not _is_done(journal, task)}
        for _ in plan.hands.played([*firsts.values()], _prepare, [folder_of(world)]):
            pass
        waiting = [task for task in tasks if not _is_done(journal, task)]
        for _, part in plan.hands.played(waiting, play_part, [folder_of(world)], adapters_of):
            if key_of(part.key) not in journal.lines:
                journal.append(part.to_json())
            on_task()
        parts = [
            PartRecord.from_json(journal.lines[key_of(task.key)], task.key, _place(journal, task))
            for task in tasks
        ]
        ways = together_tasks(world, settings, layout, plan, out / "adapters")
        left = [task for task in ways if key_of(task.key) not in journal.lines]
        needed = [folder_of(world), *_adapters(out / "adapters")] if left else []
        for _, way in plan.hands.played(left, play_together, needed):
            journal.append(way.to_json())
            on_task()
        together = [
            TogetherRecord.from_json(
                journal.lines[key_of(task.key)], task.key, _place(journal, task)
            )
            for task in ways
        ]
        speed = _timed(tasks, plan, out) if plan.timed else None
        return Played(parts, together, speed)


def _adapters(place: Path) -> list[Folder]:
    """What was trained, for nodes that put it together."""
    if not place.is_dir():
        return []
    found = Folder.of(place, "")
    return [replace(found, kept_as=f"adapters/{hash_json(found.content)[:32]}")]


def _is_done(journal: Journal, task: PartTask) -> bool:
    made = task.adapter.is_dir() or task.kind not in (APART, RANDOM)
    return made and key_of(task.key) in journal.lines


def _place(journal: Journal, task: PartTask | TogetherTask) -> str:
    return f"{journal.file}, {task.key['arm']} of seed {task.seed}: {REMEDY}"


def _prepare(task: PartTask) -> None:
    """The nucleus phase of a seed's learner, where it is not cached yet."""
    import torch

    torch.set_num_threads(1)
    open_course(task.world, task.settings, task.layout, task.seed)


def part_tasks(
    world: World, settings: Settings, layout: Layout, plan: ParallelPlan, folder: Path
) -> list[PartTask]:
    """Seed by seed: what is trained apart first."""
    full, lora = method_of("none"), plan.adapter
    kinds = [(kind, number, lora) for kind in (APART, RANDOM) for number in range(layout.n)]
    kinds += [(SEQUENCE, 0, lora), (JOINT, 0, lora), (FULL, 0, full)]
    return [
        PartTask(
            world=str(world.path),
            settings=settings.with_learner_seed(settings.learner.seed + seed),
            layout=layout,
            kind=kind,
            number=number,
            method=method,
            rate=plan.rate_of(method, settings),
            seed=seed,
            folder=str(folder),
        )
        for seed in range(plan.seeds)
        for kind, number, method in kinds
    ]


def together_tasks(
    world: World, settings: Settings, layout: Layout, plan: ParallelPlan, folder: Path
) -> list[TogetherTask]:
    """One for each seed."""
    return [
        TogetherTask(
            world=str(world.path),
            settings=settings.with_learner_seed(settings.learner.seed + seed),
            layout=layout,
            rank=plan.rank,
            rate=plan.rate_of(plan.adapter, settings),
            seed=seed,
            folder=str(folder),
        )
        for seed in range(plan.seeds)
    ]


def _timed(tasks: Sequence[PartTask], plan: ParallelPlan, out: Path) -> Speed:
    """Train the first seed's adapters anew, by one process and by all of them."""
    first = [task for task in tasks if task.kind == APART and task.seed == 0]
    one, _ = _span(first, ALONE, out / "timed" / "one")
    many, wall = _span(first, plan.hands, out / "timed" / "many")
    places = [out / "adapters", out / "timed" / "one", out / "timed" / "many"]
    digests = [
        {hash_file(place / task.adapter.name / WEIGHTS) for place in places} for task in first
    ]
    return Speed(plan.hands.at_once(), one, many, wall, all(len(found) == 1 for found in digests))


def _span(tasks: Sequence[PartTask], hands: Hands, folder: Path) -> tuple[float, float]:
    """Seconds from the first training's beginning to the last one's end, and of everything."""
    began = time.perf_counter()
    moved = [replace(task, folder=str(folder)) for task in tasks]
    records = [record for _, record in hands.played(moved, play_part, [], adapters_of)]
    wall = time.perf_counter() - began
    return max(r.ended for r in records) - min(r.began for r in records), wall

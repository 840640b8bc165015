"""The one room where episodes are played: by evaluation, recording, tasting and the closed loop.

A task is data, so that a thread, a process or a node of a cluster can play it; a record is what
came of it. What is measured on the way is the task's meter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Generic, Protocol, TypeVar

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.taste import Taste
from kncl_env.vector import SideBySide, side_by_side
from kncl_env.world.world import World
from policies.arms.arm import Arm, Turn
from policies.arms.registry import arm_of, places_of
from policies.play.guard import Guarded, lent
from policies.play.journal import REMEDY, Journal, Key, LacksError, key_of
from train_lm.checked.records import Fields
from train_lm.crew.folders import Folder
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, hash_json


class Measured(Protocol):
    """What a meter found in one episode."""

    def to_json(self) -> Json: ...


M = TypeVar("M", bound=Measured)
M_co = TypeVar("M_co", bound=Measured, covariant=True)


class Watch(Protocol[M_co]):
    """A meter in the middle of one episode."""

    def after(self, turn: Turn) -> None:
        """Told each step."""

    def finish(self) -> M_co:
        """The episode is over."""


class Meter(Protocol[M_co]):
    """What is measured in an episode: a frozen value, part of the task.

    Attributes:
        rewarded: Whether it takes rewards or losses from the game; what it measures itself is its
            own affair.
    """

    @property
    def rewarded(self) -> bool: ...

    def begin(self, env: TopicExpansionEnv) -> Watch[M_co]:
        """The environment was reset and nothing was read yet."""

    def from_json(self, line: Json) -> M_co:
        """What `to_json` of its result gave."""


class Made(Protocol):
    """An arm as data: what it is made of, such as the record of another one's episode."""

    def arm(self) -> Arm: ...

    def stage(self, stage: Stage) -> Stage:
        """What it plays on, given what the others play on."""

    @property
    def place(self) -> str:
        """Tells the stages of two apart; empty where it plays where the others do."""


@dataclass(frozen=True)
class EpisodeTask(Generic[M]):
    """One episode to play.

    Attributes:
        world: Directory of the world.
        settings: Of the environment; they name the initial learner, too.
        arm: As `arm_of` takes it.
        seed: Of slots and of the order of text.
        choices: Joins the seed in the generator of the arm's own choices.
        meter: What is measured.
        taste: In the place of the arm's own, if any.
        name: What the arm is called in tables, in the place of its own name, if any.
        made: What the arm is made of, where it is no arm that `arm_of` knows.
    """

    world: str
    settings: Settings
    arm: str
    seed: int
    choices: int
    meter: Meter[M]
    taste: Taste | None = None
    name: str = ""
    made: Made | None = None


@dataclass(frozen=True)
class EpisodeRecord(Generic[M]):
    """What came of a task.

    Attributes:
        arm: Its name.
        digest: Of what it played by: weights, source, taste.
        seed: Of the task.
        learner_seed: Of the initial learner.
        measured: What the meter found.
    """

    arm: str
    digest: str
    seed: int
    learner_seed: int
    measured: M

    def to_json(self) -> Json:
        own = {"arm": self.arm, "digest": self.digest, "seed": self.seed}
        return {**own, "learner_seed": self.learner_seed, **self.measured.to_json()}

    @classmethod
    def from_json(cls, line: Json, meter: Meter[M]) -> EpisodeRecord[M]:
        """Raises: ValueError where it is no record."""
        found = Fields.of(line, "the line of an episode")
        own = (found.text("arm"), found.text("digest"))
        seeds = (found.whole("seed"), found.whole("learner_seed"))
        return cls(*own, *seeds, measured=meter.from_json(line))


class Playing:
    """An episode under way.

    The environment's seed decides slots and the order of text; the arm's own choices have a
    generator of their own, so that arms with the same seed are paired.

    Args:
        rewarded: Whether the game measures what rewards are made of.
    """

    def __init__(
        self, env: TopicExpansionEnv, arm: Arm, seed: int, choices: int, rewarded: bool = True
    ) -> None:
        self.env, self.name = env, arm.name
        self.rng = np.random.default_rng([seed, choices])
        options = {**arm.options, "rewarded": rewarded}
        self.observation, _ = env.reset(seed=seed, options=options)
        with lent(env, arm.name):
            self.player = arm.begin(env, self.rng)
        self.over = False

    def step(self) -> Turn:
        """One step, until it is over."""
        with lent(self.env, self.name):
            turn = self.player.act(self.observation)
        self.observation, self.over = turn.observation, turn.over
        return turn


def play(
    env: TopicExpansionEnv, arm: Arm, seed: int, choices: int, meter: Meter[M]
) -> EpisodeRecord[M]:
    """One whole episode, without rewards where nobody looks at any."""
    episode = Playing(env, arm, seed, choices, arm.rewarded or meter.rewarded)
    watch = meter.begin(env)
    while not episode.over:
        watch.after(episode.step())
    learner_seed = env.settings.learner.seed
    return EpisodeRecord(arm.name, arm.digest, seed, learner_seed, watch.finish())


def play_all(
    world: World,
    tasks: Sequence[EpisodeTask[M]],
    journal: Journal,
    *,
    learners: int = 4,
    compile: bool = False,
    hands: Hands = ALONE,
    on_record: Callable[[EpisodeRecord[M]], None] = lambda _: None,
) -> list[EpisodeRecord[M]]:
    """Play the tasks that the journal does not hold yet; returns all records, in their order.

    Args:
        world: The tasks' own, opened.
        journal: Each record is appended as its episode ends.
        learners: Episodes played side by side, their learners in one bank.
        compile: Whether the learners' program is compiled.
        hands: Who plays; the records are the same.
        on_record: Told each record, those found in the journal first.
    """
    if learners < 1:
        raise ValueError(f"expected learners >= 1, got {learners}")
    keyed = [(_key(task), task) for task in tasks]
    records: dict[Key, EpisodeRecord[M]] = {}
    for key, task in keyed:
        if key in journal.lines:
            try:
                records[key] = EpisodeRecord.from_json(journal.lines[key], task.meter)
            except LacksError:
                continue
            except ValueError as error:
                who = f"{task.arm}, seed {task.seed}"
                raise ValueError(f"{journal.file}, episode of {who}: {error}: {REMEDY}") from None
            on_record(records[key])
    waiting = [*{key: task for key, task in keyed if key not in records}.values()]  # each once
    waves = (
        _waves_elsewhere(world, waiting, learners, compile, hands)
        if hands.several
        else _waves(world, waiting, learners, compile)
    )
    for wave in waves:
        for record in wave:
            line = record.to_json()
            journal.append(line)
            records[key_of(line)] = record
            on_record(record)
    return [records[key] for key, _ in keyed]


def _waves(
    world: World, waiting: Sequence[EpisodeTask[M]], learners: int, compile: bool
) -> Iterable[list[EpisodeRecord[M]]]:
    # A bank is built for one initial learner on one stage.
    for _, same in groupby(waiting, key=_bank):
        tasks = list(same)
        stage = _stage(open_stage(world, tasks[0].settings), tasks[0])
        with closing(_guarded(stage, min(learners, len(tasks)), compile)) as together:
            for i in range(0, len(tasks), len(together)):
                yield _together(together, tasks[i : i + len(together)])


def _together(together: SideBySide, wave: Sequence[EpisodeTask[M]]) -> list[EpisodeRecord[M]]:
    return together.run(
        [
            partial(play, env, _arm(task), task.seed, task.choices, task.meter)
            for env, task in zip(together.envs, wave, strict=False)
        ]
    )


@dataclass(frozen=True)
class _Wave(Generic[M]):
    """Episodes of one initial learner that a worker plays side by side."""

    tasks: tuple[EpisodeTask[M], ...]
    compile: bool


def _waves_elsewhere(
    world: World, waiting: Sequence[EpisodeTask[M]], learners: int, compile: bool, hands: Hands
) -> Iterable[list[EpisodeRecord[M]]]:
    if not waiting:
        return
    needed = []
    for place in {place for task in waiting for place in places_of(task.arm)}:
        if place.exists():
            digest = hash_json(Folder.of(place, "").content)[:32]
            needed.append(Folder.of(place, f"arms/{digest}/{place.resolve().name}"))
    waves = []
    size = min(learners, -(-len(waiting) // hands.at_once()))
    for _, same in groupby(waiting, key=_bank):
        tasks = tuple(same)
        # The nucleus phase is done here, once, and not by each of them.
        needed += folders_of(open_stage(world, tasks[0].settings))
        waves += [_Wave(tasks[i : i + size], compile) for i in range(0, len(tasks), size)]
    for _, records in hands.played(waves, _play_wave, [*dict.fromkeys(needed)]):
        yield records


# What a worker keeps for its next wave: a bank.
_KEPT: dict[tuple[object, ...], SideBySide] = {}


def _play_wave(wave: _Wave[M]) -> list[EpisodeRecord[M]]:
    import torch

    torch.set_num_threads(1)
    first = wave.tasks[0]
    key = (first.world, *_bank(first), len(wave.tasks), wave.compile)
    if key not in _KEPT:
        for other in [*_KEPT]:
            _KEPT.pop(other).close()
        stage = open_stage(_opened(first.world), first.settings, progress=False)
        _KEPT[key] = _guarded(_stage(stage, first), len(wave.tasks), wave.compile)
    return _together(_KEPT[key], wave.tasks)


def nucleate(start: tuple[str, Settings]) -> None:
    """The nucleus phase of a world's directory and settings, where it is not cached yet.

    A function of a module, so that several initial learners are trained side by side.
    """
    import torch

    torch.set_num_threads(1)
    place, settings = start
    open_stage(_opened(place), settings, progress=False)


# What a worker keeps of the world that it plays in.
_OPENED: dict[tuple[str, str], World] = {}


def _opened(place: str) -> World:
    """A world, as the task before this one had it: what was found out about it is kept."""
    world = World.open(place)
    key = (place, world.hash)
    for other in _OPENED.keys() - {key}:
        del _OPENED[other]
    return _OPENED.setdefault(key, world)


def folders_of(stage: Stage) -> list[Folder]:
    """What has to be where a stage is opened again: its world, and the nucleus phase."""
    assert stage.cached is not None, "a stage of a world has a cache"
    return [folder_of(stage.world), Folder.of(stage.cached, stage.cached.name, cached=True)]


def folder_of(world: World) -> Folder:
    """A world, for what is played elsewhere."""
    return Folder.of(world.path, f"worlds/{world.hash[:32]}")


def _bank(task: EpisodeTask[M]) -> tuple[Settings, str]:
    """What episodes have in common that can be played by one bank."""
    return task.settings, "" if task.made is None else task.made.place


def _stage(stage: Stage, task: EpisodeTask[M]) -> Stage:
    return stage if task.made is None else task.made.stage(stage)


def _guarded(stage: Stage, n: int, compile: bool) -> SideBySide:
    return side_by_side(stage, n, compile=compile, watch=partial(Guarded, stage=stage))


def _arm(task: EpisodeTask[M]) -> Arm:
    arm = arm_of(task.arm) if task.made is None else task.made.arm()
    taste, name = task.taste or arm.taste, task.name or arm.name
    return replace(arm, name=name, taste=taste)


def _key(task: EpisodeTask[M]) -> Key:
    arm = _arm(task)
    own = {"arm": arm.name, "digest": arm.digest, "seed": task.seed}
    return key_of({**own, "learner_seed": task.settings.learner.seed})

"""Neighbourhoods that are learned side by side: each its own adapter, then put together.

Every way of learning reads the same windows, and so the same number of tokens:

    apart     an adapter for each neighbourhood, on the frozen nucleated learner; independent tasks
    random    the control: the same windows, dealt to as many adapters by lot
    sequence  one adapter that goes from neighbourhood to neighbourhood
    joint     one adapter on all windows, shuffled: what there is to be had
    full      the whole model, shuffled likewise

A task is data, and playing it writes an adapter and returns a record: a process plays it here, and
a node of a cluster could. A second task per seed puts the adapters together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.settings import Settings
from policies.stream.course import Course, Layout, open_course
from policies.stream.methods import MERGED, Method, method_of
from train_lm.checked.records import Fields
from train_lm.crew.folders import located
from train_lm.files import Json, hash_json
from train_lm.plain_text import in_file_name
from train_lm.windows import draw_least_read

if TYPE_CHECKING:
    from train_lm.adapters import Adapter

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

APART, RANDOM, SEQUENCE, JOINT, FULL = "apart", "random", "sequence", "joint", "full"
READING, DEALING = 23, 24  # join the seed in the generators of what is read, and of the control
EARLY = 10  # an adapter's agreement with others is told after one update in so many


@dataclass(frozen=True)
class PartTask:
    """One learner to train.

    Attributes:
        world: Directory of the world.
        settings: Of learner and nucleus; they name the initial learner.
        layout: What is learned and measured.
        kind: See the head of this file.
        number: Of the neighbourhood, or of the control's part; 0 where there is one learner.
        method: What trains: an adapter, or all weights.
        rate: Peak learning rate.
        seed: Of the order of neighbourhoods and of text.
        folder: Where adapters are written.
    """

    world: str
    settings: Settings
    layout: Layout
    kind: str
    number: int
    method: Method
    rate: float
    seed: int
    folder: str

    @property
    def key(self) -> Json:
        """What tells its record from others; see `key_of`."""
        what = {"number": self.number, "rate": self.rate, "rank": self.method.rank}
        own = {"arm": self.kind, "digest": hash_json(what), "seed": self.seed}
        return {**own, "learner_seed": self.settings.learner.seed}

    @property
    def adapter(self) -> Path:
        return adapter_folder(self.folder, self.kind, self.seed, self.number)


def adapters_of(task: PartTask) -> list[Path]:
    """Folders that playing a task writes."""
    own = (task.folder, task.kind, task.seed, task.number)
    return [task.adapter, adapter_folder(*own, early=True)]


def adapter_folder(folder: str, kind: str, seed: int, number: int, early: bool = False) -> Path:
    name = f"{kind}-{seed}-{number}{'-early' if early else ''}"
    return Path(folder) / in_file_name(name)


@dataclass(frozen=True, eq=False)
class PartRecord:
    """What came of a learner.

    Attributes:
        key: As the task's.
        losses: (T + 1,) held-out losses of neighbourhoods and nucleus [bits per byte].
        began, ended: When its training did [s since the epoch], by the machine's clock.
    """

    key: Json
    losses: Floats
    began: float = field(compare=False)
    ended: float = field(compare=False)

    def to_json(self) -> Json:
        times = {"began": self.began, "ended": self.ended}
        return {**self.key, "losses": self.losses.tolist(), **times}

    @classmethod
    def from_json(cls, line: Json, key: Json, place: object) -> PartRecord:
        """Raises: ValueError where it is no record."""
        found = Fields.of(line, place)
        losses = np.array(found.numbers("losses"))
        return cls(key, losses, found.number("began", 0), found.number("ended", 0))


def play_part(task: PartTask) -> PartRecord:
    """Train one learner; its adapter is written before the record is returned."""
    import torch

    from train_lm.composing.adapter_files import save_adapter

    torch.set_num_threads(1)
    course = open_course(task.world, task.settings, task.layout, task.seed)
    trainer = course.trainer(task.method, task.rate)
    began = time.time()
    updates, batch = course.layout.updates, course.settings.learner.batch
    for read in _phases(course, task):
        tokens = course.stage.store.read(read)
        trainer.begin_phase(len(read) // batch, decay=True)
        first = max(1, updates // EARLY) * batch if task.kind == APART else 0
        if first:
            trainer.train(tokens[:first])
            early = adapter_folder(task.folder, task.kind, task.seed, task.number, early=True)
            save_adapter(early, trainer.take_adapter(), over=True)
        if len(tokens) > first:
            trainer.train(tokens[first:])
    ended = time.time()
    if task.kind in (APART, RANDOM):
        names = course.names if task.kind == APART else ["by lot"] * len(course)
        about = {"neighbourhood": names[task.number]}
        save_adapter(task.adapter, trainer.take_adapter(), about, over=True)
    return PartRecord(task.key, course.losses(course.nll(trainer)), began, ended)


def windows_of(course: Course, number: int) -> Ints:
    """What is read of a neighbourhood, in its order, whoever reads it."""
    rng = np.random.default_rng([course.seed, READING, number])
    pool = course.stage.store.windows_of(course.passages(number))
    fresh = np.zeros(len(course.stage.store), dtype=np.int32)
    return draw_least_read(pool, fresh, course.windows_per_stage, rng)


def dealt(course: Course) -> list[Ints]:
    """The windows of all neighbourhoods, dealt by lot to as many parts of the same size."""
    rng = np.random.default_rng([course.seed, DEALING])
    every = np.concatenate([windows_of(course, i) for i in range(len(course))])
    return np.split(rng.permutation(every), len(course))


def _phases(course: Course, task: PartTask) -> list[Ints]:
    """Windows of each phase of a learner's training; a phase has a schedule of its own."""
    if task.kind == APART:
        return [windows_of(course, task.number)]
    if task.kind == RANDOM:
        return [dealt(course)[task.number]]
    if task.kind == SEQUENCE:
        return [windows_of(course, i) for i in range(len(course))]
    return [np.concatenate(dealt(course))]


@dataclass(frozen=True)
class TogetherTask:
    """Adapters of one seed to put together; its fields are those of `PartTask`."""

    world: str
    settings: Settings
    layout: Layout
    rank: int
    rate: float
    seed: int
    folder: str

    @property
    def key(self) -> Json:
        what = {"rate": self.rate, "rank": self.rank}
        own = {"arm": "together", "digest": hash_json(what), "seed": self.seed}
        return {**own, "learner_seed": self.settings.learner.seed}


@dataclass(frozen=True, eq=False)
class TogetherRecord:
    """What adapters make together.

    Attributes:
        key: As the task's.
        names: (T,) neighbourhoods.
        losses: (T + 1,) by way of putting together, the base among them [bits per byte]; those of
            the control begin with `random `.
        right: Share of held-out windows that are routed to their own neighbourhood's adapter.
        pairs: Of every two neighbourhoods: by how much their mean (`cat`) is worse than each on its
            own text [bits per byte].
        early: Of every two: cosine of what their adapters add after one update in ten.
        late: The same of whole adapters.
    """

    key: Json
    names: tuple[str, ...]
    losses: Mapping[str, Floats]
    right: float
    pairs: tuple[float, ...]
    early: tuple[float, ...]
    late: tuple[float, ...]

    def to_json(self) -> Json:
        losses = {way: found.tolist() for way, found in self.losses.items()}
        lists = {name: list(getattr(self, name)) for name in ("names", "pairs", "early", "late")}
        return {**self.key, "losses": losses, "right": self.right, **lists}

    @classmethod
    def from_json(cls, line: Json, key: Json, place: object) -> TogetherRecord:
        """Raises: ValueError where it is no record."""
        found = Fields.of(line, place)
        inner = found.inner("losses")
        return cls(
            key=key,
            names=tuple(found.texts("names")),
            losses={way: np.array(inner.numbers(way)) for way in inner},
            right=found.number("right", 0, 1),
            pairs=tuple(found.numbers("pairs")),
            early=tuple(found.numbers("early")),
            late=tuple(found.numbers("late")),
        )


def play_together(task: TogetherTask) -> TogetherRecord:
    """Put the adapters of a seed together in every way; nothing is trained.

    Raises:
        FileNotFoundError: An adapter is missing.
        ValueError: One is damaged, or of another base.
    """
    import torch

    from train_lm.composing.agreement import adapter_agreement

    torch.set_num_threads(1)
    course = open_course(task.world, task.settings, task.layout, task.seed)
    losses = {"base": course.losses(course.nll(course.trainer(method_of("none"), task.rate)))}
    apart, random = (_opened(course, task, kind) for kind in (APART, RANDOM))
    alone = np.stack([course.nll(course.measurable(adapter)) for adapter in apart])
    rows = np.arange(alone.shape[1])
    own = np.minimum(course.column, len(course) - 1)  # the nucleus is nobody's: of the last one
    routed = course.nearness.argmax(1)
    losses["own"] = course.losses(alone[own, rows])
    losses["routed"] = course.losses(alone[routed, rows])
    by_lot = [course.losses(course.nll(course.measurable(adapter))) for adapter in random]
    losses["random by lot"] = np.mean(by_lot, axis=0)
    for how in MERGED:
        losses[how] = course.losses(course.merged_nll(apart, how))
        losses[f"random {how}"] = course.losses(course.merged_nll(random, how))
    pairs = list(combinations(range(len(course)), 2))
    early = adapter_agreement(_opened(course, task, APART, early=True))
    late = adapter_agreement(apart)
    return TogetherRecord(
        key=task.key,
        names=course.names,
        losses=losses,
        right=float((routed == course.column)[course.column < len(course)].mean()),
        pairs=tuple(_pair_cost(course, apart, losses["own"], pair) for pair in pairs),
        early=tuple(float(early[pair]) for pair in pairs),
        late=tuple(float(late[pair]) for pair in pairs),
    )


def _opened(course: Course, task: TogetherTask, kind: str, early: bool = False) -> list[Adapter]:
    from train_lm.composing.adapter_files import open_adapter

    places = [
        adapter_folder(task.folder, kind, task.seed, number, early) for number in range(len(course))
    ]
    return [open_adapter(located(place), course.base_digest) for place in places]


def _pair_cost(
    course: Course, adapters: Sequence[Adapter], own: Floats, pair: tuple[int, int]
) -> float:
    merged = course.losses(course.merged_nll([adapters[i] for i in pair], "cat"))
    return float(np.mean([merged[i] - own[i] for i in pair]))

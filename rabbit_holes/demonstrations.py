"""Paths as demonstrations: what a policy would have seen at each click, and which slot was taken.

Observations come from the environment's own `observe`. A demonstration has no learner, so the
learner's features are flagged unknown.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES, State, observe
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.world import World
from rabbit_holes.path import Path
from train_lm.processes import without_interrupts, worker_pool

Ints = NDArray[np.int64]

GOALS = ("given", "withheld", "widened", "mixed")


@dataclass(frozen=True)
class Showing:
    """How a demonstration shows what a walker saw.

    Attributes:
        slots: At most this many candidates per click, the chosen one among them, the others drawn
            evenly; None keeps the full offered set, as a measurement must.
        goals: `given` where the path names one; `withheld`; `widened` to the topics around it, as
            the environment's goal is a region and not a page; or `mixed`: a fair draw of these
            three per path.
        frontier: See `choices`.
        limit: [clicks] stop at the end of the path in which there are so many.
    """

    slots: int | None = 64
    goals: str = "given"
    frontier: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.goals not in GOALS:
            raise ValueError(f"expected goals among {GOALS}, got {self.goals!r}")
        if self.slots is not None and self.slots < 2:
            raise ValueError(f"expected 2 slots or more, got {self.slots}: 1 is no choice")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a limit of 1 click or more, got {self.limit}")


@dataclass(frozen=True)
class Demonstrations:
    """Choices of many clicks, rows of candidates one after another.

    Attributes:
        rows: (M, F) candidate features of all clicks.
        starts: (n + 1,) where each click's candidates begin in `rows`.
        context: (n, G) context features.
        chosen: (n,) which of its candidates each click took.
        group: (n,) number of the path that a click belongs to.
        dropped: Clicks left out, by reason.
    """

    rows: NDArray[np.float32]
    starts: Ints
    context: NDArray[np.float32]
    chosen: Ints
    group: Ints
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        n = len(self.chosen)
        if not (len(self.starts) == n + 1 and len(self.context) == len(self.group) == n):
            raise ValueError(f"expected one context, path and start per click, got {n} clicks")
        if n and not (self.chosen < np.diff(self.starts)).all():
            raise ValueError("expected every chosen slot to be a candidate of its click")

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, clicks: Ints) -> tuple[NDArray[np.float32], NDArray[np.float32], Ints]:
        """Padded `candidates` (b, K, F), `context` (b, G) and `chosen` (b,); K fits the largest."""
        first, counts = self.starts[clicks], np.diff(self.starts)[clicks]
        padded = np.zeros((len(clicks), int(counts.max()), self.rows.shape[1]), dtype=np.float32)
        row = np.repeat(np.arange(len(clicks)), counts)
        column = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        padded[row, column] = self.rows[np.repeat(first, counts) + column]
        return padded, self.context[clicks], self.chosen[clicks]


def pair_split(path: Path, share: float = 0.1) -> str:
    """`train`, `select` or `test`, by the (start, goal) pair and never by the row.

    Several people and models played the same pair; all of them fall on the same side.
    """
    pair = f"{path.visits[0].title}\x1f{path.goal or path.visits[-1].title}"
    place = zlib.crc32(pair.encode()) / 2**32
    return "test" if place < share else "select" if place < 2 * share else "train"


def widened(table: TopicTable, topic: int, rng: np.random.Generator) -> Ints:
    """A topic and those nearest to it: 4 to an eighth of the world, drawn evenly in logarithm."""
    most = max(4, len(table) // 8)
    n = round(float(np.exp(rng.uniform(np.log(4), np.log(most + 1)))))
    return np.argsort(-(table.vectors @ table.vectors[topic]), kind="stable")[:n]


def choices(
    path: Path, world: World, dropped: Counter[str], frontier: bool = False
) -> Iterator[tuple[Ints, Ints, int]]:
    """Each click of a path as `(topics visited so far, topics offered, topic chosen)`.

    The last visited topic is the page that was clicked on.

    Args:
        dropped: Counts clicks that are no choice in this world, by reason.
        frontier: Offer everything next to the visited topics and not yet visited, as the
            environment does, rather than the links of the page that was clicked on.
    """
    number = {i: world.topic_of(v.title) for i, v in enumerate(path.visits) if v.title in world}
    visited: list[int] = [number[0]] if 0 in number else []
    for source, reached in path.clicks():
        if source not in number or reached not in number:
            dropped["a page is no topic of the world"] += 1
            continue
        here, chosen = number[source], number[reached]
        # The page that was clicked on stands last, also after going back to it.
        so_far = np.array([*(t for t in dict.fromkeys(visited) if t != here), here])
        if frontier:
            around = np.concatenate([world.graph.around(int(t)) for t in so_far])
            offered = np.setdiff1d(around, so_far)
        else:
            offered = np.sort(world.graph.out(here))
        if chosen not in offered:
            dropped["the choice was not offered"] += 1
        elif len(offered) < 2:
            dropped["there was nothing to choose"] += 1
        else:
            yield so_far, offered, chosen
        visited.append(chosen)


def demonstrate(
    paths: Iterable[Path],
    world: World,
    table: TopicTable,
    rng: np.random.Generator,
    how: Showing = Showing(),
) -> Demonstrations:
    """Turn paths into demonstrations; `rng` draws goals and slots."""
    rows: list[NDArray[np.float32]] = []
    contexts: list[NDArray[np.float32]] = []
    chosen: list[int] = []
    group: list[int] = []
    dropped: Counter[str] = Counter()
    for number, path in enumerate(paths):
        if how.limit is not None and len(chosen) >= how.limit:
            break
        goal = _goal(path, world, table, rng, how.goals)
        for so_far, offered, topic in choices(path, world, dropped, how.frontier):
            n_offered = len(offered)
            if how.slots is not None and n_offered > how.slots:
                others = rng.choice(offered[offered != topic], how.slots - 1, replace=False)
                offered = np.sort(np.append(others, topic))
            state = State(
                members=so_far,
                n_seeds=1,
                slots=offered,
                frontier_size=n_offered,
                n_solid=len(so_far) - 1,  # what was visited can be gone on from
                goal=goal,
            )
            seen = observe(table, state, len(offered))
            rows.append(seen["candidates"])
            contexts.append(seen["context"])
            chosen.append(int(np.searchsorted(offered, topic)))
            group.append(number)
    counts = [len(r) for r in rows]
    return Demonstrations(
        rows=np.concatenate(rows) if rows else np.zeros((0, len(CANDIDATE_FEATURES)), np.float32),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        context=np.stack(contexts) if rows else np.zeros((0, len(CONTEXT_FEATURES)), np.float32),
        chosen=np.array(chosen, dtype=np.int64),
        group=np.array(group, dtype=np.int64),
        dropped=dropped,
    )


def _goal(
    path: Path, world: World, table: TopicTable, rng: np.random.Generator, goals: str
) -> Goal | None:
    how = str(rng.choice(GOALS[:3])) if goals == "mixed" else goals
    if path.goal is None or path.goal not in world or how == "withheld":
        return None
    topic = world.topic_of(path.goal)
    return Goal(table, np.array([topic]) if how == "given" else widened(table, topic, rng))


# Paths per unit of parallel work; the choice decides which random numbers a path sees.
CHUNK = 500

# The world that this process turns paths into demonstrations of.
_HERE: dict[str, tuple[World, TopicTable]] = {}


def demonstrate_in_parallel(
    paths: Sequence[Path],
    world: World,
    seed: int,
    *,
    processes: int | None = None,
    on_chunk: Callable[[int], None] = lambda _: None,
    **options: Any,
) -> Demonstrations:
    """`demonstrate` on all cores; the same for any number of processes.

    Args:
        seed: Of goals and slots.
        processes: As many as there are cores, if not stated; 1 works in this one.
        on_chunk: Told how many paths of a chunk are done.
        options: Of `Showing`.
    """
    place, how = str(world.path), Showing(**options)
    tasks = [
        (place, list(paths[i : i + CHUNK]), [seed, i], how) for i in range(0, len(paths), CHUNK)
    ]
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    parts: list[Demonstrations] = []
    if processes <= 1:
        _HERE[place] = world, TopicTable.of(world)
        parts = _gathered(map(_chunk, tasks), tasks, on_chunk)
    else:
        with worker_pool(processes) as pool:
            with without_interrupts():
                found = pool.map(_chunk, tasks)
            parts = _gathered(found, tasks, on_chunk)
    _HERE.clear()
    return joined(parts)


_Task = tuple[str, list[Path], list[int], Showing]


def _chunk(task: _Task) -> Demonstrations:
    place, paths, seed, how = task
    if place not in _HERE:
        world = World.open(place)
        _HERE[place] = world, TopicTable.of(world)
    world, table = _HERE[place]
    return demonstrate(paths, world, table, np.random.default_rng(seed), how)


def _gathered(
    found: Iterable[Demonstrations], tasks: Sequence[_Task], on_chunk: Callable[[int], None]
) -> list[Demonstrations]:
    parts = []
    for part, task in zip(found, tasks, strict=True):
        parts.append(part)
        on_chunk(len(task[1]))
    return parts


def joined(parts: Sequence[Demonstrations]) -> Demonstrations:
    """Several sets of demonstrations as one; paths are counted on."""
    if not parts:
        raise ValueError("expected paths to turn into demonstrations, got none")
    sizes = np.concatenate([np.diff(p.starts) for p in parts])
    first = np.cumsum([0, *(int(p.group.max()) + 1 if len(p) else 0 for p in parts)])
    return Demonstrations(
        rows=np.concatenate([p.rows for p in parts]),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        context=np.concatenate([p.context for p in parts]),
        chosen=np.concatenate([p.chosen for p in parts]),
        group=np.concatenate([p.group + n for p, n in zip(parts, first, strict=False)]),
        dropped=sum((p.dropped for p in parts), Counter()),
    )

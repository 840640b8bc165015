"""The game in an open world: the same rules, on a graph that grows where it is expanded."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import EnvSnapshot, TopicExpansionEnv
from kncl_env.learner import Learner, MeasuredText, probe_window
from kncl_env.observation import Observation
from kncl_env.open_world.articles import ArticleJournal, ArticleSource
from kncl_env.open_world.grown import GrownWorld
from kncl_env.open_world.growth import REACH, Ahead, OpenWorld
from kncl_env.open_world.outward import Outward
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.world import World

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ground:
    """What is known at a moment of an episode.

    Attributes:
        world: With all that has come.
        stage: Of that world.
        probe_window: (N,) window that each topic is probed on; -1 where there is none.
    """

    world: GrownWorld
    stage: Stage
    probe_window: Ints


@dataclass(frozen=True)
class GrownSnapshot(EnvSnapshot):
    """An episode captured exactly, and the world as it was then."""

    ground: Ground


class GrowingEnv(TopicExpansionEnv):
    """`TopicExpansionEnv`, but an expansion brings further articles, which join at its end.

    With the setting `queue` they are fetched, prepared and linked while the learner trains, and
    what the next slots would bring is fetched ahead, of `queue` - 1 topics at most; without it the
    learner waits for all of that. Either way the same happens, to the last byte.

    A source that fails ends `step` with an error; the episode is then between two steps and goes on
    from a snapshot, or from `reset`.

    Args:
        stage: Of the world as it was built; its text is this environment's own.
        learner: Measured on that text.
        world: What it grows into.
        render_mode: As of `TopicExpansionEnv`.

    Raises:
        ValueError: Settings that ask for what a growing world cannot have.
    """

    def __init__(
        self, stage: Stage, learner: Learner, world: OpenWorld, render_mode: str | None = None
    ) -> None:
        super().__init__(stage, learner, render_mode)
        if self.rules.watched:
            raise ValueError(
                f"expected watched 0 in an open world, got {self.rules.watched}: its "
                "neighbourhoods grow, so their losses cannot be compared"
            )
        assert stage.text is not None, "an open world is read by a real learner"
        self.text: MeasuredText = stage.text
        self.world = world
        self._first = Ground(world.start, stage, self.text.probe_window)
        self._ground = self._first
        self._ahead = Ahead() if self.settings.reading.queue else None
        self._coming: Future[Ground] | Callable[[], Ground] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        if (options or {}).get("taste") is not None:
            raise ValueError(
                "expected no taste in an open world, got one: traits are ranks among all passages, "
                "and those are not known yet"
            )
        self.episode, self._coming = None, None
        self._stand_on(self._first)
        return super().reset(seed=seed, options=options)

    def return_to(self, expanded: Sequence[int]) -> None:
        """Let the world grow as it did when these topics were expanded, in order.

        Raises:
            ValueError: One of them was not there by then.
            SourceError: An article is not in the journal, and the source gives none.
        """
        self._coming = None
        ground = self._first
        for topic in expanded:
            if not 0 <= topic < ground.world.n_topics:
                raise ValueError(f"expected topics of the world as it was, got topic {topic}")
            ground = self._grown(ground, topic, last=False)
        self._stand_on(_ground_of(ground.world, self._first, ground.probe_window))

    def snapshot(self) -> GrownSnapshot:
        found = super().snapshot()
        return GrownSnapshot(found.learner, found.episode, found.rng, self._ground)

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        self.episode, self._coming = None, None
        if isinstance(snapshot, GrownSnapshot):
            self._stand_on(snapshot.ground)
        return super().restore(snapshot)

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        super().close()

    def _expand(self, topic: int) -> Ints:
        windows = super()._expand(topic)
        job = partial(self._grown, self._ground, topic)
        self._coming = job if self._ahead is None else self._ahead.ask(job)
        return windows

    def _look_ahead(self) -> None:
        if self._ahead is None or self.settings.reading.queue < 2:
            return
        slots = self._draw_slots(copy.deepcopy(self.np_random))
        asked = [self.world.asked_by(self._ground.world, int(topic)) for topic in slots]
        ahead = [titles for titles in asked if titles][: self.settings.reading.queue - 1]
        self._ahead.hint([partial(self.world.expect, titles) for titles in ahead])

    def _fill_slots(self) -> None:
        if self._coming is not None:
            began = time.perf_counter()
            coming, self._coming = self._coming, None
            ground = coming.result() if isinstance(coming, Future) else coming()
            self._stand_on(ground)
            self.waited += time.perf_counter() - began
        super()._fill_slots()

    def _grown(self, ground: Ground, topic: int, last: bool = True) -> Ground:
        """What is known after an expansion; without its stage, where it is not the last one."""
        world = self.world.after(ground.world, topic)
        if world is ground.world:
            return ground
        if not last:
            return Ground(world, ground.stage, ground.probe_window)
        return _ground_of(world, self._first, ground.probe_window)

    def _stand_on(self, ground: Ground) -> None:
        self._ground, self.stage = ground, ground.stage
        # In place: the learner, and whoever wraps it, measures itself on this text.
        self.text.world, self.text.store = ground.world, ground.stage.store
        self.text.probe_window = ground.probe_window
        if self.episode is not None:
            now, n = self.episode, len(ground.stage.table)
            now.nucleus = now.nucleus.grown(ground.stage.table.graph)
            now.measurements = now.measurements.grown(n)
            now.reading_list = now.reading_list.grown(ground.stage.store)


def _ground_of(world: GrownWorld, first: Ground, probed: Ints) -> Ground:
    """All that is read off a world that has grown."""
    stage = first.stage
    table = TopicTable.of(world)
    store = world.windows(stage.settings.learner.context)
    goal = None if stage.goal is None else Goal(table, stage.target)
    grown = replace(
        stage,
        world=world,
        table=table,
        goal=goal,
        retriever=NeighbourhoodRetriever(world, stage.settings.reading.breadth, goal=goal),
        reading_list=stage.reading_list.grown(store),
    )
    fresh = [probe_window(world, store, t) for t in range(len(probed), world.n_topics)]
    return Ground(world, grown, np.concatenate([probed, np.array(fresh, dtype=np.int64)]))


@dataclass(frozen=True)
class LiveWorld:
    """A world, and where more of it comes from.

    Attributes:
        base: Built by `kncl-env build live`.
        source: A wiki, or the journal of an earlier run.
        reach: Titles that an expansion asks for, at most.
    """

    base: World
    source: ArticleSource
    reach: int = REACH


def open_game(
    live: LiveWorld,
    settings: Settings,
    journal: Path,
    *,
    progress: bool | None = None,
    render_mode: str | None = None,
) -> GrowingEnv:
    """An environment in an open world, after its nucleus phase.

    Args:
        journal: File that keeps what is fetched, made if it is not there.

    Raises:
        ValueError: The world or the settings do not fit, or the file is another journal's.
    """
    base = live.base
    kept = ArticleJournal(journal, {"api": Outward.of(base).api})
    world = OpenWorld(base, kept, live.source, live.reach)
    stage = open_stage(base, settings, progress)
    assert stage.text is not None
    # Its own: the text grows in place, and what is retrieved is not known ahead of time.
    retriever = NeighbourhoodRetriever(base, settings.reading.breadth, goal=stage.goal)
    stage = replace(stage, text=copy.copy(stage.text), retriever=retriever)
    return GrowingEnv(stage, stage.learner(), world, render_mode)

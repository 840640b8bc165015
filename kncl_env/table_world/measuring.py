"""Measures a table: from every state, by fork and restore, what each action brings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage, open_stage
from kncl_env.table_world.learner import MeasuringLearner, Reading
from kncl_env.table_world.recipe import TableRecipe
from kncl_env.table_world.table import Ints, Table


@dataclass
class _Rows:
    """States as they are found."""

    reading: list[Reading] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    action: list[int] = field(default_factory=list)
    topic: list[int] = field(default_factory=list)
    draw: list[int] = field(default_factory=list)

    def add(self, reading: Reading, parent: int, action: int, topic: int, draw: int) -> int:
        self.reading.append(reading)
        self.parent.append(parent)
        self.action.append(action)
        self.topic.append(topic)
        self.draw.append(draw)
        return len(self.reading) - 1


def measure(recipe: TableRecipe, tell: Callable[[int], None] = lambda n: None) -> Table:
    """The whole table: thousands of steps of a real learner, which take minutes.

    Args:
        tell: Told the number of states so far, now and then.
    """
    stage, env, learner = _game(recipe)
    rows = _Rows()
    for draw in range(recipe.draws):
        env.reset(seed=draw)
        if not rows.reading:
            rows.add(learner.now, -1, -1, -1, -1)
        _explore(env, learner, rows, 0, draw, tell)
    return Table(
        recipe=recipe.digest,
        reducible=stage.reducible,
        times_read=stage.reading_list.times_read,
        key=np.array([r.key for r in rows.reading], dtype=np.uint64),
        parent=np.array(rows.parent, dtype=np.int32),
        action=np.array(rows.action, dtype=np.int8),
        topic=np.array(rows.topic, dtype=np.int16),
        draw=np.array(rows.draw, dtype=np.int8),
        loss=np.array([r.loss for r in rows.reading], dtype=np.uint16),
        probe=np.array([r.probe for r in rows.reading], dtype=np.uint16),
    )


def measured_again(recipe: TableRecipe, table: Table, rows: Sequence[int]) -> Iterator[Reading]:
    """What some states of a table come out as when their episodes are played anew."""
    _, env, learner = _game(recipe)
    for row in rows:
        env.reset(seed=max(0, int(table.draw[row])))
        for action in _actions_to(table, row):
            env.step(action)
        yield learner.now


def _game(recipe: TableRecipe) -> tuple[Stage, TopicExpansionEnv, MeasuringLearner]:
    stage = open_stage(recipe.world(), recipe.settings, progress=False)
    learner = MeasuringLearner(stage.learner(), len(stage.table))
    return stage, TopicExpansionEnv(stage, learner), learner


def _explore(
    env: TopicExpansionEnv,
    learner: MeasuringLearner,
    rows: _Rows,
    parent: int,
    draw: int,
    tell: Callable[[int], None],
) -> None:
    """Everything that can be done from here on, depth first."""
    here = env.snapshot()
    for action in np.flatnonzero(env.action_masks()).tolist():
        env.restore(here)
        *_, terminated, truncated, info = env.step(action)
        row = rows.add(learner.now, parent, action, int(info["topic"]), draw)
        if row % 100 == 0:
            tell(row)
        if not (terminated or truncated):
            _explore(env, learner, rows, row, draw, tell)


def _actions_to(table: Table, row: int) -> list[int]:
    found: list[int] = []
    while table.parent[row] >= 0:
        found.append(int(table.action[row]))
        row = int(table.parent[row])
    return found[::-1]


def spread(table: Table, n: int) -> Ints:
    """Numbers of n states, evenly over the table, the last one among them."""
    return np.unique(np.linspace(0, len(table) - 1, n).round().astype(np.int64))

"""The game in a table: the environment itself, with the look-up in the learner's place."""

from __future__ import annotations

from typing import Any

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.reading_list import ReadingList
from kncl_env.stage import Stage, retriever_of, seed_topics
from kncl_env.table_world.learner import TableLearner
from kncl_env.table_world.recipe import TableRecipe
from kncl_env.table_world.table import Table, load_table
from kncl_env.topic_table import Goal, TopicTable


class TableEnv(TopicExpansionEnv):
    """The environment of a table: the same rules and observations, microseconds a step.

    The seed of `reset` chooses among the table's draws; without one they are drawn evenly.

    Args:
        stage: Of the table's world.
        table: What is looked up.
        seed: Of the draws where `reset` has none.
    """

    def __init__(self, stage: Stage, table: Table, seed: int = 0) -> None:
        topic_of_window = stage.world.passage_topic[stage.store.document]
        super().__init__(stage, TableLearner(table, topic_of_window))
        self.table = table
        self._lots = np.random.default_rng(seed)

    @property
    def row(self) -> int:
        """Number of the table's state that the episode is in."""
        assert isinstance(self.learner, TableLearner)
        return self.learner.row

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        draws = self.table.draws
        draw = int(self._lots.integers(draws)) if seed is None else seed % draws
        return super().reset(seed=draw, options=options)


def open_table_world(table: Table | None = None, recipe: TableRecipe | None = None) -> TableEnv:
    """The environment of a table; the shipped one's, if none is given.

    Raises:
        ValueError: The table was measured by another recipe.
    """
    recipe = recipe or TableRecipe()
    table = table or load_table()
    if table.recipe != recipe.digest:
        raise ValueError(
            f"expected a table of recipe {recipe.digest[:12]}, got one of {table.recipe[:12]}: "
            "make it again with `kncl-env tabulate`"
        )
    return TableEnv(stage_of(recipe, table), table)


def stage_of(recipe: TableRecipe, table: Table) -> Stage:
    """The stage of a table's world without its nucleus phase: what came of it is in the table.

    Raises:
        ValueError: The world came out otherwise than the one that was measured.
    """
    world, settings = recipe.world(), recipe.settings
    store = world.windows(settings.learner.context)
    if world.n_topics != table.probe.shape[1] or len(store) != len(table.times_read):
        raise ValueError(
            f"expected a world of {table.probe.shape[1]} topics and {len(table.times_read)} "
            f"windows, got {world.n_topics} and {len(store)}: other versions of libraries built "
            "it; make the table again with `kncl-env tabulate`"
        )
    topics = TopicTable.of(world)
    target = world.target_topics(settings.region)
    goal = Goal(topics, target)
    reading_list = ReadingList(store, settings.replay_share)
    reading_list.times_read = table.times_read.astype(reading_list.times_read.dtype)
    return Stage(
        world=world,
        settings=settings,
        table=topics,
        seeds=seed_topics(world, settings),
        target=target,
        goal=goal,
        retriever=retriever_of(world, settings.reading, goal, store),
        reading_list=reading_list,
        reducible=table.reducible,
    )

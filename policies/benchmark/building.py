"""Builds the worlds of cells, each once, from what a recipe says."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.registry import OPTIONS, SOURCES, open_source
from kncl_env.world.stages import clear
from kncl_env.world.world import World
from policies.benchmark.cells import Recipe
from train_lm.outputs import alone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildTask:
    """A world to build.

    Attributes:
        recipe: What it is made of.
        data: Folder that its source reads; empty where it reads none.
        place: Directory that becomes the world.
    """

    recipe: Recipe
    data: str
    place: str


def build(task: BuildTask) -> str:
    """Build a world, unless it is there; returns its place. A build that was killed goes on.

    Raises:
        ValueError: The corpus or the region does not do.
    """
    place, recipe = Path(task.place), task.recipe
    with alone(place) as hold:
        if (place / "world.json").is_file():
            World.open(place)
            clear(place)
            return task.place
        hold.go_on()
        log.warning("building %s", place)
        wanted = argparse.Namespace(source=recipe.source, place=task.data or None, seed=0)
        for name in OPTIONS:  # what the source can be told and a recipe does not
            setattr(wanted, name[2:].replace("-", "_"), None)
        wanted.topics = recipe.topics
        config = BuildConfig(
            scenario=recipe.scenario,
            region=recipe.region,
            passage_bytes=SOURCES[recipe.source].passage_bytes,
        )
        build_world(open_source(wanted), place, config)
    return task.place

"""The benchmark from its cells to stored scores: what is there is not played again.

A run that is killed at any moment goes on: worlds, policies and episodes are kept in `out`, and a
score is written whole or not at all. It does not matter which process plays a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kncl_env.world.world import World
from policies.benchmark.building import BuildTask, build
from policies.benchmark.cells import Cell, Recipe
from policies.benchmark.playing import CellTask, identity_of, play_cell
from policies.benchmark.stored import Score, read_score
from train_lm.checkpoint import claim_run
from train_lm.crew.hands import ALONE, Hands
from train_lm.outputs import alone

COMMAND = "kncl-policy benchmark"


@dataclass(frozen=True)
class Places:
    """Where a benchmark reads and writes.

    Attributes:
        out: Worlds, policies and episodes; what makes a run go on.
        results: Scores, a file a cell.
        data: Folder with Wikispeedia's files; None where there is none.
    """

    out: Path
    results: Path
    data: Path | None = None

    def world(self, recipe: Recipe) -> Path:
        return self.out / "worlds" / recipe.name

    def score(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    def played(self, cell: Cell, world_hash: str) -> Path:
        """Of a cell's policies and episodes: another place where they would be others."""
        return self.out / "cells" / f"{cell.name}-{cell.episode_digest[:8]}-{world_hash[:8]}"


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Be alone in a benchmark's directory, a new one or one to go on with.

    Raises:
        FileExistsError: Something else is there.
    """
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        claim_run(out, {"layout": 1}, made_by=COMMAND)
        yield


def run_benchmark(
    cells: Sequence[Cell],
    places: Places,
    hands: Hands = ALONE,
    on_score: Callable[[Score, bool], None] = lambda score, found: None,
) -> tuple[list[Score], list[Cell]]:
    """Play the cells that have no score yet; returns all scores, and the cells left out.

    Args:
        hands: Who plays cells.
        on_score: Told each score, and whether it was found.

    Raises:
        ValueError: A stored score was edited, or a world cannot be built.
    """
    scores = {}
    for cell in cells:  # what was edited is said before any work is spent
        if places.score(cell).is_file():
            scores[cell.name] = read_score(places.score(cell))
    possible = [cell for cell in cells if places.data or not cell.recipe.needs_data]
    with claimed(places.out):
        recipes = list({cell.recipe.name: cell.recipe for cell in possible}.values())
        builds = [_build_task(recipe, places) for recipe in recipes]
        for _ in hands.played(builds, build):
            pass
        tasks = []
        for cell in possible:
            world_hash = World.open(places.world(cell.recipe)).hash
            found = scores.get(cell.name)
            if found is not None and found.identity == identity_of(cell, world_hash):
                on_score(found, True)
            else:
                tasks.append(_task(cell, places, world_hash))
        for number, score in hands.played(tasks, play_cell):
            score.write(places.score(tasks[number].cell))
            scores[score.name] = score
            on_score(score, False)
    wanted = [scores[cell.name] for cell in possible]
    return wanted, [cell for cell in cells if cell not in possible]


def _data_of(recipe: Recipe, places: Places) -> str:
    return str(places.data) if recipe.needs_data else ""


def _build_task(recipe: Recipe, places: Places) -> BuildTask:
    place = places.world(recipe)
    place.parent.mkdir(parents=True, exist_ok=True)
    return BuildTask(recipe, _data_of(recipe, places), str(place))


def _task(cell: Cell, places: Places, world_hash: str) -> CellTask:
    folder = places.played(cell, world_hash)
    world = str(places.world(cell.recipe))
    return CellTask(cell, world, _data_of(cell.recipe, places), str(folder))

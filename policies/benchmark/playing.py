"""One cell from its world to its score: a function of the task alone, whoever plays it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.observation import FEATURE_SCHEMA
from kncl_env.passage_traits import TRAITS_VERSION
from kncl_env.retrieval import RETRIEVAL_VERSION
from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION, open_stage
from kncl_env.world.world import World
from policies.arms.registry import ARMS, arm_of
from policies.benchmark.cells import ALL, Cell
from policies.benchmark.learning import Policies, learn
from policies.benchmark.scoring import Found, score_of
from policies.benchmark.stored import Score
from policies.play.controls import CONTROLS
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import EpisodeRecord
from policies.play.evaluation import evaluate
from policies.play.plan import Plan
from train_lm.files import hash_json

# Raised whenever cells would come out with other numbers for a reason that nothing else tells.
BENCHMARK_VERSION = 2


@dataclass(frozen=True)
class CellTask:
    """A cell to play.

    Attributes:
        cell: What is played.
        world: Directory of its world, built.
        data: Folder that its source reads; empty where it reads none.
        folder: Where policies and episodes of it are kept.
    """

    cell: Cell
    world: str
    data: str
    folder: str


def arms_of(cell: Cell) -> tuple[str, ...]:
    """Names of the arms of a cell that the registry has: those that it names, or all."""
    if cell.arms == ALL:
        return ("uniform", *(name for name in ARMS if name != "uniform"))
    return tuple(cell.arms)


def identity_of(cell: Cell, world_hash: str) -> str:
    """Digest of all that the figures of a cell depend on.

    That is the cell, the world's content, the source of each arm, and the versions that are raised
    where nuclei, observations or episodes come out otherwise.
    """
    versions = {
        "benchmark": BENCHMARK_VERSION,
        "nucleus": NUCLEUS_VERSION,
        "windows": MEASURED_WINDOWS,
        "traits": TRAITS_VERSION,
        "retrieval": RETRIEVAL_VERSION,
        "features": FEATURE_SCHEMA,
    }
    arms = {name: arm_of(name).digest for name in arms_of(cell)}
    return hash_json(
        {"cell": cell.to_json(), "world": world_hash, "arms": arms, "versions": versions}
    )


def playable(
    world: World, settings: Settings, names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Arms that can be played in a world, and why the others cannot.

    An arm may need what a world does not have: a target apart from the rest, its training text.
    """
    stage = open_stage(world, settings)
    env = TopicExpansionEnv(stage, stage.learner())
    refused: dict[str, str] = {}
    for name in names:
        arm = arm_of(name)
        env.reset(seed=0, options=arm.options)
        try:
            arm.begin(env, np.random.default_rng(0))
        except ValueError as error:
            refused[name] = str(error)
    return [name for name in names if name not in refused], refused


def play_cell(task: CellTask) -> Score:
    """Train the policies, play all arms, and compare them; goes on where it was stopped."""
    import torch

    torch.set_num_threads(1)
    cell, folder = task.cell, Path(task.folder)
    world, settings = World.open(task.world), Settings.of(**cell.settings)
    names, refused = playable(world, settings, arms_of(cell))
    learned = Policies()
    if cell.learning is not None:
        place = folder / "policies"
        learned = learn(world, settings, cell.learning, task.data, place, cell.learners)
    plan = Plan(
        arms=(*names, *learned.alone),
        seeds=cell.seeds,
        inits=cell.seeds,
        learners=cell.learners,
        subject=cell.subject,
        meter=CurveMeter(cell.points),
        trainings=learned.trainings,
        controls=() if cell.subject is None else tuple(CONTROLS),
        searched=Plan.searched if cell.learning is None else cell.learning.searched,
    )
    out = folder / "evaluation"
    # It is computed anew from the episodes; arms may have gone, or have other names.
    (out / "scores.json").unlink(missing_ok=True)
    records: list[EpisodeRecord[Curve]] = []
    summary = evaluate(world, settings, plan, out, records.append)
    told = [f"{arm} cannot be played here: {why}" for arm, why in refused.items()]
    costs = out / "scores.json"
    return score_of(
        cell, identity_of(cell, world.hash), world, Found(summary, records, costs, told)
    )

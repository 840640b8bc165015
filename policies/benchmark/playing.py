"""One cell from its world to its score: a function of the task alone, whoever plays it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.observation import FEATURE_SCHEMA
from kncl_env.passage_traits import TRAITS_VERSION
from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION, open_stage
from kncl_env.world.world import World
from policies.arms.registry import ARMS, arm_of
from policies.benchmark.cells import ALL, Cell
from policies.benchmark.learning import Policies, learn
from policies.benchmark.standings import placing
from policies.benchmark.stored import ArmFigures, Score, Span
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import EpisodeRecord
from policies.play.evaluation import evaluate
from policies.play.plan import Plan
from policies.verdict.summary import ArmScore, Interval, Summary
from train_lm.command_line import by_comma
from train_lm.files import Json, hash_json
from train_lm.provenance import commit, version

# Raised whenever cells would come out with other numbers for a reason that nothing else tells.
BENCHMARK_VERSION = 1

Records = Sequence[EpisodeRecord[Curve]]


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
        arms=(*names, *learned.places),
        seeds=cell.seeds,
        inits=cell.seeds,
        learners=cell.learners,
        meter=CurveMeter(cell.points),
    )
    out = folder / "evaluation"
    # It is computed anew from the episodes; arms may have gone, or have other names.
    (out / "scores.json").unlink(missing_ok=True)
    records: list[EpisodeRecord[Curve]] = []
    summary = evaluate(world, settings, plan, out, records.append)
    return _score(task, world, settings, summary, records, refused)


def _score(
    task: CellTask,
    world: World,
    settings: Settings,
    summary: Summary,
    records: Records,
    refused: Mapping[str, str],
) -> Score:
    cell = task.cell
    by_arm = {
        arm: sorted((r for r in records if r.arm == arm), key=lambda r: r.seed)
        for arm in summary.arms
    }
    arms = {
        arm: _figures(own, by_arm[arm], _family(arm), _search(cell, settings, arm, by_arm[arm]))
        for arm, own in summary.arms.items()
    }
    tests = {arm: own.test for arm, own in arms.items()}
    first = next(iter(by_arm.values()))[0].measured
    return Score(
        cell=cell.to_json(),
        identity=identity_of(cell, world.hash),
        world={
            "hash": world.hash,
            "source": str(world.card["source"]),
            "licence": str(world.card["licence"]),
            "build": cell.recipe.command,
            "counts": world.card["counts"],
        },
        made_by=made_by(cell),
        moments=tuple(float(x) for x in first.tokens),
        arms=arms,
        placing=placing(tests, {arm: own.family for arm, own in arms.items()}),
        notes=(
            *summary.notes,
            *(f"{arm} cannot be played here: {why}" for arm, why in refused.items()),
        ),
    )


def made_by(cell: Cell) -> Json:
    """Command, commit, versions and machine."""
    data = ["--data", "DATA"] if cell.recipe.needs_data else []
    words = ["kncl-policy", "benchmark", "--cells", by_comma([cell.name]), *data, "--out", "DIR"]
    return {
        "command": " ".join(words),
        "commit": commit(),
        "version": version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": version_of("torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}",
    }


def _family(arm: str) -> str:
    return ARMS[arm].family if arm in ARMS else "learned"


def _search(cell: Cell, settings: Settings, arm: str, records: Records) -> float:
    """FLOPs spent once for all episodes of an arm: what trained its policy, where it has one."""
    learning = cell.learning
    if arm in ARMS:
        return arm_of(arm).search_flops
    if learning is None or arm.startswith("cloned"):
        return 0.0  # a clone's network is a millionth of a learner's episode
    episodes = learning.iterations * learning.episodes
    return episodes * settings.tokens_per_episode * records[0].measured.flops_per_token


def _figures(found: ArmScore, records: Records, family: str, search: float) -> ArmFigures:
    curves = [record.measured for record in records]
    return ArmFigures(
        family=family,
        digest=records[0].digest,
        test=found.test.values,
        curve=_mean_curve(curves),
        tokens=float(np.mean(found.tokens)),
        training=float(np.mean([c.tokens[-1] * c.flops_per_token for c in curves])),
        beside=float(np.mean([c.extra_flops for c in curves])),
        search=search,
        loss=_needed(_span(found.test)),
        speed_up=_span(found.speed_up),
        difference=None if found.difference is None else _span(found.difference.mean),
        p=None if found.difference is None else found.difference.p,
        verdict=found.verdict,
    )


def _mean_curve(curves: Sequence[Curve]) -> tuple[float, ...]:
    """Over seeds; an episode that ended early is not shown."""
    longest = max(len(curve.loss) for curve in curves)
    whole = [curve.loss for curve in curves if len(curve.loss) == longest]
    return tuple(float(x) for x in np.mean(whole, axis=0))


def _span(found: Interval) -> Span | None:
    return None if found.centre is None else (found.centre, found.low, found.high)


def _needed(span: Span | None) -> Span:
    assert span is not None, "every arm has a loss"
    return span

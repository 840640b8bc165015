"""How long cells will take here: a few steps are measured once, and the rest is arithmetic."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.vector import side_by_side
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from policies.benchmark.cells import Cell
from policies.benchmark.playing import arms_of
from policies.play.controls import CONTROLS
from policies.play.curves import CurveMeter
from train_lm.checked.digests import read_sealed, sealed
from train_lm.files import write_json

STEPS = 1  # that each learner takes while it is measured
TOPICS = 60  # of the world that is measured in
WINDOWS = 64


@dataclass(frozen=True)
class Pace:
    """What was measured of a preset [s].

    Attributes:
        update: One update of one learner alone.
        step: A step of the cell's environment, where several are played side by side, for each.
        window: Measuring the loss of one window there.
        updates: Of the learner in a step.
    """

    update: float
    step: float
    window: float
    updates: int

    def minutes(self, cell: Cell) -> float:
        """Of a cell, on this machine when nothing else runs.

        Arms count alike; those that pay for trial runs take several times as long.
        """
        settings = Settings.of(**cell.settings)
        rules, learning = settings.rules, cell.learning
        trained = policies = trainings = 0
        if learning is not None:
            trained, trainings = learning.trained_episodes, learning.trainings
            trained += learning.searched if cell.subject is not None else 0  # by lot, for a control
            policies = trainings + learning.scratch + learning.cloned
        controls = 0 if cell.subject is None else len(CONTROLS)
        played = (len(arms_of(cell)) + policies + controls) * cell.seeds
        measured = 2 * MEASURED_WINDOWS["test"] + cell.points * CurveMeter.windows
        steps = (played + trained) * rules.steps * rules.updates_per_step / self.updates
        # A nucleus phase, and the reference run that says what there is to be learned.
        phase = settings.nucleus.updates + rules.steps * rules.updates_per_step
        alone = (cell.seeds + trainings) * phase * self.update
        return (steps * self.step + played * measured * self.window + alone) / 60


def paces(cells: Sequence[Cell], folder: Path) -> dict[str, Pace]:
    """The pace of each preset of the cells; measured once, then kept in `folder`."""
    found: dict[str, Pace] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        if cell.preset not in found:
            found[cell.preset] = _pace(cell, folder)
    return found


def _pace(cell: Cell, folder: Path) -> Pace:
    file = folder / f"pace-{cell.preset}.json"
    if file.is_file():
        card = read_sealed(file, "remove it, and it is measured again")
        update, step, window = (card.number(name, 0) for name in ("update", "step", "window"))
        return Pace(update, step, window, card.whole("updates", 1))
    found = _measured(cell, folder)
    write_json(file, sealed(vars(found)))
    return found


def _measured(cell: Cell, folder: Path) -> Pace:
    import torch

    torch.set_num_threads(1)
    corpus = read_synthetic(SyntheticConfig(TOPICS))
    world = build_world(corpus, folder / "calibration", BuildConfig(passage_bytes=300))
    own = {name: value for name, value in cell.settings.items() if name != "region"}
    settings = Settings.of(**{**own, "nucleus_updates": 8, "nucleus_topics": 8, "slots": 8})
    settings = replace(settings, rules=replace(settings.rules, steps=STEPS))
    stage = open_stage(world, settings, progress=False)
    learner = stage.learner()
    learner.begin(settings.tokens_per_episode)
    windows = stage.store.windows_of(world.passages_of(int(stage.seeds[0])))
    batch = windows[[i % len(windows) for i in range(settings.learner.batch)]]
    learner.train(batch)
    update = _seconds(lambda: learner.train(batch))
    n = min(cell.learners, 4 * (os.cpu_count() or 1))
    with closing(side_by_side(stage, n, compile=False)) as together:
        envs = together.envs
        together.run([partial(env.reset, seed=i) for i, env in enumerate(envs)])
        steps = _seconds(lambda: together.run([partial(_step, env) for env in envs]))
        looks = _seconds(lambda: together.run([partial(_look, env) for env in envs]))
    rules = settings.rules
    return Pace(update, steps / n / STEPS, looks / n / WINDOWS, rules.updates_per_step)


def _seconds(work: object) -> float:
    assert callable(work)
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _step(env: TopicExpansionEnv) -> None:
    for _ in range(STEPS):
        env.step(0)


def _look(env: TopicExpansionEnv) -> None:
    env.learner.held_out_loss("reward", WINDOWS)

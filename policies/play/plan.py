"""What an evaluation plays, as data; and the command that plays it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.play.curves import CurveMeter
from train_lm.command_line import by_comma
from train_lm.crew.hands import ALONE, Hands


@dataclass(frozen=True)
class Plan:
    """An evaluation's episodes.

    Attributes:
        arms: As `arm_of` takes them; `uniform` must be among them.
        seeds: Number of paired seeds.
        inits: Different initialisations of the learner, spread over the seeds.
        learners: Episodes played side by side, their learners in one bank.
        subject: The arm that the report's first sentence is about.
        meter: How an episode's curve is measured.
        hands: Who plays; nothing depends on it.
    """

    arms: Sequence[str]
    seeds: int
    inits: int = 1
    learners: int = 4
    subject: str | None = None
    meter: CurveMeter = field(default_factory=CurveMeter)
    hands: Hands = ALONE

    def __post_init__(self) -> None:
        for name in ("seeds", "inits", "learners"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")


def command_of(world: World, settings: Settings, plan: Plan, out: Path) -> str:
    """What to type to play it again; the same from a command line, from Python and in the demo."""
    words = ["kncl-policy", "evaluate", "--world", str(world.path)]
    words += ["--policies", by_comma(plan.arms), "--seeds", str(plan.seeds)]
    if plan.inits > 1:
        words += ["--inits", str(plan.inits)]
    if plan.learners != Plan.learners:
        words += ["--learners", str(plan.learners)]
    if plan.meter.points != CurveMeter.points:
        words += ["--curve-points", str(plan.meter.points)]
    if plan.meter.knowledge is not None:
        words += ["--knowledge", str(plan.meter.knowledge.points)]
    words += ["--out", str(out)]
    usual = Settings().to_json()
    for name, value in settings.to_json().items():
        if value != usual[name]:
            listed = by_comma(value) if isinstance(value, list) else str(value)
            words += [f"--{name.replace('_', '-')}", listed]
    return shlex.join(words)

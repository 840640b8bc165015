"""What an evaluation plays, as data; and the command that plays it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.registry import ARMS, check_arms
from policies.play.controls import check_controls
from policies.play.curves import CurveMeter
from policies.verdict.controls_section import CONTROLS
from train_lm.command_line import by_comma
from train_lm.crew.hands import ALONE, Hands


@dataclass(frozen=True)
class Cast:
    """An arm as an evaluation plays it.

    Attributes:
        name: In tables.
        specs: As `arm_of` takes them; several where it was trained several times.
        family: As the registry of arms has it; empty of an arm of the user's own.
    """

    name: str
    specs: tuple[str, ...]
    family: str = ""

    @property
    def learned(self) -> bool:
        """Whether it was trained, so that another training could have come to something else."""
        return self.family == "learned"

    def spec(self, seed: int) -> str:
        """The training that plays a seed: they take turns, so each costs no more than one."""
        return self.specs[seed % len(self.specs)]


@dataclass(frozen=True)
class Plan:
    """An evaluation's episodes.

    Attributes:
        arms: As `arm_of` takes them, or names of `trainings`; `uniform` must be among them.
        seeds: Number of paired seeds.
        inits: Different initialisations of the learner, spread over the seeds.
        learners: Episodes played side by side, their learners in one bank.
        subject: The arm that the report's first sentence is about.
        meter: How an episode's curve is measured; within a quarter of its training, if None.
        trainings: Directories of one policy that was trained several times, by its name.
        controls: Of the subject, names of `CONTROLS`.
        searched: Random curricula of the control `equal-search`, at most.
        hands: Who plays; nothing depends on it.
    """

    arms: Sequence[str]
    seeds: int
    inits: int = 1
    learners: int = 4
    subject: str | None = None
    meter: CurveMeter | None = None
    trainings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    controls: Sequence[str] = ()
    searched: int = 32
    hands: Hands = ALONE

    def __post_init__(self) -> None:
        for name in ("seeds", "inits", "learners", "searched"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        check_controls(self.controls)
        if self.controls and self.subject is None:
            raise ValueError(
                "expected a subject that the controls are of, got none: name one with --subject"
            )
        for name, places in self.trainings.items():
            if not name.strip() or len(set(places)) < max(2, len(places)):
                raise ValueError(
                    f"expected two trainings or more for {name!r}, each once, got "
                    f"{', '.join(places) or 'none'}: give NAME=A,B,C"
                )
            if name in ARMS:
                raise ValueError(
                    f"expected trainings under a name of their own, got {name!r}, which is an arm's"
                )

    def meter_in(self, settings: Settings) -> CurveMeter:
        """How the curve of an episode with these settings is measured."""
        return self.meter or CurveMeter.within(settings)

    def cast(self) -> list[Cast]:
        """The arms, each checked before any work is spent; those of `trainings` come last, where
        they are not named among the arms.

        Raises:
            ValueError: An unknown arm, a damaged policy, no `uniform`, one name twice, or a subject
                that is not played.
        """
        plain = [spec for spec in self.arms if spec not in self.trainings]
        known = dict(zip(plain, check_arms(plain), strict=True))
        found = []
        for spec in [*self.arms, *(n for n in self.trainings if n not in self.arms)]:
            if spec in known:
                found.append(Cast(known[spec].name, (spec,), family_of(spec)))
                continue
            for place in self.trainings[spec]:
                check_arms(["uniform", place])
            found.append(Cast(spec, tuple(self.trainings[spec]), "learned"))
        names = [one.name for one in found] + [*self.controls]
        if len(set(names)) < len(names):
            raise ValueError(f"expected arms with different names, got {', '.join(names)}")
        if self.subject is not None and self.subject not in [one.name for one in found]:
            raise ValueError(
                f"expected a subject among the arms ({', '.join(one.name for one in found)}), got "
                f"{self.subject!r}"
            )
        return found


def family_of(spec: str) -> str:
    """The family of an arm, empty where nobody lists it; one with a taste is learned, too."""
    if spec in ARMS:
        return ARMS[spec].family
    if Path(spec).is_dir() or "+" in spec:
        return "learned"
    name = spec.partition("@")[0]
    return ARMS[name].family if name in ARMS else ""


def command_of(world: World, settings: Settings, plan: Plan, out: Path) -> str:
    """What to type to play it again; the same from a command line, from Python and in the demo."""
    words = ["kncl-policy", "evaluate", "--world", str(world.path)]
    words += ["--policies", by_comma(plan.arms), "--seeds", str(plan.seeds)]
    for name, places in plan.trainings.items():
        words += ["--trainings", f"{name}={by_comma(places)}"]
    if plan.subject is not None and plan.subject != usual_subject(plan):
        words += ["--subject", plan.subject]
    if plan.controls:
        words.append("--controls")
        if [*plan.controls] != [*CONTROLS]:
            words.append(by_comma(plan.controls))
    if plan.inits > 1:
        words += ["--inits", str(plan.inits)]
    if plan.learners != Plan.learners:
        words += ["--learners", str(plan.learners)]
    if plan.searched != Plan.searched:
        words += ["--search-cap", str(plan.searched)]
    meter, usual_meter = plan.meter_in(settings), CurveMeter.within(settings)
    fitting = CurveMeter.within(settings, meter.points)
    if meter.points != usual_meter.points:
        words += ["--curve-points", str(meter.points)]
    if (meter.windows, meter.ends) != (fitting.windows, fitting.ends):
        words += ["--curve-windows", str(meter.windows)]
    if meter.knowledge is not None:
        words += ["--knowledge", str(meter.knowledge.points)]
    words += ["--out", str(out)]
    usual = Settings().to_json()
    for name, value in settings.to_json().items():
        if value != usual[name]:
            listed = by_comma(value) if isinstance(value, list) else str(value)
            words += [f"--{name.replace('_', '-')}", listed]
    return shlex.join(words)


def usual_subject(plan: Plan) -> str | None:
    """Who an evaluation is about where nobody says: the last policy that was learned."""
    learned = [one.name for one in plan.cast() if one.learned and "+" not in one.name]
    return learned[-1] if learned else None

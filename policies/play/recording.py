"""Episodes on file: what was read at each step and what was measured of the learner after it.

A file is a line about the world and the untouched learner, then one line per episode. A surrogate
learner is fitted to them (`policies/learn/surrogate_fit.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.memory import stored
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.vector import worth_compiling
from kncl_env.world.world import World
from policies.arms.arm import Turn
from policies.arms.registry import arm_of
from policies.play.episodes import EpisodeRecord, EpisodeTask, play_all
from policies.play.journal import Journal, read_lines
from policies.play.seeds import RECORDING
from train_lm.checked.records import Fields, is_number
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, hash_file
from train_lm.inputs import note_input
from train_lm.outputs import alone

FORMAT = "kncl-episodes-2"


@dataclass(frozen=True)
class RecordedStep:
    """One step as a surrogate needs it.

    Attributes:
        topic: Expanded; -1 where none was.
        windows: Windows read, by topic.
        held_out: Loss of the target mix after it [bits per byte].
        probes: Loss of the topics that were probed, by topic [bits per byte].
    """

    topic: int
    windows: dict[int, int]
    held_out: float
    probes: dict[int, float]


@dataclass(frozen=True)
class Steps:
    """An episode step by step."""

    steps: list[RecordedStep]

    def to_json(self) -> Json:
        return {"steps": [asdict(step) for step in self.steps]}


@dataclass(frozen=True)
class StepMeter:
    """Measures what a surrogate needs.

    Attributes:
        seed: Of the episode; draws the topics to probe.
        probes: Topics, drawn anew at each step, that are probed beside those of the environment.
    """

    seed: int
    probes: int

    @property
    def rewarded(self) -> bool:
        return True

    def begin(self, env: TopicExpansionEnv) -> _StepWatch:
        return _StepWatch(env, self)

    def from_json(self, line: Json) -> Steps:
        steps = Fields.of(line, "the line of an episode").inners("steps")
        return Steps([_step(step) for step in steps])


def _step(found: Fields) -> RecordedStep:
    windows, probes = found.inner("windows"), found.inner("probes")
    return RecordedStep(
        topic=found.whole("topic", least=-1),
        windows={_topic(windows, name): windows.whole(name, least=1) for name in windows},
        held_out=found.number("held_out"),
        probes={_topic(probes, name): probes.number(name) for name in probes},
    )


def _topic(found: Fields, name: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 16):
        raise ValueError(f"expected numbers of topics in {found.place}, got {name[:40]!r}")
    return int(name)


class _StepWatch:
    def __init__(self, env: TopicExpansionEnv, meter: StepMeter) -> None:
        self.env, self.probes = env, meter.probes
        # A generator of its own: probes must not change what is played.
        self.rng = np.random.default_rng([meter.seed, 8])
        self.topic_of_window = env.stage.world.passage_topic[env.stage.store.document]
        self.steps: list[RecordedStep] = []

    def after(self, turn: Turn) -> None:
        env = self.env
        assert env.episode is not None
        windows = stored(turn.info["windows"])
        read, counts = np.unique(self.topic_of_window[windows], return_counts=True)
        known, n_topics = env.episode.measurements, len(env.stage.table)
        measured = np.flatnonzero(known.measured_at == env.episode.steps)
        drawn = self.rng.choice(n_topics, min(self.probes, n_topics))
        extra = np.setdiff1d(drawn, measured)
        topics = np.concatenate([measured, extra])
        losses = np.concatenate([known.probe[measured], env.learner.probe(extra)])
        found = zip(topics.tolist(), losses.tolist(), strict=True)
        self.steps.append(
            RecordedStep(
                topic=int(turn.info["topic"]),
                windows=dict(zip(read.tolist(), counts.tolist(), strict=True)),
                held_out=float(turn.info["held_out_loss"]),
                probes={topic: loss for topic, loss in found if not np.isnan(loss)},
            )
        )

    def finish(self) -> Steps:
        return Steps(self.steps)


@dataclass(frozen=True)
class RecordingPlan:
    """What is recorded.

    Attributes:
        arms: As `arm_of` takes them.
        episodes: Of every arm.
        start: Number of the first episode.
        probes: See `StepMeter`.
        learners: Episodes played side by side.
        hands: Who plays; nothing depends on it.
    """

    arms: Sequence[str]
    episodes: int = 4
    start: int = 0
    probes: int = 32
    learners: int = 4
    hands: Hands = ALONE

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("start", 0), ("probes", 0), ("learners", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")


def record(
    world: World,
    settings: Settings,
    plan: RecordingPlan,
    out: Path,
    on_episode: Callable[[EpisodeRecord[Steps]], None] = lambda _: None,
) -> list[EpisodeRecord[Steps]]:
    """Play the arms in turn and append each episode to `out`; goes on after those found there.

    Raises:
        ValueError: An unknown arm, or `out` holds episodes of another world or other settings.
    """
    for arm in plan.arms:
        arm_of(arm)
    header = {"format": FORMAT, "world": world.hash, "settings": settings.to_json()}
    start = _start(open_stage(world, settings))
    with alone(out):
        return _recorded(world, settings, plan, Journal(out, header, about=start), on_episode)


def _recorded(
    world: World,
    settings: Settings,
    plan: RecordingPlan,
    journal: Journal,
    on_episode: Callable[[EpisodeRecord[Steps]], None],
) -> list[EpisodeRecord[Steps]]:
    rules = settings.rules
    updates = len(plan.arms) * plan.episodes * rules.steps * rules.updates_per_step
    tasks = [
        EpisodeTask(
            world=str(world.path),
            settings=settings,
            arm=arm,
            seed=seed,
            choices=RECORDING.choices,
            meter=StepMeter(seed, plan.probes),
        )
        for seed in RECORDING(plan.episodes, plan.start)
        for arm in plan.arms
    ]
    return play_all(
        world,
        tasks,
        journal,
        learners=plan.learners,
        hands=plan.hands,
        compile=worth_compiling(updates),
        on_record=on_episode,
    )


def _start(stage: Stage) -> Json:
    """What is known of the learner before an episode."""
    env = TopicExpansionEnv(stage, stage.learner())
    env.reset(seed=0)
    probes = env.learner.probe(np.arange(len(stage.table))).tolist()
    return {
        "held_out": env.learner.held_out_loss(),
        "probes": [None if np.isnan(x) else x for x in probes],
    }


def read_episodes(files: Iterable[Path]) -> tuple[Json, list[Json]]:
    """The header and all episodes; an unfinished last line of a file is left out.

    Raises:
        ValueError: Not recorded episodes, none at all, or of different worlds or settings.
    """
    header: Json | None = None
    episodes: list[Json] = []
    files = list(files)
    for file in files:
        try:
            first, rest = read_lines(file, FORMAT)
        except ValueError as error:
            raise ValueError(f"{error}: make one with `kncl-policy record`") from None
        _check(file, first, rest)
        note_input(file, hash_file(file), f"{len(rest):,} episodes", checked=True)
        if header is not None and any(header[k] != first[k] for k in ("world", "settings")):
            raise ValueError(f"expected files of one world and its settings, got others in {file}")
        header = header or first
        episodes += rest
    if header is None:
        raise ValueError("expected at least one file of episodes, got none")
    if not episodes:
        raise ValueError(
            f"expected an episode or more in {', '.join(map(str, files))}, got none: record them "
            "with `kncl-policy record`, which goes on there"
        )
    return header, episodes


def _check(file: Path, header: Json, episodes: Sequence[Json]) -> None:
    """Raises: ValueError where something that a surrogate is fitted to is not what it has to be."""
    first = Fields.of(header, f"{file}:1")
    first.digest("world")
    first.inner("settings")
    first.number("held_out")
    probes, fits = header.get("probes"), is_number()
    if not isinstance(probes, list) or not all(x is None or fits(x) for x in probes):
        raise first.wrong("probes", "a list of finite numbers and nulls")
    for number, line in enumerate(episodes, 2):
        try:
            steps = StepMeter(0, 0).from_json(line).steps
            read = [max([s.topic, *s.windows, *s.probes]) for s in steps]
            if not steps or max(read) >= len(probes):
                raise ValueError(f"expected steps that read topics below {len(probes)}, got others")
        except ValueError as error:
            raise ValueError(f"{file}:{number}: {error}") from None

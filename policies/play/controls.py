"""Controls of one arm: what else could have done what it did.

They are made of the subject's own episodes, so these are played first. Each has the subject's
budget and its seeds. A tie with one of them says what did not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.taste import Taste
from kncl_env.world.world import World
from policies.arms.arm import Ints, Turn
from policies.arms.registry import arm_of
from policies.play.controls_made import Again, Mixture, Refed, Retraced
from policies.play.curves import Curve
from policies.play.episodes import EpisodeRecord, EpisodeTask, Made
from policies.play.seeds import SEARCH
from policies.verdict.controls_section import CONTROLS
from train_lm.checked.records import Fields
from train_lm.files import Json

REWIRED_SEED = 0
SEARCHED = "search.jsonl"
SEARCH_FORMAT = "kncl-search"
WINDOWS = 256  # of `reward` that random curricula are compared on


@dataclass(frozen=True)
class Subject:
    """The arm that controls are of.

    Attributes:
        name: In tables.
        specs: As `arm_of` takes them; several where it was trained several times.
        searched: Episodes that its training took; 0 where nothing was trained.
    """

    name: str
    specs: tuple[str, ...]
    searched: int = 0

    def spec(self, seed: int) -> str:
        return self.specs[seed % len(self.specs)]


def check_controls(names: Sequence[str]) -> None:
    """Raises: ValueError: A control of another name, or one twice."""
    if not set(names) <= set(CONTROLS) or len(set(names)) < len(names):
        raise ValueError(
            f"expected controls among {', '.join(CONTROLS)}, each once, got {', '.join(names)}"
        )


def possible(
    names: Sequence[str], subject: Subject, settings: Settings, seeds: int
) -> tuple[list[str], list[str]]:
    """The controls that this subject can have, and a sentence for each that it cannot.

    Raises:
        ValueError: The learner writes text of its own, which no control could read again.
    """
    if settings.memory.rule == "self":
        raise ValueError(
            "expected a memory that reads stored text where there are controls, got self: what "
            "the learner wrote cannot be read again"
        )
    cannot = {}
    if seeds < 2:
        cannot["yoked"] = "one seed has no other to take a list from"
    if not subject.searched:
        cannot["equal-search"] = f"{subject.name} was not trained, so nothing was searched"
    if all(arm_of(spec).taste is None for spec in subject.specs):
        cannot["taste-off"] = f"{subject.name} has no taste"
    kept = [name for name in names if name not in cannot]
    return kept, [f"no control {n}: {cannot[n]}" for n in names if n in cannot]


def made_of(
    name: str,
    subject: Subject,
    records: Sequence[EpisodeRecord[Curve]],
    topic_of_window: Ints,
    best: Sequence[int] = (),
) -> list[Made]:
    """A control for each of the subject's episodes, in their order.

    Args:
        records: The subject's, with the windows that it read.
        topic_of_window: (W,).
        best: Topics of the best random curriculum, for `equal-search`.
    """
    tastes = [arm_of(subject.spec(record.seed)).taste for record in records]
    curves = [record.measured for record in records]
    if name == "shuffle":
        return [Refed(name, _frozen(curve.windows), True) for curve in curves]
    if name == "static-final":
        weights = topic_shares(curves, topic_of_window)
        return [Mixture(name, weights, taste) for taste in tastes]
    if name == "yoked":
        return [
            _retraced(name, curves[i - 1], taste)  # of the seed before, the last for the first
            for i, taste in enumerate(tastes)
        ]
    if name == "equal-search":
        return [Retraced(name, tuple(best)) for _ in records]
    seed = REWIRED_SEED if name == "rewired" else None
    off = name == "taste-off"
    return [Again(name, subject.spec(record.seed), off, seed) for record in records]


def _retraced(name: str, curve: Curve, taste: Taste | None) -> Made:
    if all(topic < 0 for topic in curve.topics):  # it draws off the graph: it has no list of topics
        return Refed(name, _frozen(curve.windows), False)
    return Retraced(name, tuple(curve.topics), taste)


def _frozen(steps: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(step) for step in steps)


@dataclass(frozen=True)
class Searched:
    """What a random curriculum was: its topics, and what it came to.

    Attributes:
        topics: Of each step.
        loss: On the split `reward` at its end [bits per byte].
    """

    topics: list[int]
    loss: float

    def to_json(self) -> Json:
        return {"topics": self.topics, "loss": self.loss}


@dataclass(frozen=True)
class SearchMeter:
    """Measures a random curriculum by what a policy is paid for, and nothing else."""

    @property
    def rewarded(self) -> bool:
        return True  # it is billed as an episode of a policy's search is

    def begin(self, env: TopicExpansionEnv) -> _SearchWatch:
        return _SearchWatch(env)

    def from_json(self, line: Json) -> Searched:
        found = Fields.of(line, "the line of an episode")
        return Searched(found.wholes("topics", least=-1), found.number("loss", least=0))


class _SearchWatch:
    def __init__(self, env: TopicExpansionEnv) -> None:
        self.env = env
        self.topics: list[int] = []

    def after(self, turn: Turn) -> None:
        self.topics.append(int(turn.info["topic"]))

    def finish(self) -> Searched:
        return Searched(self.topics, self.env.learner.held_out_loss("reward", WINDOWS))


def random_curricula(world: World, settings: Settings, n: int) -> list[EpisodeTask[Searched]]:
    """n episodes of random choices, to take the best of by the split `reward`."""
    return [
        EpisodeTask(str(world.path), settings, "random", seed, SEARCH.choices, SearchMeter())
        for seed in SEARCH(n)
    ]


def topic_shares(curves: Sequence[Curve], topic_of_window: Ints) -> tuple[tuple[int, float], ...]:
    """Share of each topic in all windows that were read, over all episodes and steps."""
    read = np.concatenate([np.array(step, dtype=np.int64) for c in curves for step in c.windows])
    topics, counts = np.unique(topic_of_window[read], return_counts=True)
    shares = counts / counts.sum()
    return tuple(zip(topics.tolist(), shares.tolist(), strict=True))

"""What an evaluation measures of an episode: its curve on `select`, and `test` at both ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from kncl_env.env import TopicExpansionEnv
from kncl_env.forgetting import LossMatrix
from kncl_env.knowledge.meter import KnowledgeCurve, KnowledgeMeter
from kncl_env.learner import MEASURED_WINDOWS, MeasuredText
from kncl_env.memory import stored
from kncl_env.settings import Settings
from kncl_env.stage import Stage
from policies.arms.arm import Turn
from policies.play.guard import Guarded, fingerprint
from policies.play.journal import LacksError
from policies.verdict.accounting import FORWARD
from train_lm.checked.records import Fields, is_whole
from train_lm.files import Json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SHARE = 1 / 4  # of the training, what measuring its curve may take
FEW, MANY = 7, 13  # points of a curve
FEWEST = 16  # windows that a loss on all of them is estimated from

# What a line has where there is anything to tell: others are as they always were.
_MAYBE = ("extra_flops", "start", "trained", "worked", "looked", "unrewarded", "windows")


@dataclass(frozen=True)
class Curve:
    """What an evaluation knows of an episode.

    Attributes:
        tokens: Trained until each point, from 0 to the end.
        loss: Held-out loss on `select` at each [bits per byte], measured or estimated as the meter
            has it: a policy was paid for `reward`.
        topics: Expanded in each step; -1 where none was.
        passages: Read in each step.
        test_before, test_after: Held-out loss on `test` [bits per byte].
        noise_share: Junk's share of the windows; None where the world has no junk.
        flops_per_token: Of the learner's training.
        kept: What became of watched topics, step by step; None where none was watched.
        extra_flops: What the arm spent beside the budget, on probes, reference models and trial
            runs [FLOPs], as it says itself.
        start: Tells the weights before the first step from others; empty where nobody looked.
        trained: Tokens that the learner was trained on, counted by itself; 0 where nobody did.
        worked: Tokens of training in all, those of copies that were thrown away, too.
        looked: Tokens that it was measured on while the arm acted: by the game for reward and
            candidates, and by the arm.
        unrewarded: Whether nothing was measured for rewards: nobody looked at any.
        windows: Read in each step; empty where the meter was not asked to keep them.
        knowledge: Which links the learner knew, at some moments; None where it was not asked.
    """

    tokens: list[int]
    loss: list[float]
    topics: list[int]
    passages: list[list[int]]
    test_before: float
    test_after: float
    noise_share: float | None
    flops_per_token: float
    kept: LossMatrix | None = None
    extra_flops: float = 0.0
    start: str = ""
    trained: int = 0
    worked: int = 0
    looked: int = 0
    unrewarded: bool = False
    windows: list[list[int]] = field(default_factory=list)
    knowledge: KnowledgeCurve | None = None

    def to_json(self) -> Json:
        line = asdict(replace(self, kept=None, knowledge=None))
        del line["kept"], line["knowledge"]  # a line is as it always was where none was watched
        for name in _MAYBE:
            if not line[name]:  # ... and nothing of this is known
                del line[name]
        if self.knowledge is not None:
            line["knowledge"] = self.knowledge.to_json()
        return line if self.kept is None else {**line, "kept": self.kept.to_json()}


@dataclass(frozen=True)
class CurveMeter:
    """Measures the curve of an episode, and `test` before and after it.

    The moments are fixed by the budget alone, so they are the same for all arms. They lie closer
    together at the beginning, where curves are steep and where fast arms meet the reference's end.
    A curve measured after every step on all windows took longer than the training that it showed;
    what fewer points and fewer windows do to speed-ups stands in docs/PERFORMANCE.md.

    Attributes:
        points: Measurements of an episode, both ends included; those that fall on one step are one.
        windows: Of `select`, at each.
        ends: Of `select`, at both ends; then the loss on all of these is estimated at the moments
            in between (see `estimated`), and after each step (see `filled`). If None, nothing is
            estimated.
        keep_read: Whether the windows of each step are kept, for controls to be made of them.
        knowledge: When the learner is asked which links it knows; never, if None.

    Raises:
        ValueError: Fewer than two points, no window, or fewer at the ends than in between.
    """

    points: int = 13
    windows: int = 128
    ends: int | None = None
    keep_read: bool = False
    knowledge: KnowledgeMeter | None = None

    @property
    def rewarded(self) -> bool:
        return False

    def __post_init__(self) -> None:
        if self.points < 2 or self.windows < 1:
            raise ValueError(
                f"expected a curve of at least 2 points of 1 window, got {self.points} of "
                f"{self.windows}"
            )
        if self.ends is not None and self.ends < self.windows:
            raise ValueError(
                f"expected at least the {self.windows} windows of a curve at its ends, got "
                f"{self.ends}"
            )

    @classmethod
    def within(
        cls,
        settings: Settings,
        points: int | None = None,
        knowledge: KnowledgeMeter | None = None,
    ) -> CurveMeter:
        """What takes a quarter of the training at most, by counts.

        All windows of `select` at 7 to 13 points, as many as fit; where 7 do not, fewer windows
        between the ends; where the end alone does not, few at each, and nothing is estimated.

        Raises:
            ValueError: As of the class.
        """
        steps, every = settings.rules.steps, MEASURED_WINDOWS["select"]
        allowed = int(steps * settings.windows_per_step * SHARE / FORWARD)
        if points is None:
            # The first point costs nothing: all arms share it.
            points = min(max(1 + allowed // every, FEW), MANY)
        inside = len(cls(points).moments(steps)) - 2
        windows = min((allowed - every) // max(1, inside), every)
        if windows >= FEWEST:
            return cls(points, windows, every, knowledge=knowledge)
        return cls(points, max(1, allowed // (inside + 1)), knowledge=knowledge)

    def moments(self, steps: int) -> frozenset[int]:
        """After how many of the budget's steps the curve is measured; 0 is before the first."""
        shares = np.linspace(0, 1, self.points) ** 2
        return frozenset((steps * shares).round().astype(int).tolist())

    def told(self, steps: int) -> str:
        """How the curve of so many steps is measured, in words."""
        n = len(self.moments(steps))
        if self.ends is None:
            return f"{self.windows} windows of select at {n} moments"
        return (
            f"{self.ends} windows of select at both ends and {self.windows} at {n - 2} moments in "
            "between, from which the loss on all of them is estimated; filled by monotone cubics"
        )

    def to_json(self) -> Json:
        """As a run's config has it: without what is not measured, and what changes no figure."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value for name, value in known.items() if name != "keep_read"}

    def begin(self, env: TopicExpansionEnv) -> _CurveWatch:
        return _CurveWatch(env, self)

    def from_json(self, line: Json) -> Curve:
        found = Fields.of(line, "the line of an episode")
        passages = _steps(found, "passages")
        windows = _steps(found, "windows") if "windows" in found else []
        if self.keep_read and not windows:
            raise LacksError("the line of an episode lacks the windows that it read")
        curve = Curve(
            tokens=found.wholes("tokens"),
            loss=found.numbers("loss"),
            topics=found.wholes("topics", least=-1),
            passages=passages,
            test_before=found.number("test_before"),
            test_after=found.number("test_after"),
            noise_share=found.or_none("noise_share", lambda name: found.number(name, 0, 1)),
            flops_per_token=found.number("flops_per_token", least=0),
            kept=LossMatrix.from_json(found.inner("kept")) if "kept" in found else None,
            extra_flops=found.number("extra_flops", least=0) if "extra_flops" in found else 0.0,
            start=found.text("start") if "start" in found else "",
            windows=windows,
            **{
                name: found.whole(name) if name in found else 0
                for name in ("trained", "worked", "looked")
            },
            unrewarded=found.flag("unrewarded") if "unrewarded" in found else False,
            knowledge=KnowledgeCurve.from_json(found.inner("knowledge"))
            if "knowledge" in found
            else None,
        )
        if len(passages) != len(curve.topics):
            raise found.wrong("passages", f"those of {len(curve.topics)} steps")
        if not 2 <= len(curve.tokens) == len(curve.loss):
            raise found.wrong("tokens", "one for each of two losses or more")
        return curve


def _steps(found: Fields, name: str) -> list[list[int]]:
    value = found.values.get(name)
    if not isinstance(value, list) or not all(
        isinstance(step, list) and all(map(is_whole(), step)) for step in value
    ):
        raise found.wrong(name, f"{name} read at each step")
    return value


def estimated(part: Floats, first: Floats, last: Floats, known: Bools, n_bytes: Ints) -> float:
    """Loss on all of n windows, in the middle of an episode, from that on m of them.

    The regression estimator of sampling (Cochran 1977, Sampling Techniques, 7.1): of the windows
    that were measured, the loss is fitted by what each of them lost at both ends, weighted by
    bytes, and the fit tells the others'. It is exact where all lie on such a fit, and where m = n.

    Args:
        part: (m,) losses of the windows that were measured [bits per byte].
        first, last: (n,) losses of all of them at both ends.
        known: (n,) which were measured.
        n_bytes: (n,) of each window.
    """
    ends = np.stack([np.ones(len(first)), first, last], axis=1)
    root = np.sqrt(n_bytes)
    fit = np.linalg.lstsq(ends[known] * root[known, None], part * root[known], rcond=None)[0]
    return float((ends @ fit) @ n_bytes / n_bytes.sum())


def filled(tokens: Sequence[int], loss: Sequence[float], at: Sequence[int]) -> list[float]:
    """A curve between its points, by monotone cubics (Fritsch & Carlson 1980).

    A straight line lies above a curve that is bent, and tells too late when it falls below a loss.

    Args:
        tokens, loss: Of each point, two or more.
        at: Tokens in between.
    """
    return [float(x) for x in PchipInterpolator(tokens, loss)(at)]


# Of each stage: losses by weights, split and number of windows. All arms of a seed begin alike.
_AT_FIRST: WeakKeyDictionary[Stage, dict[tuple[str, str, int | None], Floats]] = WeakKeyDictionary()


class _Thinned:
    """All windows of a sample, and those of them that are measured between the ends."""

    def __init__(self, text: MeasuredText, windows: int, ends: int) -> None:
        self.every, self.some = text.sample("select", ends), text.sample("select", windows)
        self.known = np.isin(self.every, self.some)
        self.n_bytes = text.n_bytes(text.store.read(self.every))

    def curve(self, losses: Sequence[Floats]) -> list[float]:
        """Loss on all of them at each moment, of which the first and the last were measured so."""
        first, *between, last = losses
        inside = (estimated(x, first, last, self.known, self.n_bytes) for x in between)
        start, end = (float(x @ self.n_bytes / self.n_bytes.sum()) for x in (first, last))
        return [start, *inside, end]


class _CurveWatch:
    def __init__(self, env: TopicExpansionEnv, meter: CurveMeter) -> None:
        self.env = env
        self.windows, self.keep_read = meter.windows, meter.keep_read
        text = env.stage.text
        # A formula has no windows that could be fewer.
        self.thinned: _Thinned | None = None
        if text is not None and meter.ends is not None:
            self.thinned = _Thinned(text, meter.windows, meter.ends)
        self.start = fingerprint(env)
        self.read: list[list[int]] = []
        self.moments = meter.moments(env.rules.steps)
        asks = meter.knowledge
        self.asked = asks.begin(env.stage) if asks is not None else None
        self.asked_at = asks.moments(self.moments) if asks is not None else frozenset()
        self.junk = 0
        self.spent = 0.0  # beside the budget [FLOPs]
        self.before = float(self._at_first("test", None, self._test)[0])
        self.tokens: list[int] = []
        self.losses: list[Floats] = []
        self.topics: list[int] = []
        self.passages: list[list[int]] = []
        self._measure(0)

    def after(self, turn: Turn) -> None:
        windows = stored(turn.info["windows"])
        read = self.env.stage.store.document[windows]
        if self.keep_read:
            self.read.append(windows.tolist())
        self.topics.append(int(turn.info["topic"]))
        self.passages.append(np.unique(read).tolist())
        self.spent += turn.extra_flops
        self.junk += int(self.env.stage.world.passage_is_noise[read].sum())
        # The last one is measured wherever it comes: a frontier can end before the budget.
        if len(self.topics) in self.moments or turn.over:
            self._measure(turn.info["tokens"], turn.over)

    def finish(self) -> Curve:
        assert self.env.episode is not None
        windows = len(self.topics) * self.env.settings.windows_per_step
        noisy = self.env.stage.world.passage_is_noise.any()
        tokens, loss = self._curve()
        return Curve(
            tokens=tokens,
            loss=loss,
            topics=self.topics,
            passages=self.passages,
            test_before=self.before,
            test_after=float(self._test()[0]),
            noise_share=self.junk / windows if noisy else None,
            flops_per_token=self.env.learner.flops_per_token,
            kept=self.env.episode.watched.matrix(self.env.stage.world.titles),
            extra_flops=self.spent,
            start=self.start,
            windows=self.read,
            unrewarded=not self.env.episode.rewarded,
            knowledge=None if self.asked is None else self.asked.curve(),
            **self._counted(),
        )

    def _counted(self) -> dict[str, int]:
        """What a guarded learner counted itself, in tokens."""
        learner, context = self.env.learner, self.env.settings.learner.context
        if not isinstance(learner, Guarded):
            return {}
        return {
            name: getattr(learner, windows) * context
            for name, windows in (("trained",) * 2, ("worked",) * 2, ("looked", "measured"))
        }

    def _curve(self) -> tuple[list[int], list[float]]:
        if self.thinned is None:
            return self.tokens, [float(one[0]) for one in self.losses]
        each = self.env.settings.tokens_per_step
        at = [step * each for step in range(len(self.topics) + 1)]
        return at, filled(self.tokens, self.thinned.curve(self.losses), at)

    def _at_first(self, split: str, windows: int | None, look: Callable[[], Floats]) -> Floats:
        """Measured before the first step, or by an arm that began with the same weights."""
        known = _AT_FIRST.setdefault(self.env.stage, {})
        key = (self.start, split, windows)
        if not self.start or key not in known:  # a formula's weights are not told apart
            known[key] = look()
        return known[key]

    def _test(self) -> Floats:
        return np.array([self.env.learner.held_out_loss("test")])

    def _look(self, ends: bool) -> Floats:
        """Loss on `select`, or, of what is thinned, on each window."""
        if self.thinned is None:
            return np.array([self.env.learner.held_out_loss("select", self.windows)])
        return self.env.learner.losses(self.thinned.every if ends else self.thinned.some)

    def _measure(self, tokens: int, over: bool = False) -> None:
        self.tokens.append(tokens)
        if self.topics:
            self.losses.append(self._look(ends=over))
        else:
            kind = "select" if self.thinned is None else "each of select"
            n = self.windows if self.thinned is None else len(self.thinned.every)
            self.losses.append(self._at_first(kind, n, partial(self._look, ends=True)))
        if self.asked is not None and (over or len(self.topics) in self.asked_at):
            self.asked.ask(self.env.learner, tokens, "" if self.topics else self.start)

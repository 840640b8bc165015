"""What a stream's cells say: figures of every method and rate, and methods at equal learning.

A method that learns less forgets less, so methods are compared where they learned as much: each
seed's runs at several learning rates are a curve of forgetting over learning, and the curve is read
at a stated share of what the reference learns at its best. Intervals are over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.forgetting import LossMatrix, figures, forgetting_at
from policies.stream.cells import StreamRecord
from policies.verdict.summary import BETTER, NO_DIFFERENCE, REFERENCE, TOO_FEW, WORSE, Interval
from train_lm.files import Json

Floats = NDArray[np.float64]

LEVELS = (0.25, 0.5, 0.75, 1.0)  # of what the plain method learns at its best rate
PLAIN, JOINT, BAR = "none", "joint", "replay/2"
NOT_REACHED = "not reached in every seed"

# Name of each figure, and what a larger one means: 1 better, -1 worse, 0 neither.
FIGURES = {
    "accuracy": 1,
    "backward_transfer": 1,
    "forward_transfer": 1,
    "forgetting": -1,
    "learning_accuracy": 1,
    "learning": 1,
    "intransigence": -1,
    "nucleus": -1,
    "changed": 0,
    "rank": 0,
    "trained": 0,
    "optimizer_bytes": 0,
    "tokens_per_second": 0,
}


@dataclass(frozen=True)
class RateScore:
    """A method at one learning rate.

    Attributes:
        rate: Peak learning rate.
        figures: Each figure of `FIGURES`, over seeds; `nucleus` is the loss of the nucleus after
            the last stage minus before the first [bits per byte].
    """

    rate: float
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Level:
    """A method where it learned as much as another.

    Attributes:
        share: Of what the plain method learns at its best rate.
        forgetting: There [bits per byte].
        to_bar: Minus half replay's, over seeds that have both; None for half replay itself.
        missing: Seeds in which the method, or half replay, never learned as much.
        verdict: Of `to_bar`: what its interval says, and no more; nothing where a seed is missing,
            as those that are left are not any seeds.
    """

    share: float
    forgetting: Interval
    to_bar: Interval | None
    missing: int
    verdict: str


@dataclass(frozen=True)
class MethodScore:
    """What the cells of a method say.

    Attributes:
        rates: Ascending.
        best: Of `rates`: the one with the highest accuracy.
        end: Mean loss of all neighbourhoods at the end minus half replay's, each at its best rate
            [bits per byte]; None for half replay itself, or without it.
        verdict: Of `end`, by its interval.
        levels: Forgetting at equal learning.
    """

    rates: Sequence[RateScore]
    best: int
    end: Interval | None
    verdict: str
    levels: Sequence[Level]


@dataclass(frozen=True)
class StreamSummary:
    """All methods; `bar` names the one that they are compared with, if it was played."""

    methods: Mapping[str, MethodScore]
    seeds: Sequence[int]
    learned_plainly: Interval | None
    bar: str | None

    def to_json(self) -> Json:
        """But for the speed, which is the machine's: the same cells give the same bytes."""
        return {
            "seeds": list(self.seeds),
            "bar": self.bar,
            "learned_plainly": _json(self.learned_plainly),
            "methods": {name: _method_json(found) for name, found in self.methods.items()},
        }


def summarise(records: Sequence[StreamRecord]) -> StreamSummary:
    """The figures of a stream's records.

    Raises:
        ValueError: A method lacks a seed that another one has.
    """
    names = list(dict.fromkeys(record.method for record in records))
    seeds = sorted({record.seed for record in records})
    runs = {name: _by_rate(records, name, seeds) for name in names}
    joint = _joint(runs.get(JOINT), seeds)
    found = {
        name: {rate: [_figures(one, joint) for one in row] for rate, row in rates.items()}
        for name, rates in runs.items()
    }
    plain = _best_learning(found[PLAIN]) if PLAIN in found else None
    bar = BAR if BAR in found and plain is not None else None
    forgot = {
        name: [_at(rates, plain, share) for share in LEVELS] if plain is not None else []
        for name, rates in found.items()
    }
    methods = {}
    scores = {
        name: [RateScore(rate, _intervals(row)) for rate, row in rates.items()]
        for name, rates in found.items()
    }
    best = {name: _best(own) for name, own in scores.items()}
    ends = {
        name: -np.array([one["accuracy"] for one in list(rates.values())[best[name]]])
        for name, rates in found.items()
    }
    for name in found:
        end = None if bar is None or name == bar else interval(ends[name] - ends[bar])
        methods[name] = MethodScore(
            rates=scores[name],
            best=best[name],
            end=end,
            verdict=REFERENCE if name == bar else TOO_FEW if end is None else told(end),
            levels=[
                _level(share, own, None if bar is None else forgot[bar][i], name == bar)
                for i, (share, own) in enumerate(zip(LEVELS, forgot[name], strict=False))
            ],
        )
    return StreamSummary(methods, seeds, None if plain is None else interval(plain), bar)


def _best(scores: Sequence[RateScore]) -> int:
    centres = [score.figures["accuracy"].centre for score in scores]
    return int(np.argmax([-np.inf if centre is None else centre for centre in centres]))


def matrix_of(record: StreamRecord) -> LossMatrix:
    """The losses of the neighbourhoods alone, a stage for each."""
    losses = record.losses[:, :-1]
    return LossMatrix.square(losses[0], losses[1:], record.names)


def interval(values: Sequence[float] | Floats) -> Interval:
    """Mean and Student's 95 % interval over seeds; values that are not finite are left out."""
    known = [float(value) for value in values if np.isfinite(value)]
    if not known:
        return Interval(None, None, None)
    n, centre = len(known), float(np.mean(known))
    if n == 1:  # which says nothing of the spread
        return Interval(centre, None, None, tuple(known))
    from scipy import special  # 0.2 s that only this line needs

    reach = float(special.stdtrit(n - 1, 0.975)) * float(np.std(known, ddof=1)) / n**0.5
    return Interval(centre, centre - reach, centre + reach, tuple(known))


def told(gap: Interval) -> str:
    """What the interval of a difference in forgetting says; lower is better."""
    if gap.low is None or gap.high is None:
        return TOO_FEW
    if gap.high < 0:
        return BETTER
    return WORSE if gap.low > 0 else NO_DIFFERENCE


def _by_rate(
    records: Sequence[StreamRecord], name: str, seeds: Sequence[int]
) -> dict[float, list[StreamRecord]]:
    own = sorted((r for r in records if r.method == name), key=lambda r: (r.rate, r.seed))
    rates: dict[float, list[StreamRecord]] = {}
    for record in own:
        rates.setdefault(record.rate, []).append(record)
    for rate, row in rates.items():
        if [record.seed for record in row] != list(seeds):
            raise ValueError(
                f"expected a cell of {name} at a rate of {rate:g} for each of the seeds "
                f"{list(seeds)}, got {[record.seed for record in row]}: go on with the stream"
            )
    return rates


def _joint(rates: Mapping[float, Sequence[StreamRecord]] | None, seeds: Sequence[int]) -> Json:
    """By seed, the losses of joint training where it ended best."""
    if rates is None:
        return {}
    ends = {
        seed: min((row[i].losses[-1, :-1] for row in rates.values()), key=lambda end: end.mean())
        for i, seed in enumerate(seeds)
    }
    return {str(seed): end for seed, end in ends.items()}


def _figures(record: StreamRecord, joint: Json) -> dict[str, float]:
    found = figures(matrix_of(record), joint.get(str(record.seed)))
    cost = record.cost
    return {
        "intransigence": float("nan"),
        **found,
        "nucleus": float(record.losses[-1, -1] - record.losses[0, -1]),
        "changed": cost.changed,
        "rank": cost.rank,
        "trained": cost.trained,
        "optimizer_bytes": cost.optimizer_bytes,
        "tokens_per_second": cost.tokens / record.seconds if record.seconds else float("nan"),
    }


def _intervals(row: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    return {name: interval([one[name] for one in row]) for name in FIGURES}


def _best_learning(rates: Mapping[float, Sequence[Mapping[str, float]]]) -> Floats:
    """(S,) what each seed learns at its best rate [bits per byte]."""
    return np.max([[one["learning"] for one in row] for row in rates.values()], axis=0)


def _at(
    rates: Mapping[float, Sequence[Mapping[str, float]]], plain: Floats, share: float
) -> Floats:
    """(S,) forgetting of each seed where it learned a share of what the plain method does."""
    rows = list(rates.values())
    return np.array(
        [
            forgetting_at(
                [row[i]["learning"] for row in rows],
                [-row[i]["backward_transfer"] for row in rows],
                float(share * plain[i]),
                from_nothing=True,
            )
            for i in range(len(plain))
        ]
    )


def _level(share: float, own: Floats, bar: Floats | None, is_bar: bool) -> Level:
    gap = None if bar is None or is_bar else interval(own - bar)
    missing = int(np.isnan(own if bar is None else own + bar).sum())
    verdict = TOO_FEW if gap is None else NOT_REACHED if missing else told(gap)
    return Level(share, interval(own), gap, missing, REFERENCE if is_bar else verdict)


def _json(found: Interval | None) -> Json | None:
    return None if found is None else found.to_json("mean")


def _method_json(found: MethodScore) -> Json:
    timed = ("tokens_per_second",)
    return {
        "best_rate": found.rates[found.best].rate,
        "end_to_bar": _json(found.end),
        "verdict": found.verdict,
        "rates": [
            {
                "rate": score.rate,
                **{n: _json(i) for n, i in score.figures.items() if n not in timed},
            }
            for score in found.rates
        ],
        "equal_learning": [
            {
                "share": level.share,
                "forgetting": _json(level.forgetting),
                "to_bar": _json(level.to_bar),
                "missing": level.missing,
                "verdict": level.verdict,
            }
            for level in found.levels
        ],
    }

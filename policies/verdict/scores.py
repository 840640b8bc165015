"""What a table of runs says: measures of a curve and one cautious word per arm.

Pure functions over numbers. It knows nothing of worlds, learners or files; intervals and tests are
`statistics.py`'s. Losses are held-out bits per byte, so lower is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from policies.verdict.statistics import (
    EXACT_PAIRS,
    FloatArray,
    iqm,
    mean,
    paired_bootstrap_ci,
    paired_difference,
    permutation_test,
    probability_of_improvement,
    stratified_bootstrap_ci,
)

BETTER, WORSE, NO_DIFFERENCE, REFERENCE = "better", "worse", "no difference shown", "reference"


@dataclass(frozen=True, eq=False)
class ArmRun:
    """One arm trained once.

    Attributes:
        arm: Name of the policy or baseline.
        seed: Runs of different arms with one seed share initialisation and evaluation draws.
        tokens: (S + 1,) tokens trained at each measurement, rising from 0.
        loss: (S + 1,) held-out loss on the curve's split at those moments [bits per byte].
        test_before: Test loss before the first step [bits per byte].
        test_after: Test loss after the last step [bits per byte].
        noise_share: Share of the trained tokens that came from known junk, 0 to 1; nan where the
            world cannot tell.
        select: Optional (S + 1,) curve on the `select` split [bits per byte].
        extra: Anything else worth keeping beside the run; never read here.

    Raises:
        ValueError: A curve is too short, of unequal length, not finite or not rising in tokens.
    """

    arm: str
    seed: int
    tokens: FloatArray
    loss: FloatArray
    test_before: float
    test_after: float
    noise_share: float = math.nan
    select: FloatArray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arm.strip():
            raise ValueError("expected an arm with a name, got an empty one: name the policy")
        who = f"{self.arm!r} seed {self.seed}"
        tokens = _frozen_array(self.tokens)
        if tokens.ndim != 1 or len(tokens) < 2 or tokens[0] != 0 or not (np.diff(tokens) > 0).all():
            raise ValueError(
                f"expected tokens of {who} to rise from 0 over at least two measurements, got "
                f"{tokens.tolist()[:5]}…: measure once before the first step"
            )
        object.__setattr__(self, "tokens", tokens)
        for name in ("loss", "select"):
            given = getattr(self, name)
            if given is None:
                continue
            curve = _frozen_array(given)
            if curve.shape != tokens.shape:
                raise ValueError(
                    f"expected {len(tokens)} values in {name} of {who}, one per measurement, "
                    f"got shape {curve.shape}"
                )
            if not (np.isfinite(curve) & (curve >= 0)).all():
                bad = int(np.flatnonzero(~(np.isfinite(curve) & (curve >= 0)))[0])
                raise ValueError(
                    f"expected finite losses >= 0 in {name} of {who}, got {curve[bad]} at "
                    f"measurement {bad}: the run diverged, train it again"
                )
            object.__setattr__(self, name, curve)
        for name in ("test_before", "test_after"):
            value = float(getattr(self, name))
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} of {who} finite and >= 0, got {value}")
            object.__setattr__(self, name, value)
        share = float(self.noise_share)
        if not (math.isnan(share) or 0 <= share <= 1):
            raise ValueError(f"expected noise_share of {who} in 0..1 or nan, got {share}")
        object.__setattr__(self, "noise_share", share)


def _frozen_array(values: ArrayLike) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def area_under_curve(tokens: ArrayLike, loss: ArrayLike) -> float:
    """Loss averaged over tokens [bits per byte]: the trapezoid area over the budget's length."""
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))


def tokens_to_reach(tokens: ArrayLike, loss: ArrayLike, target: float) -> float:
    """Tokens at which the loss first touches `target`, linear in between; inf if it never does."""
    x, y = np.asarray(tokens, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    below = np.flatnonzero(y <= target)
    if len(below) == 0:
        return math.inf
    i = int(below[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - target) / (y[i - 1] - y[i]))


def tokens_ratio(run: ArmRun, reference: ArmRun) -> float:
    """Tokens that `run` needs to reach the reference's final loss, over the reference's own need.

    The reference's need is its own first touch of that loss, by the same rule: a curve that wobbles
    would otherwise hand every arm a head start. inf if `run` never gets there; nan if either was
    there before it trained, so that the question has no meaning.
    """
    target = float(reference.loss[-1])
    need = tokens_to_reach(reference.tokens, reference.loss, target)
    taken = tokens_to_reach(run.tokens, run.loss, target)
    return taken / need if need > 0 and taken > 0 else math.nan


def speed_over(run: ArmRun, rival: ArmRun, reference: ArmRun) -> float:
    """Tokens that `rival` needs to reach the reference's final loss, over those that `run` needs.

    A rival that never gets there counts with its whole budget, the least it could need; 0 if `run`
    never does; nan if it was there before it trained.
    """
    target = float(reference.loss[-1])
    theirs = min(tokens_to_reach(rival.tokens, rival.loss, target), float(rival.tokens[-1]))
    own = tokens_to_reach(run.tokens, run.loss, target)
    return theirs / own if own > 0 else math.nan


def gap_closed(arm: ArrayLike, reference: ArrayLike, oracle: ArrayLike) -> float:
    """Share of the way from the reference's loss to the oracle's that `arm` covers: 0 none, 1 all.

    nan where the reference is not above the oracle.
    """
    gap = mean(reference) - mean(oracle)
    return (mean(reference) - mean(arm)) / gap if gap > 0 else math.nan


def verdict(low: float, high: float) -> str:
    """The word for an interval of (arm - reference) loss: it must leave 0 out to say anything."""
    if high < 0:
        return BETTER
    return WORSE if low > 0 else NO_DIFFERENCE


def summarise(
    runs: Sequence[ArmRun],
    reference: str = "uniform",
    oracle: str | None = None,
    rival: str | None = None,
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything that the score table says, ready for JSON (what has no value is None).

    Args:
        runs: Of all arms, on the same seeds.
        reference: Every arm is compared with it.
        oracle: What could be had; the share of the gap to it is told.
        rival: Another arm that tokens are counted against, besides the reference.

    Per arm: per-seed values, interquartile mean and interval of the final test loss, the area and
    the speed-up (1 / tokens ratio; a run that never reaches the reference's final loss counts as
    0, the worst it could be; the ratio's interval is the speed-up's, inverted, and open above
    where that one touches 0); mean difference to the reference over shared seeds with its interval
    and permutation p; and a verdict that follows from that interval alone.

    Raises:
        ValueError: A missing arm, a doubled run, arms with other seeds than the reference, or an
            arm that started from another initialisation.
    """
    table: dict[str, dict[int, ArmRun]] = {}
    for run in runs:
        if run.seed in table.setdefault(run.arm, {}):
            raise ValueError(f"expected one run per arm and seed, got {run.arm!r} {run.seed} twice")
        table[run.arm][run.seed] = run
    for name in (reference, oracle, rival):
        if name is not None and name not in table:
            raise ValueError(f"expected runs of {name!r} to compare with, got {sorted(table)}")
    seeds = sorted(table[reference])
    base = [table[reference][seed] for seed in seeds]
    notes: list[str] = []
    for arm, by_seed in table.items():
        _check_comparable(arm, by_seed, seeds, base, notes)
    finals = {arm: [by_seed[s].test_after for s in seeds] for arm, by_seed in table.items()}

    def interval(values: Sequence[float]) -> dict[str, Any]:
        low, high = stratified_bootstrap_ci(values, iqm, rng, reps, level)
        return {"values": [*values], "iqm": iqm(values), "low": _none(low), "high": _none(high)}

    def difference(arm: str) -> dict[str, Any]:
        own, theirs = finals[arm], finals[reference]
        centre, low, high = paired_difference(own, theirs, rng, reps, level)
        return {
            "values": [x - y for x, y in zip(own, theirs, strict=True)],
            "mean": centre,
            "low": _none(low),
            "high": _none(high),
            "p": permutation_test(own, theirs, True, rng),
            "smallest_p": 0.5 ** len(seeds) if len(seeds) <= EXACT_PAIRS else None,
            "probability_of_improvement": probability_of_improvement(own, theirs),
        }

    def speed_of(values: Sequence[float]) -> dict[str, Any]:
        known = [x for x in values if not math.isnan(x)]
        result: dict[str, Any] = {"values": known, "iqm": None, "low": None, "high": None}
        if known:
            result |= interval(known)
            result["low"] = None if result["low"] is None else max(0.0, result["low"])
        return result

    def ratio(ratios: Sequence[float], speed: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "values": ["never" if math.isinf(r) else _none(r) for r in ratios],
            "never": sum(map(math.isinf, ratios)),
            "undefined": sum(map(math.isnan, ratios)),
            "estimate": 1 / speed["iqm"] if speed["iqm"] else None,
            "low": 1 / speed["high"] if speed["high"] else None,
            "high": 1 / speed["low"] if speed["low"] else None,
        }

    def over_rival(arm: str) -> dict[str, Any] | None:
        if rival is None or arm == rival:
            return None
        own, theirs, goal = table[arm], table[rival], table[reference]
        return speed_of([speed_over(own[s], theirs[s], goal[s]) for s in seeds])

    def gap(arm: str) -> dict[str, Any] | None:
        # A share of a gap that was not shown to exist would be noise over noise.
        if oracle is None or arm in (reference, oracle) or not oracle_is_better:
            return None
        columns = np.array([finals[arm], finals[reference], finals[oracle]]).T
        share = gap_closed(*columns.T)
        low, high = paired_bootstrap_ci(columns, lambda x: gap_closed(*x.T), rng, reps, level)
        return {"share": _none(share), "low": _none(low), "high": _none(high)}

    differences = {arm: difference(arm) for arm in table if arm != reference}
    words = {reference: REFERENCE}
    for arm, found in differences.items():
        known = found["low"] is not None
        words[arm] = verdict(found["low"], found["high"]) if known else NO_DIFFERENCE
    oracle_is_better = oracle is not None and words[oracle] == BETTER
    arms: dict[str, Any] = {}
    for arm, by_seed in table.items():
        ordered = [by_seed[seed] for seed in seeds]
        ratios = [tokens_ratio(x, y) for x, y in zip(ordered, base, strict=True)]
        speed = speed_of([1 / r for r in ratios])  # 0 where it never gets there
        shares = [x.noise_share for x in ordered if not math.isnan(x.noise_share)]
        arms[arm] = {
            "n": len(seeds),
            "test": interval(finals[arm]),
            "test_before": [x.test_before for x in ordered],
            "area": interval([area_under_curve(x.tokens, x.loss) for x in ordered]),
            "tokens": [float(x.tokens[-1]) for x in ordered],
            "speed_up": speed,
            "tokens_ratio": ratio(ratios, speed),
            "speed_over_rival": over_rival(arm),
            "difference": differences.get(arm),
            "gap_closed": gap(arm),
            "noise_share": mean(shares) if shares else None,
            "verdict": words[arm],
        }
    return {
        "metric": "held-out loss on the test split [bits per byte], lower is better",
        "reference": reference,
        "oracle": oracle,
        "rival": rival,
        "seeds": seeds,
        "budget_tokens": float(max(run.tokens[-1] for run in base)),
        "level": level,
        "reps": reps,
        "interval": "stratified bootstrap over seeds, widened for few seeds as Student's t is",
        "notes": notes,
        "arms": arms,
    }


def _check_comparable(
    arm: str,
    by_seed: Mapping[int, ArmRun],
    seeds: Sequence[int],
    base: Sequence[ArmRun],
    notes: list[str],
) -> None:
    if sorted(by_seed) != list(seeds):
        raise ValueError(
            f"expected seeds {list(seeds)} for {arm!r}, as the reference has, got "
            f"{sorted(by_seed)}: finish the missing runs"
        )
    for other in base:
        run = by_seed[other.seed]
        if not math.isclose(run.test_before, other.test_before, rel_tol=1e-4):
            raise ValueError(
                f"expected {arm!r} seed {run.seed} to start at {other.test_before} bits per byte "
                f"like {other.arm!r}, got {run.test_before}: arms must share their initialisation"
            )
        if not math.isclose(run.tokens[-1], other.tokens[-1], rel_tol=0.01):
            notes.append(
                f"{arm} seed {run.seed} trained {run.tokens[-1]:,.0f} tokens, {other.arm} "
                f"{other.tokens[-1]:,.0f}: their budgets differ"
            )


def _none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

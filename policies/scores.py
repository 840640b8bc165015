"""What a table of runs says: estimates, intervals and one cautious word per arm.

Pure functions over numbers. It knows nothing of worlds, learners or files, and it draws no random
number of its own: every resampling takes the caller's generator, so one seed gives one table.
Losses are held-out bits per byte, so lower is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

BETTER, WORSE, NO_DIFFERENCE, REFERENCE = "better", "worse", "no difference shown", "reference"
EXACT_PAIRS = 12  # 2^12 sign flips are enumerated; beyond that they are sampled
EXACT_SPLITS = 20_000  # unpaired regroupings enumerated; 8 against 8 has 12 870


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


def iqm(x: ArrayLike) -> float:
    """Interquartile mean: the mean once a quarter of the values is cut at either end.

    As in rliable (Agarwal et al. 2021), whole values are cut: below four nothing is, so that the
    interquartile mean of three runs is their mean.
    """
    flat = np.sort(np.asarray(x, dtype=np.float64), axis=None)
    if len(flat) == 0:
        raise ValueError("expected at least one score, got none")
    cut = len(flat) // 4
    return float(flat[cut : len(flat) - cut].mean())


def mean(x: ArrayLike) -> float:
    return float(np.asarray(x, dtype=np.float64).mean())


Statistic = Callable[[FloatArray], float]


def stratified_bootstrap_ci(
    scores: ArrayLike,
    statistic: Statistic,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
    widen: bool = True,
) -> tuple[float, float]:
    """Bootstrap interval of `statistic`, runs resampled within each task.

    A percentile bootstrap of a handful of runs is far too narrow: on normal data its "95 %"
    interval holds the true mean in 75 of 100 experiments with 3 runs, in 84 with 5. `widen`
    stretches it about the estimate by t/z · √(n / (n - 1)), which for the mean of normal data
    gives Student's interval (95 of 100 at any n) and fades out as n grows.

    Args:
        scores: (n_runs, n_tasks), or (n_runs,) for one task.
        statistic: Maps (n_runs, n_tasks) to a number.
        widen: False gives the plain percentile interval, as rliable does.

    Returns:
        (low, high); (nan, nan) for one run, which says nothing about the spread.
    """
    table = _score_table(scores)
    n, m = table.shape
    column = np.arange(m)
    return _bootstrap(
        table, statistic, lambda: table[rng.integers(n, size=(n, m)), column], reps, level, widen, m
    )


def paired_bootstrap_ci(
    columns: ArrayLike,
    statistic: Statistic,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
    widen: bool = True,
) -> tuple[float, float]:
    """The same for columns that share a seed per row: whole rows are resampled, so pairs stay."""
    table = _score_table(columns)
    n = len(table)
    return _bootstrap(
        table, statistic, lambda: table[rng.integers(n, size=n)], reps, level, widen, 1
    )


def paired_difference(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, reps: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `a - b` over seeds with its interval: (mean, low, high); a[i], b[i] share a seed."""
    difference = _pairs(a, b)
    low, high = stratified_bootstrap_ci(difference, mean, rng, reps, level)
    return mean(difference), low, high


def _score_table(scores: ArrayLike) -> FloatArray:
    table = np.asarray(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(
            f"expected a table (n_runs, n_tasks) of finite scores, got shape {table.shape}: "
            "drop or replace runs without a score first, and say so"
        )
    return table


def _bootstrap(
    table: FloatArray,
    statistic: Statistic,
    draw: Callable[[], FloatArray],
    reps: int,
    level: float,
    widen: bool,
    strata: int,
) -> tuple[float, float]:
    if not 0 < level < 1 or reps < 1:
        raise ValueError(f"expected 0 < level < 1 and reps >= 1, got {level} and {reps}")
    n = len(table)
    if n == 1:
        return math.nan, math.nan
    drawn = np.array([statistic(draw()) for _ in range(reps)])
    if not np.isfinite(drawn).all():
        return math.nan, math.nan
    low, high = (float(q) for q in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    if not widen:
        return low, high
    from scipy import special  # 0.2 s that only this line needs

    upper = (1 + level) / 2
    t_over_z = special.stdtrit(strata * (n - 1), upper) / special.ndtri(upper)
    stretch = float(t_over_z) * math.sqrt(n / (n - 1))
    centre = statistic(table)
    return centre - stretch * max(0.0, centre - low), centre + stretch * max(0.0, high - centre)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Chance that a random run of `a` has a lower loss than one of `b`, ties counted half."""
    x, y = np.asarray(a, dtype=np.float64)[:, None], np.asarray(b, dtype=np.float64)[None, :]
    return float(((x < y) + 0.5 * (x == y)).mean())


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    paired: bool,
    rng: np.random.Generator | None = None,
    reps: int = 10_000,
) -> float:
    """One-sided p that losses `a` are lower than `b` on average by chance alone.

    Paired: signs of the differences are flipped, all 2^n of them up to 12 pairs. Unpaired: runs
    are dealt anew to the two arms, in every way if there are at most 20 000. Otherwise `rng` draws
    `reps` of them and the observed one counts too (Phipson & Smyth 2010), so that p is never 0.

    Raises:
        ValueError: Unequal lengths when paired, or too many runs to enumerate and no `rng`.
    """
    if paired:
        difference = _pairs(b, a)
        n = len(difference)
        exact = n <= EXACT_PAIRS
        if exact:
            bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        else:
            bits = _needed(rng).integers(2, size=(reps, n))
        drawn = (1 - 2 * bits) @ difference / n
        observed = difference.mean()
    else:
        x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
        both = np.concatenate([x, y])
        exact = math.comb(len(both), len(x)) <= EXACT_SPLITS
        if exact:
            rows = np.array(list(combinations(range(len(both)), len(x))))
        else:
            rows = _needed(rng).permuted(np.tile(np.arange(len(both)), (reps, 1)), axis=1)
            rows = rows[:, : len(x)]
        sums = both[rows].sum(axis=1)
        drawn = (both.sum() - sums) / len(y) - sums / len(x)
        observed = y.mean() - x.mean()
    # Regroupings that are equal in exact arithmetic must not fall below by a rounding error.
    hits = int((drawn >= observed - 1e-12 * max(1.0, abs(observed))).sum())
    return hits / len(drawn) if exact else (hits + 1) / (len(drawn) + 1)


def _pairs(a: ArrayLike, b: ArrayLike) -> FloatArray:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise ValueError(
            f"expected two equally long lists of scores, got shapes {x.shape} and {y.shape}: "
            "pair runs by seed"
        )
    return np.asarray(x - y)


def _needed(rng: np.random.Generator | None) -> np.random.Generator:
    if rng is None:
        raise ValueError("expected a generator to sample permutations, got None: pass `rng`")
    return rng


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
    *,
    rng: np.random.Generator,
    reps: int = 2000,
    level: float = 0.95,
) -> dict[str, Any]:
    """Everything that the score table says, ready for JSON (what has no value is None).

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
    for name in (reference, oracle):
        if name is not None and name not in table:
            raise ValueError(f"expected runs of {name!r} to compare with, got {sorted(table)}")
    seeds = sorted(table[reference])
    base = [table[reference][seed] for seed in seeds]
    notes: list[str] = []
    for arm, by_seed in table.items():
        _check_comparable(arm, by_seed, seeds, base, notes)

    def finals(arm: str) -> list[float]:
        return [table[arm][seed].test_after for seed in seeds]

    def interval(values: Sequence[float]) -> dict[str, Any]:
        low, high = stratified_bootstrap_ci(values, iqm, rng, reps, level)
        return {"values": [*values], "iqm": iqm(values), "low": _none(low), "high": _none(high)}

    def difference(arm: str) -> dict[str, Any]:
        centre, low, high = paired_difference(finals(arm), finals(reference), rng, reps, level)
        return {
            "values": [x - y for x, y in zip(finals(arm), finals(reference), strict=True)],
            "mean": centre,
            "low": _none(low),
            "high": _none(high),
            "p": permutation_test(finals(arm), finals(reference), True, rng),
            "smallest_p": 0.5 ** len(seeds) if len(seeds) <= EXACT_PAIRS else None,
            "probability_of_improvement": probability_of_improvement(
                finals(arm), finals(reference)
            ),
        }

    def speed_up(ratios: Sequence[float]) -> dict[str, Any]:
        known = [0.0 if math.isinf(r) else 1 / r for r in ratios if r > 0]  # nan fails r > 0
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

    def gap(arm: str) -> dict[str, Any] | None:
        # A share of a gap that was not shown to exist would be noise over noise.
        if oracle is None or arm in (reference, oracle) or not oracle_is_better:
            return None
        columns = np.array([finals(arm), finals(reference), finals(oracle)]).T
        share = gap_closed(*columns.T)
        low, high = paired_bootstrap_ci(columns, lambda x: gap_closed(*x.T), rng, reps, level)
        return {"share": _none(share), "low": _none(low), "high": _none(high)}

    differences = {arm: difference(arm) for arm in table if arm != reference}
    words = {arm: _word(found) for arm, found in differences.items()} | {reference: REFERENCE}
    oracle_is_better = oracle is not None and words[oracle] == BETTER
    arms: dict[str, Any] = {}
    for arm, by_seed in table.items():
        ordered = [by_seed[seed] for seed in seeds]
        ratios = [tokens_ratio(x, y) for x, y in zip(ordered, base, strict=True)]
        speed = speed_up(ratios)
        shares = [x.noise_share for x in ordered if not math.isnan(x.noise_share)]
        arms[arm] = {
            "n": len(seeds),
            "test": interval(finals(arm)),
            "test_before": [x.test_before for x in ordered],
            "area": interval([area_under_curve(x.tokens, x.loss) for x in ordered]),
            "tokens": [float(x.tokens[-1]) for x in ordered],
            "speed_up": speed,
            "tokens_ratio": ratio(ratios, speed),
            "difference": differences.get(arm),
            "gap_closed": gap(arm),
            "noise_share": mean(shares) if shares else None,
            "verdict": words[arm],
        }
    return {
        "metric": "held-out loss on the test split [bits per byte], lower is better",
        "reference": reference,
        "oracle": oracle,
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


def _word(difference: Mapping[str, Any]) -> str:
    if difference["low"] is None:
        return NO_DIFFERENCE
    return verdict(difference["low"], difference["high"])


def _none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

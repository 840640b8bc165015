"""What a table of runs says: measures of a curve and one cautious word per arm.

Pure functions over numbers. It knows nothing of worlds, learners or files; intervals and tests are
`statistics.py`'s. Losses are held-out bits per byte, so lower is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from policies.verdict.statistics import (
    FloatArray,
    Statistic,
    cluster_bootstrap_ci,
    cluster_test,
    holm,
    iqm,
    mean,
    paired_bootstrap_ci,
    paired_difference,
    pairs_needed,
    permutation_test,
    probability_of_improvement,
    smallest_p,
    split_halves,
    stratified_bootstrap_ci,
)
from policies.verdict.summary import (
    ALPHA,
    BETTER,
    FAMILIES_COMPARED,
    HEADLINE_SEEDS,
    NO_DIFFERENCE,
    NO_RIVALS,
    REFERENCE,
    TOO_FEW,
    WORSE,
    ArmScore,
    Comparison,
    Contest,
    Difference,
    Interval,
    Standing,
    Summary,
)

LEVEL = 0.95  # of all intervals


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
        family: Of the arm, as the registry of arms has it; empty where nobody says.
        training: Tells the trainings of a learned policy apart; empty where nothing was learned.
        learner_seed: Of the initial learner; None where nobody says.

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
    family: str = ""
    training: str = ""
    learner_seed: int | None = None

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
        curve = _frozen_array(self.loss)
        if curve.shape != tokens.shape:
            raise ValueError(
                f"expected {len(tokens)} values in loss of {who}, one per measurement, "
                f"got shape {curve.shape}"
            )
        if not (np.isfinite(curve) & (curve >= 0)).all():
            bad = int(np.flatnonzero(~(np.isfinite(curve) & (curve >= 0)))[0])
            raise ValueError(
                f"expected finite losses >= 0 in loss of {who}, got {curve[bad]} at "
                f"measurement {bad}: the run diverged, train it again"
            )
        object.__setattr__(self, "loss", curve)
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


def gap_closed(arm: ArrayLike, reference: ArrayLike, target_text: ArrayLike) -> float:
    """Share of the way from the reference's loss to `target_text`'s that `arm` covers, 0 to 1.

    nan where the reference is not above `target_text`.
    """
    gap = mean(reference) - mean(target_text)
    return (mean(reference) - mean(arm)) / gap if gap > 0 else math.nan


def verdict(difference: Difference) -> str:
    """The word for a difference in loss; a corrected p of 0.05 or more shows nothing.

    Where no outcome of so many seeds could have come below 0.05, that is what is said.
    """
    if difference.smallest_p is not None and difference.smallest_p >= ALPHA:
        return TOO_FEW
    centre = difference.mean.centre
    if difference.p >= ALPHA or not centre:
        return NO_DIFFERENCE
    return BETTER if centre < 0 else WORSE


def seeds_needed(arms: int) -> int:
    """The least number of seeds that can show a difference among so many arms."""
    return pairs_needed(max(1, arms - 1), ALPHA)


def summarise(
    runs: Sequence[ArmRun],
    reference: str = "uniform",
    target_text: str | None = None,
    rival: str | None = None,
    *,
    subject: str | None = None,
    rng: np.random.Generator,
    reps: int = 2000,
) -> Summary:
    """Everything that the score table says.

    Args:
        runs: Of all arms, on the same seeds.
        reference: Every arm is compared with it.
        target_text: The arm that reads the target itself; the share of the gap to it is told.
        rival: Another arm that tokens are counted against, besides the reference.
        subject: The arm that the evaluation is about; it is compared with its strongest rival, too.

    Raises:
        ValueError: A missing arm, a doubled run, arms with other seeds than the reference, or an
            arm that started from another initialisation.
    """
    table: dict[str, dict[int, ArmRun]] = {}
    for run in runs:
        if run.seed in table.setdefault(run.arm, {}):
            raise ValueError(f"expected one run per arm and seed, got {run.arm!r} {run.seed} twice")
        table[run.arm][run.seed] = run
    for name in (reference, target_text, rival, subject):
        if name is not None and name not in table:
            raise ValueError(f"expected runs of {name!r} to compare with, got {sorted(table)}")
    seeds = sorted(table[reference])
    base = [table[reference][seed] for seed in seeds]
    notes: list[str] = []
    for arm, by_seed in table.items():
        _check_comparable(arm, by_seed, seeds, base, notes)
    rows = {arm: [by_seed[seed] for seed in seeds] for arm, by_seed in table.items()}
    finals = {arm: _finals(row) for arm, row in rows.items()}
    estimate = _Estimates(rng, reps)
    differences = _to_reference(rows, reference, estimate)
    arms: dict[str, ArmScore] = {}
    for arm, row in rows.items():
        ratios = [tokens_ratio(x, y) for x, y in zip(row, base, strict=True)]
        clusters = _clusters(row)
        # 0 where it never gets there.
        speed = estimate.speed([1 / r for r in ratios], clusters)
        test = estimate.middle(finals[arm], clusters)
        area = estimate.middle([area_under_curve(x.tokens, x.loss) for x in row], clusters)
        over_rival = gap = None
        if rival is not None and arm != rival:
            pairs = zip(row, rows[rival], base, strict=True)
            over_rival = estimate.speed([speed_over(*three) for three in pairs], clusters)
        if (
            target_text is not None
            and _apart(differences.get(target_text))
            and arm not in (reference, target_text)
        ):
            three = (finals[arm], finals[reference], finals[target_text])
            gap = estimate.gap(*three, clusters)
        shares = [x.noise_share for x in row if not math.isnan(x.noise_share)]
        arms[arm] = ArmScore(
            test=test,
            test_before=tuple(x.test_before for x in row),
            area=area,
            tokens=tuple(float(x.tokens[-1]) for x in row),
            speed_up=speed,
            tokens_ratio=_inverse(speed, ratios),
            speed_over_rival=over_rival,
            difference=differences.get(arm),
            gap_closed=gap,
            noise_share=mean(shares) if shares else None,
            verdict=verdict(differences[arm]) if arm in differences else REFERENCE,
            family=row[0].family,
            trainings=_trainings(row),
        )
    found = Summary(
        reference=reference,
        target_text=target_text,
        rival=rival,
        seeds=tuple(seeds),
        budget_tokens=float(max(run.tokens[-1] for run in base)),
        level=LEVEL,
        reps=reps,
        notes=tuple(notes),
        arms=arms,
        contest=None if subject is None else _contest(subject, rows, target_text, estimate),
    )
    return _with_standing(found, subject, rows, estimate)


Rows = Mapping[str, Sequence[ArmRun]]  # of each arm, in the order of seeds


def _to_reference(rows: Rows, reference: str, estimate: _Estimates) -> dict[str, Difference]:
    """Corrected differences to the reference; those of controls, which answer another question,
    are corrected by themselves."""
    found: dict[str, Difference] = {}
    for controls in (False, True):
        own = [
            arm
            for arm, row in rows.items()
            if arm != reference and (row[0].family == "control") is controls
        ]
        told = _corrected([estimate.difference(rows[arm], rows[reference]) for arm in own])
        found |= dict(zip(own, told, strict=True))
    return {arm: found[arm] for arm in rows if arm in found}


def _with_standing(
    found: Summary, subject: str | None, rows: Rows, estimate: _Estimates
) -> Summary:
    """The same with what is said of the subject, where the runs tell their families and learners:
    its named comparisons, its controls, and whether all that is enough for a headline."""
    every = [run for row in rows.values() for run in row]
    learners = {run.learner_seed for run in every}
    if None in learners:
        return found
    finals = _finals(rows[found.reference])
    floor = None
    if len(finals) > 1:
        halves = np.abs(split_halves(finals, np.random.default_rng(0)))
        floor = float(np.quantile(halves, 0.95))
    if subject is None:
        return replace(found, standing=Standing(len(learners)), noise_floor=floor)
    named = {found.reference: [found.reference]} if subject != found.reference else {}
    families = {
        f"the best {words}": [
            arm for arm, row in rows.items() if row[0].family == family and arm != subject
        ]
        for family, words in FAMILIES_COMPARED.items()
    }
    played = {words: own for words, own in (named | families).items() if own}
    contests = [_against(subject, own, rows, estimate) for own in played.values()]
    controls = [arm for arm, row in rows.items() if row[0].family == "control"]
    unplayed = tuple(w.removeprefix("the best ") for w, own in families.items() if not own)
    return replace(
        found,
        comparisons=tuple(map(Comparison, played, _jointly(contests))),
        controls=tuple(_jointly([_against(subject, [arm], rows, estimate) for arm in controls])),
        standing=Standing(len(learners), _trainings(rows[subject]) or None, unplayed),
        noise_floor=floor,
    )


def _finals(row: Sequence[ArmRun]) -> list[float]:
    return [run.test_after for run in row]


def _trainings(row: Sequence[ArmRun]) -> int:
    """Trainings that an arm's runs are spread over; 0 where nothing was learned."""
    return len({run.training for run in row} - {""})


def _clusterings(*rows: Sequence[ArmRun]) -> list[list[object]]:
    """Which cluster each of some paired runs is of, in every way in which they are no sample of
    their own; the fewest clusters first.

    An arm that was trained several times has its trainings for clusters. Initial learners are
    clusters where there are enough of them for a headline, which speaks of learners: with fewer, it
    is those at hand that a p speaks of.
    """
    found: list[list[object]] = [[run.training for run in row] for row in rows]
    learners: list[object] = [run.learner_seed for run in rows[0]]
    if HEADLINE_SEEDS <= len(set(learners)) < len(learners):
        found.append(learners)
    return sorted((own for own in found if len(set(own)) > 1), key=lambda own: len(set(own)))


def _clusters(*rows: Sequence[ArmRun]) -> list[object] | None:
    """The fewest clusters of some paired runs, if there are any. Of two arms of several trainings
    these are one's: pairs of trainings share trainings.
    """
    return next(iter(_clusterings(*rows)), None)


@dataclass(frozen=True)
class _Estimates:
    """Estimates with their intervals, all from one generator."""

    rng: np.random.Generator
    reps: int
    level: float = LEVEL

    def middle(self, values: Sequence[float], clusters: Sequence[object] | None = None) -> Interval:
        if clusters is None:
            low, high = stratified_bootstrap_ci(values, iqm, self.rng, self.reps, self.level)
        else:
            low, high = self._of_clusters(values, clusters, iqm)
        return Interval(iqm(values), _none(low), _none(high), tuple(values))

    def speed(self, values: Sequence[float], clusters: Sequence[object] | None = None) -> Interval:
        """The same of speeds: what has no meaning is left out, and no speed is below 0."""
        known = [i for i, x in enumerate(values) if not math.isnan(x)]
        if not known:
            return Interval(None, None, None)
        own = None if clusters is None else [clusters[i] for i in known]
        found = self.middle([values[i] for i in known], own)
        return replace(found, low=None if found.low is None else max(0.0, found.low))

    def difference(self, own: Sequence[ArmRun], theirs: Sequence[ArmRun]) -> Difference:
        """Of paired runs; those of several trainings, or of learners that they share, with these
        as clusters."""
        x, y, clusters = _finals(own), _finals(theirs), _clusters(own, theirs)
        values = [a - b for a, b in zip(x, y, strict=True)]
        centre, low, high = paired_difference(x, y, self.rng, self.reps, self.level)
        if clusters is not None:
            low, high = self._of_clusters(values, clusters, mean)
        return Difference(
            Interval(centre, _none(low), _none(high), tuple(values)),
            p=self.p(own, theirs),
            smallest_p=smallest_p(len(x)),
            probability_of_improvement=probability_of_improvement(x, y),
        )

    def p(self, own: Sequence[ArmRun], theirs: Sequence[ArmRun]) -> float:
        """Of sign flips over seeds, and at least that of Student's test over clusters."""
        x, y = _finals(own), _finals(theirs)
        found = permutation_test(x, y, True, self.rng, two_sided=True)
        values = [a - b for a, b in zip(x, y, strict=True)]
        return max(found, *(cluster_test(values, each) for each in _clusterings(own, theirs)), 0.0)

    def _of_clusters(
        self, values: Sequence[float], clusters: Sequence[object], statistic: Statistic
    ) -> tuple[float, float]:
        return cluster_bootstrap_ci(values, clusters, statistic, self.rng, self.reps, self.level)

    def gap(
        self,
        own: Sequence[float],
        reference: Sequence[float],
        target_text: Sequence[float],
        clusters: Sequence[object] | None = None,
    ) -> Interval:
        columns = np.array([own, reference, target_text]).T
        share = gap_closed(*columns.T)
        if clusters is None:
            low, high = paired_bootstrap_ci(
                columns, lambda x: gap_closed(*x.T), self.rng, self.reps, self.level
            )
        else:
            seeds = np.arange(len(columns))
            low, high = self._of_clusters(
                seeds.tolist(), clusters, lambda drawn: gap_closed(*columns[drawn.astype(int)].T)
            )
        return Interval(_none(share), _none(low), _none(high))


def _inverse(speed: Interval, ratios: Sequence[float]) -> Interval:
    """The tokens ratio of a speed-up; open above where that one touches 0."""
    centre, low, high = (1 / x if x else None for x in (speed.centre, speed.high, speed.low))
    return Interval(centre, low, high, tuple(ratios))


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same with p corrected for their number."""
    n = len(differences)
    return [
        replace(d, p=float(p), smallest_p=d.smallest_p and min(1.0, n * d.smallest_p))
        for d, p in zip(differences, holm([d.p for d in differences]), strict=True)
    ]


def _contest(
    subject: str, rows: Rows, target_text: str | None, estimate: _Estimates
) -> Contest | None:
    """The subject against the strongest other arm; None where there is no other."""
    others = [
        arm
        for arm, row in rows.items()
        if arm not in (subject, target_text) and row[0].family not in NO_RIVALS
    ]
    return _against(subject, others, rows, estimate, whole=True) if others else None


def _jointly(contests: Sequence[Contest]) -> list[Contest]:
    """The same, corrected for their number, with the word that is left."""
    differences = _corrected([contest.difference for contest in contests])
    return [
        replace(contest, difference=difference, verdict=verdict(difference))
        for contest, difference in zip(contests, differences, strict=True)
    ]


def _against(
    subject: str, others: Sequence[str], rows: Rows, estimate: _Estimates, whole: bool = False
) -> Contest:
    """The subject against the strongest of some others.

    Args:
        whole: Whether intervals are drawn for all others, as they always were for the contest:
            its own, of the same generator, depends on it to the last digit.
    """
    rival = min(others, key=lambda arm: mean(_finals(rows[arm])))
    found = {
        arm: estimate.difference(rows[subject], rows[arm])
        for arm in others
        if whole or arm == rival
    }
    difference = found[rival]
    p = [found[arm].p if arm in found else estimate.p(rows[subject], rows[arm]) for arm in others]
    if (difference.mean.centre or 0) < 0:
        # It beats all others where it beats each of them (Berger 1982); that needs no correction.
        difference = replace(difference, p=max(p))
    else:
        least = difference.smallest_p and min(1.0, len(others) * difference.smallest_p)
        corrected = float(holm(p)[list(others).index(rival)])
        difference = replace(difference, p=corrected, smallest_p=least)
    return Contest(subject, rival, difference, verdict(difference))


def _apart(difference: Difference | None) -> bool:
    """Whether the interval lies below 0: a share of a gap that may be none is noise over noise."""
    return difference is not None and difference.mean.high is not None and difference.mean.high < 0


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

"""What an evaluation found, as values: an interval, an arm's score, the summary of all arms.

They are computed in `scores.py` and drawn by the report and the table. `to_json` is what stands in
`scores.json`; inside the program no figure is looked up by a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BETTER, WORSE, NO_DIFFERENCE, REFERENCE = "better", "worse", "no difference shown", "reference"
TOO_FEW = "too few seeds"  # no outcome of so few could have shown a difference
WORDS = (BETTER, WORSE, NO_DIFFERENCE, TOO_FEW, REFERENCE)

METRIC = "held-out loss on the test split [bits per byte], lower is better"
# Fixed before an evaluation's first episode; it stands in the evaluation's config.
ALPHA = 0.05
TEST = (
    "two-sided sign flips of paired seeds on the final test loss, corrected for the number of "
    f"arms (Holm); a difference is shown where p < {ALPHA:g}"
)
INTERVALS = "stratified bootstrap over seeds, widened for few seeds as Student's t is"
HEADLINE_SEEDS, HEADLINE_TRAININGS = 8, 3
CLUSTERS = (
    "where a policy was trained several times, whole trainings are resampled first, and p is at "
    "least that of Student's test on the trainings' means; so with learner seeds that several "
    f"seeds share, if there are {HEADLINE_SEEDS} or more"
)
# What the subject is compared with, whatever is played: the reference, and the best of a family.
FAMILIES_COMPARED = {"frontier rule": "hand-made rule", "selection": "selection method"}
COMPARISONS = (
    "the subject against the reference, the best "
    + " and the best ".join(FAMILIES_COMPARED.values())
    + ", corrected for their number (Holm)"
)
HEADLINE = (
    f"{HEADLINE_SEEDS} learner seeds, {HEADLINE_TRAININGS} trainings of a learned policy, and all "
    "comparisons played; with less it is an estimate"
)
NO_RIVALS = ("control", "reference")  # families that nobody competes with

Record = Mapping[str, Any]  # a JSON object


@dataclass(frozen=True)
class Interval:
    """An estimate over seeds with its interval.

    Attributes:
        centre: The estimate; None where no seed has a value.
        low: Lower end; None where one run says nothing about the spread.
        high: Upper end; None there, too, and where it is open.
        values: One per seed that has one, in the order of seeds.
    """

    centre: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...] = ()

    def to_json(self, centre: str) -> dict[str, object]:
        """With the estimate under the name that says what it is."""
        return {"values": [*self.values], centre: self.centre, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, record: Record, centre: str) -> Interval:
        values = tuple(record.get("values", ()))
        return cls(record[centre], record["low"], record["high"], values)


@dataclass(frozen=True)
class Difference:
    """Final test loss of an arm minus the reference's, over seeds that they share.

    Attributes:
        mean: Its mean [bits per byte]; below 0 the arm is better.
        p: Two-sided, from flipping the signs of pairs, corrected for the number of comparisons:
            a mean as far from 0 by chance alone.
        smallest_p: The least corrected p that so many pairs and comparisons can give; None where
            p was sampled.
        probability_of_improvement: Chance that a run of the arm ends below one of the reference.
    """

    mean: Interval
    p: float
    smallest_p: float | None
    probability_of_improvement: float

    def to_json(self) -> dict[str, object]:
        return {
            **self.mean.to_json("mean"),
            "p": self.p,
            "smallest_p": self.smallest_p,
            "probability_of_improvement": self.probability_of_improvement,
        }

    @classmethod
    def from_json(cls, record: Record) -> Difference:
        return cls(
            Interval.from_json(record, "mean"),
            record["p"],
            record["smallest_p"],
            record["probability_of_improvement"],
        )


@dataclass(frozen=True)
class ArmScore:
    """What the runs of one arm say.

    Attributes:
        test: Interquartile mean of the final test loss [bits per byte].
        test_before: Test loss of each seed before the first step [bits per byte].
        area: Interquartile mean of the loss averaged over the budget [bits per byte].
        tokens: Trained by each seed.
        speed_up: 1 / tokens ratio, interquartile mean [times]. A run that never reaches the
            reference's final loss counts as 0, the worst it could be.
        tokens_ratio: Tokens to the reference's final loss, over the reference's own. A value is
            inf where the run never gets there, nan where the question has no meaning. Its interval
            is the speed-up's, inverted, and open above where that one touches 0.
        speed_over_rival: As `speed_up`, against the rival's tokens; None without a rival.
        difference: To the reference; None for the reference itself.
        gap_closed: Share of the way from the reference to the arm that reads the target itself;
            None where there is none, it is not shown to be better, or this arm is one of them.
        noise_share: Of the trained tokens; None where no run can tell.
        verdict: One cautious word; it follows from the difference's corrected p alone.
        family: Of the arm, as the registry of arms has it; empty where nobody said.
        trainings: Of a learned policy that its runs are spread over; 0 where nothing was learned.
    """

    test: Interval
    test_before: tuple[float, ...]
    area: Interval
    tokens: tuple[float, ...]
    speed_up: Interval
    tokens_ratio: Interval
    speed_over_rival: Interval | None
    difference: Difference | None
    gap_closed: Interval | None
    noise_share: float | None
    verdict: str
    family: str = ""
    trainings: int = 0

    def __post_init__(self) -> None:
        if self.verdict not in WORDS:
            raise ValueError(f"expected a verdict of `scores.py`, got {self.verdict!r}")
        if (self.difference is None) != (self.verdict == REFERENCE):
            raise ValueError(
                f"expected a difference for every arm but the reference, got {self.verdict!r} "
                f"with {self.difference}"
            )

    @property
    def never(self) -> int:
        """Seeds that never reached the reference's final loss."""
        return sum(map(math.isinf, self.tokens_ratio.values))

    @property
    def undefined(self) -> int:
        """Seeds for which there was nothing to reach."""
        return sum(map(math.isnan, self.tokens_ratio.values))

    def to_json(self) -> dict[str, object]:
        rival, gap = self.speed_over_rival, self.gap_closed
        return {
            "n": len(self.test.values),
            "test": self.test.to_json("iqm"),
            "test_before": [*self.test_before],
            "area": self.area.to_json("iqm"),
            "tokens": [*self.tokens],
            "speed_up": self.speed_up.to_json("iqm"),
            "tokens_ratio": {
                "values": [_ratio_to_json(ratio) for ratio in self.tokens_ratio.values],
                "never": self.never,
                "undefined": self.undefined,
                "estimate": self.tokens_ratio.centre,
                "low": self.tokens_ratio.low,
                "high": self.tokens_ratio.high,
            },
            "speed_over_rival": None if rival is None else rival.to_json("iqm"),
            "difference": None if self.difference is None else self.difference.to_json(),
            "gap_closed": gap and {"share": gap.centre, "low": gap.low, "high": gap.high},
            "noise_share": self.noise_share,
            "verdict": self.verdict,
            **({"family": self.family} if self.family else {}),
            **({"trainings": self.trainings} if self.trainings else {}),
        }

    @classmethod
    def from_json(cls, record: Record) -> ArmScore:
        rival, gap, difference = (
            record[name] for name in ("speed_over_rival", "gap_closed", "difference")
        )
        ratio = record["tokens_ratio"]
        return cls(
            test=Interval.from_json(record["test"], "iqm"),
            test_before=tuple(record["test_before"]),
            area=Interval.from_json(record["area"], "iqm"),
            tokens=tuple(record["tokens"]),
            speed_up=Interval.from_json(record["speed_up"], "iqm"),
            tokens_ratio=Interval(
                ratio["estimate"],
                ratio["low"],
                ratio["high"],
                tuple(_ratio_from_json(value) for value in ratio["values"]),
            ),
            speed_over_rival=None if rival is None else Interval.from_json(rival, "iqm"),
            difference=None if difference is None else Difference.from_json(difference),
            gap_closed=None if gap is None else Interval.from_json(gap, "share"),
            noise_share=record["noise_share"],
            verdict=record["verdict"],
            family=record.get("family", ""),
            trainings=record.get("trainings", 0),
        )


@dataclass(frozen=True)
class Contest:
    """An arm against the strongest of all others.

    Attributes:
        subject: The arm, named before the figures were seen.
        rival: The other arm with the lowest mean test loss, the one that reads the target aside.
        difference: Final test loss of the subject minus the rival's. Its p is the largest against
            any other arm where the subject is ahead, so that choosing the rival afterwards gives
            no advantage; it is corrected for the number of others where it is behind.
        verdict: One cautious word.
    """

    subject: str
    rival: str
    difference: Difference
    verdict: str

    def to_json(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "rival": self.rival,
            "difference": self.difference.to_json(),
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, record: Record) -> Contest:
        difference = Difference.from_json(record["difference"])
        return cls(record["subject"], record["rival"], difference, record["verdict"])


@dataclass(frozen=True)
class Comparison:
    """The subject against one arm, or the best of a family, as named before the first episode.

    Attributes:
        against: In words: `uniform`, or `the best selection method`.
        contest: Against the strongest of them; its p is corrected for the number of comparisons.
    """

    against: str
    contest: Contest

    def to_json(self) -> dict[str, object]:
        return {"against": self.against, **self.contest.to_json()}

    @classmethod
    def from_json(cls, record: Record) -> Comparison:
        return cls(record["against"], Contest.from_json(record))


@dataclass(frozen=True)
class Standing:
    """Whether what was found may be called a headline.

    Attributes:
        learner_seeds: Initial learners that the runs began from.
        trainings: Of the subject; None where nothing of it was learned.
        unplayed: Families of the named comparisons of which no arm was played, in words.
    """

    learner_seeds: int
    trainings: int | None = None
    unplayed: tuple[str, ...] = ()

    @property
    def lacks(self) -> tuple[str, ...]:
        """What a headline would need, one phrase each; nothing where this is one."""
        found = []
        if self.learner_seeds < HEADLINE_SEEDS:
            found.append(
                f"{HEADLINE_SEEDS} learner seeds, of which there "
                f"{_are(self.learner_seeds)} (--inits {HEADLINE_SEEDS})"
            )
        if self.trainings is not None and self.trainings < HEADLINE_TRAININGS:
            found.append(
                f"{HEADLINE_TRAININGS} trainings of the policy, of which there "
                f"{_are(self.trainings)} (--trainings NAME=A,B,C)"
            )
        found += [f"a {name} among the arms" for name in self.unplayed]
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        return {
            "learner_seeds": self.learner_seeds,
            "trainings": self.trainings,
            "unplayed": [*self.unplayed],
            "headline": not self.lacks,
        }

    @classmethod
    def from_json(cls, record: Record) -> Standing:
        return cls(record["learner_seeds"], record["trainings"], tuple(record["unplayed"]))


def _are(n: int) -> str:
    return f"{'is' if n == 1 else 'are'} {n}"


def _ratio_to_json(ratio: float) -> float | str | None:
    return "never" if math.isinf(ratio) else None if math.isnan(ratio) else ratio


def _ratio_from_json(value: float | str | None) -> float:
    return math.inf if value == "never" else math.nan if value is None else float(value)


@dataclass(frozen=True)
class Summary:
    """Everything that the score table says.

    Attributes:
        reference: The arm that every other is compared with.
        target_text: The arm that reads the target itself, if it was played: what could be had.
        rival: Another arm that tokens are counted against, if any.
        seeds: Played by every arm.
        budget_tokens: That the reference trained per run.
        level: Of all intervals, 0 to 1.
        reps: Resamples of each.
        notes: What a reader must know before comparing, one sentence each.
        arms: Scores by name, in the order of the table.
        contest: The evaluation's subject against its strongest rival; None without a subject, or
            without another arm.
        comparisons: Of the subject, those named beforehand.
        controls: The subject against each of its controls, corrected for their number.
        standing: Whether this is a headline or an estimate; None where nobody knows.
        noise_floor: Difference of two halves of the reference's runs that 95 of 100 splits stay
            below [bits per byte]; None with one run.
    """

    reference: str
    target_text: str | None
    rival: str | None
    seeds: tuple[int, ...]
    budget_tokens: float
    level: float
    reps: int
    notes: tuple[str, ...]
    arms: Mapping[str, ArmScore]
    contest: Contest | None = None
    comparisons: tuple[Comparison, ...] = ()
    controls: tuple[Contest, ...] = ()
    standing: Standing | None = None
    noise_floor: float | None = None

    def __post_init__(self) -> None:
        for name in (self.reference, self.target_text, self.rival):
            if name is not None and name not in self.arms:
                raise ValueError(f"expected a score of {name!r}, got {sorted(self.arms)}")
        for arm, score in self.arms.items():
            if len(score.test.values) != len(self.seeds):
                raise ValueError(
                    f"expected {len(self.seeds)} final losses of {arm!r}, one per seed, got "
                    f"{len(score.test.values)}"
                )

    def to_json(self) -> dict[str, object]:
        """What `scores.json` holds of it; what has no value is None."""
        return {
            "metric": METRIC,
            "reference": self.reference,
            "target_text": self.target_text,
            "rival": self.rival,
            "seeds": [*self.seeds],
            "budget_tokens": self.budget_tokens,
            "level": self.level,
            "reps": self.reps,
            "interval": INTERVALS,
            "test": TEST,
            "notes": [*self.notes],
            "arms": {arm: score.to_json() for arm, score in self.arms.items()},
            "contest": None if self.contest is None else self.contest.to_json(),
            **self._of_the_subject(),
        }

    def _of_the_subject(self) -> dict[str, object]:
        """What stands in a file only where somebody asked for it."""
        found: dict[str, object] = {}
        if self.comparisons:
            found["comparisons"] = [one.to_json() for one in self.comparisons]
        if self.controls:
            found["controls"] = [one.to_json() for one in self.controls]
        if self.standing is not None:
            found["standing"] = self.standing.to_json()
        if self.noise_floor is not None:
            found["noise_floor"] = self.noise_floor
        return found

    @classmethod
    def from_json(cls, record: Record) -> Summary:
        """Inverse of `to_json`; what else a `scores.json` holds is left out.

        Raises:
            ValueError: A part is missing or of another kind.
        """
        try:
            contest, standing = record["contest"], record.get("standing")
            return cls(
                reference=record["reference"],
                target_text=record["target_text"],
                rival=record["rival"],
                seeds=tuple(record["seeds"]),
                budget_tokens=record["budget_tokens"],
                level=record["level"],
                reps=record["reps"],
                notes=tuple(record["notes"]),
                arms={arm: ArmScore.from_json(found) for arm, found in record["arms"].items()},
                contest=None if contest is None else Contest.from_json(contest),
                comparisons=tuple(map(Comparison.from_json, record.get("comparisons", ()))),
                controls=tuple(map(Contest.from_json, record.get("controls", ()))),
                standing=None if standing is None else Standing.from_json(standing),
                noise_floor=record.get("noise_floor"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected the scores of an evaluation, got a record that is not whole ({error}): "
                "give the scores.json that `kncl-policy evaluate` wrote"
            ) from None

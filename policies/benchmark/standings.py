"""Who came first in a cell, among all arms, and whether that is shown.

Pure functions over final test losses; lower is better. Arms are compared on the seeds that they
share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.verdict.statistics import (
    EXACT_PAIRS,
    cluster_bootstrap_ci,
    cluster_test,
    mean,
    paired_difference,
)
from policies.verdict.summary import ALPHA, BETTER, NO_DIFFERENCE, TOO_FEW, WORSE
from train_lm.checked.records import Fields
from train_lm.files import Json

Floats = NDArray[np.float64]

CONTROL = "control"
# Families whose arms are measured beside the others and compete with nobody.
ASIDE = ("reference", CONTROL)

UNIFORM = "uniform"  # what every arm is compared with
SAMPLED = 10_000  # sign flips, where there are too many to be enumerated


@dataclass(frozen=True)
class Placing:
    """The arm with the lowest mean test loss, and how far it is from the next.

    Attributes:
        winner: Its name.
        runner_up: The next one's; None where there is no other.
        among: Number of arms that competed.
        ahead: Mean, low and high of the winner's final test loss minus the next one's [bits per
            byte].
        p: Largest p of the winner against any other, as `pairwise_p` corrects it.
    """

    winner: str
    runner_up: str | None
    among: int
    ahead: tuple[float, float, float]
    p: float

    @property
    def shown(self) -> bool:
        """Whether the winner is shown to be below every other arm."""
        return self.p < ALPHA

    def to_json(self) -> Json:
        return {
            "winner": self.winner,
            "runner_up": self.runner_up,
            "among": self.among,
            "ahead": [*self.ahead],
            "p": self.p,
        }

    @classmethod
    def from_json(cls, found: Fields) -> Placing:
        """Raises: ValueError where it is none."""
        ahead = found.numbers("ahead")
        if len(ahead) != 3:
            raise found.wrong("ahead", "a mean, a low and a high end")
        return cls(
            winner=found.text("winner"),
            runner_up=found.or_none("runner_up", found.text),
            among=found.whole("among", 1),
            ahead=(ahead[0], ahead[1], ahead[2]),
            p=found.number("p", 0, 1),
        )


def placing(
    tests: Mapping[str, Sequence[float]],
    families: Mapping[str, str],
    trainings: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Placing:
    """Of all arms that compete.

    Args:
        tests: Final test loss of each seed, by arm.
        families: Of each arm.
        trainings: Of learned policies, which training played each seed. A pair's p is at least that
            of its trainings' means, and the interval is over trainings; one training shows nothing
            of a policy that comes first.
    """
    rivals = {arm: np.array(own) for arm, own in tests.items() if families[arm] not in ASIDE}
    ranked = sorted(rivals, key=lambda arm: (rivals[arm].mean(), arm))
    if len(ranked) == 1:
        return Placing(ranked[0], None, 1, (0.0, 0.0, 0.0), 1.0)
    losses = np.array([rivals[arm] for arm in ranked])
    ahead = paired_difference(losses[0], losses[1], np.random.default_rng(0))
    several = [own for arm in ranked[:2] if len(set(own := trainings.get(arm, ()))) > 1]
    if several:
        fewest, rng = min(several, key=lambda own: len(set(own))), np.random.default_rng(0)
        ahead = ahead[0], *cluster_bootstrap_ci(losses[0] - losses[1], fewest, mean, rng)
    centre, low, high = (x if np.isfinite(x) else ahead[0] for x in ahead)
    found = [float(p) for p in pairwise_p(losses)[0, 1:]]
    first = trainings.get(ranked[0], ())
    for i, arm in enumerate(ranked[1:]):
        others = trainings.get(arm, ())
        for clusters in (first, others if len(set(others)) > 1 else ()):
            if clusters:
                found[i] = max(found[i], cluster_test(losses[0] - losses[i + 1], clusters))
    return Placing(ranked[0], ranked[1], len(ranked), (centre, low, high), max(found))


def pairwise_p(losses: ArrayLike) -> Floats:
    """(A, A) two-sided p of every pair of A arms, corrected for all pairs and for looking at them.

    Args:
        losses: (A, n) of n paired seeds. All 2^n flips up to 12 of them, else a sample.
    """
    table = np.asarray(losses, dtype=np.float64)
    first, second = np.triu_indices(len(table), 1)
    found = np.ones((len(table), len(table)))
    found[first, second] = found[second, first] = joint_p(table[first] - table[second])
    return found


def joint_p(differences: ArrayLike) -> Floats:
    """(P,) two-sided p of P comparisons, corrected for all of them.

    The signs of each seed's differences are flipped for all comparisons together, and the p of one
    is the share of flips in which the largest Student's t of any is as large as its own: the
    single-step maximum of Westfall & Young (1993, section 2.3; Romano & Wolf 2005). As all are
    flipped together their number does not bound p from below: eight seeds can show a winner among
    forty arms, where a factor of forty could not.

    Args:
        differences: (P, n) of n paired seeds. All 2^n flips up to 12 of them, else a sample.
    """
    own = np.asarray(differences, dtype=np.float64)
    n = own.shape[1]
    if n <= EXACT_PAIRS:
        # A flip of all seeds has the same t: the last one stays.
        signs = 1.0 - 2.0 * (np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1)
    else:
        rng = np.random.default_rng(0)
        signs = np.vstack([np.ones(n), rng.choice((-1.0, 1.0), (SAMPLED, n))])
    squares = np.square(own).sum(1)  # the same whatever the signs
    largest = np.array([_t(own @ flip / n, squares, n).max() for flip in signs])
    observed = _t(own.mean(1), squares, n)
    # Flips that are equal in exact arithmetic must not fall below by a rounding error.
    return np.asarray((largest[:, None] >= observed * (1 - 1e-9)).mean(0))


def against_uniform(
    tests: Mapping[str, Sequence[float]], families: Mapping[str, str]
) -> dict[str, tuple[float, str]]:
    """Each arm but controls against `uniform`: p, as `joint_p` corrects it, and one cautious word.

    A reference competes with nobody, but it is looked at among the others, and corrected with them.
    """
    uniform = np.array(tests[UNIFORM])
    rivals = [arm for arm in tests if arm != UNIFORM and families[arm] != CONTROL]
    if not rivals:
        return {}
    differences = np.array([np.array(tests[arm]) - uniform for arm in rivals])
    found = zip(rivals, joint_p(differences), differences.mean(1), strict=True)
    return {arm: (float(p), worded(p, mean, len(uniform))) for arm, p, mean in found}


def worded(p: float, mean: float, seeds: int) -> str:
    """What p says of a mean difference over so many seeds; lower is better."""
    if p < ALPHA:
        return BETTER if mean < 0 else WORSE
    return TOO_FEW if 2.0 ** (1 - seeds) >= ALPHA else NO_DIFFERENCE


def _t(means: Floats, squares: Floats, n: int) -> Floats:
    """(P,) absolute t; 0 where nothing differs, a large number where nothing varies."""
    spread = np.maximum(squares - n * means**2, 1e-12 * squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.abs(means) / np.sqrt(spread / max(1, n - 1) / n)
    return np.where(squares > 0, found, 0.0)

"""Who came first in a cell, among all arms, and whether that is shown.

Pure functions over final test losses; lower is better. Arms are compared on the seeds that they
share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.verdict.statistics import mean, paired_difference, permutation_test
from policies.verdict.summary import ALPHA
from train_lm.checked.records import Fields
from train_lm.files import Json

# Families whose arms are measured beside the others and compete with nobody.
ASIDE = ("reference", "control")


@dataclass(frozen=True)
class Standing:
    """The arm with the lowest mean test loss, and how far it is from the next.

    Attributes:
        winner: Its name.
        runner_up: The next one's; None where there is no other.
        among: Number of arms that competed.
        ahead: Mean, low and high of the winner's final test loss minus the next one's [bits per
            byte].
        p: Largest two-sided p of sign flips against any other arm (Berger 1982), times the number
            of arms, since each might have been the one that came first.
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
    def from_json(cls, found: Fields) -> Standing:
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


def standing(tests: Mapping[str, Sequence[float]], families: Mapping[str, str]) -> Standing:
    """Of all arms that compete.

    Args:
        tests: Final test loss of each seed, by arm.
        families: Of each arm.
    """
    rivals = {arm: own for arm, own in tests.items() if families[arm] not in ASIDE}
    first, *others = sorted(rivals, key=lambda arm: (mean(rivals[arm]), arm))
    if not others:
        return Standing(first, None, 1, (0.0, 0.0, 0.0), 1.0)
    rng = np.random.default_rng(0)
    centre, low, high = paired_difference(rivals[first], rivals[others[0]], rng)
    worst = max(
        permutation_test(rivals[first], rivals[arm], True, rng, two_sided=True) for arm in others
    )
    ahead = tuple(x if np.isfinite(x) else centre for x in (centre, low, high))
    return Standing(
        first, others[0], len(rivals), (ahead[0], ahead[1], ahead[2]), min(1.0, len(rivals) * worst)
    )

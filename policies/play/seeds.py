"""Which seeds are played for what: no purpose ever sees the episodes of another one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Seeds:
    """A purpose's episodes.

    Attributes:
        first: Seed of its first episode; decides slots and the order of text.
        choices: Joins the seed in the generator of an arm's own choices, so that arms with the
            same seed are paired.
    """

    first: int
    choices: int = 7

    def __call__(self, n: int, start: int = 0) -> Iterable[int]:
        """n seeds, from the one with the number `start` on."""
        return range(self.first + start, self.first + start + n)


EVALUATION = Seeds(0)
TRAINING = Seeds(1_000_000)
RECORDING = Seeds(2_000_000)
TASTING = Seeds(3_000_000, choices=9)  # 10,000 for each seed of `taste`: half of them trials
TASTE_TRIALS = Seeds(3_005_000)
SEARCH = Seeds(4_000_000)  # random curricula that a policy's training is compared with

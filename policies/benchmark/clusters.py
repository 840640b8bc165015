"""Trainings of one policy seen together: seeds of an evaluation say nothing about training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.benchmark.stored import ArmFigures
from policies.verdict.statistics import paired_difference

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cluster:
    """The trainings of a policy.

    Attributes:
        name: `learned` of `learned-0`, `learned-1`, …
        tests: (trainings, seeds) final test losses [bits per byte].
        difference: Their mean minus uniform's [bits per byte].
    """

    name: str
    tests: Floats
    difference: float

    @property
    def trainings(self) -> int:
        return len(self.tests)

    @property
    def mean(self) -> float:
        return float(self.tests.mean())

    @property
    def best(self) -> float:
        """The lowest mean of a training."""
        return float(self.tests.mean(1).min())

    @property
    def worst(self) -> float:
        return float(self.tests.mean(1).max())

    def minus(self, rival: ArmFigures) -> tuple[float, float, float]:
        """Mean difference to another arm, with its interval over *trainings* [bits per byte].

        A training's difference is a mean over seeds that it shares with the rival. Few trainings
        make it wide, as they should.
        """
        own = (self.tests - np.array(rival.test)).mean(1)
        return paired_difference(own, np.zeros_like(own), np.random.default_rng(0))


def clusters_of(arms: Mapping[str, ArmFigures]) -> list[Cluster]:
    """Policies with two trainings or more, told by their arms' names."""
    found: dict[str, list[ArmFigures]] = {}
    for arm, own in arms.items():
        name, dash, number = arm.rpartition("-")
        if own.family == "learned" and dash and number.isdigit():
            found.setdefault(name, []).append(own)
    uniform = np.mean(arms["uniform"].test)
    return [
        Cluster(name, tests, float(tests.mean() - uniform))
        for name, own in found.items()
        if len(own) > 1
        for tests in [np.array([row.test for row in own])]
    ]

"""What has been measured of the learner while an episode runs; the observation is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass
class Measurements:
    """What has been measured of the learner during an episode.

    Attributes:
        loss: Held-out loss of the target mix, one per step, the start included [bits per byte].
        measured_at: (N,) step of the latest probe; -1 where never measured.
        probe: (N,) latest probe loss per topic [bits per byte]; NaN where never measured.
        fall: (N,) relative fall of the probe loss between the two latest measurements; NaN.
        rewards: Reward of each expansion, aligned with the expanded topics.
        consolidations: Reward of each consolidation.
    """

    n_topics: int
    loss: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    consolidations: list[float] = field(default_factory=list)
    measured_at: Ints = field(init=False)
    probe: Floats = field(init=False)
    fall: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.measured_at = np.full(self.n_topics, -1)
        self.probe = np.full(self.n_topics, np.nan)
        self.fall = np.full(self.n_topics, np.nan)

    @property
    def known(self) -> bool:
        """Whether the learner's held-out loss can be measured at all."""
        return bool(self.loss) and bool(np.isfinite(self.loss[-1]))

    def record_probe(self, topics: Ints, losses: Floats, step: int) -> None:
        """Keep new probe losses; `fall` compares them with the ones before."""
        self.measured_at[topics] = step
        before = self.probe[topics]
        known = np.isfinite(before) & np.isfinite(losses)
        self.fall[topics[known]] = 1.0 - losses[known] / before[known]
        self.probe[topics] = losses

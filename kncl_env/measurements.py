"""What has been measured of the learner while an episode runs; the observation is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kncl_env.forgetting import LossMatrix, backward_transfer, forgetting

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

    def grown(self, n_topics: int) -> Measurements:
        """The same of a world with further topics, which were never measured."""
        more = n_topics - self.n_topics
        twin = Measurements(n_topics, self.loss, self.rewards, self.consolidations)
        twin.measured_at[: self.n_topics] = self.measured_at
        twin.probe = np.pad(self.probe, (0, more), constant_values=np.nan)
        twin.fall = np.pad(self.fall, (0, more), constant_values=np.nan)
        return twin

    def record_probe(self, topics: Ints, losses: Floats, step: int) -> None:
        """Keep new probe losses; `fall` compares them with the ones before."""
        self.measured_at[topics] = step
        before = self.probe[topics]
        known = np.isfinite(before) & np.isfinite(losses)
        self.fall[topics[known]] = 1.0 - losses[known] / before[known]
        self.probe[topics] = losses


@dataclass
class Watched:
    """Solid topics whose neighbourhood's held-out loss is measured at every step.

    Those of the nucleus may take half of the places, the others in the order in which they became
    solid; who finds no place is not watched.

    Attributes:
        places: How many can be watched.
        topics: Watched ones, in the order in which they came.
        since: Step that made each of them solid; -1 for those of the nucleus.
        rows: Losses of all that were watched by then: at the start, then after each step [bits per
            byte].
    """

    places: int
    topics: list[int] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)

    @property
    def free(self) -> int:
        """Places left."""
        return self.places - len(self.topics)

    def join(self, topics: Sequence[int], losses: Floats) -> None:
        """From now on these are watched, too; their losses join the latest row."""
        if not self.rows:
            self.rows.append([])
        step = len(self.rows) - 2  # -1, `BEFORE`, at the start
        self.topics += list(topics)
        self.since += [step] * len(topics)
        self.rows[-1] += losses.tolist()

    def record(self, losses: Floats) -> float:
        """A new row; returns the mean loss drop since the one before, 0 of no topic."""
        before = np.array(self.rows[-1])
        self.rows.append(losses.tolist())
        return float((before - losses).mean()) if len(losses) else 0.0

    def matrix(self, titles: Sequence[str] = ()) -> LossMatrix | None:
        """Losses by step; None before the first step, or where nothing is watched.

        Args:
            titles: (N,) of all topics; their numbers, if none.
        """
        if len(self.rows) < 2 or not self.topics:
            return None
        table = np.full((len(self.rows), len(self.topics)), np.nan)
        for row, losses in zip(table, self.rows, strict=True):
            row[: len(losses)] = losses
        names = tuple(titles[topic] if titles else str(topic) for topic in self.topics)
        return LossMatrix(table[0], table[1:], np.array(self.since), names)

    def figures(self) -> dict[str, float]:
        """For `info`: how many are watched, and what later steps did to them, 0 before any."""
        found = self.matrix()
        since = None if found is None or not (found.taught < found.stages - 1).any() else found
        return {
            "watched": len(self.topics),
            "backward_transfer": 0.0 if since is None else backward_transfer(since),
            "forgetting": 0.0 if since is None else forgetting(since),
        }

"""The learning rate as a function of the update: the same for one learner, a bank and a long run.

A schedule knows its length from birth, because a decay over the whole budget is what makes two
orders of the same text comparable. Orders that help at a constant rate can fade under decay; where
the rate stays, averaged weights can be measured in the place of a decay (Luo et al. 2025,
arXiv:2511.18903).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

SCHEDULES = ("decayed", "constant")
AVERAGES = ("none", "ema", "tail")

# Horizon of `ema` and length of `tail`, as shares of the phase.
EMA_SHARE, TAIL_SHARE = 0.1, 0.25


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to `final` at the last update, or the peak for ever.

    Attributes:
        peak: Largest learning rate.
        warmup: Share of the updates with a rising learning rate.
        final: Learning rate at the end of the decay, as a share of the peak.
        start: Update at which the schedule begins.
        length: Updates until the decay ends; 0 before any phase was begun.
        decays: Whether the rate falls at all.
        restart: Update from which the rate rises anew to where it would be, as ReLoRA (Lialin et
            al. 2023) has it after a reset of the moments.
        rewarm: Updates until it is there; 0 where there was no restart.
        averaging: Which average of the weights is measured in their place: `none`; `ema`, whose
            horizon is a tenth of the phase, and as long as that has not passed the mean of all
            updates; `tail`, the mean over the last quarter of the phase, and until then the
            newest weights.
    """

    peak: float
    warmup: float
    final: float
    start: int = 0
    length: int = 0
    decays: bool = False
    restart: int = 0
    rewarm: int = 0
    averaging: str = "none"

    def __post_init__(self) -> None:
        if self.averaging not in AVERAGES:
            raise ValueError(
                f"expected an averaging among {', '.join(AVERAGES)}, got {self.averaging!r}"
            )

    @property
    def averages(self) -> bool:
        return self.averaging != "none"

    def newest_share(self, updates: int) -> float:
        """Share of the newest weights in the average after `updates` updates; the rest is what the
        average was before the last of them.
        """
        done = updates - self.start
        if self.averaging == "ema":
            return max(1 / max(1, done), min(1.0, 1 / (EMA_SHARE * self.length)))
        if self.averaging == "tail":
            counted = done - math.ceil((1 - TAIL_SHARE) * self.length)
            return 1 / max(1, counted)
        return 1.0

    def rate(self, updates: int) -> float:
        """Learning rate of the update that follows `updates` updates."""
        if 0 <= updates - self.restart < self.rewarm:
            return self._planned(updates) * (updates - self.restart + 1) / self.rewarm
        return self._planned(updates)

    def rewarmed(self, updates: int, rewarm: int | None) -> Schedule:
        """The same, rising anew after `updates` updates.

        Args:
            rewarm: Updates until it is where it would be; as many as it began with, if None.
        """
        rewarm = max(1, round(self.warmup * self.length)) if rewarm is None else rewarm
        return replace(self, restart=updates, rewarm=rewarm)

    def _planned(self, updates: int) -> float:
        done = updates - self.start
        warm = max(1, round(self.warmup * self.length))
        if done < warm:
            return self.peak * (done + 1) / warm
        if not self.decays:
            return self.peak
        share = min(1.0, (done - warm) / max(1, self.length - warm))
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share)))

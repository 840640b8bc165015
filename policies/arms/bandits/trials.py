"""Whole steps of an environment, tried and taken back, with what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from kncl_env.env import TopicExpansionEnv
from policies.arms.arm import Ints
from policies.arms.bandits.probe import Probe


class Trials:
    """Plays an environment for the sake of knowing.

    Args:
        env: Was reset.
        probe: Keeps the bill.
    """

    def __init__(self, env: TopicExpansionEnv, probe: Probe) -> None:
        self.env, self.probe = env, probe

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What is played meanwhile is taken back at the end, to the last byte."""
        kept = self.env.snapshot()
        try:
            yield
        finally:
            self.env.restore(kept)

    def step(self, action: int) -> tuple[float, bool]:
        """An expansion's reward, and whether the episode is over; charged."""
        assert self.env.episode is not None
        slots, known = self.env.state().slots, self.env.episode.measurements.probe
        # What was never measured is measured before it is expanded.
        first = action < len(slots) and bool(np.isnan(known[slots[action]]))
        _, reward, terminated, truncated, info = self.env.step(action)
        self._charge(info["memory"]["extra_flops"], self._probed() + first)
        return float(reward), terminated or truncated

    def feed(self, windows: Ints) -> tuple[float, bool]:
        """The same of a step off the graph."""
        reward, over, info = self.env.feed(windows)
        self._charge(info["memory"]["extra_flops"], 0)
        return reward, over

    def _probed(self) -> int:
        """Windows of topics that were measured in the latest step."""
        assert self.env.episode is not None
        episode = self.env.episode
        return int((episode.measurements.measured_at == episode.steps).sum())

    def _charge(self, flops: float, probed: int) -> None:
        assert self.env.episode is not None
        text, watched = self.env.stage.text, self.env.episode.watched.topics
        seen = probed + self.probe.target_windows
        seen += 0 if text is None else sum(len(text.neighbourhood(t)) for t in watched)
        windows = self.env.settings.windows_per_step
        self.probe.charge(flops + self.probe.training(windows) + self.probe.forward(seen))

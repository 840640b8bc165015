"""What a K-armed method knows of its episode: K domains of the world, a probe, the budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from kncl_env.topic_table import centroid
from policies.arms.arm import Ints, Rng
from policies.arms.bandits.domain_text import drawn, mean_losses, text_of
from policies.arms.bandits.mixtures import restricted
from policies.arms.bandits.probe import Probe

Floats = NDArray[np.float64]


class Arena:
    """Domains with their text, and what may be measured of the learner.

    Attributes:
        text: Of each domain.
        k: Domains K.
        pools: Training windows of each, to the episode's taste.
        probe: The only way to the learner.
        rng: Of the arm's own choices.
        steps: Budget of the episode.
        updates_per_step, batch: Of the learner.

    Raises:
        ValueError: The taste likes nothing in any domain.
    """

    def __init__(self, env: TopicExpansionEnv, rng: Rng) -> None:
        self._env = env
        self.rng = rng
        self.text = text_of(env.stage)
        self.k = self.text.k
        self.pools = self.text.pools(env)
        if not self.open.any():
            raise ValueError(
                "expected passages to the taste among those that this arm draws from, got none: "
                "give it a taste with a larger share, or none"
            )
        self.steps, self.updates_per_step = env.rules.steps, env.rules.updates_per_step
        self.batch = env.settings.learner.batch
        self.probe = Probe(lambda: env.stage, env.learner)

    @property
    def stage(self) -> Stage:
        """Of the world as it is by now."""
        return self._env.stage

    @property
    def open(self) -> NDArray[np.bool_]:
        """(K,) whether there is text to draw from."""
        return np.array([len(pool) > 0 for pool in self.pools])

    def domain_of(self, topics: Ints) -> Ints:
        """Domain of each topic; one that came later is of the domain whose centroid is closest."""
        known = topics < len(self.text.of_topic)
        if known.all():
            return self.text.of_topic[topics]
        vectors = self.stage.table.vectors
        middles = np.stack([centroid(vectors[own]) for own in self.text.topics])
        found = np.argmax(vectors[topics] @ middles.T, axis=1)
        found[known] = self.text.of_topic[topics[known]]
        return found

    def domain_of_windows(self, windows: Ints) -> Ints:
        """Domain of the text that each window begins in."""
        return self.domain_of(self.stage.world.passage_topic[self.stage.store.document[windows]])

    # --- what is measured ----------------------------------------------------------------------

    def losses(self, split: str, domains: Ints | None = None) -> Floats:
        """(K,) mean loss of the windows that stand for a domain [bits per byte].

        Args:
            split: `reward` or `train`.
            domains: Those measured, ascending; all, if None. The others are NaN.
        """
        return mean_losses(self.probe, self.text.measured(split), domains)

    @property
    def of_target(self) -> bool:
        """Whether one target counts, and not every domain alike."""
        return self.stage.goal is not None

    def objective(self) -> Floats:
        """(M,) losses that are to fall, measured anew [bits per byte].

        That of the target's `reward` text (M = 1) where a part of the world is the target; those of
        each domain's `reward` text (M = K) where every topic counts.
        """
        return np.array([self.probe.target()]) if self.of_target else self.losses("reward")

    def latest_objective(self) -> Floats:
        """(M,) the same as of now; the target's is known, since every step measures it."""
        assert self._env.episode is not None
        if self.of_target:
            return np.array([self._env.episode.measurements.loss[-1]])
        return self.losses("reward")

    # --- what is tried -------------------------------------------------------------------------

    def drawn(self, shares: Floats, updates: int) -> Ints:
        """Training windows by lot for so many updates of a copy; none counts as read."""
        shares = restricted(shares, self.open)
        return drawn(self.pools, shares, updates * self.batch, self.rng)

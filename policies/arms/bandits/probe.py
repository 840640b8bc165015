"""The one door through which a bandit looks at its learner, and what it costs to look.

A rule gets no environment, but a probe: it measures training text and the `reward` split, and
refuses any other, so that `select` and `test` cannot be read by accident. Whatever it measures or
trains is charged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.learner import MEASURED_WINDOWS, Learner
from kncl_env.stage import Stage
from kncl_env.world.splits import SPLITS
from policies.arms.arm import Ints
from policies.arms.charges import of_measuring, of_training
from train_lm.token_files import TRAIN

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

REWARD = SPLITS.index("reward")


class Probe:
    """Measures a learner, tries text on copies of it, and keeps the bill.

    Args:
        stage: Gives the stage as it is by now.
        learner: The episode's, or one of an arm's own.
        plain: Whether all numbers of the learner train, whatever the settings of episodes are.
    """

    def __init__(
        self, stage: Callable[[], Stage], learner: Learner, *, plain: bool = False
    ) -> None:
        self._now, self._learner, self._plain = stage, learner, plain
        self._bill = 0.0
        self._trying = False

    @property
    def _stage(self) -> Stage:
        return self._now()

    def take(self) -> float:
        """What was spent since it was last asked [FLOPs]."""
        bill, self._bill = self._bill, 0.0
        return bill

    def charge(self, flops: float) -> None:
        """Add what was spent elsewhere [FLOPs]."""
        self._bill += flops

    def forward(self, windows: int) -> float:
        """What measuring so many windows costs [FLOPs]."""
        if self._plain:
            return self.training(windows) / 3
        return of_measuring(self._stage.settings, self._learner, windows)

    def training(self, windows: int) -> float:
        """What training on so many windows costs [FLOPs]."""
        return of_training(self._stage.settings, self._learner, windows)

    def losses(self, windows: Ints) -> Floats:
        """(n,) loss on each of the given windows [bits per byte].

        Raises:
            ValueError: One of them is neither training nor `reward` text.
        """
        self._check(windows, (TRAIN, REWARD))
        self._bill += self.forward(len(windows))
        return self._learner.losses(windows) if len(windows) else np.zeros(0)

    @property
    def target_windows(self) -> int:
        """Windows of `reward` that the target's loss is measured on."""
        text = self._stage.text
        most = MEASURED_WINDOWS["reward"]
        return most if text is None else len(text.sample("reward", most))

    def target(self) -> float:
        """Loss of the target mix on `reward` [bits per byte], measured anew."""
        self._bill += self.forward(self.target_windows)
        return self._learner.held_out_loss("reward")

    @contextmanager
    def copy(self) -> Iterator[Trial]:
        """What is done to the learner meanwhile is undone at the end, exactly.

        In a bank the learner is a member, and its trials are served in lockstep with whatever the
        others do: nobody waits in vain.
        """
        if self._trying:
            raise RuntimeError("a trial within a trial: end the first one before")
        kept, self._trying = self._learner.snapshot(), True
        try:
            yield Trial(self)
        finally:
            self._learner.restore(kept)
            self._trying = False

    def need_model(self) -> None:
        """Raises: ValueError where a formula stands in the learner's place."""
        if self._learner.flops_per_token == 0:
            raise ValueError(
                "expected a language model as the learner of this arm, got a formula: leave the "
                "arm out of practice"
            )

    def weights(self) -> dict[str, Tensor]:
        """Copies of all weights of the learner, by name; an adapter is merged in.

        Raises:
            ValueError: A formula stands in its place.
        """
        self.need_model()
        found: Any = self._learner
        while not hasattr(found, "trainer"):
            found = found.learner  # of one that only watches it
        weights: dict[str, Tensor] = found.trainer.merged()
        return weights

    def _check(self, windows: Ints, allowed: tuple[int, ...]) -> None:
        found = self._stage.world.passage_split[self._stage.store.document[windows]]
        wrong = found[~np.isin(found, allowed)]
        if len(wrong):
            raise ValueError(
                f"expected windows of {' or '.join(SPLITS[i] for i in allowed)} text, got one of "
                f"{SPLITS[wrong[0]]}: an arm may not read it"
            )

    def _train(self, windows: Ints) -> None:
        self._check(windows, (TRAIN,))
        self._bill += self.training(len(windows))
        self._learner.train(windows)

    def _begin(self, windows: int) -> None:
        self._learner.begin(windows * self._stage.settings.learner.context)


class Trial:
    """What may be done to a copy of the learner; see `Probe.copy`."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def begin(self, windows: int) -> None:
        """Go back to the nucleated learner; a whole schedule over so many windows begins."""
        self._probe._begin(windows)

    def train(self, windows: Ints) -> None:
        """Train on training text. Raises: ValueError where it is other text."""
        self._probe._train(windows)

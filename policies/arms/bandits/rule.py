"""What every K-armed method is: shares of domains, and what is learned from a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.arms.arm import Ints
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.mixtures import Bools
from train_lm.files import Json

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Draw:
    """What a step is about to read.

    Attributes:
        shares: (K,) of the domains, as they were drawn by.
        domains: Those drawn, ascending.
        windows: (n,) new text of the step; on the frontier a few windows of the neighbourhood,
            where the rule looks at them.
        domain: (n,) of each window.
    """

    shares: Floats
    domains: Ints
    windows: Ints
    domain: Ints

    def of_each(self, k: int, most: int) -> list[Ints]:
        """(k,) windows of each domain, the first `most` of them."""
        return [self.windows[self.domain == i][:most] for i in range(k)]


class Rule(ABC):
    """A K-armed method in one episode.

    Attributes:
        mixes: Whether each window of a step has a domain of its own; else one domain has them all.
        looks: Whether it looks at what a step is about to read.
        keeps: Names of its attributes, numbers and arrays, that are its state.
        series: Those of them that grow with the steps.
    """

    mixes: ClassVar[bool] = True
    looks: ClassVar[bool] = False
    keeps: ClassVar[tuple[str, ...]] = ()
    series: ClassVar[tuple[str, ...]] = ()

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    # Most rules do without some of these.
    def prepare(self) -> None:  # noqa: B027
        """Before the first step: what has to be measured or trained once."""

    @abstractmethod
    def mixture(self, open: Bools) -> Floats:
        """(K,) shares of the domains in the next step; those of closed ones fall to the others."""

    def before(self, draw: Draw) -> None:  # noqa: B027
        """A step is about to be read."""

    def after(self, draw: Draw, gain: float) -> None:  # noqa: B027
        """It was read, and the target's loss fell by `gain` [share of the reducible loss]."""

    def state(self) -> Json:
        return {name: np.asarray(getattr(self, name)).tolist() for name in self.keeps}

    def restore(self, state: Json) -> None:
        """Raises: ValueError where it is no state of this rule."""
        for name in self.keeps:
            now = np.asarray(getattr(self, name))
            try:
                found = np.array(state[name], dtype=now.dtype)
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"expected numbers as {name} of a saved arm, got none") from None
            skipped = 1 if name in self.series else 0
            if found.ndim != now.ndim or found.shape[skipped:] != now.shape[skipped:]:
                raise ValueError(
                    f"expected {name} of a saved arm with shape {now.shape}, got {found.shape}: "
                    "it is of another world or of other settings"
                )
            setattr(self, name, found if now.ndim else found.item())

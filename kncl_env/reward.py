"""What a step earns: how much less the learner loses on a fixed target mix, as a share."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Reward:
    """A step's reward and where it comes from.

    Target prediction gain (Graves et al. 2017, arXiv:1704.03003) on a fixed mix, so that an easy
    or noisy topic earns nothing by its own loss. Over an episode the rewards telescope to the
    share of the reducible loss that was removed.

    Attributes:
        before, after: Held-out loss of the target mix [bits per byte].
        reducible: Loss at the start minus that of a learner that spends the whole budget on the
            target topics themselves, or, where their text is not trained on, on the text nearest
            to them [bits per byte].
        backward: Mean loss drop of watched solid topics, below 0 where they were forgotten [bits
            per byte]; 0 where none is watched.
        backward_weight: What a share of it, as large as that of the target, is worth.
    """

    before: float
    after: float
    reducible: float
    backward: float = 0.0
    backward_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.reducible > 0:
            raise ValueError(
                f"expected a reducible loss above 0 bits per byte, got {self.reducible:.4f}: "
                "training on the target itself did not help; raise the budget or shorten the "
                "nucleus phase"
            )

    @property
    def loss_drop(self) -> float:
        """[bits per byte], positive when the learner improved."""
        return self.before - self.after

    @property
    def backward_term(self) -> float:
        """What the watched topics add to the reward."""
        return (
            self.backward_weight * self.backward / self.reducible if self.backward_weight else 0.0
        )

    @property
    def total(self) -> float:
        gained = self.loss_drop / self.reducible
        return gained + self.backward_term if self.backward_weight else gained

    def components(self) -> dict[str, float]:
        """For `info`: every number that the reward is made of."""
        terms = {"loss_drop": self.loss_drop, "backward_term": self.backward_term}
        return {**asdict(self), **terms, "total": self.total}

"""Weights that training is held to, each by how much it matters: elastic weight consolidation.

Kirkpatrick et al. 2017 (arXiv 1612.00796), equation 3: the loss gains strength / 2 times the sum of
F (w - w0)^2, with the diagonal of the Fisher information F at the weights w0 that should stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LABELS = ("model", "data")


@dataclass(frozen=True, eq=False)
class Anchor:
    """Weights to stay near to.

    Attributes:
        weights: By the parameter's name, as `Trainer.weights` gives them.
        importance: Of each number of theirs, by the same names, as `Trainer.importance` gives it.
        strength: Factor of the pull; 0 is none, bit for bit.
    """

    weights: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]
    strength: float

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"expected a strength of at least 0, got {self.strength}")
        if self.weights.keys() != self.importance.keys() or any(
            self.weights[n].shape != self.importance[n].shape for n in self.weights
        ):
            raise ValueError(
                "expected an importance of every weight and of its shape, got others: measure both "
                "with one trainer"
            )

    def fitted(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises: ValueError where a trainer with parameters of these shapes has other weights."""
        for name, shape in shapes.items():
            found = self.weights.get(name)
            if found is None or tuple(found.shape) != shape:
                got = "nothing" if found is None else tuple(found.shape)
                raise ValueError(
                    f"expected an anchor for {name} of shape {shape}, got {got}: it is of another "
                    "model"
                )


def labels_of(logits: Tensor, following: Tensor, labels: str, generator: torch.Generator) -> Tensor:
    """(T,) tokens that (T, V) logits are judged by: the text's, or drawn from the model itself."""
    if labels == "data":
        return following
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
    return drawn[:, 0]


def score(logits: Tensor, following: Tensor, labels: str, generator: torch.Generator) -> Tensor:
    """Mean loss of a window whose squared gradient, times T, estimates the Fisher information.

    Scores of successive tokens are uncorrelated under the model, so the expected square of their
    sum is the sum of their expected squares: T times the square of the mean's gradient is the
    information that one token carries.
    """
    tokens = labels_of(logits.float(), following, labels, generator)
    return F.cross_entropy(logits.float(), tokens)


def check_labels(labels: str) -> None:
    """Raises: ValueError where labels are none of `LABELS`."""
    if labels not in LABELS:
        raise ValueError(f"expected labels among {LABELS}, got {labels!r}")

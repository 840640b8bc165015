"""What an update rule keeps of a bank's learners, row by row: residuals and projections.

The equations are those of `train_lm/updates.py`; here they act on rows that hold all tensors of a
learner, each learner with a threshold and projections of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_lm.updates import (
    Shape,
    Updates,
    basis_of,
    basis_shape,
    low_shape,
    lowered,
    projects,
    raised,
    truncate,
)


class RowUpdates:
    """An update rule of n learners.

    Args:
        shapes: Of the tensors of a row, by name, in its order.
        updates: The rule.
        n: Learners.

    Attributes:
        moments: Shapes of the moments, by name; those of the tensors, unless they are projected.
        low: Numbers of a row of moments.
        residual: (n, P) what `topk` left out; None without feedback.
        bases: Projections of the tensors that have one, (n, *shape) each.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], updates: Updates, n: int, device: torch.device
    ) -> None:
        self.shapes, self.updates = dict(shapes), updates
        self.moments = {name: low_shape(name, s, updates) for name, s in shapes.items()}
        self.sizes = [math.prod(s) for s in shapes.values()]
        self.low = sum(math.prod(s) for s in self.moments.values())
        self.residual: Tensor | None = None
        if updates.rule == "topk" and updates.feedback:
            self.residual = torch.zeros(n, sum(self.sizes), device=device)
        self.bases = {
            name: torch.zeros(n, *basis_shape(s, updates), device=device)
            for name, s in shapes.items()
            if projects(name, s, updates)
        }

    def truncated(self, rows: slice, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The kept numbers of (c, P) gradients, zeros elsewhere, and (c, P) which they are."""
        residual = None if self.residual is None else self.residual[rows]
        return truncate(gradient, residual, self.sizes, self.updates)

    def lowered(
        self, rows: slice, fresh: NDArray[np.bool_], weights: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What AdamW steps on in the place of (c, P) weights, and its (c, low) gradients.

        Args:
            fresh: (c,) whether a learner's projections are computed anew from its gradient.
        """
        small, reduced = [], []
        for name, own, of_gradient in self._parts(weights, gradient):
            if name not in self.bases:
                small.append(own.flatten(1))
                reduced.append(of_gradient.flatten(1))
                continue
            bases = self.bases[name][rows]
            for i in np.flatnonzero(fresh):
                bases[i].copy_(basis_of(of_gradient[i], self.updates))
            low = lowered(of_gradient, bases).flatten(1)
            small.append(torch.zeros_like(low))
            reduced.append(low)
        return torch.cat(small, 1), torch.cat(reduced, 1)

    def raise_(self, rows: slice, small: Tensor, weights: Tensor, decay: Tensor) -> None:
        """Put AdamW's (c, low) result into (c, P) weights.

        Args:
            decay: (c,) share of a projected matrix that decays.
        """
        parts = small.split([math.prod(s) for s in self.moments.values()], 1)
        for (name, own), part in zip(self._split(weights), parts, strict=True):
            if name not in self.bases:
                own.copy_(part.view(own.shape))
                continue
            low = part.view(len(part), *self.moments[name])
            moved = raised(low, self.bases[name][rows], self.shapes[name])
            own.mul_(1 - decay[:, None, None]).add_(moved, alpha=self.updates.scale)

    def decays(self) -> Tensor:
        """(1, low) whether a number decays in AdamW's step; projected ones decay afterwards."""
        every = [
            torch.full((math.prod(s),), float(len(s) >= 2 and name not in self.bases))
            for name, s in self.moments.items()
        ]
        return torch.cat(every)[None]

    def state_of(self, learner: int) -> dict[str, Tensor]:
        """Views of what is kept of one learner, by the names that a trainer's snapshot has."""
        found = {f"projection.{name}": value[learner] for name, value in self.bases.items()}
        if self.residual is not None:
            found |= {f"residual.{n}": v[0] for n, v in self._split(self.residual[learner][None])}
        return found

    def _split(self, rows: Tensor) -> list[tuple[str, Tensor]]:
        """(c, P) rows as (c, *shape) views by name."""
        parts = zip(self.shapes.items(), rows.split(self.sizes, 1), strict=True)
        return [(name, part.view(len(rows), *shape)) for (name, shape), part in parts]

    def _parts(self, first: Tensor, second: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        pairs = zip(self._split(first), self._split(second), strict=True)
        return ((name, a, b) for (name, a), (_, b) in pairs)

"""What a way of updating costs, measured: numbers that changed, the rank of the change, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = "model."  # of weights, in a snapshot


@dataclass(frozen=True)
class Cost:
    """Figures of one learner.

    Attributes:
        trained: Numbers that its optimiser may move.
        optimizer_bytes: Of moments, residuals and projections, summed tensor by tensor.
        parameters: Numbers of the whole model.
        parameters_changed: Of these, how many differ from the reference; an adapter counts by what
            it changes when it is merged. None without a reference.
        effective_ranks: Of the change of each matrix that changed, by its name.
    """

    trained: int
    optimizer_bytes: int
    parameters: int
    parameters_changed: int | None
    effective_ranks: Mapping[str, float]

    @property
    def effective_rank(self) -> float | None:
        """Mean over the matrices that changed; None where there is none."""
        ranks = list(self.effective_ranks.values())
        return sum(ranks) / len(ranks) if ranks else None


def cost_of(
    trained: int,
    optimizer_bytes: int,
    now: Mapping[str, Tensor],
    since: Mapping[str, Tensor] | None,
) -> Cost:
    """Compare weights with a reference.

    Args:
        now: Weights of the whole model, under a snapshot's names.
        since: A snapshot, or its weights.

    Raises:
        ValueError: The reference is of another model.
    """
    total, changed, ranks = sum(v.numel() for v in now.values()), 0, {}
    for name, value in now.items() if since is not None else ():
        assert since is not None
        before = since.get(name)
        if before is None or before.shape != value.shape:
            got = "nothing" if before is None else tuple(before.shape)
            raise ValueError(
                f"expected weights {name.removeprefix(PREFIX)} of shape {tuple(value.shape)} to "
                f"compare with, got {got}: the reference is of another model"
            )
        differs = int((value != before.to(value.device)).sum())
        changed += differs
        if differs and value.dim() == 2:
            change = value.double() - before.to(value.device).double()
            ranks[name.removeprefix(PREFIX)] = effective_rank(change)
    return Cost(trained, optimizer_bytes, total, changed if since is not None else None, ranks)


def effective_rank(matrix: Tensor) -> float:
    """The exponential of the entropy of the singular values, as shares of their sum.

    Roy & Vetterli 2007: r equal singular values and none besides have rank r.
    """
    values = torch.linalg.svdvals(matrix)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())

"""What a method changed of a learner, measured on its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def share_changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Share of all numbers that differ."""
    changed = sum(int((after[name] != value).sum()) for name, value in before.items())
    return changed / sum(value.numel() for value in before.values())


def effective_rank(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Mean effective rank of the differences of all matrices; 0 where nothing differs.

    The exponential of the entropy of the singular values, as shares of their sum (Roy & Vetterli,
    EUSIPCO 2007): r for r equal ones, between 1 and the smaller side.
    """
    ranks = []
    for name, value in before.items():
        if value.dim() != 2:
            continue
        moved = (after[name] - value).double().cpu().numpy()
        if moved.any():
            found = np.linalg.svd(moved, compute_uv=False)
            share = found[found > 0] / found.sum()
            ranks.append(float(np.exp(-(share * np.log(share)).sum())))
    return float(np.mean(ranks)) if ranks else 0.0

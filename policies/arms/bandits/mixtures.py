"""Arithmetic of mixtures: shares of K domains that add up to 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def even(k: int) -> Floats:
    """(k,) the same share for each."""
    return np.full(k, 1 / k)


def softmax(scores: Floats) -> Floats:
    """Shares in proportion to exp(score)."""
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


def in_proportion(scores: Floats) -> Floats:
    """Shares in proportion to scores of 0 or more; even ones, where all are 0."""
    total = scores.sum()
    return np.asarray(scores / total) if total > 0 else even(len(scores))


def restricted(shares: Floats, open: Bools) -> Floats:
    """Shares of the open ones alone, renormalised; even ones of those, where they have none.

    Raises:
        ValueError: None is open.
    """
    if not open.any():
        raise ValueError("expected at least one domain to draw from, got none")
    kept = np.where(open, shares, 0.0)
    return in_proportion(kept if kept.sum() > 0 else open.astype(np.float64))


def best(scores: Floats, open: Bools) -> Floats:
    """All for the open one with the highest score; ties share alike."""
    scores = np.where(open, scores, -np.inf)
    return in_proportion((scores == scores.max()).astype(np.float64))

"""How well choices of walkers are predicted: a policy beside reference predictors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from kncl_env.observation import CANDIDATE_FEATURES
from kncl_env.world.world import World
from policies.curiosity import CuriosityNetwork
from policies.learn.cloning import click_places, places
from rabbit_holes.demonstrations import Demonstrations, choices
from rabbit_holes.path import Path

_COLUMN = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}

# Predictors without learning: the score of a candidate.
LADDER: dict[str, str | None] = {
    "uniform": None,
    "in-degree": "in_degree_rank",
    "cosine to current": "similarity_last",
    "cosine to goal": "goal_similarity",
}


def ladder_places(name: str, clicks: Demonstrations) -> NDArray[np.int64]:
    """(n, 2) see `cloning.places`, of one feature as the score."""
    column = LADDER[name]
    found = np.zeros((len(clicks), 2), dtype=np.int64)
    for i in range(len(clicks)):
        rows = clicks.rows[clicks.starts[i] : clicks.starts[i + 1]]
        score = np.zeros(len(rows)) if column is None else rows[:, _COLUMN[column]]
        found[i] = places(score[None], clicks.chosen[i : i + 1])[0]
    return found


def markov_places(
    train: Iterable[Path], measured: Iterable[Path], world: World, n: int
) -> NDArray[np.int64]:
    """(n, 2) see `cloning.places`, of a first-order Markov chain over topics.

    A link scores by how often training paths took it: (count + 1/links) / (all counts + 1), a
    chain smoothed with one click spread evenly over the offered links. Links never taken tie.

    Args:
        train: Paths whose transitions are counted.
        measured: The paths that `demonstrate` took the n clicks from, with all links offered.
    """
    taken: Counter[tuple[int, int]] = Counter()
    dropped: Counter[str] = Counter()
    for path in train:
        taken.update((int(so_far[-1]), topic) for so_far, _, topic in choices(path, world, dropped))
    found = np.zeros((n, 2), dtype=np.int64)
    clicks = islice((c for path in measured for c in choices(path, world, dropped)), n)
    for i, (so_far, offered, topic) in enumerate(clicks):
        counts = np.array([taken[int(so_far[-1]), t] for t in offered.tolist()], dtype=np.float64)
        scores = (counts + 1 / len(offered)) / (counts.sum() + 1)
        found[i] = places(scores[None], np.searchsorted(offered, [topic]))[0]
    assert (found[:, 1] > 0).all(), "a click without a place: other paths than were demonstrated"
    return found


@dataclass(frozen=True)
class Rung:
    """How well one predictor does; intervals are 95 % and resample whole paths.

    Attributes:
        top1: Share of the clicks that it ranks first.
        mrr: Mean reciprocal rank of what was clicked.
    """

    top1: float
    top1_interval: tuple[float, float]
    mrr: float
    mrr_interval: tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """Predictors side by side on the same clicks.

    Attributes:
        clicks: That were predicted.
        paths: They come from so many.
        offered_mean: Links to choose among, on average.
        dropped: Clicks left out, by reason.
        predictors: Figures by name.
    """

    clicks: int
    paths: int
    offered_mean: float
    dropped: Mapping[str, int]
    predictors: Mapping[str, Rung]


def figures(
    found: NDArray[np.int64],
    group: NDArray[np.int64],
    rng: np.random.Generator,
    reps: int = 1000,
) -> Rung:
    """Top-1 accuracy and mean reciprocal rank, with their intervals.

    Ties are broken evenly, in expectation: a predictor that tells nothing apart scores 1/n.

    Args:
        found: (n, 2) from `places`.
        group: (n,) path of each click.
    """
    higher, ties = found.T
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, found.sum(1).max() + 1))])
    top1 = (higher == 0) / ties
    reciprocal = (harmonic[higher + ties] - harmonic[higher]) / ties
    paths, index = np.unique(group, return_inverse=True)
    sums = np.zeros((len(paths), 3))
    np.add.at(sums, index, np.stack([top1, reciprocal, np.ones(len(found))], axis=1))
    drawn = np.stack([sums[rng.integers(len(paths), size=len(paths))].sum(0) for _ in range(reps)])
    low, high = np.quantile(drawn[:, :2] / drawn[:, 2:], [0.025, 0.975], axis=0).tolist()
    return Rung(float(top1.mean()), (low[0], high[0]), float(reciprocal.mean()), (low[1], high[1]))


def predict(
    network: CuriosityNetwork,
    clicks: Demonstrations,
    rng: np.random.Generator,
    more: Mapping[str, NDArray[np.int64]] | None = None,
) -> Prediction:
    """Figures of the policy and of the ladder on the same clicks.

    Args:
        more: Further rungs: (n, 2) places by name.
    """
    if not len(clicks):
        raise ValueError(
            "expected paths with a choice in this world, got none "
            f"(dropped: {dict(clicks.dropped)})"
        )
    rows = {"policy": click_places(network, clicks)}
    rows |= {name: ladder_places(name, clicks) for name in LADDER} | dict(more or {})
    return Prediction(
        clicks=len(clicks),
        paths=len(set(clicks.group.tolist())),
        offered_mean=float(np.diff(clicks.starts).mean()),
        dropped=dict(clicks.dropped),
        predictors={name: figures(found, clicks.group, rng) for name, found in rows.items()},
    )

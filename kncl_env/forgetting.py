"""What a learner keeps of earlier neighbourhoods while it learns later ones: figures of a matrix.

L[i, j] is the held-out loss of neighbourhood j after stage i [bits per byte]. All figures are of
performance R = -L, for which higher is better, in bits per byte. So their signs are those of the
literature: a negative backward transfer is forgetting, a positive forward transfer is a help.

    accuracy             ACC = mean_j R[T, j]
    backward transfer    BWT = mean_{j < T} (R[T, j] - R[j, j])
    forward transfer     FWT = mean_{j > 1} (R[j-1, j] - R[0, j]),  row 0: before the first stage
    forgetting           F   = mean_{j < T} (max_{i < T} R[i, j] - R[T, j])
    learning accuracy    LA  = mean_j R[j, j]
    intransigence        I   = mean_j (R_joint[j] - R[j, j])

The means of BWT, FWT and F are over T - 1 neighbourhoods (Lopez-Paz & Ranzato 2017,
arXiv:1706.08840; Chaudhry et al. 2018, arXiv:1801.10112). GEM's own code divides by T instead,
which makes them smaller by (T - 1) / T.

It knows numbers alone: no learner, no world, no environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.records import Fields, is_number
from train_lm.files import Json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BEFORE = -1  # the stage of what was taught before the first one


@dataclass(frozen=True, eq=False)
class LossMatrix:
    """Held-out losses of J neighbourhoods after each of S stages [bits per byte].

    Attributes:
        before: (J,) before the first stage.
        after: (S, J) after each stage; NaN where it was not measured.
        taught: (J,) the stage, from 0 on, that taught a neighbourhood, the first one where several
            did; `BEFORE` (-1) where it was taught before the first stage.
        names: (J,) of the neighbourhoods.

    Raises:
        ValueError: Shapes that do not fit, a stage that there is not, or a loss that is missing
            where a figure needs it: right after the stage that taught, and at the end.
    """

    before: Floats
    after: Floats
    taught: Ints
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, kind in (("before", np.float64), ("after", np.float64), ("taught", np.int64)):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=kind))
        object.__setattr__(self, "names", tuple(self.names))
        stages, n = self.after.shape if self.after.ndim == 2 else (0, 0)
        if not stages or not n:
            raise ValueError(
                "expected losses of one neighbourhood or more after one stage or more, got shape "
                f"{self.after.shape}"
            )
        if not self.before.shape == self.taught.shape == (len(self.names),) == (n,):
            raise ValueError(
                f"expected a loss before the first stage, a stage and a name of each of {n} "
                f"neighbourhoods, got {self.before.shape}, {self.taught.shape} and "
                f"{len(self.names)} names"
            )
        if self.taught.min() < BEFORE or self.taught.max() >= stages:
            raise ValueError(
                f"expected stages from -1 to {stages - 1}, got {self.taught.min()} to "
                f"{self.taught.max()}"
            )
        if not np.isfinite([self.learned, self.after[-1]]).all():
            raise ValueError(
                "expected finite losses right after the stage that taught a neighbourhood and "
                "after the last stage, got others: measure the whole row there"
            )

    @classmethod
    def square(cls, before: Any, after: Any, names: Sequence[str] = ()) -> LossMatrix:
        """Of T stages, each of which teaches one neighbourhood, in the order of the columns."""
        n = len(after)
        return cls(before, after, np.arange(n), tuple(names) or tuple(map(str, range(1, n + 1))))

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return len(self.after)

    @property
    def learned(self) -> Floats:
        """(J,) loss right after the stage that taught each neighbourhood; the diagonal."""
        own = self.after[self.taught, np.arange(len(self.taught))]
        return np.where(self.taught == BEFORE, self.before, own)

    def to_json(self) -> Json:
        """JSON-able; null where a loss was not measured."""
        return {
            "names": list(self.names),
            "taught": self.taught.tolist(),
            "before": _nullable(self.before),
            "after": [_nullable(row) for row in self.after],
        }

    @classmethod
    def from_json(cls, found: Fields) -> LossMatrix:
        """From what `to_json` gave. Raises: ValueError where it is no such matrix."""
        rows = found.values.get("after")
        before = found.values.get("before")
        names = found.values.get("names")
        fits = is_number()
        for name, lists in (("after", rows), ("before", [before])):
            if not isinstance(lists, list) or not all(
                isinstance(row, list) and all(x is None or fits(x) for x in row) for row in lists
            ):
                raise found.wrong(name, "lists of finite numbers and nulls")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise found.wrong("names", "a list of names")
        assert isinstance(rows, list)
        assert isinstance(before, list)
        if len({len(row) for row in rows}) != 1:
            raise found.wrong("after", "rows of one length")
        taught = found.wholes("taught", least=BEFORE)
        numbers = np.array([_numbers(row) for row in rows])
        try:
            return cls(_numbers(before), numbers, np.array(taught), tuple(names))
        except ValueError as error:
            raise ValueError(f"{found.place}: {error}") from None


def _nullable(row: Floats) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in row]


def _numbers(row: Sequence[float | None]) -> Floats:
    return np.array([np.nan if x is None else x for x in row], dtype=np.float64)


def accuracy(losses: LossMatrix) -> float:
    """ACC: mean performance over all neighbourhoods after the last stage; minus a loss."""
    return float(-losses.after[-1].mean())


def learning_accuracy(losses: LossMatrix) -> float:
    """LA: mean performance on each neighbourhood right after its own stage; minus a loss."""
    return float(-losses.learned.mean())


def backward_transfer(losses: LossMatrix) -> float:
    """BWT: what later stages brought to earlier neighbourhoods; < 0 is forgetting.

    NaN where the last stage taught everything.
    """
    earlier = losses.taught < losses.stages - 1
    return _mean((losses.learned - losses.after[-1])[earlier])


def forward_transfer(losses: LossMatrix) -> float:
    """FWT: what earlier stages brought to neighbourhoods still to come; > 0 is a help.

    NaN where no stage came before another one's, or its row was not measured.
    """
    later = np.flatnonzero(losses.taught >= 1)
    return _mean(losses.before[later] - losses.after[losses.taught[later] - 1, later])


def forgetting(losses: LossMatrix) -> float:
    """F: from the best that a neighbourhood ever was to where it ended; > 0 is bad.

    The best is taken over all stages but the last one, so it can be below 0 where the last one
    brought the best. NaN where the last stage taught everything.
    """
    earlier = losses.taught < losses.stages - 1
    if not earlier.any():
        return float("nan")
    # Before the first stage counts for what was taught by then.
    start = np.where(losses.taught == BEFORE, losses.before, np.nan)
    best = np.fmin.reduce(np.vstack([start, losses.after[:-1]])[:, earlier])
    return _mean(losses.after[-1][earlier] - best)


def intransigence(losses: LossMatrix, joint: Floats) -> float:
    """I: how much better a learner is that learns everything at once; > 0 is bad.

    Args:
        joint: (J,) losses of a learner trained on all neighbourhoods together [bits per byte].
    """
    if np.shape(joint) != losses.before.shape:
        raise ValueError(
            f"expected a loss of joint training for each of {len(losses.before)} neighbourhoods, "
            f"got shape {np.shape(joint)}"
        )
    return float(np.mean(losses.learned - joint))


def learning(losses: LossMatrix) -> float:
    """By how much the stages' own neighbourhoods were learned: from before the first stage to
    right after their own [bits per byte]; NaN where no stage taught any.
    """
    own = losses.taught != BEFORE
    return _mean((losses.before - losses.learned)[own])


def figures(losses: LossMatrix, joint: Floats | None = None) -> dict[str, float]:
    """All figures by name [bits per byte]; see the head of this file for signs."""
    found = {
        "accuracy": accuracy(losses),
        "backward_transfer": backward_transfer(losses),
        "forward_transfer": forward_transfer(losses),
        "forgetting": forgetting(losses),
        "learning_accuracy": learning_accuracy(losses),
        "learning": learning(losses),
    }
    return found if joint is None else {**found, "intransigence": intransigence(losses, joint)}


def forgetting_at(
    learned: Sequence[float] | Floats,
    forgot: Sequence[float] | Floats,
    at: float,
    *,
    from_nothing: bool = False,
) -> float:
    """Forgetting at equal learning: where a method's learning-forgetting curve crosses `at`.

    A method that learns less forgets less, so methods are compared where they learned as much
    (Biderman et al. 2024, arXiv:2405.09673). A curve has one point per learning rate; between
    neighbours on it the forgetting is interpolated by a straight line. Where the curve crosses
    more than once, a too high rate learns no more and forgets more: the least forgetting counts.

    Args:
        learned, forgot: (k,) of runs in the order of their learning rates [bits per byte].
        at: Learning to compare at [bits per byte].
        from_nothing: Whether the curve begins where nothing is learned and nothing forgotten,
            as it does at a learning rate of 0.

    Returns:
        Forgetting [bits per byte]; NaN where no run learned less, or none more.
    """
    x, y = np.asarray(learned, dtype=np.float64), np.asarray(forgot, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(
            f"expected as many figures of learning as of forgetting, got shapes {x.shape} and "
            f"{y.shape}"
        )
    if from_nothing:
        x, y = np.append(0.0, x), np.append(0.0, y)
    found = [float(b) for a, b in zip(x, y, strict=True) if a == at]
    for i in range(len(x) - 1):
        low, high = sorted((x[i], x[i + 1]))
        if low < at < high:
            share = (at - x[i]) / (x[i + 1] - x[i])
            found.append(float(y[i] + share * (y[i + 1] - y[i])))
    return min(found, default=float("nan"))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")

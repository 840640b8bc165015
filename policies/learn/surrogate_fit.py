"""Fits the surrogate learner's formula to recorded episodes, and says how far it is off.

The formula is `kncl_env/surrogate.py`'s; `policies/play/recording.py` writes what it is fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from kncl_env.surrogate import Dynamics, Surrogate, Transfer, annealed_at, rate_at
from train_lm.files import Json

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Line = Json  # a line of recorded episodes: JSON

# What is known of a fall before anything was measured: that it is like the other topics'.
# [readings of a topic that count as much as all others together]
TRUST = 4.0

# Bounds of the fit, in the order of the fields.
LOWER = np.array([0.0, 0.0, -1.0, 0.0, 0.1, 0.05, -2.0])
UPPER = np.array([5.0, 5.0, 1.0, 0.5, 1e4, 4.0, 2.0])


@dataclass(frozen=True)
class Recorded:
    """Episodes as arrays: E episodes of T steps.

    Attributes:
        windows: (E, T, N) windows read per topic.
        held_out: (E, T) loss of the target mix after each step [bits per byte].
        probed: (P, 3) episode, step and topic of each probe.
        probes: (P,) its loss.
    """

    windows: Floats
    held_out: Floats
    probed: Ints
    probes: Floats

    @classmethod
    def of(cls, episodes: Sequence[Line], n_topics: int) -> Recorded:
        """From the lines of a file; episodes that ended early are left out."""
        length = max(len(e["steps"]) for e in episodes)
        whole = [e["steps"] for e in episodes if len(e["steps"]) == length]
        windows = np.zeros((len(whole), length, n_topics))
        probed, probes = [], []
        for i, steps in enumerate(whole):
            for t, step in enumerate(steps):
                windows[i, t, [int(k) for k in step["windows"]]] = list(step["windows"].values())
                probed += [(i, t, int(k)) for k in step["probes"]]
                probes += step["probes"].values()
        held_out = np.array([[step["held_out"] for step in steps] for steps in whole])
        return cls(
            windows,
            held_out,
            np.array(probed, dtype=np.int64).reshape(-1, 3),
            np.array(probes, dtype=np.float64),
        )


def gains(windows: Floats, transfer: Transfer, dynamics: Dynamics) -> tuple[Floats, Floats]:
    """g(e) (E, T, N) after each step, and 1 - ρ (T,) at its end."""
    E, T, N = windows.shape
    middle = rate_at((np.arange(T) + 0.5) / T)
    flat = windows.reshape(E * T, N)
    reach = (transfer.matrix(dynamics) @ flat.T).T + dynamics.general * flat.sum(1, keepdims=True)
    reach = reach.reshape(E, T, N)
    known = np.zeros((E, N))
    found = np.empty((E, T, N))
    for t in range(T):
        known = (1 - dynamics.forgetting * middle[t]) * known + middle[t] * reach[:, t]
        found[:, t] = known
    return dynamics.gain(found), annealed_at((np.arange(T) + 1) / T)


def fit(
    header: Line,
    episodes: Sequence[Line],
    target: Ints,
    transfer: Transfer,
    on_round: Callable[[float], None] = lambda _: None,
) -> Surrogate:
    """Least squares on held-out and probe readings; one episode of five measures the error.

    The falls are linear in the readings and are solved for within each evaluation (variable
    projection, Golub & Pereyra 1973); the seven shared parameters are searched for around them.

    Args:
        header, episodes: As `policies.play.recording.read_episodes` returns them.
        target: Topics of the target mix.

    Raises:
        ValueError: Fewer than five whole episodes.
    """
    from scipy.optimize import least_squares

    n = len(header["probes"])
    # Drawn, not counted off: recordings go round the arms, and every fifth may be the same arm.
    order = np.random.default_rng(0).permutation(len(episodes))
    held_back = [episodes[i] for i in order[: len(episodes) // 5]]
    if not held_back:
        raise ValueError(
            f"expected at least five episodes, one of them to measure the error on, got "
            f"{len(episodes)}: record more"
        )
    seen = Recorded.of([episodes[i] for i in order[len(episodes) // 5 :]], n)
    start = np.array([np.nan if x is None else x for x in header["probes"]], dtype=np.float64)
    spread = (seen.held_out.std() or 1.0, seen.probes.std() or 1.0)

    def residuals(x: Floats) -> Floats:
        dynamics = Dynamics(*x)
        gain, annealed = gains(seen.windows, transfer, dynamics)
        fall, target_fall = _falls(header, seen, start, target, gain, annealed, dynamics)
        of_target = seen.held_out - (
            header["held_out"] - gain @ target_fall - dynamics.anneal * annealed
        )
        of_probes = _probe_residuals(seen, start, fall, gain, annealed, dynamics)
        # Held-out readings are what is paid for; probes are many and of single windows.
        both = (
            of_target.ravel() / spread[0] / np.sqrt(of_target.size),
            of_probes / spread[1] / np.sqrt(max(1, len(of_probes))),
        )
        on_round(float(np.sqrt(np.mean(of_target**2))))
        return np.concatenate(both)

    first = np.array([getattr(Dynamics(), f.name) for f in fields(Dynamics)])
    found = least_squares(residuals, first, bounds=(LOWER, UPPER), x_scale=np.maximum(first, 0.05))
    dynamics = Dynamics(*found.x.tolist())
    gain, annealed = gains(seen.windows, transfer, dynamics)
    fall, target_fall = _falls(header, seen, start, target, gain, annealed, dynamics)
    fitted = Surrogate(
        header["world"],
        header["settings"],
        dynamics,
        header["held_out"],
        start,
        fall,
        target_fall,
        {},
    )
    error = {
        "fitted_on": len(seen.windows),
        "measured_on": len(held_back),
        **errors(fitted, Recorded.of(held_back, n), transfer),
    }
    return replace(fitted, error=error)


def _falls(
    header: Line,
    seen: Recorded,
    start: Floats,
    target: Ints,
    gain: Floats,
    annealed: Floats,
    dynamics: Dynamics,
) -> tuple[Floats, Floats]:
    """(N,) falls of the probes, shrunk towards a shared one, and of the target's parts."""
    N = gain.shape[-1]
    e, t, topic = seen.probed.T
    g = gain[e, t, topic]
    y = start[topic] - seen.probes - dynamics.anneal * annealed[t]
    known = np.isfinite(y)
    g, y, topic = g[known], y[known], topic[known]
    shared = float(g @ y / max(1e-9, g @ g))
    prior = TRUST * float(np.mean(g**2)) if len(g) else 1.0
    own = np.bincount(topic, g * (y - shared * g), minlength=N)
    fall = shared + own / (np.bincount(topic, g * g, minlength=N) + prior + 1e-12)
    x = gain[:, :, target].mean(-1).ravel()
    y = (header["held_out"] - seen.held_out - dynamics.anneal * annealed).ravel()
    target_fall = np.zeros(N)
    target_fall[target] = float(x @ y / max(1e-9, x @ x)) / len(target)
    return np.maximum(fall, 0.0), target_fall


def _probe_residuals(
    seen: Recorded,
    start: Floats,
    fall: Floats,
    gain: Floats,
    annealed: Floats,
    dynamics: Dynamics,
) -> Floats:
    e, t, topic = seen.probed.T
    expected = start[topic] - fall[topic] * gain[e, t, topic] - dynamics.anneal * annealed[t]
    off = seen.probes - expected
    return np.asarray(off[np.isfinite(off)])


def errors(surrogate: Surrogate, seen: Recorded, transfer: Transfer) -> dict[str, float | None]:
    """How far the formula is off on episodes, given what they read.

    Returns:
        `reward_rmse` per step, as a share of the loss drop of a whole episode; `reward_r2`;
        `curve_r2` and `curve_rmse` [bits per byte] of the held-out loss; `return_rank`:
        Spearman's correlation of whole episodes' loss drops, None below three; `probe_rmse` [bits
        per byte].
    """
    from scipy.stats import spearmanr

    dynamics = surrogate.dynamics
    gain, annealed = gains(seen.windows, transfer, dynamics)
    start = np.full((len(gain), 1), surrogate.held_out)
    expected = np.hstack([start, start - gain @ surrogate.target_fall - dynamics.anneal * annealed])
    real = np.hstack([start, seen.held_out])
    reward, paid = -np.diff(expected), -np.diff(real)
    total, earned = expected[:, 0] - expected[:, -1], real[:, 0] - real[:, -1]
    off = _probe_residuals(seen, surrogate.start, surrogate.fall, gain, annealed, dynamics)
    return {
        "reward_rmse": float(np.sqrt(np.mean((reward - paid) ** 2)) / np.abs(earned.mean())),
        "reward_r2": _r2(paid, reward),
        "curve_rmse": float(np.sqrt(np.mean((expected - real)[:, 1:] ** 2))),
        "curve_r2": _r2(real[:, 1:], expected[:, 1:]),
        "return_rank": float(spearmanr(total, earned)[0]) if len(real) > 2 else None,
        "probe_rmse": float(np.sqrt(np.mean(off**2))) if len(off) else None,
    }


def _r2(real: Floats, expected: Floats) -> float:
    return float(1 - np.sum((real - expected) ** 2) / np.sum((real - real.mean()) ** 2))

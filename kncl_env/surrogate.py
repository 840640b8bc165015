"""A learner that is a formula: what reading would do, fitted to recorded episodes.

Reading topic i makes topic j known a little as well, along the links and by likeness:

    e_j ← (1 - δ ρ) e_j + ρ · [n_j + link · (A n)_j + alike · (S n)_j + general · Σ n]

n counts a step's windows per topic, A is the adjacency with unit spectral scale
(D^-1/2 A D^-1/2), S joins each topic with those nearest in text space (rows sum to 1), ρ is the
learning rate as a share of its peak (a falling rate learns and forgets less), δ is forgetting and
`general` what any text teaches or, below 0, spoils. Each topic's loss falls along a power law with
a floor, and by κ as the rate, and the noise of large steps with it, goes down:

    loss_j = start_j - fall_j · g(e_j) - κ · (1 - ρ),      g(e) = 1 - (1 + e / τ)^-β

It knows no language model; `policies/play/recording.py` writes what it is fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kncl_env.settings import Settings
from kncl_env.stage import Stage
from kncl_env.world.graph import TopicGraph
from train_lm.files import read_json, write_json

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FORMAT = {"format": "kncl-surrogate", "version": 1}

NEIGHBOURS = 16  # [topics] that each topic is alike to
WARMUP = 0.02  # share of the budget with a rising rate, as in the trainer

# What is known of a fall before anything was measured: that it is like the other topics'.
# [readings of a topic that count as much as all others together]
TRUST = 4.0


@dataclass(frozen=True)
class Dynamics:
    """Parameters of the formula that all topics share; windows are the unit of reading.

    The defaults are where the search of `fit` begins.

    Attributes:
        link: Share of a window that counts for linked topics.
        alike: Share of a window that counts for topics like it.
        general: Share of a window that counts for every topic; below 0 it interferes.
        forgetting: Share of what is known that one step at full rate loses.
        scale: Windows τ after which the law bends.
        power: Exponent β.
        anneal: Fall κ as the learning rate goes to 0 [bits per byte].
    """

    link: float = 0.3
    alike: float = 0.3
    general: float = 0.0
    forgetting: float = 0.01
    scale: float = 20.0
    power: float = 0.5
    anneal: float = 0.0

    def gain(self, known: Floats) -> Floats:
        """g(e); straight below 0, where interference has left less than there was."""
        up = np.maximum(known, 0.0) / self.scale
        down = np.minimum(known, 0.0) / self.scale
        return 1.0 - (1.0 + up) ** -self.power + self.power * down


# Bounds of the fit, in the order of the fields.
LOWER = np.array([0.0, 0.0, -1.0, 0.0, 0.1, 0.05, -2.0])
UPPER = np.array([5.0, 5.0, 1.0, 0.5, 1e4, 4.0, 2.0])


def rate_at(progress: Floats | float) -> Any:
    """Learning rate as a share of its peak: the trainer's short rise and cosine fall."""
    p = np.asarray(progress, dtype=np.float64)
    falling = (1 + np.cos(np.pi * np.clip((p - WARMUP) / (1 - WARMUP), 0, 1))) / 2
    return np.where(p < WARMUP, p / WARMUP, falling)


def annealed_at(progress: Floats | float) -> Any:
    """1 - ρ, but 0 in the rise: the episode starts from a learner trained at the peak rate."""
    return 1 - rate_at(np.maximum(progress, WARMUP))


class Transfer:
    """Who else learns when a topic is read.

    Args:
        graph: Links between N topics.
        vectors: (N, D) unit rows.
    """

    def __init__(self, graph: TopicGraph, vectors: NDArray[np.float32]) -> None:
        degree = 1.0 / np.sqrt(np.maximum(1, graph.degree))
        self.links = sparse.csr_array(graph.undirected * degree[:, None] * degree[None, :])
        self.alike = _nearest(vectors, min(NEIGHBOURS, len(vectors) - 1))

    def matrix(self, dynamics: Dynamics) -> sparse.csr_array:
        """(N, N) what a window of topic i (column) counts for topic j (row), `general` aside."""
        own = sparse.eye_array(self.links.shape[0], format="csr")
        return sparse.csr_array(own + dynamics.link * self.links + dynamics.alike * self.alike)


def _nearest(vectors: NDArray[np.float32], k: int) -> sparse.csr_array:
    """(N, N) weights of each row's k nearest: squared cosines, rows summing to 1."""
    n = len(vectors)
    columns = np.zeros((n, k), dtype=np.int64)
    weights = np.zeros((n, k))
    for first in range(0, n, 1024):  # (1024, N) at a time
        cosine = vectors[first : first + 1024] @ vectors.T
        rows = np.arange(len(cosine))
        cosine[rows, first + rows] = -np.inf
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        columns[first + rows] = nearest
        weights[first + rows] = np.maximum(0, np.take_along_axis(cosine, nearest, 1)) ** 2
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return sparse.csr_array((weights.ravel(), columns.ravel(), np.arange(n + 1) * k), shape=(n, n))


@dataclass(frozen=True)
class Surrogate:
    """A fitted formula for one world and its settings.

    Attributes:
        world: Hash of the world.
        settings: Those of the recorded environment.
        dynamics: What topics share.
        held_out: Loss of the target mix at the start [bits per byte].
        start: (N,) probe loss of each topic at the start; NaN where it has none.
        fall: (N,) how far each topic's probe loss can fall.
        target_fall: (N,) how far each topic's part of the held-out loss can fall; 0 where the
            topic is not in the target.
        error: How far it is off on episodes that it was not fitted to.
    """

    world: str
    settings: dict[str, Any]
    dynamics: Dynamics
    held_out: float
    start: Floats
    fall: Floats
    target_fall: Floats
    error: dict[str, Any]

    def save(self, file: Path) -> None:
        arrays = {
            name: [None if np.isnan(x) else float(x) for x in getattr(self, name)]
            for name in ("start", "fall", "target_fall")
        }
        rest = {k: getattr(self, k) for k in ("world", "settings", "held_out", "error")}
        write_json(file, {**FORMAT, **rest, "dynamics": asdict(self.dynamics), **arrays})

    @classmethod
    def load(cls, file: Path) -> Surrogate:
        """Raises: FileNotFoundError, or ValueError where it is no surrogate."""
        card = read_json(file)
        if not isinstance(card, dict) or {k: card.pop(k, None) for k in FORMAT} != FORMAT:
            raise ValueError(
                f"expected a surrogate in {file}, got another kind of file: make one with "
                "`kncl-policy surrogate`"
            )
        try:
            for name in ("start", "fall", "target_fall"):
                card[name] = np.array([np.nan if x is None else x for x in card[name]])
            card["dynamics"] = Dynamics(**card["dynamics"])
            return cls(**card)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected a whole surrogate in {file}, got {error}") from None


class SurrogateLearner:
    """The environment's `Learner` as a formula; a step costs microseconds and has no noise.

    Args:
        surrogate: Fitted to this world.
        transfer: Of the world's topics.
        topic_of_window: (W,) topic of each window.
        context: Tokens per window.
    """

    def __init__(
        self, surrogate: Surrogate, transfer: Transfer, topic_of_window: Ints, context: int
    ) -> None:
        self.surrogate = surrogate
        self.reach = transfer.matrix(surrogate.dynamics)
        self.topic_of_window, self.context = topic_of_window, context
        self.budget = 1.0  # [windows]
        self.read = 0.0  # [windows]
        self.known = np.zeros(len(surrogate.start))  # e
        self.annealed = 0.0  # [bits per byte]

    def begin(self, tokens: int) -> None:
        self.budget, self.read = tokens / self.context, 0.0
        self.known = np.zeros_like(self.known)
        self.annealed = 0.0

    def train(self, windows: Ints) -> None:
        counts = np.bincount(self.topic_of_window[windows], minlength=len(self.known))
        d = self.surrogate.dynamics
        rate = float(rate_at((self.read + len(windows) / 2) / self.budget))
        reach = self.reach @ counts.astype(np.float64) + d.general * len(windows)
        self.known = (1 - d.forgetting * rate) * self.known + rate * reach
        self.read += len(windows)
        self.annealed = d.anneal * float(annealed_at(self.read / self.budget))

    @property
    def flops_per_token(self) -> float:
        """0: a formula trains nothing."""
        return 0.0

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        """Every split and sample alike: the formula knows one held-out loss."""
        s = self.surrogate
        return float(s.held_out - s.dynamics.gain(self.known) @ s.target_fall - self.annealed)

    def probe(self, topics: Ints) -> Floats:
        s = self.surrogate
        gain = s.dynamics.gain(self.known[topics])
        return np.asarray(s.start[topics] - s.fall[topics] * gain - self.annealed)

    def losses(self, windows: Ints) -> Floats:
        """(n,) those of the windows' topics: the formula tells no two of their windows apart."""
        return self.probe(self.topic_of_window[windows])

    def snapshot(self) -> Any:
        return self.known.copy(), self.read, self.budget, self.annealed

    def restore(self, snapshot: Any) -> None:
        known, self.read, self.budget, self.annealed = snapshot
        self.known = known.copy()


# Settings that decide what a window teaches; the others only decide which windows are read.
LEARNING = (
    *("model", "learning_rate", "learner_seed", "region", "steps", "updates_per_step", "batch"),
    *("nucleus_topics", "nucleus_titles", "nucleus_updates"),
)


def surrogate_learner(surrogate: Surrogate, stage: Stage) -> SurrogateLearner:
    """What can take the place of the stage's own learner.

    Raises:
        ValueError: It was fitted to another world, or to a learner with other settings.
    """
    world = stage.world
    if surrogate.world != world.hash:
        raise ValueError(
            f"expected a surrogate of world {world.hash[:12]}, got one of world "
            f"{surrogate.world[:12]}: record episodes there and fit it again"
        )
    recorded = Settings.from_json(surrogate.settings, "the surrogate")
    differs = [
        f"{k} {recorded[k]} there, {stage.settings[k]} here"
        for k in LEARNING
        if recorded[k] != stage.settings[k]
    ]
    if differs:
        raise ValueError(
            f"expected a surrogate that was recorded with the settings asked for, got another "
            f"({'; '.join(differs)}): record with these settings, or give the recorded ones"
        )
    return SurrogateLearner(
        surrogate,
        Transfer(stage.table.graph, stage.table.vectors),
        world.passage_topic[stage.store.document],
        stage.settings.learner.context,
    )


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
    def of(cls, episodes: Sequence[dict[str, Any]], n_topics: int) -> Recorded:
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
    header: dict[str, Any],
    episodes: Sequence[dict[str, Any]],
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
    return Surrogate(**{**vars(fitted), "error": error})


def _falls(
    header: dict[str, Any],
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

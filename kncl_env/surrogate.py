"""A learner that is a formula: what reading would do, fitted to recorded episodes.

Reading topic i makes topic j known a little as well, along the links and by likeness:

    e_j ← (1 - δ ρ) e_j + ρ · [n_j + link · (A n)_j + alike · (S n)_j + general · Σ n]

n counts a step's windows per topic, A is the adjacency with unit spectral scale
(D^-1/2 A D^-1/2), S joins each topic with those nearest in text space (rows sum to 1), ρ is the
learning rate as a share of its peak (a falling rate learns and forgets less), δ is forgetting and
`general` what any text teaches or, below 0, spoils. Each topic's loss falls along a power law with
a floor, and by κ as the rate, and the noise of large steps with it, goes down:

    loss_j = start_j - fall_j · g(e_j) - κ · (1 - ρ),      g(e) = 1 - (1 + e / τ)^-β

It knows no language model; `policies/learn/surrogate_fit.py` fits it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kncl_env.settings import Settings
from kncl_env.stage import Stage
from kncl_env.world.graph import TopicGraph
from train_lm.checked.digests import sealed, unsealed_file
from train_lm.checked.records import Fields, is_number
from train_lm.files import read_json, write_json

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FORMAT = {"format": "kncl-surrogate", "version": 1}

NEIGHBOURS = 16  # [topics] that each topic is alike to
WARMUP = 0.02  # share of the budget with a rising rate, as in the trainer


@dataclass(frozen=True)
class Dynamics:
    """Parameters of the formula that all topics share; windows are the unit of reading.

    The defaults are where the search of a fit begins.

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

    def __post_init__(self) -> None:
        if not self.scale > 0 or not self.power > 0:
            raise ValueError(
                f"expected a scale and a power above 0, got {self.scale} and {self.power}"
            )

    def gain(self, known: Floats) -> Floats:
        """g(e); straight below 0, where interference has left less than there was."""
        up = np.maximum(known, 0.0) / self.scale
        down = np.minimum(known, 0.0) / self.scale
        return 1.0 - (1.0 + up) ** -self.power + self.power * down


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
        card = {**FORMAT, **rest, "dynamics": asdict(self.dynamics), **arrays}
        write_json(file, sealed(card))

    @classmethod
    def load(cls, file: Path) -> Surrogate:
        """Raises: FileNotFoundError, or ValueError where it is no surrogate."""
        card = read_json(file)
        if not isinstance(card, dict) or {k: card.get(k) for k in FORMAT} != FORMAT:
            raise ValueError(
                f"expected a surrogate in {file}, got another kind of file: make one with "
                "`kncl-policy surrogate`"
            )
        advice = "fit it again with `kncl-policy surrogate`"
        found = Fields.of(unsealed_file(card, file, "a surrogate"), file, advice)
        dynamics = found.inner("dynamics")
        start, fall, target_fall = (
            _numbers(found, name) for name in ("start", "fall", "target_fall")
        )
        if not len(start) == len(fall) == len(target_fall) > 0:
            raise found.wrong("start", "as many numbers as of fall and target_fall")
        if not np.isfinite(fall).all() or not np.isfinite(target_fall).all():
            raise found.wrong("fall", "a finite fall of every topic")
        return cls(
            found.digest("world"),
            dict(found.inner("settings").values),
            Dynamics(**{f.name: dynamics.number(f.name) for f in fields(Dynamics)}),
            found.number("held_out"),
            start,
            fall,
            target_fall,
            dict(found.inner("error").values),
        )


def _numbers(found: Fields, name: str) -> Floats:
    """An array of numbers; NaN where there is null."""
    values = found.values.get(name)
    fits = is_number()
    if not isinstance(values, list) or not all(x is None or fits(x) for x in values):
        raise found.wrong(name, "a list of finite numbers and nulls")
    return np.array([np.nan if x is None else x for x in values], dtype=np.float64)


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
    *("nucleus_topics", "nucleus_titles", "nucleus_text", "nucleus_updates"),
    *("adapter", "adapter_rank", "adapter_alpha", "merge_every"),
    *("updates", "updates_share", "updates_rank"),
)


def surrogate_learner(surrogate: Surrogate, stage: Stage) -> SurrogateLearner:
    """What can take the place of the stage's own learner.

    Raises:
        ValueError: It was fitted to another world, or to a learner with other settings; or the
            memory asks for what a formula cannot do.
    """
    world = stage.world
    if stage.settings.memory.rule == "self":
        raise ValueError(
            "expected a memory of text that was written, got self: a formula in the learner's "
            "place writes none; train with real learners alone, or take another memory"
        )
    if surrogate.world != world.hash:
        raise ValueError(
            f"expected a surrogate of world {world.hash[:12]}, got one of world "
            f"{surrogate.world[:12]}: record episodes there and fit it again"
        )
    weight, d = stage.settings.rules.backward_weight, surrogate.dynamics
    if weight and d.forgetting == 0 and d.general >= 0:
        raise ValueError(
            f"expected a surrogate that can forget for a backward_weight of {weight}, got one with "
            "a forgetting of 0: train with real learners alone, or take a backward_weight of 0"
        )
    recorded = Settings.from_json(surrogate.settings, "the surrogate")
    held = recorded.memory.rule == "ewc" or stage.settings.memory.rule == "ewc"
    differs = [
        f"{k} {recorded[k]} there, {stage.settings[k]} here"
        for k in (*LEARNING, *(("memory", "ewc_strength") if held else ()))
        if recorded[k] != stage.settings[k]
    ]
    if differs:
        raise ValueError(
            f"expected a surrogate that was recorded with the settings asked for, got another "
            f"({'; '.join(differs)}): record with these settings, or give the recorded ones"
        )
    if len(surrogate.start) != len(stage.table):
        raise ValueError(
            f"expected a surrogate of {len(stage.table)} topics, got one of "
            f"{len(surrogate.start)}: fit it again with `kncl-policy surrogate`"
        )
    return SurrogateLearner(
        surrogate,
        Transfer(stage.table.graph, stage.table.vectors),
        world.passage_topic[stage.store.document],
        stage.settings.learner.context,
    )

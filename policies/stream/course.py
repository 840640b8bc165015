"""A course: neighbourhoods in an order, what they are measured on, and where all methods begin.

All methods of one seed share it: the order of the neighbourhoods, the held-out windows, and the
nucleated weights. A stage is a fixed number of updates on one neighbourhood.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.learner import MeasuredText
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage, seed_topics
from kncl_env.world.world import World
from policies.stream.methods import OF_LEARNERS, Method
from policies.stream.neighbourhoods import Neighbourhood, neighbourhoods
from train_lm.files import Json

if TYPE_CHECKING:
    from train_lm.adapters import Adapter
    from train_lm.trainer import Snapshot, Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# peft's name of each way of merging, and the weight of each of n adapters as a power of n. All make
# a mean: `cat` and `svd` of what adapters add, `linear` and `dare` of their two factors apart, each
# of which has the root of the weight; `ties` takes means of its own.
MERGING: dict[str, tuple[str, int]] = {
    "linear": ("linear", -2),
    "ties": ("ties", 0),
    "dare": ("dare_linear", -2),
    "svd": ("svd", -1),
    "cat": ("cat", -1),
}

SPLIT = "test"  # what is measured; no method chooses anything by it


@dataclass(frozen=True)
class Layout:
    """What is learned and measured, whatever the method.

    Attributes:
        parts: Number of neighbourhoods, or names of regions.
        size: Topics of each; all that there are, if 0.
        updates: Of a stage.
        windows: Held-out windows that a neighbourhood is measured on.
    """

    parts: int | tuple[str, ...] = 8
    size: int = 40
    updates: int = 40
    windows: int = 48

    def __post_init__(self) -> None:
        if isinstance(self.parts, Sequence):
            object.__setattr__(self, "parts", tuple(self.parts))
        for name, least in (("size", 0), ("updates", 1), ("windows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")

    def to_json(self) -> Json:
        parts = self.parts if isinstance(self.parts, int) else list(self.parts)
        return {
            "neighbourhoods": parts,
            "size": self.size,
            "updates": self.updates,
            "windows": self.windows,
        }

    @property
    def n(self) -> int:
        """Number of neighbourhoods T."""
        return self.parts if isinstance(self.parts, int) else len(self.parts)

    def stage_settings(self, settings: Settings) -> Settings:
        """Settings whose nucleus phase and reference run fit a course: one step is one stage."""
        rules = replace(
            settings.rules, slots=1, probes=1, steps=self.n, updates_per_step=self.updates
        )
        return replace(settings, rules=rules)


class Measurable(Protocol):
    """What tells the loss of windows: a trainer, or adapters put together."""

    def nll(self, windows: Ints) -> Floats:
        """(n,) negative log-likelihood [nats] summed over each of (n, T + 1) windows."""


class Course:
    """What the methods of one seed share.

    Args:
        world: Where text and topics come from.
        settings: Of learner and nucleus; they name the initial learner.
        layout: What is learned and measured.
        seed: Of the order of the neighbourhoods and of the text.

    Attributes:
        neighbourhoods: In the order of the stages.
        held_out: (T * W + B,) windows that are measured: of each neighbourhood in turn, then of
            the nucleus.
    """

    def __init__(self, world: World, settings: Settings, layout: Layout, seed: int) -> None:
        self.world, self.layout, self.seed = world, layout, seed
        self.settings = layout.stage_settings(settings)
        self.stage: Stage = open_stage(world, self.settings, progress=False)
        found = parts_of(world, self.settings, layout)
        order = np.random.default_rng([seed, 21]).permutation(len(found))
        self.neighbourhoods: tuple[Neighbourhood, ...] = tuple(found[int(i)] for i in order)
        samples = [self._sample(one.topics) for one in self.neighbourhoods]
        samples.append(self._sample(self.stage.seeds))
        self.held_out = np.concatenate(samples)
        self._column = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
        self._tokens = self.stage.store.read(self.held_out)
        assert self.stage.text is not None
        self._bytes = self.stage.text.n_bytes(self._tokens)

    def __len__(self) -> int:
        return len(self.neighbourhoods)

    def _sample(self, topics: Ints) -> Ints:
        text = MeasuredText(self.world, self.stage.store, topics)
        return text.sample(SPLIT, self.layout.windows)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.neighbourhoods)

    @property
    def windows_per_stage(self) -> int:
        return self.layout.updates * self.settings.learner.batch

    @property
    def tokens_per_stage(self) -> int:
        return self.windows_per_stage * self.stage.store.context

    # --- measuring ---------------------------------------------------------------------------

    def nll(self, learner: Measurable) -> Floats:
        """(T * W + B,) negative log-likelihood of each held-out window [nats]."""
        return learner.nll(self._tokens)

    def losses(self, nll: Floats) -> Floats:
        """(T + 1,) loss of each neighbourhood, and of the nucleus, by the windows' own [bits/byte].

        Windows of any learner may be put together: of several adapters, say.
        """
        nats = np.bincount(self._column, weights=nll)
        size = np.bincount(self._column, weights=self._bytes)
        return np.asarray(nats / np.log(2) / size)

    @property
    def column(self) -> Ints:
        """(T * W + B,) neighbourhood of each held-out window; T where it is the nucleus'."""
        return self._column

    @cached_property
    def nearness(self) -> Floats:
        """(T * W + B, T) likeness of each window's passage to each neighbourhood's centre.

        It is read off the passage's own text, which is all that a router is shown.
        """
        passages = self.stage.store.document[self.held_out]
        unique, where = np.unique(passages, return_inverse=True)
        vectors = self.world.embed([self.world.passage_text(int(p)) for p in unique])
        centres = np.stack([one.centre for one in self.neighbourhoods])
        return np.asarray((vectors.astype(np.float64) @ centres.T)[where])

    # --- training ----------------------------------------------------------------------------

    def passages(self, stage: int) -> Ints:
        """Training passages of a stage's neighbourhood."""
        topics = self.neighbourhoods[stage].topics
        return np.concatenate([self.world.passages_of(int(topic)) for topic in topics])

    @cached_property
    def nucleus_windows(self) -> Ints:
        """What the nucleus phase read: the first of what a memory can look back on."""
        own = [self.world.passages_of(int(topic)) for topic in self.stage.seeds]
        return self.stage.store.windows_of(np.concatenate(own))

    def weights(self) -> Snapshot:
        """The nucleated learner's weights, by their names in a snapshot."""
        nucleated = self.stage.nucleated
        assert nucleated is not None
        return {name: value for name, value in nucleated.items() if name.startswith("model.")}

    def trainer(self, method: Method, rate: float) -> Trainer:
        """A trainer of the nucleated weights. Its moments are fresh, whatever rule it steps by."""
        from train_lm.trainer import Trainer, TrainerConfig
        from train_lm.updates import Updates

        updates = Updates(method.rule, share=method.kept, rank=method.rank)
        batch = self.settings.learner.batch
        config = TrainerConfig(learning_rate=rate, batch=batch, updates=updates)
        model = self.stage.trainer().model
        if method.adapter == "none":
            trainer = Trainer(model, config)
            trainer.restore({**trainer.snapshot(), **self.weights()})
            return trainer
        from train_lm.adapters import AdapterConfig

        shape = AdapterConfig(method.rank, alpha=2.0 * method.rank)
        trainer = Trainer(model, config, adapter=shape)
        assert self.stage.nucleated is not None
        trainer.adopt(self.stage.nucleated)
        return trainer

    def measurable(self, adapter: Adapter) -> Trainer:
        """The nucleated learner with an adapter beside it, whatever its rank."""
        from train_lm.adapters import with_adapter
        from train_lm.trainer import Trainer, TrainerConfig

        base = self.trainer(Method("none"), rate=1.0).model
        return Trainer(with_adapter(base, adapter), TrainerConfig())

    @cached_property
    def base_digest(self) -> str:
        """What adapters of this learner name as their base."""
        from train_lm.adapters import base_digest

        return base_digest(self.trainer(Method("none"), rate=1.0).model)

    def merged_nll(self, adapters: Sequence[Adapter], how: str) -> Floats:
        """As `nll`, of several adapters made one, each with the same say; or mixed by Arrow."""
        import torch

        # Arrow finds its prototypes by lot, and not before it is asked.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.nll(self._merged(adapters, how))

    def _merged(self, adapters: Sequence[Adapter], how: str) -> Trainer:
        from train_lm.adapters import arrow_model, merge_adapters
        from train_lm.composing.adapter_files import save_adapter
        from train_lm.trainer import Trainer, TrainerConfig

        base = self.trainer(Method("none"), rate=1.0).model
        if how == "arrow":  # peft opens them from folders alone
            with TemporaryDirectory() as scratch:
                folders = [Path(scratch) / str(i) for i in range(len(adapters))]
                for folder, adapter in zip(folders, adapters, strict=True):
                    save_adapter(folder, adapter)
                return Trainer(arrow_model(base, folders), TrainerConfig())
        rule, power = MERGING[how]
        weights = [float(len(adapters)) ** power] * len(adapters)
        return self.measurable(merge_adapters(base, adapters, weights, rule, seed=self.seed))


def learner_of(settings: Settings) -> Json:
    """The settings that a course reads, by their flat names."""
    return json.loads(json.dumps({name: settings[name] for name in OF_LEARNERS}))


def parts_of(world: World, settings: Settings, layout: Layout) -> tuple[Neighbourhood, ...]:
    """The neighbourhoods of a layout, in no order. Raises: ValueError as `neighbourhoods`."""
    seeds, context = seed_topics(world, settings), settings.learner.context
    return neighbourhoods(world, layout.parts, layout.size, seeds, context)


@lru_cache(maxsize=2)
def open_course(world: str, settings: Settings, layout: Layout, seed: int) -> Course:
    """The course of a task; a process that plays several of one seed opens it once."""
    return Course(_open_world(world), settings, layout, seed)


@lru_cache(maxsize=1)
def _open_world(path: str) -> World:
    return World.open(path)

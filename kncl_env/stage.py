"""Makes the environment: binds a world, a learner after its nucleus phase, and the rules.

The nucleus phase and the reference run are done once per world and configuration and cached by
hash, in `$KNCL_CACHE` (default `~/.cache/kncl`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import EnvConfig, TopicExpansionEnv
from kncl_env.learner import WorldLearner
from kncl_env.nucleus import nucleate
from kncl_env.reading_list import Reading
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.world import World
from train_lm.files import cache_folder, hash_json, read_json, replacing, write_json

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]

# Raised whenever the nucleus phase or the reference run would end with other bytes.
NUCLEUS_VERSION = 2


@dataclass(frozen=True)
class Setup(EnvConfig):
    """All settings of `gym.make("kncl_env/TopicExpansion-v0", world=..., ...)`.

    Attributes:
        model: Preset of the learner's architecture; its context replaces `context`.
        learning_rate: Peak learning rate of nucleus phase and episode.
        learner_seed: Seed of the learner's initial weights and of its nucleus phase.
        nucleus_topics: Seeds of the nucleus; a thirtieth of the topics, 8 to 150, if 0.
        nucleus_titles: Seeds by title; replaces `nucleus_topics`.
        nucleus_updates: Learner updates of the nucleus phase.
        breadth: Passages per retrieved neighbourhood.
        region: Another target region than the world's own.
    """

    model: str = "xs"
    learning_rate: float = 3e-3
    learner_seed: int = 0
    nucleus_topics: int = 0
    nucleus_titles: tuple[str, ...] = ()
    nucleus_updates: int = 2000
    breadth: int = 512
    region: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        from train_lm.model import PRESETS

        if self.model not in PRESETS:
            raise ValueError(f"expected a model preset among {list(PRESETS)}, got {self.model!r}")
        object.__setattr__(self, "context", PRESETS[self.model].context)
        object.__setattr__(self, "nucleus_titles", tuple(self.nucleus_titles))
        if self.nucleus_updates < 1:
            raise ValueError(f"expected nucleus_updates >= 1, got {self.nucleus_updates}")

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Setup:
        """Raises: ValueError naming an unknown setting."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ValueError(f"expected settings among {sorted(known)}, got {unknown}")
        return cls(**settings)


def topic_expansion(
    world: str | Path | World,
    render_mode: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> TopicExpansionEnv:
    """Entry point of `kncl_env/TopicExpansion-v0`.

    Args:
        world: A world or its directory.
        render_mode: `human`, `rgb_array` or None.
        progress: Whether a first nucleus phase shows a progress bar.
        settings: Fields of `Setup`.
    """
    world = world if isinstance(world, World) else World.open(world)
    setup = Setup.from_settings(settings)
    store = world.windows(setup.context)
    target = world.target_topics(setup.region)
    seeds = seed_topics(world, setup)
    learner = WorldLearner(world, store, build_trainer(world, setup), target)
    table = TopicTable.of(world)
    focused = setup.region is not None or world.target_region is not None
    goal = Goal(table, target) if focused else None
    retriever = NeighbourhoodRetriever(world, setup.breadth, goal=goal)
    reading, reducible = _nucleated(world, setup, learner, retriever, seeds, progress)
    return TopicExpansionEnv(
        table=table,
        seeds=seeds,
        learner=learner,
        retriever=retriever,
        reading=reading,
        target=target,
        goal=goal,
        reducible=reducible,
        titles=world.titles,
        config=setup,
        render_mode=render_mode,
    )


def seed_topics(world: World, setup: Setup) -> Ints:
    """Seeds of the nucleus: named by title, or chosen outside the target region."""
    if setup.nucleus_titles:
        return np.array([world.topic_of(t) for t in setup.nucleus_titles], dtype=np.int64)
    allowed = world.train_tokens_of > setup.context
    region = setup.region or world.target_region
    if region is not None:
        allowed[world.region(region)] = False
    n = setup.nucleus_topics or int(np.clip(world.n_topics // 30, 8, 150))
    return nucleate(world.graph, world.topic_vectors, n, allowed)


def build_trainer(world: World, setup: Setup) -> Any:
    from dataclasses import replace

    from train_lm.model import PRESETS, build_model
    from train_lm.tokenizer import end_of_text
    from train_lm.trainer import Trainer, TrainerConfig

    model = replace(PRESETS[setup.model], seed=setup.learner_seed)
    config = TrainerConfig(learning_rate=setup.learning_rate, batch=setup.batch)
    end = end_of_text(world.tokenizer)
    return Trainer(build_model(model, world.tokenizer.get_vocab_size(), end), config)


def _nucleated(
    world: World,
    setup: Setup,
    learner: WorldLearner,
    retriever: NeighbourhoodRetriever,
    seeds: Ints,
    progress: bool,
) -> tuple[Reading, float]:
    """Give the learner its nucleated snapshot; returns the reading list and the reducible loss."""
    from train_lm.trainer import load_snapshot, save_snapshot

    key = hash_json({"world": world.hash, "version": NUCLEUS_VERSION, **asdict(setup)})
    folder = cache_folder() / key[:32]
    reading = Reading(learner.store, setup.replay)
    if (folder / "card.json").is_file():
        learner.nucleated = load_snapshot(folder / "nucleus.safetensors")
        reading.times_read = np.load(folder / "times_read.npy")
        return reading, float(read_json(folder / "card.json")["reducible"])

    log.info("nucleus phase: %d updates on %d topics", setup.nucleus_updates, len(seeds))
    trainer = learner.trainer
    rng = np.random.default_rng([setup.learner_seed, 1])
    with _progress(progress, setup.nucleus_updates + setup.steps) as advance:
        own = np.concatenate([retriever.own(int(t)) for t in seeds])
        trainer.begin_phase(setup.nucleus_updates, decay=False)
        for _ in range(setup.nucleus_updates):
            learner.train(reading.rehearse(own, setup.batch, rng))
            advance()
        learner.nucleated = learner.snapshot()
        times_read = reading.times_read.copy()
        before = learner.held_out_loss()
        # The reference run spends a whole episode's budget on the target itself.
        target = np.concatenate([retriever.own(int(t)) for t in learner.target])
        learner.begin(setup.tokens_per_episode)
        for _ in range(setup.steps):
            learner.train(reading.rehearse(target, setup.windows_per_step, rng))
            advance()
        reducible = before - learner.held_out_loss()
    if not reducible > 0:
        raise ValueError(
            f"expected training on the target itself to lower its loss, got {reducible:+.4f} bits "
            "per byte: shorten the nucleus phase, raise the budget or lower the learning rate"
        )
    reading.times_read = times_read
    folder.mkdir(parents=True, exist_ok=True)
    save_snapshot(learner.nucleated, folder / "nucleus.safetensors")
    with replacing(folder / "times_read.npy") as part, part.open("wb") as stream:
        np.save(stream, times_read)
    write_json(
        folder / "card.json",
        {
            "reducible": reducible,
            "held_out_loss": before,
            "world": world.hash,
            "setup": asdict(setup),
            "tokens": {
                "nucleus": setup.nucleus_updates * setup.batch * setup.context,
                "reference": setup.tokens_per_episode,
            },
        },
    )
    return reading, reducible


class _progress:  # noqa: N801
    """A rich progress bar, or nothing; calling the entered value advances it by one."""

    def __init__(self, show: bool, total: int) -> None:
        self.show, self.total = show, total

    def __enter__(self) -> Callable[[], None]:
        if not self.show:
            return lambda: None
        from rich.progress import Progress

        self.bar = Progress(transient=True)
        self.bar.start()
        task = self.bar.add_task("nucleus phase", total=self.total)
        return lambda: self.bar.advance(task)

    def __exit__(self, *_: object) -> None:
        if self.show:
            self.bar.stop()

"""The stage: what all episodes of one world and its settings share; and the nucleus phase.

The nucleus phase is done once for what it reads (the world, the seeds, the learner) and cached by
the hash of just that, in `$KNCL_CACHE` (default `~/.cache/kncl`): other rules of the episode train
no nucleus again. The reference run, which says what there is to be learnt within a budget, is
cached beside it, by budget and target.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.learner import MEASURED_WINDOWS, MeasuredText, WorldLearner
from kncl_env.nucleus import Nucleus
from kncl_env.queue import ExpansionQueue
from kncl_env.reading_list import ReadingList
from kncl_env.retrieval import RETRIEVAL_VERSION, NeighbourhoodRetriever, nearest_passages
from kncl_env.settings import ChangeSettings, LearnerSettings, ReadingSettings, Settings
from kncl_env.taste import Taste
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.graph import TopicGraph
from kncl_env.world.nucleation import NucleusReport, Wanted, seeds_of
from kncl_env.world.splits import HELD_OUT
from kncl_env.world.world import World
from train_lm.checked.arrays import load_array, rng_state
from train_lm.checked.digests import read_sealed, sealed, verify
from train_lm.checked.records import shown
from train_lm.files import (
    Json,
    cache_folder,
    hash_file,
    hash_json,
    replacing,
    sweep,
    write_json,
    write_tensors,
)
from train_lm.windows import TokenStore

if TYPE_CHECKING:
    from torch import nn

    from train_lm.adapters import AdapterConfig
    from train_lm.steps.anchors import Anchor
    from train_lm.trainer import Snapshot, Trainer

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]

# Raised whenever the nucleus phase or the reference run would end with other bytes.
NUCLEUS_VERSION = 3

ALL_NUMBERS = ChangeSettings()

# Windows of each held-out split that a distant world's target is measured on, at least.
FEW_WINDOWS = 16

# Windows, at most, of the seeds' text that the importance of weights is measured on.
ANCHOR_WINDOWS = 64

# Files of a cached phase; the first names the digests of the others.
CACHED, WEIGHTS, TIMES_READ = "card.json", "nucleus.safetensors", "times_read.npy"


class Retriever(Protocol):
    """Finds the passages of a topic's neighbourhood."""

    def neighbourhood(self, topic: int, taste: Taste | None = None) -> Ints:
        """Training passages to read when the topic is expanded."""

    def own(self, topic: int, taste: Taste | None = None) -> Ints:
        """Training passages of the topic's own article."""


@dataclass(frozen=True, eq=False)
class Stage:
    """What episodes share; whatever plays, plays `TopicExpansionEnv(stage, learner)`.

    Attributes:
        world: Where text and topics come from.
        settings: Of rules, learner, nucleus and reading.
        table: What is fixed of the world's topics.
        seeds: Topics of the nucleus phase, already learnt where an episode begins.
        target: Topics of the held-out mix, drawn from evenly.
        goal: The target, where it is a part of the world; None where every topic counts.
        retriever: Finds what to read.
        reading_list: As the nucleus phase left it; copied at each reset.
        reducible: Reducible loss [bits per byte]; scales the reward.
        text: What learners are measured on; None where a formula is the learner.
        nucleated: The learner after its nucleus phase.
        cached: Where that phase and the reference run are kept; None where there is none.

    Raises:
        ValueError: The frontier of the seeds does not fill the slots.
    """

    world: World
    settings: Settings
    table: TopicTable
    seeds: Ints
    target: Ints
    goal: Goal | None
    retriever: Retriever
    reading_list: ReadingList
    reducible: float
    text: MeasuredText | None = None
    nucleated: Snapshot | None = None
    cached: Path | None = None

    def __post_init__(self) -> None:
        _check_slots(self.table, self.seeds, self.settings.rules.slots)

    @cached_property
    def nucleus_report(self) -> NucleusReport:
        """Coverage and centrality of the nucleus, and the text that it brings."""
        return NucleusReport.of(self.world, self.seeds)

    @cached_property
    def sample(self) -> Ints:
        """Passages of the target's visible sample, ascending: its `reward` text.

        All text of the target that arms, goals and traits may look at; `select` and `test` are
        nobody's but an evaluation's.
        """
        own = [self.world.passages_of(int(topic), "reward") for topic in self.target]
        return np.sort(np.concatenate(own))

    @property
    def queue(self) -> ExpansionQueue | None:
        """What retrieves ahead, if anything."""
        return self.retriever if isinstance(self.retriever, ExpansionQueue) else None

    @property
    def store(self) -> TokenStore:
        """The windows that everybody counts by."""
        return self.reading_list.store

    @property
    def adapter(self) -> AdapterConfig | None:
        """The shape of the adapter that an episode trains, if it trains one."""
        return adapter_of(self.settings.change, self.settings.learner.seed)

    def with_graph(self, graph: TopicGraph) -> Stage:
        """The same start, text and target with other links between topics."""
        world = self.world.with_graph(graph)
        table = TopicTable.of(world)
        goal = None if self.goal is None else Goal(table, self.target)
        retriever = retriever_of(world, self.settings.reading, goal, self.store)
        return replace(self, world=world, table=table, goal=goal, retriever=retriever)

    def trainer(self) -> Trainer:
        """A fresh model of the learner's architecture, that an episode changes as settings say."""
        return _trainer(self.world, self.settings.learner, self.settings.change)

    def plain_trainer(self) -> Trainer:
        """The same, of all numbers: as nucleus phase and reference run have it."""
        return _trainer(self.world, self.settings.learner)

    def learner(self, trainer: Any = None) -> WorldLearner:
        """A learner of its own, with a trainer of its own or a member of a bank."""
        assert self.text is not None, "this stage was made for a formula"
        learner = WorldLearner(
            self.text,
            trainer or self.trainer(),
            self.nucleated,
            self.settings.merge_every_updates,
            self.settings.learner,
        )
        if self.settings.memory.rule == "ewc":
            learner.trainer.anchor(self.anchor)
        return learner

    def whole_model(self, learner: WorldLearner) -> nn.Module:
        """The learner's model as one: a copy with the adapter merged in, or of the averaged
        weights, where it has them.
        """
        if self.settings.change.adapter == "none" and self.settings.learner.averaging == "none":
            model: nn.Module = learner.trainer.model  # type: ignore[union-attr]
            return model
        return self.copied(learner).model

    def copied(self, learner: WorldLearner) -> Trainer:
        """A plain trainer of the learner's weights as they are measured: with an adapter merged
        in, or averaged, where it has that.
        """
        plain, trainer = self.plain_trainer(), learner.trainer
        if trainer.schedule.averages:
            weights = trainer.measured_weights()
        else:
            weights = {n.removeprefix("model."): w for n, w in trainer.merged().items()}
        # Only what is tied to another weight has no entry of its own.
        plain.model.load_state_dict(weights, strict=False)
        return plain

    @cached_property
    def anchor(self) -> Anchor:
        """What `ewc` holds learners near to: the nucleated weights, as far as the nucleus needs
        each (elastic weight consolidation, Kirkpatrick et al. 2017, arXiv:1612.00796).

        Importance is measured on the same windows of the seeds' training text for all learners.
        """
        from train_lm.steps.anchors import Anchor

        assert self.nucleated is not None, "a learner is anchored after its nucleus phase"
        trainer = self.plain_trainer()
        trainer.restore(self.nucleated)
        own = np.concatenate([self.world.passages_of(int(t)) for t in self.seeds])
        windows = self.store.windows_of(own)
        spread = np.linspace(0, len(windows) - 1, min(ANCHOR_WINDOWS, len(windows)))
        chosen = windows[spread.round().astype(np.int64)]
        importance = trainer.importance(self.store.read(chosen))
        return Anchor(trainer.weights(), importance, self.settings.memory.strength)


def open_stage(
    world: str | Path | World, settings: Settings, progress: bool | None = None
) -> Stage:
    """The stage of a world, after its nucleus phase.

    Args:
        world: A world or its directory.
        progress: Whether a first nucleus phase shows a progress bar; where a terminal is, if None.

    Raises:
        ValueError: The settings do not fit the world; said before anything is trained.
    """
    world = world if isinstance(world, World) else World.open(world)
    store = world.windows(settings.learner.context)
    target = world.target_topics(settings.region)
    seeds = seed_topics(world, settings)
    if world.is_distant:
        _check_distant(world, store, seeds, target)
    table = TopicTable.of(world)
    _check_slots(table, seeds, settings.rules.slots)
    focused = settings.region is not None or world.target_region is not None
    goal = Goal(table, target) if focused else None
    text = MeasuredText(world, store, target)
    reading_list = ReadingList(store, settings.replay_share)
    phase = _NucleusPhase(world, settings, seeds, text, reading_list)
    nucleated, reducible = phase.run(progress)
    return Stage(
        world=world,
        settings=settings,
        table=table,
        seeds=seeds,
        target=target,
        goal=goal,
        retriever=retriever_of(world, settings.reading, goal, store),
        reading_list=reading_list,
        reducible=reducible,
        text=text,
        nucleated=nucleated,
        cached=phase.folder,
    )


def retriever_of(
    world: World, reading: ReadingSettings, goal: Goal | None, store: TokenStore
) -> NeighbourhoodRetriever:
    """Finds the neighbourhoods of a world, ahead where there is a queue."""
    if not reading.queue:
        return NeighbourhoodRetriever(world, reading.breadth, goal=goal)
    return ExpansionQueue(world, reading.breadth, reading.queue, goal=goal, windows=store)


def seed_topics(world: World, settings: Settings) -> Ints:
    """Seeds of the nucleus: named by title or text, or chosen outside the target region."""
    nucleus = settings.nucleus
    wanted = Wanted(nucleus.titles, nucleus.text, nucleus.topics)
    return seeds_of(world, wanted, settings.region, settings.learner.context)


def _check_distant(world: World, store: TokenStore, seeds: Ints, target: Ints) -> None:
    """Raises: ValueError where the target is in the nucleus, or has too little text to measure."""
    inside = seeds[np.isin(seeds, world.region(str(world.target_region)))]
    if len(inside):
        raise ValueError(
            f"expected a nucleus outside of the target {world.target_region}, got "
            f"{world.titles[inside[0]]!r}: none of its text is trained on in a distant world, name "
            "other titles"
        )
    for split in HELD_OUT:
        own = np.concatenate([world.passages_of(int(topic), split) for topic in target])
        found = len(store.windows_of(own))
        if found < FEW_WINDOWS:
            raise ValueError(
                f"expected {FEW_WINDOWS} windows or more of {store.context} tokens in the {split} "
                f"text of the target {world.target_region}, got {found}: build the world with a "
                "larger target (or --sample-kb), or take a learner with a shorter context"
            )


def _check_slots(table: TopicTable, seeds: Ints, slots: int) -> None:
    frontier = Nucleus(table.graph, seeds).frontier
    if slots > len(frontier):
        raise ValueError(
            f"expected at most {len(frontier)} slots, the frontier of this nucleus, got "
            f"{slots}: lower slots, or choose a larger nucleus"
        )


def _trainer(
    world: World, settings: LearnerSettings, change: ChangeSettings = ALL_NUMBERS
) -> Trainer:
    """A trainer of a fresh model; of all its numbers, in nucleus phase and reference run."""
    from train_lm.model import PRESETS, build_model
    from train_lm.tokenizer import end_of_text
    from train_lm.trainer import Trainer, TrainerConfig
    from train_lm.updates import Updates

    model = replace(PRESETS[settings.model], seed=settings.seed)
    updates = Updates(change.updates, share=change.updates_share, rank=change.updates_rank)
    config = TrainerConfig(
        learning_rate=settings.learning_rate, batch=settings.batch, updates=updates
    )
    vocabulary, end = world.tokenizer.get_vocab_size(), end_of_text(world.tokenizer)
    adapter = adapter_of(change, settings.seed)
    return Trainer(build_model(model, vocabulary, end), config, adapter=adapter)


def adapter_of(change: ChangeSettings, seed: int) -> AdapterConfig | None:
    """The shape of an episode's adapter; None where the learner's own numbers are trained."""
    if change.adapter == "none":
        return None
    from train_lm.adapters import AdapterConfig

    return AdapterConfig(change.adapter_rank, change.adapter_alpha, seed=seed)


class _NucleusPhase:
    """Trains a learner on the seeds, then measures what a budget spent on the target brings; in a
    distant world, on the training text that lies nearest to it.

    Args:
        reading_list: Left as the nucleus phase leaves it.
    """

    def __init__(
        self,
        world: World,
        settings: Settings,
        seeds: Ints,
        text: MeasuredText,
        reading_list: ReadingList,
    ) -> None:
        self.world, self.settings, self.seeds = world, settings, seeds
        self.text, self.reading_list = text, reading_list
        # What the phase reads and nothing else: a setting that is not named here cannot void it.
        learner = settings.learner
        key = {
            "version": NUCLEUS_VERSION,
            "world": world.hash,
            "seeds": seeds.tolist(),
            "updates": settings.nucleus.updates,
            "model": learner.model,
            "learning_rate": learner.learning_rate,
            "learner_seed": learner.seed,
            "batch": learner.batch,
        }
        self.folder = cache_folder() / f"nucleus-{hash_json(key)[:32]}"
        budget = {
            "target": text.target.tolist(),
            "steps": settings.rules.steps,
            "updates_per_step": settings.rules.updates_per_step,
            "windows": MEASURED_WINDOWS["reward"],
        }
        if world.is_distant:
            budget["read"] = f"nearest, {RETRIEVAL_VERSION}"
        usual = LearnerSettings()
        for name in ("schedule", "averaging"):  # a cache of before there was a choice stays good
            if getattr(learner, name) != getattr(usual, name):
                budget[name] = getattr(learner, name)
        self.reference = self.folder / f"reference-{hash_json(budget)[:32]}.json"
        self.key, self.budget = key, budget

    def run(self, progress: bool | None) -> tuple[Snapshot, float]:
        """The nucleated snapshot, and the reducible loss [bits per byte]."""
        sweep(self.folder)
        known, reducible = self._load(), self._load_reference()
        steps = 0 if reducible is not None else self.settings.rules.steps
        updates = 0 if known is not None else self.settings.nucleus.updates
        if known is not None and reducible is not None:
            return known[0], reducible
        with _progress(progress, updates + steps) as advance:
            own = self.settings.learner
            learner = WorldLearner(self.text, _trainer(self.world, own), plan=own)
            rng = np.random.default_rng([self.settings.learner.seed, 1])
            if known is not None:
                learner.nucleated, rng.bit_generator.state = known
                learner.restore(learner.nucleated)
            else:
                self._train(learner, rng, advance)
            assert learner.nucleated is not None
            return learner.nucleated, (
                self._measure(learner, rng, advance) if reducible is None else reducible
            )

    def _load(self) -> tuple[Snapshot, Json] | None:
        """The snapshot, and the generator as the phase left it; None where it is to be made."""
        file = self.folder / CACHED
        if not file.is_file():
            return None
        try:
            return self._loaded(file)
        except (ValueError, OSError) as error:
            log.warning("nucleus phase: made again: %s", error)
            file.unlink(missing_ok=True)  # before anything else counts
            return None

    def _loaded(self, file: Path) -> tuple[Snapshot, Json]:
        from train_lm.trainer import load_snapshot

        card = read_sealed(file)
        for name, value in self.key.items():
            if card.values.get(name) != value:
                raise card.wrong(name, shown(value))
        state = rng_state(card.values.get("rng"))
        if "files" in card:  # one of before there were digests has none
            digests = card.inner("files")
            for name in (WEIGHTS, TIMES_READ):
                if not verify(self.folder / name, digests.text(name)):
                    raise ValueError(f"expected {self.folder / name} as it was written, got other")
        times_read = self.reading_list.times_read
        found = load_array(self.folder / TIMES_READ, "i", times_read.shape)
        if found.min() < 0:
            raise ValueError(f"expected counts of 0 or more in {self.folder / TIMES_READ}")
        snapshot = load_snapshot(self.folder / WEIGHTS)
        if "files" not in card:
            _trainer(self.world, self.settings.learner).restore(snapshot)  # tried out
        self.reading_list.times_read = found.astype(times_read.dtype)
        return snapshot, state

    def _load_reference(self) -> float | None:
        """The reducible loss as it was measured; None where it is to be measured."""
        file = self.reference
        if not file.is_file():
            return None
        try:
            card = read_sealed(file)
            for name, value in self.budget.items():
                if card.values.get(name) != value:
                    raise card.wrong(name, shown(value))
            reducible = card.number("reducible", least=0)
            if not reducible:
                raise card.wrong("reducible", "a number above 0")
        except (ValueError, OSError) as error:
            log.warning("reference run: made again: %s", error)
            return None
        return reducible

    def _train(self, learner: WorldLearner, rng: np.random.Generator, advance: Any) -> None:
        n, batch = self.settings.nucleus.updates, self.settings.learner.batch
        own = np.concatenate([self.world.passages_of(int(t)) for t in self.seeds])
        learner.trainer.begin_phase(n, decay=False)
        for _ in range(n):
            learner.train(self.reading_list.rehearse(own, batch, rng))
            advance()
        learner.nucleated = learner.snapshot()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self.folder / WEIGHTS, learner.nucleated, {})
        with replacing(self.folder / TIMES_READ) as part, part.open("wb") as stream:
            np.save(stream, self.reading_list.times_read)
        tokens = n * batch * self.settings.learner.context
        card = {**self.key, "tokens": tokens, "rng": rng.bit_generator.state}
        card["files"] = {name: hash_file(self.folder / name) for name in (WEIGHTS, TIMES_READ)}
        write_json(self.folder / CACHED, sealed(card))

    def _measure(self, learner: WorldLearner, rng: np.random.Generator, advance: Any) -> float:
        """The reference run spends a whole episode's budget on the target itself, or near it."""
        settings, reading_list = self.settings, self.reading_list.copy()
        before = learner.held_out_loss()
        near = "the target itself"
        if self.world.is_distant:
            near = "the text that is nearest to the target"
            n = settings.rules.steps * settings.windows_per_step
            target = nearest_passages(self.world, self.text.target, n, self.text.store)
        else:
            target = np.concatenate([self.world.passages_of(int(t)) for t in self.text.target])
        learner.begin(settings.tokens_per_episode)
        for _ in range(settings.rules.steps):
            learner.train(reading_list.rehearse(target, settings.windows_per_step, rng))
            advance()
        reducible = before - learner.held_out_loss()
        if not reducible > 0:
            raise ValueError(
                f"expected training on {near} to lower its loss, got {reducible:+.4f} "
                "bits per byte: shorten the nucleus phase, raise the budget or lower the learning "
                "rate"
            )
        found = {"reducible": reducible, "held_out_loss": before}
        card = {**self.budget, **found, "tokens": settings.tokens_per_episode}
        write_json(self.reference, sealed(card))
        return reducible


@contextmanager
def _progress(show: bool | None, total: int) -> Iterator[Any]:
    """A progress bar on stderr, or one line there; yields what advances it by one."""
    if show is None and not sys.stderr.isatty():
        log.warning("nucleus phase: %d updates and steps of the learner, once; then cached", total)
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("nucleus phase", total=total)
        yield lambda: bar.advance(task)

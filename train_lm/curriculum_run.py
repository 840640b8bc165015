"""A larger model trained in the order that a policy chose, on one process or several.

A run that is killed at any moment goes on from its last checkpoint and, on a CPU, ends with the
same bytes as one that was never stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_lm.adapters import AdapterConfig
from train_lm.checkpoint import (
    METRICS,
    claim_run,
    cut_metrics,
    last_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from train_lm.composing.adapter_files import save_adapter
from train_lm.curriculum import Curriculum, read_curriculum
from train_lm.events import Events
from train_lm.files import append_line, hash_file
from train_lm.machine.launchers import check_launcher
from train_lm.machine.parallel import Accelerated, Alone, Parallel, whole
from train_lm.model import PRESETS, check_seed, open_model, save_model
from train_lm.outputs import Hold, alone
from train_lm.processes import end_with_parent
from train_lm.reading_order import plan_order
from train_lm.tokenizer import as_transformers, load_tokenizer
from train_lm.trainer import Trainer, TrainerConfig
from train_lm.training_text import TrainingText, check_world, open_text, tokenizer_hash
from train_lm.updates import Updates

COMMAND = "train-lm run"
ADAPTERS = ("none", "lora", "relora")


@dataclass(frozen=True)
class RunConfig:
    """Settings that decide what a run ends with.

    Attributes:
        model: Preset, model directory or hub id.
        learning_rate: Peak; warm-up and a full decay over the whole budget.
        batch: Windows per update, over all processes.
        context: Tokens per window; the preset's, or at most 512 of a model's own, if 0.
        precision: `fp32`, or `bf16` for matrix products in bfloat16.
        optimizer: `adamw` or `muon`.
        replay: Share of each step that rereads earlier ones; a recorded order holds the replay of
            its episode already.
        weight_decay: Decoupled decay of matrices.
        seed: Of initial weights and of the order within a step, of 32 bits.
        adapter: `none`; `lora`, weights of low rank beside the model's own, which stay; or
            `relora`, which merges them now and then and begins fresh ones.
        adapter_rank, adapter_alpha: Rank of an adapter, and the numerator of its scale alpha/rank.
        adapter_targets: Ends of the names of layers, with commas; `all` linear ones but the head.
        merge_every: Steps of the curriculum after which `relora` merges.
        merge: Whether a `lora` run also writes the model with its adapter merged in.
        updates_rule: Which part of a gradient becomes a step: `full`, `topk` or `lowrank`.
        updates_share, updates_scope, updates_feedback: Of `topk`; see `Updates`.
        updates_rank, updates_refresh: Of `lowrank`; see `Updates`.
    """

    model: str = "s"
    learning_rate: float = 1e-3
    batch: int = 16
    context: int = 0
    precision: str = "fp32"
    optimizer: str = "adamw"
    replay: float = 0.0
    weight_decay: float = 0.1
    seed: int = 0
    adapter: str = "none"
    adapter_rank: int = 8
    adapter_alpha: float = 16.0
    adapter_targets: str = "all"
    merge_every: int = 10
    merge: bool = False
    updates_rule: str = "full"
    updates_share: float = 0.05
    updates_scope: str = "global"
    updates_feedback: bool = False
    updates_rank: int = 8
    updates_refresh: int = 200

    def __post_init__(self) -> None:
        if not 0 <= self.replay < 1:
            raise ValueError(f"expected a replay share of 0 <= replay < 1, got {self.replay}")
        if self.context < 0 or self.context == 1:
            raise ValueError(f"expected a context of at least 2 tokens, got {self.context}")
        check_seed(self.seed)
        if self.adapter not in ADAPTERS or self.merge_every < 1:
            raise ValueError(
                f"expected an adapter among {ADAPTERS} and merge_every >= 1, got "
                f"{self.adapter!r} and {self.merge_every}"
            )
        if self.adapter != "none" and self.model in PRESETS:
            raise ValueError(
                f"expected a trained model under an adapter, got the preset {self.model}, whose "
                "weights are fresh: train it first and name its directory"
            )
        self.adapter_config()
        self.trainer(1, 1)

    def adapter_config(self) -> AdapterConfig | None:
        """Shape of the adapter that trains; None where the whole model does."""
        if self.adapter == "none":
            return None
        named = "" if self.adapter_targets == "all" else self.adapter_targets
        targets = tuple(name for name in named.split(",") if name)
        return AdapterConfig(self.adapter_rank, self.adapter_alpha, targets, seed=self.seed)

    def trainer(self, processes: int, accumulate: int) -> TrainerConfig:
        """Settings of one process' trainer."""
        if self.batch % processes:
            raise ValueError(
                f"expected a batch that {processes} processes share evenly, got {self.batch}"
            )
        return TrainerConfig(
            learning_rate=self.learning_rate,
            batch=self.batch // processes,
            accumulate=accumulate,
            precision=self.precision,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            updates=Updates(
                rule=self.updates_rule,
                share=self.updates_share,
                scope=self.updates_scope,
                feedback=self.updates_feedback,
                rank=self.updates_rank,
                refresh=self.updates_refresh,
            ),
        )


@dataclass(frozen=True)
class Machine:
    """How a run is carried out; rounding aside, its result does not depend on it.

    Attributes:
        cpu: Stay on the CPU where there is a GPU.
        shard: Shard the model over the processes (FSDP2) instead of copying it (DDP).
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        compile: Compile the model; pays for itself in long runs.
        accumulate: Pieces that a process cuts its windows into.
        save_every: Updates between checkpoints.
    """

    cpu: bool = False
    shard: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    accumulate: int = 1
    save_every: int = 100

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ValueError(f"expected save_every >= 1, got {self.save_every}")


# Settings that runs of before there were adapters do not name, and what these runs did.
SINCE = {
    name: value
    for name, value in asdict(RunConfig()).items()
    if name.startswith(("adapter", "merge", "updates_"))
}

Progress = Callable[[dict[str, Any]], None]


def run_curriculum(
    world: Path,
    curriculum_file: Path,
    out: Path,
    config: RunConfig,
    machine: Machine = Machine(),
    on_update: Progress = lambda _: None,
    force: bool = False,
) -> Path:
    """Train a model on each step's passages in order; goes on from the last checkpoint in `out`.

    Args:
        on_update: Told each line of `metrics.jsonl` as it is written, and `updates` in all.
        force: Whether to begin again where `out` holds a run.

    Returns:
        A Hugging Face model directory, tokenizer included; of a `lora` run the adapter's folder,
        as peft opens it.

    Raises:
        ValueError: A curriculum of another world, a model that does not fit, or `out` holds a run
            with other settings.
        FileExistsError: `out` holds something else.
        FloatingPointError: The loss is not finite; the last checkpoint stays.
        MemoryError: A batch does not fit into memory; the last checkpoint stays.
    """
    parallel = _processes(machine)
    # One process of them writes.
    writer: AbstractContextManager[Hold | None] = nullcontext() if parallel.rank else alone(out)
    try:
        with writer as hold:
            places = _Places(world, curriculum_file, out, force, hold)
            return _Run(places, config, machine, parallel).go_on(on_update)
    except (FloatingPointError, MemoryError) as error:
        raise type(error)(f"{error}; {last_checkpoint(out)}") from None
    finally:
        if isinstance(parallel, Accelerated):
            parallel.close()


def _processes(machine: Machine) -> Parallel:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        end_with_parent(os.getppid())  # a launcher that is killed tells nobody
        return Accelerated(machine.shard, machine.cpu)
    if machine.shard:
        raise ValueError("expected several processes to shard over, got one: start by torchrun")
    check_launcher()
    return Alone()


@dataclass(frozen=True)
class _Places:
    """What a run reads and where it writes; `force` says to begin again there.

    Only the process that writes has a `hold`.
    """

    world: Path
    curriculum: Path
    out: Path
    force: bool
    hold: Hold | None


class _Run:
    """Everything that a run binds together."""

    def __init__(
        self, places: _Places, config: RunConfig, machine: Machine, parallel: Parallel
    ) -> None:
        self.out, self.machine, self.parallel = places.out, machine, parallel
        world = places.world
        if places.hold is not None:
            places.hold.check_run(COMMAND)  # before a text is tokenised for it
        curriculum = read_curriculum(places.curriculum)
        self.world_hash = check_world(world, curriculum)
        own = load_tokenizer(world / "tokenizer.json")
        self.opened = open_model(config.model, own, config.seed)
        model, theirs = self.opened.model, self.opened.tokenizer
        self.tokenizer = theirs or as_transformers(own, _longest(model))
        self.context = _context(config, model)
        _check_vocabulary(self.tokenizer, theirs is not None, model, config.model)
        self.updates = curriculum.tokens // (config.batch * self.context)
        if not self.updates:
            raise ValueError(
                f"expected a budget of at least one update of {config.batch * self.context:,} "
                f"tokens, got {curriculum.tokens:,}: take a smaller model or batch"
            )
        settings = config.trainer(parallel.size, machine.accumulate)
        text = self._text(world, theirs)
        budgets = [step.tokens for step in curriculum.steps]
        steps = list(zip(text.rows_of(curriculum), budgets, strict=True))
        self.order = plan_order(text, steps, config.replay, config.seed)
        self._claim(config, curriculum, places)
        if machine.gradient_checkpointing:
            _save_memory(model)
        device = parallel.device if isinstance(parallel, Accelerated) else None
        device = torch.device("cpu") if machine.cpu else device
        adapter = config.adapter_config()
        self.trainer = Trainer(model, settings, device, parallel, machine.compile, adapter)
        self.trainer.begin_phase(self.updates, decay=True)
        self.config, self.batch = config, config.batch
        self.merges: set[int] = set()
        if config.adapter == "relora":
            per_update = config.batch * self.context
            self.merges = merge_places(budgets, per_update, config.merge_every) - {self.updates}
        torch.manual_seed(config.seed * 1000 + parallel.rank)

    def go_on(self, on_update: Progress) -> Path:
        done = restore_checkpoint(self.out, self.trainer, self.parallel)
        first = self.parallel.rank == 0
        if first:
            cut_metrics(self.out / METRICS, done)
        events = Events(self.out / "tensorboard", done) if first and done < self.updates else None
        with events or nullcontext():
            for update in range(done, self.updates):
                rate = self.trainer.learning_rate()
                windows = self.order.windows(update * self.batch, self.batch, self.context)
                loss = self.trainer.update(windows[self.parallel.rank :: self.parallel.size])
                if events is not None:
                    tokens = (update + 1) * self.batch * self.context
                    line = {"update": update + 1, "tokens": tokens, "loss": loss}
                    line["learning_rate"] = rate
                    append_line(self.out / METRICS, line, durable=False)
                    events.number("loss [nats per token]", loss, update + 1)
                    events.number("learning rate", rate, update + 1)
                    on_update({**line, "updates": self.updates})
                if update + 1 in self.merges:
                    self.trainer.merge_and_reset()
                if (update + 1) % self.machine.save_every == 0 or update + 1 == self.updates:
                    save_checkpoint(self.out, self.trainer, self.parallel)
        return self._save()

    def _claim(self, config: RunConfig, curriculum: Curriculum, places: _Places) -> None:
        """Begin a run in `out`, or check that the one found there has the same settings."""
        settings = {
            **asdict(config),
            "context": self.context,
            "world": curriculum.world,
            "curriculum": curriculum.hash,
            "tokenizer": hash_file(places.world / "tokenizer.json"),
            "updates": self.updates,
        }
        since = dict(SINCE)
        if self.opened.sha256:  # anybody's, and it may change
            settings["model_sha256"] = since["model_sha256"] = self.opened.sha256
        self.parallel.wait()  # nobody may look for files after they were touched
        if places.hold is not None:
            inputs = (places.world, places.curriculum, Path(config.model))
            places.hold.begin_run(COMMAND, places.force, inputs)
            claim_run(self.out, settings, since, made_by=COMMAND)
        self.parallel.wait()
        claim_run(self.out, settings, since, made_by=COMMAND)
        self.parallel.wait()

    def _text(self, world: Path, tokenizer: Any | None) -> TrainingText:
        # The world's own tokens serve a model that was trained with the world's tokenizer.
        same = tokenizer is not None and tokenizer_hash(tokenizer) == tokenizer_hash(
            as_transformers(load_tokenizer(world / "tokenizer.json"))
        )
        if self.parallel.rank:
            self.parallel.wait()  # one process tokenises, the others find it done
        text = open_text(world, self.world_hash, None if same else tokenizer)
        if not self.parallel.rank:
            self.parallel.wait()
        return text

    def _save(self) -> Path:
        """What the run was for: a model, or an adapter, and the two as one model if asked."""
        if self.trainer.adapted is None:
            return self._save_model()
        adapter, model = self.out / "adapter", self.out / "model"
        merges = self.config.adapter == "relora" or self.config.merge
        if self.parallel.rank == 0:
            if self.config.adapter == "lora" and not adapter.is_dir():
                save_adapter(adapter, self.trainer.take_adapter(), {"model": self.config.model})
            if merges:
                plain = self.trainer.adapted.unwrap()
                save_model(model, plain, self.tokenizer, use_cache=self.opened.use_cache)
        self.parallel.wait()
        return adapter if self.config.adapter == "lora" else model

    def _save_model(self) -> Path:
        named = self.trainer.model.state_dict(keep_vars=True)
        shared = {id(v): whole(v).cpu() for v in named.values()}  # tied weights stay one
        state = {n: shared[id(v)] for n, v in named.items()}
        if self.parallel.rank == 0:
            use_cache = self.opened.use_cache
            save_model(self.out / "model", self.trainer.model, self.tokenizer, state, use_cache)
        self.parallel.wait()
        return self.out / "model"


def merge_places(budgets: Sequence[int], per_update: int, every: int) -> set[int]:
    """Numbers of updates after which every so many steps of a curriculum are done.

    Args:
        budgets: Tokens of each step.
        per_update: Tokens of an update.
    """
    ends = np.cumsum(budgets)[every - 1 :: every] // per_update
    return {int(end) for end in ends if end}


def _save_memory(model: Any) -> None:
    # Later transformers call it by the first name and warn about the second.
    old_name = "gradient_checkpointing_enable"
    enable = getattr(model, "activation_checkpointing_enable", None) or getattr(model, old_name)
    enable({"use_reentrant": False})


def _longest(model: Any) -> int | None:
    """Tokens that a model reads at most; None where it states no limit."""
    return getattr(model.config, "max_position_embeddings", None)


def _context(config: RunConfig, model: Any) -> int:
    longest = _longest(model) or 10**9
    if config.context > longest:
        raise ValueError(
            f"expected a context of at most {longest} tokens, as the config.json of {config.model} "
            f"says, got {config.context}: lower --context, or take a model with a longer one"
        )
    default = PRESETS[config.model].context if config.model in PRESETS else min(longest, 512)
    return int(config.context or default)


def _check_vocabulary(tokenizer: Any, own: bool, model: Any, name: str) -> None:
    ids = max(tokenizer.get_vocab().values()) + 1
    size = model.get_input_embeddings().weight.shape[0]
    # Many models pad their vocabulary; one without a tokenizer has to be made for the world's.
    if own and size < ids:
        raise ValueError(
            f"expected at least {ids} token ids, as its tokenizer has, got {size} in {name}: the "
            "vocabulary does not match; its tokenizer files are another model's"
        )
    if not own and size != ids and name not in PRESETS:
        raise ValueError(
            f"expected {ids} token ids, as the world has, got {size} in {name}, which has no "
            "tokenizer: the vocabulary does not match; add the model's own tokenizer files"
        )

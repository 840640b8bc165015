"""A model trained in a recorded order; a run that was stopped ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_lm.batches import TokenStore, draw_least_read
from train_lm.curriculum import Curriculum, open_store, read_curriculum
from train_lm.files import read_json, write_json
from train_lm.model import PRESETS, build_model
from train_lm.tokenizer import END_OF_TEXT, load_tokenizer
from train_lm.trainer import Trainer, TrainerConfig, load_snapshot, save_snapshot


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Attributes:
        model: Preset of the architecture.
        learning_rate: Peak; warm-up and a full decay over the whole budget.
        batch: Windows per update.
        save_every: Steps between checkpoints.
        seed: Of initial weights and of the order within a step.
    """

    model: str = "s"
    learning_rate: float = 1e-3
    batch: int = 16
    save_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise ValueError(f"expected a model preset among {list(PRESETS)}, got {self.model!r}")
        if self.save_every < 1:
            raise ValueError(f"expected save_every >= 1, got {self.save_every}")


def run_curriculum(
    world: Path,
    curriculum_file: Path,
    out: Path,
    config: RunConfig,
    on_step: Callable[[int, int, float], None] = lambda *_: None,
) -> Path:
    """Train a model on each step's passages in order; goes on from the last checkpoint in `out`.

    Args:
        on_step: Told `(step, steps, mean loss [nats per token])`.

    Returns:
        A Hugging Face model directory, tokenizer included.

    Raises:
        ValueError: A curriculum of another world, or `out` holds a run with other settings.
        FloatingPointError: The loss is not finite; the last checkpoint stays.
    """
    curriculum = read_curriculum(curriculum_file)
    model = replace(PRESETS[config.model], seed=config.seed)
    store = open_store(world, curriculum, model.context)
    tokenizer = load_tokenizer(world / "tokenizer.json")
    _claim(out, {**asdict(config), "world": curriculum.world, "steps": len(curriculum.steps)})
    trainer = Trainer(
        build_model(model, tokenizer.get_vocab_size()),
        TrainerConfig(learning_rate=config.learning_rate, batch=config.batch),
    )
    updates = _updates(curriculum, config.batch * model.context)
    trainer.begin_phase(sum(updates), decay=True)
    times_read = np.zeros(len(store), dtype=np.int32)
    done = _restore(out, trainer, times_read)
    for step in range(done, len(curriculum.steps)):
        windows = _windows(
            store, curriculum, step, updates[step] * config.batch, times_read, config
        )
        if not len(windows):  # a step smaller than one update: its budget goes to the next
            continue
        loss = trainer.train(store.read(windows))
        figures = {"step": step + 1, "updates": trainer.updates, "loss": loss}
        with (out / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        if (step + 1) % config.save_every == 0:
            _checkpoint(out, trainer, times_read, step + 1)
        on_step(step + 1, len(curriculum.steps), loss)
    _checkpoint(out, trainer, times_read, len(curriculum.steps))
    return _save_model(out / "model", trainer, tokenizer)


def _updates(curriculum: Curriculum, tokens_per_update: int) -> list[int]:
    """Whole updates per step; what a step leaves over is carried to the next."""
    ends = np.cumsum([step.tokens for step in curriculum.steps]) // tokens_per_update
    updates = np.diff(ends, prepend=0).astype(int).tolist()
    if not any(updates):
        raise ValueError(
            f"expected a budget of at least one update of {tokens_per_update:,} tokens, got "
            f"{sum(step.tokens for step in curriculum.steps):,}: take a smaller model or batch"
        )
    return updates


def _windows(
    store: TokenStore,
    curriculum: Curriculum,
    step: int,
    n: int,
    times_read: Any,
    config: RunConfig,
) -> Any:
    # A generator of its own per step: what a step draws does not hang on how often a run stopped.
    rng = np.random.default_rng([config.seed, step])
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    pool = store.windows_of(curriculum.steps[step].passages)
    if not len(pool):
        raise ValueError(
            f"expected passages in step {step + 1} that hold {store.context} tokens, got shorter "
            "ones: take a model with a shorter context"
        )
    return rng.permutation(draw_least_read(pool, times_read, n, rng))


def _claim(out: Path, settings: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "config.json"
    if file.is_file():
        if read_json(file) != settings:
            raise ValueError(
                f"expected the settings of the run in {out}, got others: name another --out"
            )
    else:
        write_json(file, settings)


def _checkpoint(out: Path, trainer: Trainer, times_read: Any, step: int) -> None:
    state = {**trainer.snapshot(), "times_read": torch.from_numpy(times_read)}
    file = out / f"checkpoint-{step:06d}.safetensors"
    save_snapshot(state, file)
    write_json(out / "checkpoint.json", {"step": step, "file": file.name})
    for old in out.glob("checkpoint-*.safetensors"):
        if old != file:
            old.unlink()


def _restore(out: Path, trainer: Trainer, times_read: Any) -> int:
    if not (out / "checkpoint.json").is_file():
        (out / "metrics.jsonl").unlink(missing_ok=True)
        return 0
    card = read_json(out / "checkpoint.json")
    state = load_snapshot(out / card["file"])
    times_read[:] = state.pop("times_read").numpy()
    trainer.restore(state)
    done = int(card["step"])
    # Steps after the checkpoint are trained again, so their lines are, too.
    metrics = out / "metrics.jsonl"
    kept = [x for x in metrics.read_text().splitlines() if json.loads(x)["step"] <= done]
    metrics.write_text("".join(f"{line}\n" for line in kept))
    return done


def _save_model(folder: Path, trainer: Trainer, tokenizer: Any) -> Path:
    from transformers import PreTrainedTokenizerFast

    trainer.model.save_pretrained(folder)  # type: ignore[operator]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(
        folder
    )
    return folder

"""Closes the loop: the policy decides what a larger model reads while that model trains.

One episode of the environment with the larger model as its learner. Every few steps an exact
moment is kept, so a run that is killed goes on from there and, on a CPU with as many threads, ends
with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kncl_env.snapshot import load_moment, save_moment
from kncl_env.stage import NUCLEUS_VERSION, Setup, topic_expansion
from kncl_env.world.world import World
from policies.arms.baselines import Reader, reader_of
from policies.curiosity import CLOSED, CuriosityPolicy
from train_lm.checkpoint import CARD, claim_run, cut_metrics, last_checkpoint
from train_lm.curriculum import write_curriculum
from train_lm.files import hash_json, sweep, write_json
from train_lm.model import save_model
from train_lm.tokenizer import as_transformers

MOMENT = "checkpoint.safetensors"


def run_closed_loop(
    world: World,
    policy: str,
    settings: Mapping[str, Any],
    out: Path,
    *,
    seed: int = 0,
    save_every: int = 5,
    on_step: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """Let a policy train a model; goes on from the last checkpoint in `out`.

    Writes `curriculum.jsonl` (what was read, for `train-lm run`), `metrics.jsonl`, TensorBoard
    events, `summary.json` and, at the end, a Hugging Face model directory.

    Args:
        policy: An arm, as `reader_of` takes it.
        settings: Fields of `Setup`; its `model` is what is trained.
        seed: Of slots, of the order of text and of the policy's own choices.
        save_every: Steps between checkpoints.
        on_step: Told each line of `metrics.jsonl` as it is written.

    Returns:
        The model directory.

    Raises:
        ValueError: An unknown policy or setting, or `out` holds a run with other settings.
        FileExistsError: `out` holds something else.
        FloatingPointError: The loss is not finite; the last checkpoint stays.
        MemoryError: A batch does not fit into memory; the last checkpoint stays.
    """
    if save_every < 1:
        raise ValueError(f"expected save_every >= 1, got {save_every}")
    loop = _Loop(world, policy, settings, out, seed)
    try:
        loop.go_on(save_every, on_step)
    except (FloatingPointError, MemoryError) as error:
        raise type(error)(f"{error}; {last_checkpoint(out)}") from None
    return loop.finish()


class _Loop:
    """Everything that a run binds together; a moment of the episode and `record` are its state."""

    def __init__(
        self, world: World, policy: str, settings: Mapping[str, Any], out: Path, seed: int
    ) -> None:
        self.world, self.out = world, out
        self.reader = reader_of(policy)
        self.policy = CuriosityPolicy.load(policy) if Path(policy).is_dir() else None
        self.setup = Setup.from_settings(dict(settings))
        claim_run(out, _plan(world, policy, self.reader, self.setup, seed))
        sweep(out)
        self.env = topic_expansion(world, progress=True, **settings)
        self.rng = np.random.default_rng([seed, 7])
        self.observation, _ = self.env.reset(seed=seed, options=self.reader.options)
        self.record: dict[str, Any] = {"topics": [], "passages": [], "over": False}
        self.record["select_before"] = self.env.learner.held_out_loss("select")

    def go_on(self, save_every: int, on_step: Callable[[dict[str, Any]], None]) -> None:
        self._restore()
        done = len(self.record["topics"])
        cut_metrics(self.out / "metrics.jsonl", done, "step")
        writer = _events(self.out / "tensorboard", done)
        while not self.record["over"]:
            line = self._step()
            with (self.out / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            _write_events(writer, line)
            if line["step"] % save_every == 0 or self.record["over"]:
                self._save()
            on_step(line)
        writer.close()

    def _step(self) -> dict[str, Any]:
        entropy = self._entropy()
        reward, over, info, self.observation = self.reader.act(self.env, self.observation, self.rng)
        documents = self.env.reading_store.document[info["windows"]]
        self.record["topics"].append(int(info["topic"]))
        self.record["passages"].append(np.unique(documents).tolist())
        self.record["over"] = over
        return {
            "step": len(self.record["topics"]),
            "tokens": info["tokens"],
            "loss": info["held_out_loss"],
            "reward": reward,
            "entropy": entropy,
            "topic": int(info["topic"]),
            "title": info["title"],
        }

    def _entropy(self) -> float | None:
        """Entropy of the policy's choice [nats]: how sure it is of what to read next."""
        if self.policy is None:
            return None
        logits = self.policy.logits(self.observation)
        logits = np.where(self.env.action_masks(), logits, CLOSED)
        log_p = logits - np.logaddexp.reduce(logits)
        return float(-(np.exp(log_p) * log_p).sum())

    def _save(self) -> None:
        self.record["rng"] = self.rng.bit_generator.state
        # The moment after it: what lies before a moment is not written again.
        write_curriculum(
            self.out / "curriculum.jsonl",
            self.world.hash,
            self.setup.tokens_per_step,
            self.record["topics"],
            self.record["passages"],
        )
        save_moment(self.out / MOMENT, self.env.snapshot(), self.record)
        write_json(self.out / CARD, {"steps": len(self.record["topics"]), "file": MOMENT})

    def _restore(self) -> None:
        if (self.out / MOMENT).is_file():
            moment, self.record = load_moment(self.out / MOMENT, self.env)
            self.observation = self.env.restore(moment)
            self.rng.bit_generator.state = self.record["rng"]

    def finish(self) -> Path:
        assert self.env.episode is not None
        losses = self.env.episode.readings.loss
        summary = {
            "tokens": len(self.record["topics"]) * self.setup.tokens_per_step,
            "reward": (losses[0] - losses[-1]) / self.env.reducible,
            "select_before": self.record["select_before"],
            "select_after": self.env.learner.held_out_loss("select"),
        }
        write_json(self.out / "summary.json", summary)
        model = self.env.learner.trainer.model  # type: ignore[attr-defined]
        tokenizer = as_transformers(self.world.tokenizer, model.config.max_position_embeddings)
        return save_model(self.out / "model", model, tokenizer)


def _plan(world: World, policy: str, reader: Reader, setup: Setup, seed: int) -> dict[str, Any]:
    return {
        "world": world.hash,
        "policy": reader.weights or policy,
        "settings": {k: v for k, v in vars(setup).items() if k != "context"},
        "seed": seed,
        "nucleus": NUCLEUS_VERSION,
        "taste": hash_json(reader.taste.to_json()) if reader.taste else None,
    }


def _events(folder: Path, done: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=done + 1)


def _write_events(writer: Any, line: dict[str, Any]) -> None:
    step = line["step"]
    for name, key in (
        ("held-out loss [bits per byte]", "loss"),
        ("reward", "reward"),
        ("policy entropy [nats]", "entropy"),
        ("topic", "topic"),
    ):
        if line[key] is not None:
            writer.add_scalar(name, line[key], step)
    writer.add_text("topic", line["title"] or "(rehearsal or no topic)", step)

"""Closes the loop: the policy decides what a larger model reads while that model trains.

One episode of the environment with the larger model as its learner. Every few steps an exact
snapshot is kept, so a run that is killed goes on from there and, on a CPU with as many threads,
ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import WorldLearner
from kncl_env.memory import stored
from kncl_env.open_world.articles import SourceError
from kncl_env.open_world.game import LiveWorld, open_game
from kncl_env.settings import Settings
from kncl_env.snapshot import packed, unpacked
from kncl_env.stage import NUCLEUS_VERSION, open_stage
from kncl_env.world.world import World
from policies.arms.arm import Arm
from policies.arms.registry import arm_of
from policies.curiosity import CLOSED, CuriosityPolicy
from policies.play.episodes import Playing
from policies.play.seeds import EVALUATION
from train_lm.checked.arrays import rng_state
from train_lm.checked.records import Fields, is_whole
from train_lm.checkpoint import METRICS, Checkpoints, claim_run, cut_metrics, last_checkpoint
from train_lm.curriculum import write_curriculum
from train_lm.events import Events
from train_lm.files import Json, append_line, hash_json, write_json
from train_lm.model import save_model
from train_lm.outputs import alone
from train_lm.plain_text import in_markdown
from train_lm.tokenizer import as_transformers

COMMAND = "kncl-policy run"

Line = Json  # of `metrics.jsonl`


def run_closed_loop(
    world: World | LiveWorld,
    policy: str,
    settings: Settings,
    out: Path,
    *,
    seed: int = 0,
    save_every: int = 5,
    on_step: Callable[[Line], None] = lambda _: None,
) -> Path:
    """Let a policy train a model; goes on from the last checkpoint in `out`.

    Writes `curriculum.jsonl` (what was read, for `train-lm run`), `metrics.jsonl`, TensorBoard
    events, `summary.json` and, at the end, a Hugging Face model directory.

    Args:
        world: One that is live grows while the model trains; `articles.jsonl` keeps what came.
        policy: An arm, as `arm_of` takes it.
        settings: The learner's model is what is trained.
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
        SourceError: A live world gives nothing more; what it gave and the last checkpoint stay.
    """
    if save_every < 1:
        raise ValueError(f"expected save_every >= 1, got {save_every}")
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        loop = _Loop(world, policy, settings, out, seed)
        try:
            loop.go_on(save_every, on_step)
        except (FloatingPointError, MemoryError, SourceError) as error:
            raise type(error)(f"{error}; {last_checkpoint(out)}") from None
        finally:
            loop.env.close()
        return loop.finish()


class _Loop:
    """Everything that a run binds together; the episode and `record` are its state."""

    def __init__(
        self, world: World | LiveWorld, policy: str, settings: Settings, out: Path, seed: int
    ) -> None:
        self.out, self.settings = out, settings
        arm = arm_of(policy)
        self.policy = CuriosityPolicy.load(policy) if Path(policy).is_dir() else None
        plan = _plan(world, policy, arm, settings, seed)
        claim_run(out, plan, defaults={"settings": Settings().to_json()}, made_by=COMMAND)
        self.env = _env(world, settings, out)
        assert isinstance(self.env.learner, WorldLearner)
        self.learner = self.env.learner
        self.episode = Playing(self.env, arm, seed, EVALUATION.choices)
        # What of topics was never measured is not a number.
        self.checkpoints = Checkpoints(out, "steps", finite=False, beside=METRICS)
        self.record: Json = {"topics": [], "passages": [], "over": False}
        self.record["select_before"] = self.learner.held_out_loss("select")

    def go_on(self, save_every: int, on_step: Callable[[Line], None]) -> None:
        self._restore()
        done = len(self.record["topics"])
        cut_metrics(self.out / "metrics.jsonl", done, "step")
        with Events(self.out / "tensorboard", done) as events:
            while not self.episode.over:
                line = self._step()
                append_line(self.out / "metrics.jsonl", line, durable=False)
                _write_events(events, line)
                if self.settings.reading.queue:
                    events.number("waited for data [s]", self.env.waited, line["step"])
                if line["step"] % save_every == 0 or self.episode.over:
                    self._save()
                on_step(line)

    def _step(self) -> Line:
        entropy = self._entropy()
        turn = self.episode.step()
        topic = int(turn.info["topic"])
        documents = self.env.stage.store.document[stored(turn.info["windows"])]
        self.record["topics"].append(topic)
        self.record["passages"].append(np.unique(documents).tolist())
        return {
            "step": len(self.record["topics"]),
            "tokens": turn.info["tokens"],
            "loss": turn.info["held_out_loss"],
            "reward": turn.reward,
            "entropy": entropy,
            "topic": topic,
            "title": turn.info["title"],
            **_of_memory(turn.info["memory"]),
            **({"arm_flops": turn.extra_flops} if turn.extra_flops else {}),
        }

    def _entropy(self) -> float | None:
        """Entropy of the policy's choice [nats]: how sure it is of what to read next."""
        if self.policy is None:
            return None
        logits = self.policy.logits(self.episode.observation)
        logits = np.where(self.env.action_masks(), logits, CLOSED)
        log_p = logits - np.logaddexp.reduce(logits)
        return float(-(np.exp(log_p) * log_p).sum())

    def _save(self) -> None:
        self.record["over"] = self.episode.over
        self.record["rng"] = self.episode.rng.bit_generator.state
        self.record["player"] = self.episode.player.state()
        # The snapshot after it: what lies before a snapshot is not written again.
        write_curriculum(
            self.out / "curriculum.jsonl",
            self.env.stage.world.hash,
            self.settings.tokens_per_step,
            self.record["topics"],
            self.record["passages"],
            durable=self.episode.over,
        )
        done = len(self.record["topics"])
        self.checkpoints.keep(done, *packed(self.env.snapshot(), self.record))

    def _restore(self) -> None:
        found = self.checkpoints.newest()
        if found is None:
            return
        self.checkpoints.forget_others()
        snapshot, record = unpacked(found.tensors, found.head, self.env, found.file)
        kept = Fields.of(record, found.file, "the checkpoint is damaged")
        topics, passages = kept.wholes("topics", least=-1), record.get("passages", [])
        read = isinstance(passages, list) and all(
            isinstance(step, list) and all(map(is_whole(), step)) for step in passages
        )
        if not read or not len(passages) == len(topics) == found.done:
            raise kept.wrong("passages", f"what {found.done} steps read")
        kept.number("select_before")
        self.record = record
        self.episode.observation = self.env.restore(snapshot)
        self.episode.over = kept.flag("over")
        self.episode.rng.bit_generator.state = rng_state(record.get("rng"))
        self.episode.player.restore(dict(kept.inner("player").values))

    def finish(self) -> Path:
        assert self.env.episode is not None
        losses = self.env.episode.measurements.loss
        summary = {
            "tokens": len(self.record["topics"]) * self.settings.tokens_per_step,
            "reward": (losses[0] - losses[-1]) / self.env.stage.reducible,
            "select_before": self.record["select_before"],
            "select_after": self.learner.held_out_loss("select"),
            **self._cost(),
        }
        write_json(self.out / "summary.json", summary)
        model = self.env.stage.whole_model(self.learner)
        tokenizer = as_transformers(self.env.stage.world.tokenizer, self.settings.learner.context)
        return save_model(self.out / "model", model, tokenizer)

    def _cost(self) -> Json:
        """What an episode cost that changed less than all numbers of its learner."""
        if self.settings.change == Settings().change:
            return {}
        cost = self.learner.trainer.cost(self.learner.nucleated)
        return {
            "parameters": cost.parameters,
            "parameters_trained": cost.trained,
            "parameters_changed": cost.parameters_changed,
            "effective_rank": cost.effective_rank,
            "optimizer_bytes": cost.optimizer_bytes,
        }


def _env(world: World | LiveWorld, settings: Settings, out: Path) -> TopicExpansionEnv:
    if isinstance(world, LiveWorld):
        return open_game(world, settings, out / "articles.jsonl")
    stage = open_stage(world, settings)
    return TopicExpansionEnv(stage, stage.learner())


def _plan(world: World | LiveWorld, policy: str, arm: Arm, settings: Settings, seed: int) -> Json:
    if isinstance(world, LiveWorld):
        return {**_plan(world.base, policy, arm, settings, seed), "reach": world.reach}
    return {
        "world": world.hash,
        "policy": arm.origin or policy,
        "settings": settings.to_json(),
        "seed": seed,
        "nucleus": NUCLEUS_VERSION,
        "taste": hash_json(arm.taste.to_json()) if arm.taste else None,
    }


def _of_memory(found: Mapping[str, float]) -> Line:
    """What a line says of watched topics and of text that the learner wrote, where there is any."""
    watched = ("backward_transfer", "forgetting") if found["watched"] else ()
    own = tuple(name for name in ("own_tokens", "extra_flops") if found[name])
    return {name: found[name] for name in (*watched, *own)}


def _write_events(events: Events, line: Line) -> None:
    step = line["step"]
    for name, key in (
        ("held-out loss [bits per byte]", "loss"),
        ("reward", "reward"),
        ("policy entropy [nats]", "entropy"),
        ("topic", "topic"),
        ("backward transfer [bits per byte]", "backward_transfer"),
        ("forgetting [bits per byte]", "forgetting"),
        ("tokens that the learner wrote itself", "own_tokens"),
    ):
        if line.get(key) is not None:
            events.number(name, line[key], step)
    events.text("topic", in_markdown(line["title"] or "(rehearsal or no topic)"), step)

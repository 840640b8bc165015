"""What a step of the environment costs, and how far its reward stands out from its noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from cost import read_all
from loops import timed
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.knowledge.meter import KnowledgeMeter
from kncl_env.learner import ClockedLearner, Learner, MeasuredText
from kncl_env.world.world import World
from train_lm.checkpoint import restore_checkpoint, save_checkpoint
from train_lm.machine.parallel import Alone
from train_lm.trainer import Trainer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PARTS = {"train": "training", "held_out_loss": "evaluation", "probe": "probing"}


class TimedSteps:
    """Steps through an environment's episodes, with random expansions, and tells the parts' time.

    Args:
        env: Its learner is a `ClockedLearner`.

    Attributes:
        spent: Seconds of each step by part: what the learner's methods took, and `all`; and the
            number of threads.
    """

    def __init__(self, env: TopicExpansionEnv) -> None:
        assert isinstance(env.learner, ClockedLearner)
        self.env, self.clock = env, env.learner
        self.spent: list[dict[str, float]] = []
        self._rng = np.random.default_rng(0)
        self._left = 0

    def __call__(self, _: Ints) -> float:
        """Seconds of one step without its evaluation and probes."""
        if not self._left:
            self.env.reset(seed=len(self.spent))
            self._left = self.env.rules.steps
        self._left -= 1
        action = int(self._rng.integers(self.env.action_masks().sum() - 1))
        before = dict(self.clock.seconds)
        took = timed(lambda: self.env.step(action))
        now = {
            part: self.clock.seconds[method] - before.get(method, 0.0)
            for method, part in PARTS.items()
        }
        self.spent.append({**now, "all": took, "threads": torch.get_num_threads()})
        return took - now["evaluation"] - now["probing"]

    def shares(self, threads: int) -> dict[str, float]:
        """Median share of a step in each part, with that many threads; the first warms up."""
        counted = [s for s in self.spent if s["threads"] == threads][1:]
        table = {part: np.array([s[part] for s in counted]) for part in (*PARTS.values(), "all")}
        whole = table.pop("all")
        table["outside_learner"] = whole - sum(table.values())
        return {f"{k}_share_of_env_step": float(np.median(v / whole)) for k, v in table.items()}

    def seconds(self, threads: int) -> float:
        """Median seconds of a whole step with that many threads; the first warms up."""
        return float(np.median([s["all"] for s in self.spent if s["threads"] == threads][1:]))

    def knowledge_share(self, threads: int, times: int = 7) -> dict[str, float]:
        """What asking the learner for links costs at its usual moments, as a share of a step.

        The moments of an episode are spread over all its steps. All are counted, though arms of a
        seed share the first.
        """
        meter = KnowledgeMeter()
        watch = meter.begin(self.env.stage)
        watch.ask(self.clock, 0)  # warms up
        took = np.median([timed(lambda: watch.ask(self.clock, 0)) for _ in range(times)])
        share = meter.points * took / (self.env.rules.steps * self.seconds(threads))
        return {"knowledge_probe_s": float(took), "knowledge_share_of_env_step": float(share)}


def snapshot_seconds(env: TopicExpansionEnv, times: int = 9) -> dict[str, float]:
    """Median seconds of a snapshot of the environment, learner included, and of its restore."""
    env.reset(seed=0)
    env.step(0)
    taken = env.snapshot()
    return {
        "snapshot_s": float(np.median([timed(env.snapshot) for _ in range(times)])),
        "restore_s": float(np.median([timed(lambda: env.restore(taken)) for _ in range(times)])),
    }


def file_seconds(world: World, trainer: Trainer, folder: Path, times: int = 9) -> dict[str, float]:
    """Median seconds to open a world and read all of it, and to write and restore a checkpoint."""
    (run := folder / "checkpoints").mkdir()
    ways = {
        "world_open_s": lambda: read_all(World.open(world.path)),
        "checkpoint_s": lambda: save_checkpoint(run, trainer, Alone()),
        "resume_s": lambda: restore_checkpoint(run, trainer, Alone()),
    }
    return {k: float(np.median([timed(way) for _ in range(times)])) for k, way in ways.items()}


class OtherDraws:
    """Held-out losses on other draws of the target mix, each as large as the environment's own.

    Args:
        learner: Measured on them.
        text: Where the windows come from, and the target.
        split: Of the text.
        n: Draws.
        size: Windows per draw.
    """

    def __init__(self, learner: Learner, text: MeasuredText, split: str, n: int, size: int) -> None:
        self.learner, self.text = learner, text
        rng = np.random.default_rng(1)
        drawn = np.array([self._draw(rng, split, size) for _ in range(n)])  # (n, size)
        self._windows, self._place = np.unique(drawn, return_inverse=True)
        self._size = text.n_bytes(text.store.read(self._windows))

    def losses(self) -> Floats:
        """(n,) losses of the learner as it is [bits per byte]."""
        bits = self.learner.losses(self._windows) * self._size
        return np.asarray(bits[self._place].sum(1) / self._size[self._place].sum(1))

    def _draw(self, rng: np.random.Generator, split: str, size: int) -> Ints:
        """Windows in turn of the target's topics, each topic's by lot, as the learner draws."""
        world, store = self.text.world, self.text.store
        topics = deque(
            rng.permutation(windows).tolist()
            for t in rng.permutation(self.text.target)
            if len(windows := store.windows_of(world.passages_of(int(t), split)))
        )
        found: list[int] = []
        while topics and len(found) < size:
            topic = topics.popleft()
            found.append(topic.pop())
            if topic:
                topics.append(topic)
        return np.array(found)


def reward_noise(
    env: TopicExpansionEnv, moments: Sequence[int], actions: int, repeats: int, draws: OtherDraws
) -> dict[str, float]:
    """How much of a step's reward tells actions apart.

    At each moment of an episode the same actions are tried again and again from the same snapshot,
    each time with other text of the same neighbourhood, and paid by every draw.
    Signal: standard deviation of the expected reward between the actions of a moment. Noise: that
    of the same action's reward over text and evaluation draws.
    """
    rng = np.random.default_rng(2)
    env.reset(seed=0)
    floor = float(draws.losses().std(ddof=1))
    rewards = []  # (moments, actions, repeats, draws)
    for moment in range(max(moments) + 1):
        if moment in moments:
            here, before = env.snapshot(), draws.losses()
            offered = int(env.action_masks().sum()) - 1
            for action in rng.choice(offered, min(actions, offered), replace=False):
                for repeat in range(repeats):
                    env.restore(here)
                    env.np_random = np.random.default_rng(repeat)
                    env.step(int(action))
                    rewards.append((before - draws.losses()) / env.stage.reducible)
            env.restore(here)
        env.step(int(rng.integers(env.action_masks().sum() - 1)))
    found = np.array(rewards).reshape(len(moments), -1, repeats, len(rewards[0]))
    over_draws = float(found.var(-1, ddof=1).mean())
    over_text = float(found.mean(-1).var(-1, ddof=1).mean())
    between = float(found.mean((2, 3)).var(-1, ddof=1).mean())
    between -= over_text / repeats + over_draws / found.shape[-1]  # what averages keep of noise
    signal, noise = np.sqrt(max(0.0, between)), np.sqrt(over_draws + over_text)
    return {
        "held_out_loss_noise_floor": floor,
        "reward_per_step": float(found.mean()),
        "reward_sd_between_actions": float(signal),
        "reward_sd_of_text": float(np.sqrt(over_text)),
        "reward_sd_of_evaluation": float(np.sqrt(over_draws)),
        "reward_signal_to_noise": float(signal / noise),
        "reward_over_noise": float(found.mean() / noise),
    }

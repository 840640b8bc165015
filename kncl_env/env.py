"""The game: choose which topic a language model reads next, and be paid what it learns by it.

`reset` and `step` are the rules. The stage and the learner come from outside: `stage.py` opens the
real ones, and nobody takes an environment apart.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kncl_env.learner import Learner
from kncl_env.measurements import Measurements, Watched
from kncl_env.memory import OWN, Past, memory_of
from kncl_env.nucleus import Nucleus, is_solid
from kncl_env.observation import (
    CANDIDATE_FEATURES,
    CONTEXT_FEATURES,
    LIMIT,
    Observation,
    State,
    observe,
)
from kncl_env.reading_list import ReadingList, nothing
from kncl_env.reward import Reward
from kncl_env.stage import Stage
from kncl_env.taste import Taste
from kncl_env.world.splits import SPLITS
from train_lm.command_line import say
from train_lm.files import hash_json
from train_lm.plain_text import visible
from train_lm.token_files import TRAIN

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RENDER_MODES = ("human", "rgb_array")


@dataclass
class Episode:
    """Everything that changes while an episode runs, the learner aside.

    Attributes:
        lot: A number of the episode's own, fixed when it begins.
        rewarded: Whether the target's held-out loss is measured after each step.
    """

    nucleus: Nucleus
    reading_list: ReadingList
    measurements: Measurements
    watched: Watched
    lot: int = 0
    first_drop: dict[int, float] = field(default_factory=dict)
    steps: int = 0
    slots: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    taste: Taste | None = None
    rewarded: bool = True

    def copy(self) -> Episode:
        return Episode(
            self.nucleus.copy(),
            self.reading_list.copy(),
            copy.deepcopy(self.measurements),
            copy.deepcopy(self.watched),
            self.lot,
            dict(self.first_drop),
            self.steps,
            self.slots.copy(),
            self.taste,
            self.rewarded,
        )


@dataclass(frozen=True)
class EnvSnapshot:
    """An episode captured exactly: learner, optimiser, nucleus, reading list and RNG."""

    learner: Any
    episode: Episode
    rng: Mapping[str, Any]


class TopicExpansionEnv(gym.Env[Observation, np.int64]):
    """Expand a learner's knowledge topic by topic along a graph.

    Observation: `Dict` of `candidates` (K, F), one row per frontier slot, and `context` (G,); see
    `observation.py` for every feature. Empty slots are rows of zeros.

    Action: `Discrete(K + 1)`. Action k < K expands the topic in slot k: the passages of its
    neighbourhood are retrieved and the learner trains a fixed token budget on them, mixed with
    what the memory recalls (`memory.py`). Action K consolidates: the same budget rehearses the
    nucleus' own passages. An empty slot consolidates too (`action_masks()` tells which actions are
    not empty).

    Reward: drop of held-out loss [bits per byte] on the target mix, as a share of the reducible
    loss; the components are in `info["reward"]`. With a `backward_weight`, the mean loss drop of
    watched solid topics counts as well. `info["memory"]` tells what became of them by now:
    `backward_transfer` and `forgetting` [bits per byte], and what old text cost beside the budget:
    `own_tokens` that the learner wrote itself, and `extra_flops`.

    Terminated: the frontier is empty. Truncated: the token budget is spent.

    Options of `reset`: `taste`, a `Taste`: an expansion reads only windows that begin in a passage
    that it likes, and so does consolidation where there is enough of them. `rewarded`, True if not
    stated: with False the target's held-out loss is not measured, which takes a third of the
    training on 48 windows a step; rewards and losses are NaN then, observations say that no loss
    is known, and everything else is the same to the bit.

    State: `snapshot()` and `restore()` capture it exactly.

    `waited` [s] is how long the learner waited in the latest step for what it reads. With a queue
    it is in `info`, too; without one `info` is a function of seed and actions alone, as Gymnasium's
    checker would have it.

    Example:
        env = gym.make("kncl_env/TopicExpansion-v0", world="worlds/pydoc")
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(
            env.action_space.sample(info["action_mask"].astype("int8")))

    Args:
        stage: What all episodes share: world, topics, seeds, target, retriever, settings.
        learner: Trained inside `step`; no other environment may use it meanwhile.
        render_mode: `human`, `rgb_array` or None.

    Raises:
        ValueError: An unknown render mode.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # noqa: RUF012

    def __init__(self, stage: Stage, learner: Learner, render_mode: str | None = None) -> None:
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(
                f"expected render_mode among {', '.join(RENDER_MODES)}, got {render_mode!r}"
            )
        self.stage = stage
        self.learner = learner
        self.settings = stage.settings
        self.rules = stage.settings.rules
        self.render_mode = render_mode
        self.memory = memory_of(stage.settings.memory)
        slots = self.rules.slots
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "candidates": spaces.Box(
                    -LIMIT, LIMIT, (slots, len(CANDIDATE_FEATURES)), np.float32
                ),
                "context": spaces.Box(-LIMIT, LIMIT, (len(CONTEXT_FEATURES),), np.float32),
            }
        )
        self.action_space = spaces.Discrete(slots + 1)
        self.episode: Episode | None = None
        self._compared = 0  # windows in this step that were measured to be replayed, or not
        self.waited = 0.0

    # --- the rules ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        taste, rewarded = _options(options)
        self.waited = 0.0
        self.learner.begin(self.settings.tokens_per_episode)
        self.episode = Episode(
            Nucleus(self.stage.table.graph, self.stage.seeds),
            self.stage.reading_list.copy(),
            Measurements(len(self.stage.table)),
            Watched(self.rules.watched),
            lot=self._lot(),
            taste=taste,
            rewarded=rewarded,
        )
        self.episode.measurements.loss.append(self._held_out_loss())
        self._watch_nucleus()
        self._fill_slots()
        return self._observe(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        topic = self._topic_in_slot(int(action))
        self._require_budget()
        self.waited, self._compared = 0.0, 0
        windows = self._rehearse() if topic is None else self._expand(topic)
        self._look_ahead()
        reward = self._learn(windows, topic)
        self._settle(topic)
        self._fill_slots()
        terminated = len(self._now.nucleus.frontier) == 0
        truncated = self._now.steps >= self.rules.steps
        info = self._info(topic, reward, windows)
        if self.render_mode == "human":
            say(self._line(topic, reward))
        return self._observe(), reward.total, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """(K + 1,) which actions are not empty; consolidation always is allowed."""
        mask = np.zeros(self.rules.slots + 1, dtype=bool)
        mask[: len(self._now.slots)] = True
        mask[-1] = True
        return mask

    def feed(self, windows: Ints) -> tuple[float, bool, dict[str, Any]]:
        """Spend one step's budget on the given windows, off the graph.

        The door for reference arms that draw from the corpus independently of any frontier; the
        schedule, the budget and the measurements are those of `step`.

        Returns:
            Reward, whether the budget is spent, and `info`.

        Raises:
            ValueError: Not exactly one step's budget of windows, or one that is not of training
                text: held-out text is for measuring alone.
        """
        windows = self._trainable(windows)
        self._require_budget()
        self.waited, self._compared = 0.0, 0
        reward = self._learn(windows, None)
        truncated = self._now.steps >= self.rules.steps
        return reward.total, truncated, self._info(None, reward, windows)

    # --- what the rules are made of ----------------------------------------------------------

    def _trainable(self, windows: Ints) -> Ints:
        """A step's windows, all of training text. Raises: ValueError where they are others."""
        n, store = self.settings.windows_per_step, self.stage.store
        windows = np.asarray(windows)
        if windows.shape != (n,) or windows.dtype.kind not in "iu":
            raise ValueError(
                f"expected a step's {n} windows by their numbers, got "
                f"{windows.dtype.name} of shape {windows.shape}"
            )
        known = (windows >= 0) & (windows < len(store))
        if not known.all():
            raise ValueError(
                f"expected windows of 0 to {len(store) - 1:,}, got {windows[~known][0]:,}"
            )
        world = self.stage.world
        passages = store.document[windows]
        held_out = world.passage_split[passages] != TRAIN
        if held_out.any():
            passage = int(passages[held_out][0])
            split = SPLITS[int(world.passage_split[passage])]
            title = world.titles[int(world.passage_topic[passage])]
            raise ValueError(
                f"expected windows of training text, got window {windows[held_out][0]:,}, {split} "
                f"text of {title!r}: what is held out is for measuring alone"
            )
        return windows

    @property
    def _now(self) -> Episode:
        if self.episode is None:
            raise gym.error.ResetNeeded("call reset before step")
        return self.episode

    def _topic_in_slot(self, action: int) -> int | None:
        if not 0 <= action <= self.rules.slots:
            raise ValueError(f"expected an action of 0..{self.rules.slots}, got {action}")
        slots = self._now.slots
        return int(slots[action]) if action < len(slots) else None

    def _require_budget(self) -> None:
        if self._now.steps >= self.rules.steps:
            raise gym.error.ResetNeeded("the token budget is spent: call reset")

    def _expand(self, topic: int) -> Ints:
        if np.isnan(self._now.measurements.probe[topic]):
            self._probe(np.array([topic]))  # its first loss drop needs a loss from before
        self._now.nucleus.expand(topic)
        began = time.perf_counter()
        passages = self.stage.retriever.neighbourhood(topic, self._now.taste)
        self.waited += time.perf_counter() - began
        past = self._past()
        recall = partial(self.memory.recall, past) if self.memory.begun(past) else nothing
        return self._now.reading_list.expand(
            passages, self.settings.windows_per_step, self.np_random, recall
        )

    def _past(self) -> Past:
        """What there is of old text, before this step reads any."""
        reading_list, lot = self._now.reading_list, self._now.lot
        read = reading_list.times_read > 0
        solid = cache(self._solid_windows)
        return Past(list(reading_list.pools), solid, read, self._compare, lot)

    def _compare(self, windows: Ints) -> Floats:
        """Losses of windows that may be replayed."""
        self._compared += len(windows)
        return self.learner.losses(windows)

    def _lot(self) -> int:
        """What the reservoir's lots are of: the episode's seed decides it, and nothing is drawn."""
        if self.settings.memory.choice != "reservoir":
            return 0
        return int(hash_json(self.np_random.bit_generator.state)[:16], 16) | 1  # never 0

    def _solid_windows(self) -> list[Ints]:
        """Windows of each solid topic: a seed's own, and what was retrieved for an expanded one."""
        nucleus, store, taste = self._now.nucleus, self.stage.store, self._now.taste
        own = [store.windows_of(self.stage.retriever.own(t, taste)) for t in nucleus.seeds]
        pools = zip(nucleus.expanded, self._now.reading_list.pools, strict=False)
        found = own + [pool for topic, pool in pools if nucleus.solid[topic]]
        return [windows for windows in found if len(windows)]

    def _rehearse(self) -> Ints:
        # Expanded topics and as many seeds: rehearsal of what is newest must not drown in a
        # large nucleus, nor the nucleus in it.
        nucleus = self._now.nucleus
        n = min(len(nucleus.seeds), max(8, len(nucleus.expanded)))
        seeds = self.np_random.choice(self.stage.seeds, n, replace=False)
        topics = [int(t) for t in (*nucleus.expanded, *seeds)]
        passages = np.concatenate([self.stage.retriever.own(t, self._now.taste) for t in topics])
        # With little to its taste it would read the same few windows again and again.
        if len(self.stage.store.windows_of(passages)) < self.settings.windows_per_step:
            passages = np.concatenate([self.stage.retriever.own(t) for t in topics])
        return self._now.reading_list.rehearse(
            np.unique(passages), self.settings.windows_per_step, self.np_random
        )

    def _learn(self, windows: Ints, topic: int | None) -> Reward:
        now = self._now
        self.learner.train(windows)
        now.steps += 1
        before = now.measurements.loss[-1]
        now.measurements.loss.append(self._held_out_loss())
        after, weight = now.measurements.loss[-1], self.rules.backward_weight
        reward = Reward(before, after, self.stage.reducible, self._look_back(), weight)
        (now.measurements.consolidations if topic is None else now.measurements.rewards).append(
            reward.total
        )
        return reward

    def _held_out_loss(self) -> float:
        """What the reward is made of [bits per byte]; NaN where nobody asked for it."""
        return self.learner.held_out_loss() if self._now.rewarded else np.nan

    def _settle(self, topic: int | None) -> None:
        """Measure topics that are not solid yet; those that stopped improving become solid."""
        now = self._now
        waiting = np.array(now.nucleus.unsolid[: self.rules.probes], dtype=np.int64)
        if topic is not None and topic not in waiting:
            waiting = np.append(waiting, topic)
        if not len(waiting):
            return
        before = now.measurements.probe[waiting]
        after = self._probe(waiting)
        for t, drop in zip(waiting.tolist(), (before - after).tolist(), strict=True):
            if np.isnan(drop):  # no measurement will ever tell: do not keep the frontier closed
                now.nucleus.make_solid(t)
            elif t == topic:
                now.first_drop[t] = drop
            elif is_solid(now.first_drop[t], drop, self.rules.noise_floor):
                now.nucleus.make_solid(t)
        if now.watched.free:
            self._watch([t for t in waiting.tolist() if now.nucleus.solid[t]])

    def _watch_nucleus(self) -> None:
        """Watch as many seeds as there are places for them, spread over the order they have."""
        if self.rules.watched:
            seeds, n = self.stage.seeds, (self.rules.watched + 1) // 2
            spread = np.linspace(0, len(seeds) - 1, min(n, len(seeds))).round().astype(np.int64)
            self._watch(seeds[spread].tolist())

    def _watch(self, topics: list[int]) -> None:
        """From now on these solid topics are watched, as far as there are places for them."""
        losses = self._neighbourhood_losses(topics)
        known = np.flatnonzero(np.isfinite(losses))[: self._now.watched.free]
        self._now.watched.join([topics[k] for k in known], losses[known])

    def _look_back(self) -> float:
        """Mean loss drop of the watched topics in this step [bits per byte]."""
        if not self.rules.watched:
            return 0.0
        watched = self._now.watched
        return watched.record(self._neighbourhood_losses(watched.topics))

    def _neighbourhood_losses(self, topics: list[int]) -> Floats:
        """(n,) held-out loss of the topics' neighbourhoods [bits per byte]; NaN where unknown."""
        text = self.stage.text
        if text is None:  # a formula has no text
            return self.learner.probe(np.array(topics, dtype=np.int64))
        windows = [text.neighbourhood(t) for t in topics]
        ends = np.cumsum([len(w) for w in windows], dtype=np.int64)
        if not len(ends) or not ends[-1]:
            return np.full(len(topics), np.nan)
        parts = np.split(self.learner.losses(np.concatenate(windows)), ends[:-1])
        return np.array([part.mean() if len(part) else np.nan for part in parts])

    def _fill_slots(self) -> None:
        """Draw K frontier topics evenly, and probe those never measured, or longest ago."""
        now = self._now
        now.slots = self._draw_slots(self.np_random)
        # Ties are broken by lot: the lowest numbers, often the alphabet, must not be favoured.
        shuffled = self.np_random.permutation(now.slots)
        age = now.measurements.measured_at[shuffled]
        oldest = shuffled[np.argsort(age, kind="stable")][: self.rules.probes]
        if len(oldest):
            self._probe(oldest)

    def _draw_slots(self, rng: np.random.Generator) -> Ints:
        frontier = self._now.nucleus.frontier
        n = min(self.rules.slots, len(frontier))
        return np.sort(rng.choice(frontier, n, replace=False)) if n else frontier

    def _look_ahead(self) -> None:
        """Tell the queue what is likely next, while the learner trains: the next slots first.

        The generator is as it will be when they are drawn; only a topic that turns solid meanwhile
        changes them, and then most of them come from the frontier as it is. Nothing is drawn here.
        """
        if self.stage.queue is not None:
            slots = self._draw_slots(copy.deepcopy(self.np_random))
            rest = np.setdiff1d(self._now.nucleus.frontier, slots)
            self.stage.queue.expect(np.concatenate([slots, rest]), self._now.taste)

    def close(self) -> None:
        """End what works ahead; everything else needs no end."""
        if self.stage.queue is not None:
            self.stage.queue.close()
        super().close()

    def _probe(self, topics: Ints) -> Floats:
        found = self.learner.probe(topics)
        self._now.measurements.record_probe(topics, found, self._now.steps)
        return found

    def state(self) -> State:
        """The present moment, as `observe` takes it."""
        now = self._now
        nucleus = now.nucleus
        return State(
            members=nucleus.members,
            n_seeds=len(nucleus.seeds),
            slots=now.slots,
            frontier_size=len(nucleus.frontier),
            n_solid=int(nucleus.solid[nucleus.expanded].sum()) if nucleus.expanded else 0,
            goal=self.stage.goal,
            progress=now.steps / self.rules.steps,
            measurements=now.measurements,
        )

    def _observe(self) -> Observation:
        return observe(self.stage.table, self.state(), self.rules.slots)

    def _info(
        self,
        topic: int | None = None,
        reward: Reward | None = None,
        windows: Ints | None = None,
    ) -> dict[str, Any]:
        """The same keys after `reset`, where nothing was earned and no window (-1) was read."""
        now = self._now
        loss = now.measurements.loss[-1]
        weight = self.rules.backward_weight
        reward = reward or Reward(loss, loss, self.stage.reducible, 0.0, weight)
        clock = {"waited": self.waited} if self.settings.reading.queue else {}
        return clock | {
            "action_mask": self.action_masks(),
            "tokens": now.steps * self.settings.tokens_per_step,
            "held_out_loss": loss,
            "frontier": len(now.nucleus.frontier),
            "topic": -1 if topic is None else topic,
            "title": "" if topic is None else self.stage.world.titles[topic],
            "reward": reward.components(),
            "windows": np.full(self.settings.windows_per_step, -1) if windows is None else windows,
            "memory": {**now.watched.figures(), **self._cost_of_old_text(windows)},
        }

    def _cost_of_old_text(self, windows: Ints | None) -> dict[str, float]:
        """Tokens that the learner wrote itself in this step, and the FLOPs of writing them and of
        measuring what may be replayed: they come on top of the budget, which is of training.
        """
        written = 0 if windows is None else int((windows == OWN).sum())
        passes = written if windows is None else written + self._compared
        # A forward pass is a third of training on a token, a half where the weights stand still.
        parts = 3 if self.settings.change.adapter == "none" else 2
        flops = passes * self.settings.learner.context * self.learner.flops_per_token / parts
        return {"own_tokens": written * self.settings.learner.context, "extra_flops": flops}

    # --- exact copies ------------------------------------------------------------------------

    def snapshot(self) -> EnvSnapshot:
        """Capture this moment; later steps leave the snapshot as it is."""
        return EnvSnapshot(
            self.learner.snapshot(),
            self._now.copy(),
            copy.deepcopy(self.np_random.bit_generator.state),
        )

    def return_to(self, expanded: Sequence[int]) -> None:
        """Before a snapshot is read from a file: let the world be what it was after these."""

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        """Return to a snapshot: the same actions from here give the same bytes."""
        self.learner.restore(snapshot.learner)
        self.episode = snapshot.episode.copy()
        self.np_random.bit_generator.state = copy.deepcopy(snapshot.rng)
        return self._observe()

    # --- to look at --------------------------------------------------------------------------

    def _line(self, topic: int | None, reward: Reward) -> str:
        now = self._now
        title = None if topic is None else visible(self.stage.world.titles[topic])
        what = "consolidate" if title is None else f"expand {title}"
        return (
            f"{now.steps:3d}/{self.rules.steps}  {what[:48]:48s}  "
            f"{reward.after:.4f} bits/byte  {reward.total:+.4f}"
        )

    def render(self) -> NDArray[np.uint8] | None:
        """`rgb_array`: the graph with nucleus, frontier and goal; `human`: a line."""
        if self.render_mode != "rgb_array":
            return None
        from kncl_env.picture import draw_nucleus

        return draw_nucleus(self.stage.table, self._now.nucleus, self.stage.goal)


def _options(options: dict[str, Any] | None) -> tuple[Taste | None, bool]:
    unknown = sorted(set(options or {}) - {"taste", "rewarded"})
    if unknown:
        raise ValueError(
            f"expected no options of reset but taste and rewarded, got {', '.join(unknown)}"
        )
    taste, rewarded = (options or {}).get("taste"), (options or {}).get("rewarded", True)
    if taste is not None and not isinstance(taste, Taste):
        raise ValueError(f"expected a Taste as the option taste, got {type(taste).__name__}")
    if not isinstance(rewarded, bool):
        raise ValueError(f"expected True or False as the option rewarded, got {rewarded!r}")
    return taste, rewarded

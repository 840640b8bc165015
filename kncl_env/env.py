"""The game: choose which topic a language model reads next, and be paid what it learns by it.

`reset` and `step` are the rules. The learner, the retriever and the reading list come from
outside; `make.py` binds the real ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from kncl_env.nucleus import Nucleus, is_solid
from kncl_env.observation import (
    CANDIDATE_FEATURES,
    CONTEXT_FEATURES,
    LIMIT,
    Observation,
    Readings,
    State,
    observe,
)
from kncl_env.reading_list import Reading
from kncl_env.reward import Reward
from kncl_env.taste import Taste
from kncl_env.topic_table import Goal, TopicTable
from train_lm.windows import TokenStore

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Learner(Protocol):
    """A language model that can be trained, measured, copied and put back exactly."""

    def begin(self, tokens: int) -> None:
        """Return to the nucleated snapshot; a full schedule over `tokens` tokens begins."""

    def train(self, windows: Ints) -> None:
        """Train on windows, given by number."""

    def held_out_loss(self, split: str = "reward") -> float:
        """Loss of the target mix on a held-out split [bits per byte]."""

    def probe(self, topics: Ints) -> Floats:
        """(n,) loss on one fixed window of each topic [bits per byte]; NaN where unknown."""

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...


class Retriever(Protocol):
    """Finds the passages of a topic's neighbourhood."""

    def neighbourhood(self, topic: int, taste: Taste | None = None) -> Ints:
        """Training passages to read when the topic is expanded."""

    def own(self, topic: int, taste: Taste | None = None) -> Ints:
        """Training passages of the topic's own article."""


@dataclass(frozen=True)
class EnvConfig:
    """Rules of an episode.

    Attributes:
        slots: Candidates K offered at a time.
        steps: Budget of an episode [expansions].
        updates_per_step: Learner updates per expansion.
        batch: Windows per update.
        context: Tokens per window.
        replay: Share of an expansion's windows that replays earlier expansions.
        probes: Slots whose topic is probed per observation; the rest keep their last reading.
        noise_floor: Change of a probe loss that means nothing [bits per byte].
    """

    slots: int = 64
    steps: int = 60
    updates_per_step: int = 10
    batch: int = 16
    context: int = 64
    replay: float = 0.5
    probes: int = 16
    noise_floor: float = 0.02

    def __post_init__(self) -> None:
        for name in ("slots", "steps", "updates_per_step", "batch", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")

    @property
    def windows_per_step(self) -> int:
        return self.updates_per_step * self.batch

    @property
    def tokens_per_step(self) -> int:
        """Token budget of a step."""
        return self.windows_per_step * self.context

    @property
    def tokens_per_episode(self) -> int:
        """Token budget of an episode."""
        return self.steps * self.tokens_per_step


@dataclass
class Episode:
    """Everything that changes while an episode runs, the learner aside."""

    nucleus: Nucleus
    reading: Reading
    readings: Readings
    first_drop: dict[int, float] = field(default_factory=dict)
    steps: int = 0
    slots: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    taste: Taste | None = None

    def copy(self) -> Episode:
        return Episode(
            self.nucleus.copy(),
            self.reading.copy(),
            copy.deepcopy(self.readings),
            dict(self.first_drop),
            self.steps,
            self.slots.copy(),
            self.taste,
        )


@dataclass(frozen=True)
class EnvSnapshot:
    """An exact moment of an episode: learner, optimiser, nucleus, reading list and RNG."""

    learner: Any
    episode: Episode
    rng: Mapping[str, Any]


class TopicExpansionEnv(gym.Env[Observation, np.int64]):
    """Expand a learner's knowledge topic by topic along a graph.

    Observation: `Dict` of `candidates` (K, F), one row per frontier slot, and `context` (G,); see
    `observation.py` for every feature. Empty slots are rows of zeros.

    Action: `Discrete(K + 1)`. Action k < K expands the topic in slot k: the passages of its
    neighbourhood are retrieved and the learner trains a fixed token budget on them, mixed with
    replay. Action K consolidates: the same budget rehearses the nucleus' own passages. An empty
    slot consolidates too (`action_masks()` tells which actions are not empty).

    Reward: drop of held-out loss [bits per byte] on the target mix, as a share of the reducible
    loss; the components are in `info["reward"]`.

    Terminated: the frontier is empty. Truncated: the token budget is spent.

    Options of `reset`: `taste`, a `Taste`: an expansion reads only windows that begin in a passage
    that it likes, and so does consolidation where there is enough of them.

    State: `snapshot()` and `restore()` capture it exactly.

    Example:
        env = gym.make("kncl_env/TopicExpansion-v0", world="worlds/pydoc")
        observation, info = env.reset(seed=0)
        observation, reward, terminated, truncated, info = env.step(
            env.action_space.sample(info["action_mask"].astype("int8")))

    Args:
        table: The world's topics.
        seeds: Topics of the nucleus phase, already learnt by the learner.
        learner: Trained inside `step`.
        retriever: Finds what to read.
        reading: Reading list after the nucleus phase; copied at each reset.
        target: Topics of the held-out mix, drawn from evenly.
        goal: The target, where it is a part of the world; None where every topic counts.
        reducible: Reducible loss [bits per byte]; scales the reward.
        titles: (N,) names of the topics, for `info` and pictures.
        config: Rules.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        table: TopicTable,
        seeds: Ints,
        learner: Learner,
        retriever: Retriever,
        reading: Reading,
        target: Ints,
        goal: Goal | None,
        reducible: float,
        titles: tuple[str, ...],
        config: EnvConfig = EnvConfig(),
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"expected render_mode among {self.metadata['render_modes']}, got {render_mode!r}"
            )
        frontier = Nucleus(table.graph, seeds).frontier
        if config.slots > len(frontier):
            raise ValueError(
                f"expected at most {len(frontier)} slots, the frontier of this nucleus, got "
                f"{config.slots}: lower slots, or choose a larger nucleus"
            )
        self.table = table
        self.seeds = np.asarray(seeds, dtype=np.int64)
        self.learner = learner
        self.retriever = retriever
        self.target = target
        self.goal = goal
        self.reducible = reducible
        self.titles = titles
        self.config = config
        self.render_mode = render_mode
        self._start = reading
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "candidates": spaces.Box(
                    -LIMIT, LIMIT, (config.slots, len(CANDIDATE_FEATURES)), np.float32
                ),
                "context": spaces.Box(-LIMIT, LIMIT, (len(CONTEXT_FEATURES),), np.float32),
            }
        )
        self.action_space = spaces.Discrete(config.slots + 1)
        self.episode: Episode | None = None

    # --- the rules ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        taste = _taste(options)
        self.learner.begin(self.config.tokens_per_episode)
        self.episode = Episode(
            Nucleus(self.table.graph, self.seeds),
            self._start.copy(),
            Readings(len(self.table)),
            taste=taste,
        )
        self.episode.readings.loss.append(self.learner.held_out_loss())
        self._fill_slots()
        return self._observe(), self._info()

    def step(
        self, action: np.int64 | int
    ) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        topic = self._topic_in_slot(int(action))
        self._require_budget()
        windows = self._rehearse() if topic is None else self._expand(topic)
        reward = self._learn(windows, topic)
        self._settle(topic)
        self._fill_slots()
        terminated = len(self._now.nucleus.frontier) == 0
        truncated = self._now.steps >= self.config.steps
        info = self._info(topic, reward, windows)
        if self.render_mode == "human":
            print(self._line(topic, reward))
        return self._observe(), reward.total, terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """(K + 1,) which actions are not empty; consolidation always is allowed."""
        mask = np.zeros(self.config.slots + 1, dtype=bool)
        mask[: len(self._now.slots)] = True
        mask[-1] = True
        return mask

    def read(self, windows: Ints) -> tuple[float, bool, dict[str, Any]]:
        """Spend one step's budget on the given windows, off the graph.

        The door for reference arms that draw from the corpus independently of any frontier; the
        schedule, the budget and the measurements are those of `step`.

        Returns:
            Reward, whether the budget is spent, and `info`.

        Raises:
            ValueError: Not exactly one step's budget of windows.
        """
        if len(windows) != self.config.windows_per_step:
            raise ValueError(
                f"expected a step's {self.config.windows_per_step} windows, got {len(windows)}"
            )
        self._require_budget()
        reward = self._learn(windows, None)
        truncated = self._now.steps >= self.config.steps
        return reward.total, truncated, self._info(None, reward, windows)

    def offer(self, topic: int) -> int:
        """Make sure that a frontier topic is in a slot, in place of another; returns its slot.

        For replaying recorded choices: their topic may not be among the slots that were drawn.

        Raises:
            ValueError: The topic is not on the frontier.
        """
        now = self._now
        if not now.nucleus.on_frontier(topic):
            raise ValueError(f"expected a topic of the frontier, got topic {topic}")
        if topic not in now.slots:
            now.slots = np.sort(np.append(now.slots[1:], topic))
        return int(np.flatnonzero(now.slots == topic)[0])

    def look(self) -> Observation:
        """The observation of the present moment."""
        return self._observe()

    # --- what the rules are made of ----------------------------------------------------------

    @property
    def reading_store(self) -> TokenStore:
        """The windows that `info["windows"]` counts."""
        return self._start.store

    @property
    def _now(self) -> Episode:
        if self.episode is None:
            raise gym.error.ResetNeeded("call reset before step")
        return self.episode

    def _topic_in_slot(self, action: int) -> int | None:
        if not 0 <= action <= self.config.slots:
            raise ValueError(f"expected an action of 0..{self.config.slots}, got {action}")
        slots = self._now.slots
        return int(slots[action]) if action < len(slots) else None

    def _require_budget(self) -> None:
        if self._now.steps >= self.config.steps:
            raise gym.error.ResetNeeded("the token budget is spent: call reset")

    def _expand(self, topic: int) -> Ints:
        if np.isnan(self._now.readings.probe[topic]):
            self._probe(np.array([topic]))  # its first loss drop needs a reading from before
        self._now.nucleus.expand(topic)
        passages = self.retriever.neighbourhood(topic, self._now.taste)
        return self._now.reading.expand(passages, self.config.windows_per_step, self.np_random)

    def _rehearse(self) -> Ints:
        # Expanded topics and as many seeds: rehearsal of what is newest must not drown in a
        # large nucleus, nor the nucleus in it.
        nucleus = self._now.nucleus
        n = min(len(nucleus.seeds), max(8, len(nucleus.expanded)))
        seeds = self.np_random.choice(self.seeds, n, replace=False)
        topics = [int(t) for t in (*nucleus.expanded, *seeds)]
        passages = np.concatenate([self.retriever.own(t, self._now.taste) for t in topics])
        # With little to its taste it would read the same few windows again and again.
        if len(self.reading_store.windows_of(passages)) < self.config.windows_per_step:
            passages = np.concatenate([self.retriever.own(t) for t in topics])
        return self._now.reading.rehearse(
            np.unique(passages), self.config.windows_per_step, self.np_random
        )

    def _learn(self, windows: Ints, topic: int | None) -> Reward:
        now = self._now
        self.learner.train(windows)
        now.steps += 1
        before = now.readings.loss[-1]
        now.readings.loss.append(self.learner.held_out_loss())
        reward = Reward(before, now.readings.loss[-1], self.reducible)
        (now.readings.consolidations if topic is None else now.readings.rewards).append(
            reward.total
        )
        return reward

    def _settle(self, topic: int | None) -> None:
        """Measure topics that are not solid yet; those that stopped improving become solid."""
        now = self._now
        waiting = np.array(now.nucleus.unsolid[: self.config.probes], dtype=np.int64)
        if topic is not None and topic not in waiting:
            waiting = np.append(waiting, topic)
        if not len(waiting):
            return
        before = now.readings.probe[waiting]
        after = self._probe(waiting)
        for t, drop in zip(waiting.tolist(), (before - after).tolist(), strict=True):
            if np.isnan(drop):  # no reading will ever tell: do not keep the frontier closed
                now.nucleus.make_solid(t)
            elif t == topic:
                now.first_drop[t] = drop
            elif is_solid(now.first_drop[t], drop, self.config.noise_floor):
                now.nucleus.make_solid(t)

    def _fill_slots(self) -> None:
        """Draw K frontier topics evenly, and probe those never measured, or longest ago."""
        now = self._now
        frontier = now.nucleus.frontier
        n = min(self.config.slots, len(frontier))
        now.slots = np.sort(self.np_random.choice(frontier, n, replace=False)) if n else frontier
        # Ties are broken by lot: the lowest numbers, often the alphabet, must not be favoured.
        shuffled = self.np_random.permutation(now.slots)
        age = now.readings.measured_at[shuffled]
        oldest = shuffled[np.argsort(age, kind="stable")][: self.config.probes]
        if len(oldest):
            self._probe(oldest)

    def _probe(self, topics: Ints) -> Floats:
        found = self.learner.probe(topics)
        self._now.readings.record_probe(topics, found, self._now.steps)
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
            goal=self.goal,
            progress=now.steps / self.config.steps,
            readings=now.readings,
        )

    def _observe(self) -> Observation:
        return observe(self.table, self.state(), self.config.slots)

    def _info(
        self,
        topic: int | None = None,
        reward: Reward | None = None,
        windows: Ints | None = None,
    ) -> dict[str, Any]:
        now = self._now
        info: dict[str, Any] = {
            "action_mask": self.action_masks(),
            "tokens": now.steps * self.config.tokens_per_step,
            "held_out_loss": now.readings.loss[-1],
            "frontier": len(now.nucleus.frontier),
        }
        if reward is not None:
            info["topic"] = -1 if topic is None else topic
            info["title"] = "" if topic is None else self.titles[topic]
            info["reward"] = reward.components()
            info["windows"] = windows
        return info

    # --- exact copies ------------------------------------------------------------------------

    def snapshot(self) -> EnvSnapshot:
        """Capture this moment; later steps leave the snapshot as it is."""
        return EnvSnapshot(
            self.learner.snapshot(),
            self._now.copy(),
            copy.deepcopy(self.np_random.bit_generator.state),
        )

    def restore(self, snapshot: EnvSnapshot) -> Observation:
        """Return to a snapshot: the same actions from here give the same bytes."""
        self.learner.restore(snapshot.learner)
        self.episode = snapshot.episode.copy()
        self.np_random.bit_generator.state = copy.deepcopy(snapshot.rng)
        return self._observe()

    # --- to look at --------------------------------------------------------------------------

    def _line(self, topic: int | None, reward: Reward) -> str:
        now = self._now
        what = "consolidate" if topic is None else f"expand {self.titles[topic]}"
        return (
            f"{now.steps:3d}/{self.config.steps}  {what[:48]:48s}  "
            f"{reward.after:.4f} bits/byte  {reward.total:+.4f}"
        )

    def render(self) -> NDArray[np.uint8] | None:
        """`rgb_array`: the graph with nucleus, frontier and last expansion; `human`: a line."""
        if self.render_mode != "rgb_array":
            return None
        from kncl_env.picture import draw_nucleus

        return draw_nucleus(self.table, self._now.nucleus, self.goal)


def _taste(options: dict[str, Any] | None) -> Taste | None:
    unknown = sorted(set(options or {}) - {"taste"})
    if unknown:
        raise ValueError(f"expected no option of reset but taste, got {', '.join(unknown)}")
    found = (options or {}).get("taste")
    if found is not None and not isinstance(found, Taste):
        raise ValueError(f"expected a Taste as the option taste, got {type(found).__name__}")
    return found

"""What a policy sees of a state: one `observe` for the environment and for recorded paths.

The schema is versioned: a policy trained on one version refuses another. Every feature is free of
scale (ranks, shares, cosines, relative losses), so that it means the same in a world of 100 and of
100,000 topics. A value that is unknown (a recorded path has no learner, a walk may have no goal)
is 0 and its flag is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kncl_env.graph import TopicGraph

FEATURE_SCHEMA = 1

# Every feature lies within +-LIMIT; only a loss far above the target's could reach it.
LIMIT = 10.0

CANDIDATE_FEATURES = (
    "filled",  # 1 where the slot holds a topic
    "in_degree_rank",  # rank among all topics, 0 to 1
    "out_degree_rank",
    "pagerank_rank",
    "size_rank",  # rank of the training tokens available
    "nucleus_share",  # share of its neighbours that are in the nucleus
    "nucleus_links",  # log(1 + neighbours in the nucleus) / log(1 + nucleus)
    "linked_from_last",  # the last topic links to it
    "early_on_last",  # how early the last topic links to it: 1 first, towards 0 last
    "links_to_last",  # it links back
    "similarity_last",  # cosine to the last topic
    "similarity_nucleus",  # cosine to the centroid of the nucleus
    "similarity_expanded",  # cosine to the closest topic expanded since the start
    "goal_known",
    "goal_similarity",  # cosine to the centroid of the goal
    "goal_closest",  # cosine to the closest goal topic
    "goal_member",  # it is a goal topic
    "goal_link",  # it links to a goal topic
    "goal_share",  # share of its links that lead to goal topics
    "goal_two_links",  # share of its links that lead to topics with a link to a goal topic
    "goal_ways",  # log(1 + number of those links) / log(1 + topics)
    "goal_gate",  # cosine to the centroid of the topics that link to a goal topic
    "loss_known",
    "loss",  # probe loss relative to the learner's held-out loss, minus 1
    "trend_known",
    "trend",  # relative fall of the probe loss since it was measured before
    "yield_known",
    "yield_neighbours",  # mean reward of expansions of its neighbours
    "yield_similar",  # mean reward of past expansions, weighted by similarity
)

CONTEXT_FEATURES = (
    "progress_known",
    "progress",  # share of the token budget spent
    "expanded",  # log(1 + topics expanded) / log(1 + topics)
    "nucleus",  # log(nucleus) / log(topics)
    "frontier",  # log(1 + frontier) / log(1 + topics)
    "solid_share",  # solid share of the expanded topics
    "goal_known",
    "goal_similarity_nucleus",  # cosine between the goal's centroid and the nucleus' centroid
    "goal_similarity_last",  # cosine between the goal's centroid and the last topic
    "loss_known",
    "loss",  # held-out loss relative to the start of the episode
    "last_reward",
    "mean_reward",
    "consolidate_known",
    "consolidate_reward",  # mean reward of consolidations so far
)

_C = {name: i for i, name in enumerate(CANDIDATE_FEATURES)}
_G = {name: i for i, name in enumerate(CONTEXT_FEATURES)}

Topics = NDArray[np.int64]
Floats = NDArray[np.float64]
Observation = dict[str, NDArray[np.float32]]


class TopicTable:
    """What is fixed about a world's topics; shared by all observations.

    Args:
        graph: Links between N topics.
        vectors: (N, D) unit rows.
        tokens: (N,) training tokens of each topic.
    """

    def __init__(
        self, graph: TopicGraph, vectors: NDArray[np.float32], tokens: NDArray[np.int64]
    ) -> None:
        if not len(graph) == len(vectors) == len(tokens):
            raise ValueError(
                f"expected one vector and one size per topic, got {len(graph)} topics, "
                f"{len(vectors)} vectors and {len(tokens)} sizes"
            )
        self.graph = graph
        self.vectors = vectors
        self.static = np.stack(
            [
                rank_of(graph.in_degree),
                rank_of(graph.out_degree),
                rank_of(graph.pagerank),
                rank_of(tokens),
            ],
            axis=1,
        )  # (N, 4)

    def __len__(self) -> int:
        return len(self.graph)


class Goal:
    """Topics that someone looks for: a person's target page, or a region to learn.

    Args:
        topics: Goal topics; at least one.
    """

    def __init__(self, table: TopicTable, topics: Topics) -> None:
        if not len(topics):
            raise ValueError("expected at least one goal topic, got none: pass goal=None instead")
        self.topics = np.asarray(topics, dtype=np.int64)
        self.vectors = table.vectors[self.topics]
        self.centroid = centroid(self.vectors)
        self.member = np.zeros(len(table), dtype=bool)
        self.member[self.topics] = True
        self.one_link = np.zeros(len(table), dtype=bool)  # topics that link to a goal topic
        into = [table.graph.into(int(t)) for t in self.topics]
        self.one_link[np.concatenate(into)] = True
        gates = np.flatnonzero(self.one_link)
        self.gate = centroid(table.vectors[gates]) if len(gates) else self.centroid


@dataclass
class Readings:
    """What has been measured of the learner during an episode.

    Attributes:
        loss: Held-out loss of the target mix, one per step, the start included [bits per byte].
        measured_at: (N,) step of the latest probe; -1 where never measured.
        probe: (N,) latest probe loss per topic [bits per byte]; NaN where never measured.
        fall: (N,) relative fall of the probe loss between the two latest measurements; NaN.
        rewards: Reward of each expansion, aligned with the expanded topics.
        consolidations: Reward of each consolidation.
    """

    n_topics: int
    loss: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    consolidations: list[float] = field(default_factory=list)
    measured_at: Topics = field(init=False)
    probe: Floats = field(init=False)
    fall: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.measured_at = np.full(self.n_topics, -1)
        self.probe = np.full(self.n_topics, np.nan)
        self.fall = np.full(self.n_topics, np.nan)

    @property
    def known(self) -> bool:
        """Whether the learner's held-out loss can be measured at all."""
        return bool(self.loss) and bool(np.isfinite(self.loss[-1]))

    def record_probe(self, topics: Topics, losses: Floats, step: int) -> None:
        """Keep new readings; `fall` compares them with the ones before."""
        self.measured_at[topics] = step
        before = self.probe[topics]
        known = np.isfinite(before) & np.isfinite(losses)
        self.fall[topics[known]] = 1.0 - losses[known] / before[known]
        self.probe[topics] = losses


@dataclass(frozen=True)
class State:
    """A moment of an episode or of a recorded path.

    Attributes:
        members: Nucleus in order of arrival, seeds first.
        n_seeds: How many of the members were there at the start.
        slots: At most K candidate topics; slot k of the observation is candidate k.
        frontier_size: Topics on the frontier, in slots or not.
        n_solid: Solid topics among those expanded since the start.
        goal: What is looked for, if anything.
        progress: Share of the token budget spent; None where there is no budget.
        readings: What is known of the learner; None where there is none.
    """

    members: Topics
    n_seeds: int
    slots: Topics
    frontier_size: int
    n_solid: int = 0
    goal: Goal | None = None
    progress: float | None = None
    readings: Readings | None = None

    @property
    def last(self) -> int:
        return int(self.members[-1])

    @cached_property
    def expanded(self) -> Topics:
        return self.members[self.n_seeds :]


def observe(table: TopicTable, state: State, k: int) -> Observation:
    """The observation of a state.

    Args:
        table: The world's topics.
        state: What happened so far.
        k: Number of slots K.

    Returns:
        `candidates` (K, F) float32, rows of empty slots all 0; `context` (G,) float32.

    Raises:
        ValueError: More candidates than slots.
    """
    if len(state.slots) > k:
        raise ValueError(f"expected at most {k} candidates for {k} slots, got {len(state.slots)}")
    candidates = np.zeros((k, len(CANDIDATE_FEATURES)), dtype=np.float32)
    middle = centroid(table.vectors[state.members])
    if len(state.slots):
        _graph_features(candidates[: len(state.slots)], table, state)
        _text_features(candidates[: len(state.slots)], table, state, middle)
        _learner_features(candidates[: len(state.slots)], table, state)
    context = _context(table, state, middle)
    return {
        "candidates": np.clip(candidates, -LIMIT, LIMIT),
        "context": np.clip(context, -LIMIT, LIMIT),
    }


def _graph_features(rows: NDArray[np.float32], table: TopicTable, state: State) -> None:
    slots, graph = state.slots, table.graph
    inside = np.zeros(len(table), dtype=bool)
    inside[state.members] = True
    rows[:, _C["filled"]] = 1.0
    rows[:, 1:5] = table.static[slots]
    around = graph.undirected
    near = sums_over_rows(around.indptr, around.indices, slots, inside[:, None])[:, 0]
    rows[:, _C["nucleus_share"]] = near / np.maximum(1, graph.degree[slots])
    rows[:, _C["nucleus_links"]] = np.log1p(near) / np.log1p(len(state.members))
    out = graph.out(state.last)
    place = np.full(len(table), len(out))
    place[out] = np.arange(len(out))
    rows[:, _C["linked_from_last"]] = place[slots] < len(out)
    rows[:, _C["early_on_last"]] = 1.0 - place[slots] / max(1, len(out))
    rows[:, _C["links_to_last"]] = np.isin(slots, graph.into(state.last))
    if state.goal is not None:
        goal = state.goal
        both = np.stack([goal.member, goal.one_link], axis=1)
        found = sums_over_rows(graph.indptr, graph.indices, slots, both)
        rows[:, _C["goal_member"]] = goal.member[slots]
        rows[:, _C["goal_link"]] = goal.one_link[slots]
        n_out = np.maximum(1, graph.out_degree[slots])
        rows[:, _C["goal_share"]] = found[:, 0] / n_out
        rows[:, _C["goal_two_links"]] = found[:, 1] / n_out
        rows[:, _C["goal_ways"]] = np.log1p(found[:, 1]) / np.log1p(len(table))


def _text_features(
    rows: NDArray[np.float32], table: TopicTable, state: State, middle: NDArray[np.float32]
) -> None:
    own = table.vectors[state.slots]  # (n, D)
    rows[:, _C["similarity_last"]] = own @ table.vectors[state.last]
    rows[:, _C["similarity_nucleus"]] = own @ middle
    if len(state.expanded):
        rows[:, _C["similarity_expanded"]] = (own @ table.vectors[state.expanded].T).max(1)
    if state.goal is not None:
        rows[:, _C["goal_known"]] = 1.0
        rows[:, _C["goal_similarity"]] = own @ state.goal.centroid
        rows[:, _C["goal_gate"]] = own @ state.goal.gate
        rows[:, _C["goal_closest"]] = (own @ state.goal.vectors.T).max(1)


def _learner_features(rows: NDArray[np.float32], table: TopicTable, state: State) -> None:
    readings = state.readings
    if readings is None or not readings.known:
        return
    probe = readings.probe[state.slots]
    known = np.isfinite(probe)
    rows[known, _C["loss_known"]] = 1.0
    rows[known, _C["loss"]] = probe[known] / readings.loss[-1] - 1.0
    fall = readings.fall[state.slots]
    known = np.isfinite(fall)
    rows[known, _C["trend_known"]] = 1.0
    rows[known, _C["trend"]] = np.clip(fall[known] * 10.0, -3.0, 3.0)
    if readings.rewards:
        done = state.expanded[: len(readings.rewards)]
        rewards = _scaled(np.array(readings.rewards))
        value = np.zeros((len(table), 2))
        value[done, 0] = rewards
        value[done, 1] = 1.0
        around = table.graph.undirected
        total = sums_over_rows(around.indptr, around.indices, state.slots, value)
        known = total[:, 1] > 0
        rows[known, _C["yield_known"]] = 1.0
        rows[known, _C["yield_neighbours"]] = total[known, 0] / total[known, 1]
        weight = np.maximum(0.0, table.vectors[state.slots] @ table.vectors[done].T) ** 2
        rows[:, _C["yield_similar"]] = (weight @ rewards) / (weight.sum(1) + 0.1)


def _context(table: TopicTable, state: State, middle: NDArray[np.float32]) -> NDArray[np.float32]:
    row = np.zeros(len(CONTEXT_FEATURES), dtype=np.float32)
    n = max(2, len(table))
    if state.progress is not None:
        row[_G["progress_known"]] = 1.0
        row[_G["progress"]] = state.progress
    row[_G["expanded"]] = np.log1p(len(state.expanded)) / np.log1p(n)
    row[_G["nucleus"]] = np.log(max(1, len(state.members))) / np.log(n)
    row[_G["frontier"]] = np.log1p(state.frontier_size) / np.log1p(n)
    row[_G["solid_share"]] = state.n_solid / max(1, len(state.expanded))
    if state.goal is not None:
        row[_G["goal_known"]] = 1.0
        row[_G["goal_similarity_nucleus"]] = state.goal.centroid @ middle
        row[_G["goal_similarity_last"]] = state.goal.centroid @ table.vectors[state.last]
    readings = state.readings
    if readings is not None and readings.known:
        row[_G["loss_known"]] = 1.0
        row[_G["loss"]] = readings.loss[-1] / readings.loss[0]
        every = [*readings.rewards, *readings.consolidations]
        if len(readings.loss) > 1 and every:
            row[_G["mean_reward"]] = _scaled(np.array(every)).mean()
        if readings.rewards:
            row[_G["last_reward"]] = _scaled(np.array(readings.rewards[-1:]))[0]
        if readings.consolidations:
            row[_G["consolidate_known"]] = 1.0
            row[_G["consolidate_reward"]] = _scaled(np.array(readings.consolidations)).mean()
    return row


def _scaled(rewards: Floats) -> Floats:
    """Rewards of single steps are a few hundredths of the reducible loss; bring them near 1."""
    return np.clip(rewards * 20.0, -3.0, 3.0)


def centroid(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) unit vector in the direction of the mean; zero where the mean is zero."""
    mean = vectors.mean(0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    return (mean / norm if norm > 1e-12 else np.zeros_like(mean)).astype(np.float32)


def rank_of(values: NDArray[np.int64] | Floats) -> Floats:
    """Average rank of each value among all, scaled to 0..1."""
    from scipy.stats import rankdata

    return (rankdata(values) - 1) / max(1, len(values) - 1)


def sums_over_rows(
    indptr: NDArray[np.integer], indices: NDArray[np.integer], rows: Topics, values: NDArray
) -> Floats:
    """(n, m) sums of `values` (N, m) over the CSR neighbours of each of n rows.

    A gather and a cumulative sum: scipy's row slicing costs ten times as much at this size.
    """
    first = np.asarray(indptr)[rows].astype(np.int64)
    counts = np.asarray(indptr)[rows + 1].astype(np.int64) - first
    ends = np.cumsum(counts)
    position = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(first, counts)
    running = np.zeros((len(position) + 1, values.shape[1]))
    np.cumsum(values[indices[position]], axis=0, out=running[1:])
    return running[ends] - running[ends - counts]

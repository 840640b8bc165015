"""What a policy sees of a state: one `observe` for the environment and for recorded paths.

The schema is versioned: a policy trained on one version refuses another. Every feature is free of
scale (ranks, shares, cosines, relative losses), so that it means the same in a world of 100 and of
100,000 topics. A value that is unknown (a recorded path has no learner, a walk may have no goal)
is 0 and its flag is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kncl_env.measurements import Measurements
from kncl_env.topic_table import BANDS, Goal, TopicTable, centroid, mask_of

FEATURE_SCHEMA = 3

# Every feature lies within +-LIMIT; only a loss far above the target's could reach it.
LIMIT = 10.0

# Triangles and gaps are looked for among this many of the latest members: their cost is capped.
RECENT = 24

CANDIDATE_FEATURES = (
    "filled",  # 1 where the slot holds a topic
    "in_degree_rank",  # rank among all topics, 0 to 1
    "out_degree_rank",
    "pagerank_rank",
    "size_rank",  # rank of the training tokens available
    "in_degree_log",  # log(1 + links) / log(topics): tells hubs apart, which share the top ranks
    "out_degree_log",
    "title_text",  # cosine of its title and its text: low where the text is about something else
    "text_links",  # cosine of its text and the centroid of the topics that it is linked with
    "visited",  # it is in the nucleus, where recorded walkers may go back to; never in the env
    "nucleus_share",  # share of its neighbours that are in the nucleus
    "nucleus_links",  # log(1 + neighbours in the nucleus) / log(1 + nucleus)
    "triangles",  # share of the pairs of its nucleus neighbours that are linked: it closes them
    "gaps",  # log(parts that those neighbours fall into) / log(1 + nucleus): loops that it opens
    "linked_from_last",  # the last topic links to it
    "early_on_last",  # how early the last topic links to it: 1 first, towards 0 last
    "rank_on_last",  # 1 / (1 + log(1 + links before it)): the first few are seen by everyone
    "links_to_last",  # it links back
    "shared_last",  # cosine of its and the last topic's links, in either direction
    "similarity_last",  # cosine to the last topic
    *(f"similarity_last_{i}" for i in range(len(BANDS))),  # the same in each of BANDS
    "linked_as_last",  # cosine to the last topic in the graph's own coordinates
    "title_last",  # cosine of its title and the last topic's text
    "similarity_before",  # cosine to the topic before the last
    "similarity_nucleus",  # cosine to the centroid of the nucleus
    "similarity_expanded",  # cosine to the closest topic expanded since the start
    "gain",  # root of the share of what the nucleus leaves uncovered that it covers; see _gain
    "goal_known",
    "goal_similarity",  # cosine to the centroid of the goal
    *(f"goal_similarity_{i}" for i in range(len(BANDS))),  # the same in each of BANDS
    "goal_linked_as",  # cosine to the centroid of the goal in the graph's own coordinates
    "goal_title",  # cosine of its title and the goal's titles: all that a walker sees of a link
    "goal_title_text",  # cosine of its title and the centroid of the goal
    "goal_text_title",  # cosine of its text and the goal's titles
    "goal_closest",  # cosine to the closest goal topic
    "goal_gain",  # as `gain`, of the goal topics
    "goal_member",  # it is a goal topic
    "goal_link",  # it links to a goal topic
    "goal_share",  # share of its links that lead to goal topics
    "goal_from",  # log(1 + goal topics that link to it) / log(1 + goal)
    "goal_from_early",  # how early one of them does: 1 first, towards 0 last
    "goal_onward",  # share of its links that goal topics link to as well
    "goal_two_links",  # share of its links that lead to topics with a link to a goal topic
    "goal_ways",  # log(1 + number of those links) / log(1 + topics)
    "goal_hops",  # 1 / (1 + links to follow to the nearest goal topic), 0 beyond MAX_HOPS
    "goal_reach",  # log of how often a surfer of MAX_HOPS links meets the goal, against chance
    "goal_shared",  # cosine of its links and the goal topics', in either direction
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
        measurements: What is known of the learner; None where there is none.
    """

    members: Topics
    n_seeds: int
    slots: Topics
    frontier_size: int
    n_solid: int = 0
    goal: Goal | None = None
    progress: float | None = None
    measurements: Measurements | None = None

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
    inside = mask_of(state.members, len(table))
    rows[:, _C["filled"]] = 1.0
    rows[:, 1 : 1 + table.static.shape[1]] = table.static[slots]
    rows[:, _C["visited"]] = inside[slots]
    around = graph.undirected
    _loops(rows, table, state)
    last = mask_of(graph.around(state.last), len(table))
    near_both = np.stack([inside, last], axis=1)
    near, common = sums_over_rows(around.indptr, around.indices, slots, near_both).T
    rows[:, _C["nucleus_share"]] = near / np.maximum(1, graph.degree[slots])
    rows[:, _C["nucleus_links"]] = np.log1p(near) / np.log1p(len(state.members))
    both_degrees = np.maximum(1, graph.degree[slots]) * max(1, int(graph.degree[state.last]))
    rows[:, _C["shared_last"]] = common / np.sqrt(both_degrees)
    out = graph.out(state.last)
    place = np.full(len(table), len(out))
    place[out] = np.arange(len(out))
    linked = place[slots] < len(out)
    rows[:, _C["linked_from_last"]] = linked
    rows[:, _C["early_on_last"]] = 1.0 - place[slots] / max(1, len(out))
    rows[linked, _C["rank_on_last"]] = 1.0 / (1.0 + np.log1p(place[slots][linked]))
    rows[:, _C["links_to_last"]] = mask_of(graph.into(state.last), len(table))[slots]
    if state.goal is not None:
        goal = state.goal
        onward = np.stack([goal.member, goal.one_link, goal.linked_from > 0], axis=1)
        found = sums_over_rows(graph.indptr, graph.indices, slots, onward)
        rows[:, _C["goal_member"]] = goal.member[slots]
        rows[:, _C["goal_link"]] = goal.one_link[slots]
        n_out = np.maximum(1, graph.out_degree[slots])
        rows[:, _C["goal_share"]] = found[:, 0] / n_out
        rows[:, _C["goal_from"]] = goal.linked_from[slots]
        rows[:, _C["goal_from_early"]] = goal.early[slots]
        rows[:, _C["goal_onward"]] = found[:, 2] / n_out
        rows[:, _C["goal_two_links"]] = found[:, 1] / n_out
        rows[:, _C["goal_ways"]] = np.log1p(found[:, 1]) / np.log1p(len(table))
        rows[:, _C["goal_hops"]] = goal.hops[slots]
        rows[:, _C["goal_reach"]] = goal.reach[slots]
        shared = sums_over_rows(around.indptr, around.indices, slots, goal.links[:, None])[:, 0]
        rows[:, _C["goal_shared"]] = shared / np.sqrt(np.maximum(1, graph.degree[slots]))


def _loops(rows: NDArray[np.float32], table: TopicTable, state: State) -> None:
    """What a candidate does to the loops of the nucleus: triangles it closes, gaps it opens.

    Of a candidate's neighbours in the nucleus, every linked pair becomes a triangle, and every
    part beyond the first opens a loop that no triangle fills: the change of Betti-1 in the clique
    complex, but for loops that the candidate fills (Mayer-Vietoris; see `curiosity_measures`).
    """
    recent = state.members[-RECENT:]
    place = np.full(len(table), -1)
    place[recent] = np.arange(len(recent))
    around = table.graph.undirected
    links = _dense_rows(around, recent, place, len(recent))  # (m, m)
    near = _dense_rows(around, state.slots, place, len(recent))  # (n, m)
    n_near = near.sum(1)
    linked = ((near @ links) * near).sum(1)  # every pair twice
    rows[:, _C["triangles"]] = linked / np.maximum(1.0, n_near * (n_near - 1))
    parts = _parts(near, links)
    rows[:, _C["gaps"]] = np.log(np.maximum(1.0, parts)) / np.log1p(len(recent))


def _dense_rows(
    matrix: sparse.csr_array, rows: Topics, place: Topics, width: int
) -> NDArray[np.float32]:
    """(n, width) 0/1 rows of a sparse matrix, its columns moved to `place` or dropped (-1)."""
    dense = np.zeros((len(rows), width), dtype=np.float32)
    first = matrix.indptr[rows].astype(np.int64)
    counts = matrix.indptr[rows + 1].astype(np.int64) - first
    ends = np.cumsum(counts)
    position = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(first, counts)
    column = place[matrix.indices[position]]
    kept = column >= 0
    dense[np.repeat(np.arange(len(rows)), counts)[kept], column[kept]] = 1.0
    return dense


def _parts(near: NDArray[np.float32], links: NDArray[np.float32]) -> Floats:
    """(n,) connected parts that the chosen nodes (n, m) of each row fall into."""
    m = near.shape[1]
    reach = (links + np.eye(m, dtype=np.float32)) * near[:, :, None] * near[:, None, :]
    for _ in range(max(1, m - 1).bit_length()):  # ways of twice as many links each time
        reach = np.minimum(reach @ reach, 1.0)
    size = reach.sum(2)  # of the part that a node is in
    return np.divide(near, size, out=np.zeros_like(near), where=size > 0).sum(1).round()


def _text_features(
    rows: NDArray[np.float32], table: TopicTable, state: State, middle: NDArray[np.float32]
) -> None:
    own, titles = table.vectors[state.slots], table.titles[state.slots]  # (n, D) each
    rows[:, _C["similarity_last"]] = own @ table.vectors[state.last]
    parts = [part[state.slots] for part in table.parts]
    first = _C["similarity_last_0"]
    for i, (part, every) in enumerate(zip(parts, table.parts, strict=True)):
        rows[:, first + i] = part @ every[state.last]
    rows[:, _C["title_last"]] = titles @ table.vectors[state.last]
    if len(state.members) > 1:
        rows[:, _C["similarity_before"]] = own @ table.vectors[state.members[-2]]
    rows[:, _C["similarity_nucleus"]] = own @ middle
    nucleus = table.vectors[state.members]
    rows[:, _C["gain"]] = _gain(own, nucleus, table.sample)
    if len(state.expanded):
        rows[:, _C["similarity_expanded"]] = (own @ table.vectors[state.expanded].T).max(1)
    if state.goal is not None:
        rows[:, _C["goal_known"]] = 1.0
        rows[:, _C["goal_similarity"]] = own @ state.goal.centroid
        first = _C["goal_similarity_0"]
        for i, (part, middle) in enumerate(zip(parts, state.goal.parts, strict=True)):
            rows[:, first + i] = part @ middle
        rows[:, _C["goal_title"]] = titles @ state.goal.title
        rows[:, _C["goal_title_text"]] = titles @ state.goal.centroid
        rows[:, _C["goal_text_title"]] = own @ state.goal.title
        rows[:, _C["goal_gate"]] = own @ state.goal.gate
        rows[:, _C["goal_closest"]] = (own @ state.goal.vectors.T).max(1)
        rows[:, _C["goal_gain"]] = _gain(own, nucleus, state.goal.vectors)


def _gain(
    own: NDArray[np.float32], nucleus: NDArray[np.float32], wanted: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(n,) marginal gain of each candidate in a facility-location objective, scale-free.

    A wanted topic is covered as far as its cosine to the closest topic of the nucleus goes; a
    candidate's gain is what it adds, as a share of what is not covered yet. Taking the largest
    gain, again and again, comes within 1 - 1/e of the best cover (Nemhauser et al. 1978). The root
    keeps the gains of large goals apart, each of which is a small share.
    """
    covered = np.maximum(0.0, (wanted @ nucleus.T).max(1))  # (W,)
    gain = np.maximum(0.0, own @ wanted.T - covered).mean(1)
    return np.sqrt(gain / max(1e-6, float((1.0 - covered).mean())))


def _learner_features(rows: NDArray[np.float32], table: TopicTable, state: State) -> None:
    measurements = state.measurements
    if measurements is None or not measurements.known:
        return
    probe = measurements.probe[state.slots]
    known = np.isfinite(probe)
    rows[known, _C["loss_known"]] = 1.0
    rows[known, _C["loss"]] = probe[known] / measurements.loss[-1] - 1.0
    fall = measurements.fall[state.slots]
    known = np.isfinite(fall)
    rows[known, _C["trend_known"]] = 1.0
    rows[known, _C["trend"]] = np.clip(fall[known] * 10.0, -3.0, 3.0)
    if measurements.rewards:
        done = state.expanded[: len(measurements.rewards)]
        rewards = _scaled(np.array(measurements.rewards))
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
    measurements = state.measurements
    if measurements is not None and measurements.known:
        row[_G["loss_known"]] = 1.0
        row[_G["loss"]] = measurements.loss[-1] / measurements.loss[0]
        every = [*measurements.rewards, *measurements.consolidations]
        if len(measurements.loss) > 1 and every:
            row[_G["mean_reward"]] = _scaled(np.array(every)).mean()
        if measurements.rewards:
            row[_G["last_reward"]] = _scaled(np.array(measurements.rewards[-1:]))[0]
        if measurements.consolidations:
            row[_G["consolidate_known"]] = 1.0
            row[_G["consolidate_reward"]] = _scaled(np.array(measurements.consolidations)).mean()
    return row


def _scaled(rewards: Floats) -> Floats:
    """Rewards of single steps are a few hundredths of the reducible loss; bring them near 1."""
    return np.clip(rewards * 20.0, -3.0, 3.0)


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

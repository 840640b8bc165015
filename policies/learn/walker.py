"""A curiosity policy goes down the hole on a live wiki: the walker of `kncl-policy walk`.

There is no world, so the walk itself is made into one: its pages and what they offered are the
graph, hashed words of titles and lead texts are the vectors. What that cannot tell is left unknown
or the same for every candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kncl_env.observation import State, observe
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.graph import TopicGraph
from policies.curiosity import CLOSED, CuriosityPolicy
from rabbit_holes.walkers.walkers import WalkState, hashed_tfidf


class PolicyWalker:
    """Chooses links by a policy's scores.

    Args:
        policy: Scores candidates.
        name: As recorded in a path, after `policy:`.
        temperature: 0 takes the best link; 1 samples as the policy's scores say.
        goal: Title that is looked for, if any.
    """

    def __init__(
        self, policy: CuriosityPolicy, name: str, temperature: float = 1.0, goal: str | None = None
    ) -> None:
        if temperature < 0:
            raise ValueError(f"expected a temperature of 0 or more, got {temperature}")
        self.policy = policy
        self.name = f"policy:{name}"
        self.temperature = temperature
        self.goal = goal

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        pages = {v.title: v for v in state.visits}
        titles = list(dict.fromkeys([*pages, *offered, *([self.goal] if self.goal else [])]))
        number = {title: i for i, title in enumerate(titles)}
        rows = [
            [(number[t], 0) for t in pages[title].offered if t in number] if title in pages else []
            for title in titles
        ]
        texts = [f"{t} {pages[t].text or ''}" if t in pages else t for t in titles]
        vectors = hashed_tfidf(texts).astype(np.float32)
        graph = TopicGraph.from_links(len(titles), rows)
        sizes = np.ones(len(titles), dtype=np.int64)
        table = TopicTable(graph, vectors, sizes, hashed_tfidf(titles).astype(np.float32))
        here = number[state.page.title]
        members = [*(i for i in range(len(pages)) if i != here), here]
        slots = np.array([number[t] for t in offered], dtype=np.int64)
        goal = Goal(table, np.array([number[self.goal]])) if self.goal else None
        moment = State(
            members=np.array(members),
            n_seeds=1,
            slots=slots,
            frontier_size=len(offered),
            n_solid=len(members) - 1,
            goal=goal,
        )
        logits = self.policy.logits(observe(table, moment, len(slots)))[:-1]
        if self.temperature > 0:
            logits = logits / self.temperature + rng.gumbel(size=len(logits))
        return offered[int(np.argmax(np.maximum(logits, CLOSED)))]

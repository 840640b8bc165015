"""Simulated walkers over a world: what stands in where no one's walks were recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kncl_env.world.world import World
from rabbit_holes.path import Path, Visit
from rabbit_holes.walkers.settings import WALKERS


def simulate(
    world: World, walker: str, walks: int, depth: int, rng: np.random.Generator
) -> Iterator[Path]:
    """Walks along the world's links.

    `random` picks any link; `similar` prefers links close to the present topic, with a bonus for
    what it has not seen alike; `wayfinder` looks for a goal topic by similarity, as people do in
    wayfinding games (West & Leskovec 2012), and errs like them: it samples from a softmax.

    Args:
        depth: Clicks at most.
    """
    if walker not in WALKERS:
        raise ValueError(f"expected a walker among {WALKERS}, got {walker!r}")
    if walks < 1 or depth < 1:
        raise ValueError(f"expected at least 1 walk of at least 1 click, got {walks} of {depth}")
    vectors, graph = world.topic_vectors, world.graph
    usable = np.flatnonzero(graph.out_degree > 0)
    if len(usable) < 2:
        raise ValueError("expected a world with links to walk along, got none")
    licence = str(world.card["licence"])
    for number in range(walks):
        here, goal = (int(t) for t in rng.choice(usable, 2, replace=False))
        visits = [Visit(world.titles[here], None)]
        visited = [here]
        for _ in range(depth):
            offered = np.setdiff1d(graph.out(here), visited)
            if not len(offered):
                break
            score = np.zeros(len(offered))
            if walker == "similar":
                seen = (vectors[offered] @ vectors[visited].T).max(1)
                score = 8.0 * (vectors[offered] @ vectors[here] - 0.5 * seen)
            elif walker == "wayfinder":
                score = 12.0 * (vectors[offered] @ vectors[goal])
                score += 4.0 * np.isin(offered, [goal])
            weight = np.exp(score - score.max())
            here = int(rng.choice(offered, p=weight / weight.sum()))
            visits.append(Visit(world.titles[here], len(visits) - 1))
            visited.append(here)
            if here == goal and walker == "wayfinder":
                break
        yield Path(
            id=f"{walker}-{number:06d}",
            visits=tuple(visits),
            source="simulated",
            walker=walker,
            licence=licence,
            goal=world.titles[goal] if walker == "wayfinder" else None,
            status="finished" if here == goal or walker != "wayfinder" else "unfinished",
        )

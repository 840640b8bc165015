"""Simulated walkers over a world: what stands in where no one's walks were recorded."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from kncl_env.world.world import World
from rabbit_holes.path import Path, Visit

WALKERS = ("random", "similar", "wayfinder")


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


def add_walk_parser(verbs: Any) -> None:
    """The verb `walk` of `rabbit-holes`."""
    verb = verbs.add_parser("walk", help="simulated walks over a world, where no one's are at hand")
    verb.add_argument("--world", type=pathlib.Path, required=True)
    verb.add_argument("--walker", choices=WALKERS, default="wayfinder")
    verb.add_argument("--walks", type=int, default=1000, help="(1000)")
    verb.add_argument("--depth", type=int, default=12, help="clicks of a walk at most (12)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--out", type=pathlib.Path, required=True, metavar="F.jsonl")
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(run=_walk)


def _walk(args: argparse.Namespace) -> int:
    from rabbit_holes.path import write_paths

    world = World.open(args.world)
    rng = np.random.default_rng(args.seed)
    walks = simulate(world, args.walker, args.walks, args.depth, rng)
    n = write_paths(args.out, walks, force=args.force)
    print(f"{args.out}: {n:,} walks by {args.walker}")
    return 0

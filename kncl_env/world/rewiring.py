"""A random copy of a world's graph: the same degrees, other links. The control for what links tell.

A topic keeps its number of links out, of links in and of topics joined with it: what differs is
whom it is joined with. Everything else of the world stays, text, splits, target and index.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.card import world_hash
from kncl_env.world.graph import TopicGraph
from kncl_env.world.world import World
from train_lm.checked.digests import sealed
from train_lm.files import hash_file, replacing_folder, write_json
from train_lm.outputs import alone

GRAPH = "graph.npz"

# Tries per link: the share of links that are as they were has settled after ten (Milo et al. 2003,
# arXiv:cond-mat/0312028).
SWAPS = 10
TOGETHER = 1 << 16  # random numbers that are drawn at a time

Ints = NDArray[np.int64]


def rewired(graph: TopicGraph, seed: int, swaps: int = SWAPS) -> TopicGraph:
    """A random graph with the same degrees, by double edge swaps (Maslov & Sneppen 2002).

    Two links a → b and c → d become a → d and c → b, where that makes no self-link and joins no two
    topics twice. Links that are answered by one back are swapped in pairs, so that the number of
    topics joined with each topic stays as well. A link keeps its place among the links of its
    topic, and its type.

    Args:
        swaps: Tries per link.

    Raises:
        ValueError: Not one pair of links can be swapped.
    """
    rng = np.random.default_rng(seed)
    targets = graph.indices.tolist()
    sources = np.repeat(np.arange(len(graph)), graph.out_degree).tolist()
    place = {(a, b): i for i, (a, b) in enumerate(zip(sources, targets, strict=True))}
    joined = {(min(a, b), max(a, b)) for a, b in place}
    # [place of a -> b, place of b -> a, or -1]; a pair is swapped as one.
    alone = [(i, -1) for (a, b), i in place.items() if (b, a) not in place]
    paired = [(i, place[b, a]) for (a, b), i in place.items() if a < b and (b, a) in place]
    done = sum(
        _swap(links, sources, targets, joined, swaps * len(links), rng) for links in (alone, paired)
    )
    if not done:
        raise ValueError(
            f"expected a graph whose links can change places, got {len(graph):,} topics and "
            f"{graph.n_edges:,} links, of which no two can: it is too small or too dense to rewire"
        )
    return TopicGraph(graph.indptr, np.array(targets, dtype=np.int64), graph.types)


def _swap(
    links: list[tuple[int, int]],
    sources: list[int],
    targets: list[int],
    joined: set[tuple[int, int]],
    tries: int,
    rng: np.random.Generator,
) -> int:
    """Swap the far ends of random links, in place. Returns how many swaps were made."""
    done = 0
    for begin in range(0, tries if len(links) > 1 else 0, TOGETHER):
        size = (min(TOGETHER, tries - begin), 2)
        pairs = rng.integers(0, len(links), size).tolist()
        turned = (rng.random(size[0]) < 0.5).tolist()
        for (first, second), turn in zip(pairs, turned, strict=True):
            there, back = links[first]
            other, other_back = links[second]
            if back >= 0 and turn:  # a pair has two ends that can be the far one
                other, other_back = other_back, other
            a, b, c, d = sources[there], targets[there], sources[other], targets[other]
            new = ((a, d) if a < d else (d, a)), ((b, c) if b < c else (c, b))
            if a == d or b == c or new[0] in joined or new[1] in joined:
                continue
            joined -= {(min(a, b), max(a, b)), (min(c, d), max(c, d))}
            joined.update(new)
            targets[there], targets[other] = d, b
            if back >= 0:
                targets[other_back], targets[back] = a, c
                links[first] = (there, other_back)
                links[second] = (other, back)
            done += 1
    return done


def kept(before: TopicGraph, after: TopicGraph) -> float:
    """Share of the links that both graphs have, whatever their type."""
    n = len(before)

    def links(graph: TopicGraph) -> Ints:
        return np.repeat(np.arange(n), graph.out_degree) * n + graph.indices

    both = np.isin(links(before), links(after)).sum()
    return float(both / max(1, before.n_edges))


def rewire_world(world: World, out: Path, seed: int) -> World:
    """Write a copy of a world with a rewired graph; it appears whole or not at all.

    Raises:
        ValueError: The graph cannot be rewired, or a file of the world is not as it was built.
        FileExistsError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"expected a place for a directory, got the file {out}: name another")
    graph = rewired(world.graph, seed)
    files = dict(world.card["files"])
    with alone(out), replacing_folder(out, over=True) as part:
        for name, sha256 in files.items():
            if name != GRAPH:
                shutil.copyfile(world.path / name, part / name)
                if hash_file(part / name) != sha256:
                    raise ValueError(
                        f"expected {name} of world {world.path} as it was built, got another: "
                        "it is damaged or was changed since, rebuild it"
                    )
        graph.save(part / GRAPH)
        files[GRAPH] = hash_file(part / GRAPH)
        card = {
            **world.card,
            "files": files,
            "graph": graph.shape().to_json(),
            "rewired": {
                "of": world.hash,
                "seed": seed,
                "links_kept": round(kept(world.graph, graph), 4),
            },
        }
        card["hash"] = world_hash(card)
        write_json(part / "world.json", sealed(card))
    return World.open(out)

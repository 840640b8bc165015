"""The few domains that a world falls into, for arms that choose among a handful.

Regions of the world where it has them: the region with the most topics is parted into those below
it, again and again, as long as there are not too many. Clusters of its topics' vectors elsewhere.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from kncl_env.topic_table import centroid
from kncl_env.world.cached import cached_array
from policies.arms.arm import Ints
from policies.arms.shared import Shared, of_text, windows_by_topic
from train_lm.token_files import TRAIN

MOST = 24  # domains, at most
FEWEST = 3  # regions that are taken for domains, at least; else topics are clustered
LARGEST = 2 / 3  # share of the topics in the largest of them, at most
CLUSTER = 40  # topics of a cluster, about
VERSION = 1  # raised whenever clusters would come out with other topics

Regions = Mapping[str, Ints]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


def domains_of(stage: Stage, most: int = MOST) -> list[Ints]:
    """Topics of each domain, ascending; every topic is in exactly one, and each has text to read.

    A domain with less training text than a step's budget joins the one whose topics lie closest:
    such as a region whose text is withheld.

    Args:
        most: Domains, at most.

    Raises:
        ValueError: The world has less training text than a step's budget.
    """
    return _shared(most)(stage)


def of_domains(stage: Stage) -> Hashable:
    """All that domains depend on: text, and a step's windows, which each has to hold."""
    return of_text(stage), stage.settings.windows_per_step


@cache
def _shared(most: int) -> Shared[list[Ints]]:
    return Shared(partial(_made, most=most), of_domains)


def _made(stage: Stage, most: int) -> list[Ints]:
    world = stage.world
    groups = parted(world.regions, world.n_topics, most)
    if len(groups) < FEWEST or max(map(len, groups)) > LARGEST * world.n_topics:
        groups = _clusters(stage, most)
    train = np.flatnonzero(world.passage_split == TRAIN)
    n_windows = np.diff(stage.store.first_window)[train]
    per_topic = np.bincount(world.passage_topic[train], n_windows, minlength=world.n_topics)
    held = per_topic.astype(np.float64)
    return joined(groups, held, world.topic_vectors, stage.settings.windows_per_step)


def parted(regions: Regions, n: int, most: int) -> list[Ints]:
    """Topics 0..n-1 by region, ascending: at most `most` groups, the largest in smaller parts.

    A topic of several parts goes to the one with the fewest topics; one of no part stays with the
    region that was parted.
    """
    groups: dict[str, Ints] = {"": np.arange(n)}
    whole: set[str] = set()  # what cannot be parted any more
    while waiting := {name: topics for name, topics in groups.items() if name not in whole}:
        name = max(waiting, key=lambda one: (len(waiting[one]), one))
        parts, rest = _parts(regions, name, groups[name])
        if not parts or len(groups) - 1 + len(parts) + bool(len(rest)) > most:
            whole.add(name)
            continue
        del groups[name]
        groups |= parts
        if len(rest):
            groups[name] = rest
            whole.add(name)
    return [groups[name] for name in sorted(groups)]


def _parts(regions: Regions, name: str, topics: Ints) -> tuple[dict[str, Ints], Ints]:
    """Topics by the regions one level below, and those that are in none."""
    below = name.count(".") + 1 if name else 0
    names = [r for r in regions if r.count(".") == below and (not name or r.startswith(f"{name}."))]
    found: dict[str, Ints] = {}
    for one in sorted(names, key=lambda r: (len(regions[r]), r)):
        own = np.intersect1d(regions[one], topics)
        if len(own):
            found[one] = own
            topics = np.setdiff1d(topics, own)
    return found, topics


def joined(groups: Sequence[Ints], held: Floats, vectors: Vectors, least: int) -> list[Ints]:
    """Groups that hold at least `least` windows each: smaller ones join the closest other one.

    Args:
        held: (N,) training windows of each topic.
        vectors: (N, D) unit rows; closeness is the cosine of the groups' centroids.
    """
    if held.sum() < least:
        raise ValueError(
            f"expected training text of at least a step's {least} windows, got "
            f"{held.sum():.0f}: lower updates_per_step or batch"
        )
    found = list(groups)
    while True:
        sizes = [held[topics].sum() for topics in found]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= least:
            return found
        own = found.pop(smallest)
        middles = np.stack([centroid(vectors[topics]) for topics in found])
        closest = int(np.argmax(middles @ centroid(vectors[own])))
        found[closest] = np.sort(np.concatenate([found[closest], own]))


def _clusters(stage: Stage, most: int) -> list[Ints]:
    from kncl_env.world.index import k_means

    world = stage.world
    k = int(np.clip(world.n_topics // CLUSTER, min(most, FEWEST), most))
    made_from = {"world": world.hash, "clusters": k, "version": VERSION}
    vectors = world.topic_vectors
    cluster = cached_array(
        "domains", made_from, (world.n_topics,), lambda: k_means(vectors, k, seed=0)
    )
    return [np.flatnonzero(cluster == c) for c in np.unique(cluster)]


def pools_of(env: TopicExpansionEnv, groups: Sequence[Ints]) -> list[Ints]:
    """Windows to read of each group of topics; with a taste, those that begin in what it likes."""
    windows = windows_by_topic(env)
    return [np.concatenate([windows[int(t)] for t in topics]) for topics in groups]

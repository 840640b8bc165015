"""Neighbourhoods of knowledge: parts of a world that are alike inside, apart from each other.

A part is a named region of the world, or what a division of all topics finds. A part may be cut
down to its most typical topics, so that all have the same size. What the nucleus was trained on
belongs to none: a stream begins where that ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.world import World

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Topics that are learned together.

    Attributes:
        name: Of the region, or the title of its most typical topic.
        topics: (M,) ascending.
        centre: (D,) mean of the topics' vectors, of length 1.
    """

    name: str
    topics: Ints
    centre: Floats


def neighbourhoods(
    world: World, parts: int | Sequence[str], size: int, seeds: Ints, context: int
) -> tuple[Neighbourhood, ...]:
    """Neighbourhoods that share no topic.

    Args:
        parts: Number of parts that the world is divided into, or the names of regions; a topic of
            several regions belongs to the first one named.
        size: Topics of each, those nearest to its centre; all that there are, if 0.
        seeds: Topics of the nucleus, which belong to none.
        context: Tokens of a window; a topic has one at least.

    Raises:
        ValueError: Fewer than two parts, no such region, or too few topics with held-out text.
    """
    usable = world.has_held_out & ~world.topic_is_noise & (world.train_tokens_of > context)
    usable[seeds] = False
    least = max(1, size)
    if isinstance(parts, int):
        chosen = np.flatnonzero(usable)
        if parts < 2 or len(chosen) < parts * least:
            raise ValueError(
                f"expected 2 neighbourhoods or more, of {least} topics each, got {parts} among "
                f"{len(chosen)} topics that have held-out text and are not in the nucleus: lower "
                "--neighbourhoods, --size or --nucleus-topics"
            )
        weights = world.train_tokens_of.astype(np.float64)
        found = divided(world.topic_vectors.astype(np.float64), weights, chosen, parts)
        return tuple(_nearest(world, topics, size, None) for topics in found)
    if len(set(parts)) < 2 or len(set(parts)) < len(parts):
        raise ValueError(f"expected 2 regions or more, each once, got {', '.join(parts)}")
    taken = ~usable
    result = []
    for name in parts:
        own = world.region(name)
        own = own[~taken[own]]
        if len(own) < least:
            raise ValueError(
                f"expected {least} topics with held-out text in {name!r} that neither the nucleus "
                f"nor a region before it has, got {len(own)}: lower --size or name another region"
            )
        taken[own] = True
        result.append(_nearest(world, own, size, name))
    return tuple(result)


def divided(vectors: Floats, weights: Floats, topics: Ints, parts: int) -> list[Ints]:
    """Parts of like weight: halves along the direction of greatest spread, and again.

    Principal direction divisive partitioning (Boley 1998), cut by weight and not at the mean, so
    that any number of parts comes out alike in size.

    Args:
        vectors: (N, D).
        weights: (N,) above 0.
        topics: (M,) what is divided.

    Returns:
        Topics of each part, ascending.
    """
    if parts == 1:
        return [np.sort(topics)]
    first = parts // 2
    own = vectors[topics] - vectors[topics].mean(0)
    # The eigenvectors of (D, D) are cheaper than the singular vectors of (M, D).
    direction = np.linalg.eigh(own.T @ own)[1][:, -1]
    direction = direction * np.sign(direction[np.argmax(np.abs(direction))])
    along = topics[np.argsort(own @ direction, kind="stable")]
    share = np.cumsum(weights[along]) / weights[along].sum()
    cut = int(np.searchsorted(share, first / parts)) + 1
    cut = min(max(cut, first), len(along) - (parts - first))  # a topic for every part
    return [
        *divided(vectors, weights, along[:cut], first),
        *divided(vectors, weights, along[cut:], parts - first),
    ]


def dealt_at_random(
    found: Sequence[Neighbourhood], world: World, rng: np.random.Generator
) -> tuple[Neighbourhood, ...]:
    """The same topics in parts of the same sizes, dealt at random: the control that must lose."""
    every = rng.permutation(np.concatenate([one.topics for one in found]))
    ends = np.cumsum([len(one.topics) for one in found])[:-1]
    return tuple(
        Neighbourhood(f"random {i}", np.sort(topics), _centre(world, topics))
        for i, topics in enumerate(np.split(every, ends), 1)
    )


def _nearest(world: World, topics: Ints, size: int, name: str | None) -> Neighbourhood:
    """The part's topics that are nearest to its centre."""
    closeness = world.topic_vectors[topics].astype(np.float64) @ _centre(world, topics)
    order = np.argsort(-closeness, kind="stable")
    kept = np.sort(topics[order[: size or len(topics)]])
    title = world.titles[int(topics[order[0]])]
    return Neighbourhood(title if name is None else name, kept, _centre(world, kept))


def _centre(world: World, topics: Ints) -> Floats:
    mean = world.topic_vectors[topics].astype(np.float64).mean(0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))

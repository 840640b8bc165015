"""Arms that walk along links as readers do, with candidates for pages.

A candidate is offered by the topic that was expanded last and links to it; where that one links to
no candidate, the walker goes back along its way until a topic does. Topics of the nucleus come
before what was expanded. A candidate that nobody links to, but that links to a topic of the
nucleus, is reached only where there is no other.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from policies.arms.arm import Begin, Ints, Listed, Player, Rng, expands
from rabbit_holes.path import read_paths
from train_lm.files import hash_file

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

SMOOTHING = 0.1  # clicks that every link has beside those that were counted

# Weight of each link that a topic offers: from its title, those of the linked, and their places.
Weigh = Callable[[str, list[str], Ints], Floats]

Clicks = Mapping[str, Mapping[str, int]]


def walks(weigh: Weigh) -> Begin:
    """An arm that draws among the offered candidates by weight."""

    def choose(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
        state, graph, titles = env.state(), env.stage.table.graph, env.stage.world.titles
        if not len(state.slots):
            return 0  # nothing to expand: an empty slot rehearses
        for page in state.members[::-1].tolist():
            links = graph.out(page)
            places = np.flatnonzero(np.isin(links, state.slots))
            if len(places):
                weights = weigh(titles[page], [titles[t] for t in links[places]], places)
                topic = links[rng.choice(places, p=weights / weights.sum())]
                return int(np.flatnonzero(state.slots == topic)[0])
        return int(rng.integers(len(state.slots)))

    return expands(choose)


def evenly(title: str, linked: list[str], places: Ints) -> Floats:
    """Every link alike."""
    return np.ones(len(places))


def early(title: str, linked: list[str], places: Ints) -> Floats:
    """1 / (1 + links before it): the first few are seen by everyone."""
    return 1.0 / (1.0 + places.astype(np.float64))


def by_clicks(clicks: Clicks) -> Weigh:
    """How often readers took a link, and a little of how early it stands."""

    def weigh(title: str, linked: list[str], places: Ints) -> Floats:
        counted = clicks.get(title, {})
        taken = np.array([counted.get(other, 0) for other in linked], dtype=np.float64)
        return taken + SMOOTHING * early(title, linked, places)

    return weigh


def _of_file(file: Path) -> Begin:
    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return walks(by_clicks(_clicks(file, hash_file(file))))(env, rng)

    return begin


@cache
def _clicks(file: Path, digest: str) -> Clicks:
    found: dict[str, Counter[str]] = {}
    faults: list[str] = []
    for path in read_paths(file, on_error=faults.append):
        titles = path.titles
        for parent, child in path.clicks():
            found.setdefault(titles[parent], Counter())[titles[child]] += 1
    if not found:
        why = faults[0] if faults else "no click in them"
        raise ValueError(f"expected recorded paths in {file}, got none: {why}")
    if faults:
        log.warning("%d lines left out, such as %s", len(faults), faults[0])
    return found


ARMS = {
    "random-walk": Listed(
        walks(evenly),
        "frontier rule",
        "A candidate that the topic expanded last links to, each alike; where there is none, that "
        "the one before links to, and so on back.",
    ),
    "markov": Listed(
        walks(early),
        "frontier rule",
        "The same with weight 1/(1 + links before it); of a file of recorded paths, weight by how "
        "often they took the link, and a tenth of that.",
        of_file=_of_file,
    ),
}

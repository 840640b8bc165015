"""What was learned in one space of vectors and plays in another is told so.

A policy sees ranks, shares, and cosines within stretches of axes; a taste ranks of cosines. Both
need a space as `TextSpace` states it, unit rows whose axes are ordered by what they tell, and the
feature schema or the traits that their files name, which loading checks. They need no number of
dimensions. What a cosine of 0.3 means still differs from embedder to embedder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from kncl_env.env import TopicExpansionEnv
from kncl_env.world.build_config import TFIDF
from kncl_env.world.world import World
from policies.arms.arm import Begin, Player, Rng
from policies.curiosity import CuriosityPolicy
from train_lm.files import read_json

log = logging.getLogger(__name__)

SPACE = "space"  # where a policy's provenance and a taste's file name the embedder


def learned_in(world: World) -> dict[str, str]:
    """What provenance says of the space: nothing of the usual one, as before there was another."""
    return {} if world.space == TFIDF else {SPACE: world.space}


def space_of(place: Path | CuriosityPolicy) -> str:
    """The embedder in whose space a policy, or a taste of a file or folder, was learned."""
    if isinstance(place, Path):
        place = CuriosityPolicy.load(place) if place.is_dir() else place
    made = read_json(place) if isinstance(place, Path) else place.provenance
    return str(made.get(SPACE, TFIDF)) if isinstance(made, Mapping) else TFIDF


def in_space(begin: Begin, name: str, space: str) -> Begin:
    """The same arm; where a world lies in another space than it learned in, one line says so."""
    told: set[str] = set()

    def begun(env: TopicExpansionEnv, rng: Rng) -> Player:
        world = env.stage.world
        if world.space != space and world.hash not in told:
            told.add(world.hash)
            log.warning(
                "%s learned with vectors of %s, this world has those of %s: what it sees means "
                "something else here, train it in such a world",
                name,
                space,
                world.space,
            )
        return begin(env, rng)

    return begun

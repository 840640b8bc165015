"""A policy as a walker: on a wiki's links it goes by its scores."""

from __future__ import annotations

import numpy as np

from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.walker import PolicyWalker
from rabbit_holes.path import Visit
from rabbit_holes.walkers.walkers import WalkState


def test_a_policy_walks_by_its_scores_and_the_same_draw_gives_the_same_link() -> None:
    policy = CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16)))
    offered = ("Fossil", "Amber (resin)", "Bird")
    state = WalkState((Visit("Dinosaur", None, offered=offered),), 0)
    for temperature in (0.0, 1.0):
        walker = PolicyWalker(policy, "test", temperature, goal="Jurassic amber")
        first, again = (walker.choose(state, offered, np.random.default_rng(4)) for _ in range(2))
        assert first == again
        assert first in offered
    drawn = {walker.choose(state, offered, np.random.default_rng(s)) for s in range(40)}
    assert drawn == set(offered)

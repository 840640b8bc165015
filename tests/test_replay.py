"""A path in the real rules, and a policy on a wiki's links."""

from __future__ import annotations

import numpy as np
from fakes import fake_env

from kncl_env.observation import CANDIDATE_FEATURES
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.walker import PolicyWalker
from rabbit_holes.path import Path, Visit
from rabbit_holes.replay import replay
from rabbit_holes.walkers.walkers import WalkState

LOSS_KNOWN = CANDIDATE_FEATURES.index("loss_known")


def path_of(*titles: str) -> Path:
    visits = tuple(Visit(t, None if i == 0 else i - 1) for i, t in enumerate(titles))
    return Path("p", visits, "test", "person", "none")


def test_a_replayed_path_expands_its_topics_and_knows_the_learner() -> None:
    env = fake_env()
    found = replay(path_of("Topic 0", "Topic 1", "Topic 29", "Topic 2"), env, seed=0)
    assert env.episode.nucleus.expanded == [1, 29, 2]
    assert len(found.actions) == 3
    for seen, mask, action in zip(found.observations, found.masks, found.actions, strict=False):
        assert mask[action]
        assert seen["candidates"][action, 0] == 1
        assert seen["candidates"][:, LOSS_KNOWN].any()
    assert dict(found.skipped) == {"the nucleus has it": 1}


def test_visits_that_the_rules_do_not_allow_are_skipped_and_counted() -> None:
    found = replay(path_of("Topic 0", "Topic 15", "Nowhere"), fake_env(), seed=0)
    assert found.actions == ()
    assert dict(found.skipped) == {
        "the nucleus has it": 1,
        "it is not on the frontier": 1,
        "a page is no topic of the world": 1,
    }


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

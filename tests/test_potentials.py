"""Potentials: known values, and that no episode's return can be gamed with them."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from fakes import fake_env, ring, table_of

from kncl_env.measurements import Measurements
from kncl_env.observation import State
from kncl_env.topic_table import TopicTable
from kncl_env.world.graph import TopicGraph
from policies.learn.potentials import (
    POTENTIALS,
    Shaped,
    compression_progress,
    information_gap,
    learning_progress,
    novelty,
    parse_potentials,
)
from policies.learn.ppo import PPOConfig


def moment(members: list[int], n_seeds: int = 1, **kwargs: object) -> State:
    slots = np.zeros(0, dtype=np.int64)
    return State(np.array(members), n_seeds, slots, frontier_size=0, **kwargs)  # type: ignore[arg-type]


def square() -> TopicTable:
    """Four topics in a circle: one open loop; topics 0 and 1 mean the same, 2 and 3 not."""
    graph = TopicGraph.from_links(4, [[((i + 1) % 4, 0)] for i in range(4)])
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    return TopicTable(graph, vectors, np.ones(4, dtype=np.int64))


def torus() -> TopicTable:
    """Thirty topics without a triangle: four neighbours that make a square are an open loop."""
    graph = TopicGraph.from_links(30, [[((i + 1) % 30, 0), ((i + 5) % 30, 0)] for i in range(30)])
    return TopicTable(graph, table_of(30).vectors, np.ones(30, dtype=np.int64))


def test_novelty_is_what_no_earlier_member_is_like() -> None:
    assert novelty(square(), moment([0], progress=0.0)) == 0.0
    assert novelty(square(), moment([0, 1], progress=0.5)) == 0.0  # a twin
    assert novelty(square(), moment([0, 2], progress=0.5)) == pytest.approx(0.5)
    assert novelty(square(), moment([0, 1, 3], progress=1.0)) == pytest.approx(0.5)


def test_a_loop_is_a_gap_and_a_closed_one_is_none() -> None:
    assert information_gap(square(), moment([0, 1, 2])) == 0.0
    assert information_gap(square(), moment([0, 1, 2, 3])) == pytest.approx(np.log(2) / np.log(25))


def test_compression_progress_has_the_known_value_of_a_square() -> None:
    assert compression_progress(square(), moment([0, 1, 2, 3])) == pytest.approx(0.6751, abs=1e-4)


def test_learning_progress_is_the_mean_fall_of_what_was_measured_twice() -> None:
    measurements = Measurements(4)
    assert learning_progress(square(), moment([0], measurements=measurements)) == 0.0
    measurements.record_probe(np.array([0, 1]), np.array([2.0, 2.0]), 0)
    measurements.record_probe(np.array([0]), np.array([1.9]), 1)
    assert learning_progress(square(), moment([0], measurements=measurements)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_shaping_telescopes_whatever_is_done(name: str, gamma: float) -> None:
    """Σ γᵗ F = γᵀ Φ(s_T) - Φ(s₀) at every step, and Φ of the state after the last step is 0."""
    env = Shaped(fake_env(seeds=(0, 1, 5, 6), table=torus()), {name: 0.7}, gamma)
    rng = np.random.default_rng(0)
    env.reset(seed=1)
    start, total, seen, over = env.potentials()[name], 0.0, [], False
    plain = fake_env(seeds=(0, 1, 5, 6), table=torus())
    plain.reset(seed=1)
    steps = 0
    while not over:
        action = rng.integers(5)
        _, reward, terminated, truncated, info = env.step(action)
        _, bare, *_ = plain.step(action)
        assert float(reward) - float(bare) == pytest.approx(info["shaping"][name])
        total += gamma**steps * info["shaping"][name]
        steps += 1
        over = terminated or truncated
        phi = 0.0 if over else env.potentials()[name]
        seen.append(phi)
        assert total == pytest.approx(gamma**steps * phi - start, abs=1e-9)
    assert any(phi != 0 for phi in seen)  # a potential that never speaks would pass as well


def test_the_network_that_is_measured_stays_small() -> None:
    long = TopicTable(ring(60), table_of(60).vectors, np.ones(60, dtype=np.int64))
    everything = compression_progress(long, moment(list(range(60))))
    assert everything == compression_progress(long, moment(list(range(36, 60))))


@pytest.mark.parametrize("wrong", ["novelty", "novelty:much", "charm:1", "novelty:nan"])
def test_a_wrong_potential_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ValueError, match="at most once and with a weight"):
        parse_potentials((wrong,))


def test_potentials_are_read_with_their_weights() -> None:
    assert parse_potentials(("novelty:0.1", "information-gap:-2")) == (
        ("novelty", 0.1),
        ("information-gap", -2.0),
    )
    with pytest.raises(ValueError, match="at most once"):
        parse_potentials(("novelty:0.1", "novelty:0.2"))


def test_a_training_config_holds_checked_potentials_from_birth() -> None:
    config = PPOConfig(potentials=[["novelty", 1], ("information-gap", -2.0)])  # type: ignore[arg-type]
    assert config.potentials == (("novelty", 1.0), ("information-gap", -2.0))
    assert PPOConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert Shaped(fake_env(), dict(config.potentials), config.gamma).weights["novelty"] == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        ("novelty:0.1",),  # as typed, not yet read
        (("charm", 1.0),),
        (("novelty", float("inf")),),
        (("novelty", "0.1"),),
        (("novelty", 0.1), ("novelty", 0.1)),
    ],
)
def test_a_training_config_with_wrong_potentials_is_not_made(wrong: object) -> None:
    with pytest.raises(ValueError, match="at most once and with a weight"):
        PPOConfig(potentials=wrong)  # type: ignore[arg-type]

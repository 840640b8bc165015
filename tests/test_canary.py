"""Canaries: small tasks whose answer is known, judged statistically, able to fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import curve_of

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.learn.ppo import PPOConfig, train_ppo
from policies.learn.vec_env import View, make_vec_env
from policies.verdict.statistics import permutation_test

SETTINGS = {
    "model": "xxs",
    "nucleus_topics": 8,
    "nucleus_updates": 150,
    "steps": 16,
    "updates_per_step": 3,
    "batch": 8,
    "breadth": 24,
    "slots": 12,
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def noisy_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two topics in five are unlearnable letters, linked into the graph like any other."""
    corpus = read_synthetic(
        SyntheticConfig(n_topics=80, n_communities=4, noise_share=0.4, redundant_share=0.0, seed=3)
    )
    out = tmp_path_factory.mktemp("canary") / "world"
    return build_world(corpus, out, BuildConfig(vocab_size=384, passage_bytes=300))


@pytest.mark.slow
def test_a_trained_policy_beats_the_random_frontier_and_spends_less_on_noise(
    noisy_world: World, tmp_path: Path
) -> None:
    stage = open_stage(noisy_world, Settings.of(**SETTINGS))
    env = make_vec_env(stage, 2, View())
    config = PPOConfig(
        iterations=12,
        episodes=6,
        learners=2,
        learning_rate=2e-3,
        epochs=10,
        entropy=0.005,
        target_kl=0.1,
        gamma=0.9,
    )
    train_ppo(env, SETTINGS["steps"], tmp_path / "policy", config)
    env.close()

    # Seeds that training never drew; every arm plays the same ones.
    judge = TopicExpansionEnv(stage, stage.learner())
    seeds = range(1000, 1006)
    runs = {
        arm: [curve_of(judge, arm, seed) for seed in seeds]
        for arm in ("random", str(tmp_path / "policy"))
    }
    random, learned = runs.values()
    test = [[run.test_after for run in arm] for arm in (learned, random)]
    noise = [[run.noise_share for run in arm] for arm in (learned, random)]
    rng = np.random.default_rng(0)
    assert permutation_test(test[0], test[1], True, rng) < 0.05, test
    assert permutation_test(noise[0], noise[1], True, rng) < 0.05, noise

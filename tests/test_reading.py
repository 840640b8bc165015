"""What arms read, against the sample, and doses of it: `benchmarks/reading.py`, `doses.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import env_of
from harnesses import harness

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.selection.chosen import sample_vectors
from policies.arms.selection.nearest import _knn
from policies.play.curves import CurveMeter
from policies.play.evaluation import evaluate
from policies.play.plan import Plan

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 4,
    "nucleus_updates": 4,
    "steps": 3,
    "updates_per_step": 1,
    "batch": 4,
    "breadth": 12,
    "slots": 4,
}

reading, doses = harness("reading"), harness("doses")


def test_closeness_is_a_mean_over_reading_and_coverage_one_over_the_sample() -> None:
    read = np.array([[1, 0], [1, 0], [0.6, 0.8]], dtype=np.float32)
    sample = np.array([[1, 0], [0, 1]], dtype=np.float32)
    near, covered = reading.closeness_and_coverage(read, sample)
    assert near == pytest.approx((1 + 1 + 0.8) / 3)
    assert covered == pytest.approx((1 + 0.8) / 2)


def test_a_correlation_is_one_of_arms_within_a_seed() -> None:
    # Of the first seed, coverage tells all, and closeness the opposite; of the second, likewise
    # around other means, which a correlation over all episodes would mix up.
    loss = np.array([[0.0, 5.0], [-1.0, 4.0], [-2.0, 3.0]])  # (arms, seeds)
    found = {
        str(arm): np.stack([own, own * 2, -own + np.array([0.0, 40.0])], axis=1)
        for arm, own in enumerate(loss)
    }
    assert reading.correlations(found) == pytest.approx(np.array([[1, -1], [1, -1]]))


def test_the_nearest_text_covers_the_sample_best(small_world: World, tmp_path: Path) -> None:
    region = next(name for name in sorted(small_world.regions) if "." in name)
    settings = Settings.of(**SETTINGS, region=region)
    plan = Plan(arms=("uniform", "knn", "random"), seeds=2, inits=2, meter=CurveMeter(2, 8))
    evaluate(small_world, settings, plan, tmp_path / "run")
    found = reading.figures(small_world, tmp_path / "run")
    assert set(found) == {"uniform", "knn", "random"}
    assert all(rows.shape == (2, 3) for rows in found.values())
    assert (found["uniform"][:, 0] == 0).all()
    nearest = found.pop("knn")
    assert all((nearest[:, 1:] > rows[:, 1:]).all() for rows in found.values())


def test_an_evaluation_of_another_world_is_refused(small_world: World, tmp_path: Path) -> None:
    plan = Plan(arms=("uniform",), seeds=1, meter=CurveMeter(2, 8))
    evaluate(small_world, Settings.of(**SETTINGS), plan, tmp_path / "run")
    journal = tmp_path / "run" / "episodes.jsonl"
    assert small_world.hash in journal.read_text()

    class Other:
        hash, path = "0" * 64, small_world.path

    with pytest.raises(ValueError, match="another world"):
        reading.figures(Other(), tmp_path / "run")


@pytest.fixture
def env(small_world: World) -> TopicExpansionEnv:
    region = next(name for name in sorted(small_world.regions) if "." in name)
    env = env_of(small_world, **SETTINGS, region=region)
    env.reset(seed=0)
    return env


def reads(env: TopicExpansionEnv, arm: Any, seed: int = 0) -> list[int]:
    return arm.choose(env, np.random.default_rng(seed)).tolist()


def test_the_first_dose_is_knn_itself(env: TopicExpansionEnv) -> None:
    assert reads(env, doses.From1) == _knn(env, np.random.default_rng(0)).tolist()


def test_a_dose_leaves_out_what_is_nearest_to_each_passage_of_the_sample(
    env: TopicExpansionEnv,
) -> None:
    sample = sample_vectors(env.stage, reading.QUERIES)
    around = env.stage.world.index.search(sample, env.stage.world.index.size)
    place = {(q, p): rank for q, row in enumerate(around) for rank, p in enumerate(row.tolist())}
    for passage in reads(env, doses.From5):
        assert max(place[q, passage] for q in range(len(sample))) >= 4


def test_a_corner_is_as_close_and_covers_less(env: TopicExpansionEnv) -> None:
    sample = sample_vectors(env.stage, reading.QUERIES)

    def figures(arm: Any) -> tuple[float, float]:
        found = [
            reading.closeness_and_coverage(
                reading.rows_of(env.stage.world.index, np.array(reads(env, arm, seed))), sample
            )
            for seed in range(4)
        ]
        near, covered = np.mean(found, axis=0).tolist()
        return near, covered

    whole, corner = figures(doses.From1), figures(doses.Corner16)
    assert corner[1] < whole[1]
    assert whole[0] - corner[0] < whole[1] - corner[1]

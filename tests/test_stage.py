"""The stage: what an episode's rules change trains no nucleus again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.world.world import World
from train_lm.trainer import Trainer

SETTINGS: dict[str, object] = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 20,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 4,
    "learner_seed": 5,
}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of every call of a trainer, with a cache of its own."""
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    real, calls = Trainer.train, []  # type: ignore[var-annotated]

    def train(trainer: Trainer, windows: np.ndarray) -> float:
        calls.append(len(windows))
        return real(trainer, windows)

    monkeypatch.setattr(Trainer, "train", train)
    return calls


NUCLEUS = [4] * 20
REFERENCE = [8] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"slots": 3},
        {"probes": 2},
        {"noise_floor": 0.5},
        {"breadth": 8},
        {"replay": 0.25},
    ],
)
def test_a_rule_of_the_episode_trains_nothing_again(
    small_world: World, trained: list[int], change: dict[str, object]
) -> None:
    first = open_stage(small_world, Settings.of(**SETTINGS))
    assert trained == NUCLEUS + REFERENCE
    trained.clear()
    second = open_stage(small_world, Settings.of(**{**SETTINGS, **change}))
    assert trained == []
    assert second.reducible == first.reducible


def test_another_budget_measures_the_target_anew_from_the_same_nucleus(
    small_world: World,
    trained: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_stage(small_world, Settings.of(**SETTINGS))
    trained.clear()
    longer = Settings.of(**{**SETTINGS, "steps": 6})
    found = open_stage(small_world, longer)
    assert trained == [8] * 6
    # What the cache gives is what a first run gives, to the last bit.
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "another"))
    trained.clear()
    fresh = open_stage(small_world, longer)
    assert trained == NUCLEUS + [8] * 6
    assert fresh.reducible == found.reducible
    assert (fresh.reading_list.times_read == found.reading_list.times_read).all()
    assert fresh.nucleated is not None
    assert found.nucleated is not None
    for name, value in fresh.nucleated.items():
        assert (value.cpu() == found.nucleated[name].cpu()).all()


@pytest.mark.parametrize(
    "change", [{"nucleus_updates": 21}, {"learner_seed": 6}, {"learning_rate": 1e-3}]
)
def test_what_the_nucleus_phase_reads_trains_it_again(
    small_world: World, trained: list[int], change: dict[str, object]
) -> None:
    open_stage(small_world, Settings.of(**SETTINGS))
    trained.clear()
    open_stage(small_world, Settings.of(**{**SETTINGS, **change}))
    assert len(trained) >= 24


def test_slots_that_the_frontier_cannot_fill_are_refused_before_anything_is_trained(
    small_world: World, trained: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"at most \d+ slots, the frontier of this nucleus"):
        open_stage(small_world, Settings.of(**{**SETTINGS, "slots": 5000}))
    assert trained == []


def test_a_first_nucleus_phase_is_not_silent(
    small_world: World, trained: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    open_stage(small_world, Settings.of(**SETTINGS))
    assert "nucleus phase: 24 updates and steps" in caplog.text
    caplog.clear()
    open_stage(small_world, Settings.of(**SETTINGS))
    assert caplog.text == ""


def test_the_sample_is_the_reward_text_of_the_target_and_nothing_else(small_world: World) -> None:
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    wanted = [
        passage
        for passage, row in enumerate(small_world.passages())
        if row.split == "reward" and row.topic in stage.target
    ]
    assert wanted
    assert stage.sample.tolist() == wanted

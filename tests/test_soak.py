"""A slice of `benchmarks/soak.py`: what a round of training and evaluating on a cluster leaves."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType

import pytest
from harnesses import harness

from kncl_env.world.world import World
from train_lm.crew.hands import Hands

pytest.importorskip("ray", reason="Ray is not installed: pip install 'kncl[ray]'")

WARM, ROUNDS = 1, 2
SPARE = 2  # threads of a pool that come and go
COUNTED = ("processes", "own_handles", "own_threads")


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    return harness("soak")


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
def test_a_round_on_a_cluster_leaves_nothing_behind(
    soak: ModuleType, small_world: World, tmp_path: Path
) -> None:
    looks, objects = [], []
    with soak.two_nodes() as address:
        for number in range(WARM + ROUNDS):
            soak.one_round(small_world, Hands(ray=address), number, tmp_path / str(number))
            looks.append(soak.look())
            objects.append(len(gc.get_objects()))
    first, last = looks[WARM - 1], looks[-1]
    for name in COUNTED:
        assert last[name] <= first[name] + SPARE, name
    assert last["own_mib"] < 1.02 * first["own_mib"]
    # A class or a call that Ray is handed anew each time leaves some 80 of them.
    assert objects[-1] - objects[WARM - 1] < 40 * ROUNDS, objects


def test_growth_is_of_the_last_sixth_over_the_first_one_when_warm(soak: ModuleType) -> None:
    looks = [{"seconds": 60.0 * n, "own_mib": 100.0 + (n > 24)} for n in range(31)]
    found = soak.growth(looks, 600.0)
    assert found["own_mib_growth"] == pytest.approx(1.01)
    assert found["rounds"] == 31
    assert found["minutes"] == 30
    with pytest.raises(ValueError, match="expected 6 rounds or more after 600 s, got 1"):
        soak.growth(looks[:11], 600.0)

"""A run in an open world, killed at moments drawn from a seed; `benchmarks/kills.py` does more."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest
from harnesses import harness
from mediawiki import prose
from text_wiki import TextWiki

from kncl_env.cli import main as kncl_env

TINY = (
    "--reach 4 --queue 3 "
    "--model xxs --nucleus-topics 3 --nucleus-updates 2 --updates-per-step 1 --batch 2 --slots 3 "
    "--breadth 16 --threads 1 --save-every 1 --steps 5 --policy random --out OUT/r"
)


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    return harness("kills")


@pytest.mark.slow
def test_a_killed_run_in_an_open_world_loses_nothing_asks_for_nothing_twice_and_is_the_same(
    kills: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = kills.Case("open", f"kncl-policy run --world IN/live --live {kills.MANNERS} {TINY}", 5)
    with TextWiki(prose(60)).running() as wiki, kills.Bench(tmp_path / "work", wiki) as bench:
        words = ["build", "live", "--titles", "Prose 0", "--articles", "20", "--api-url", wiki.api]
        words += ["--out", str(bench.inputs / "live"), *kills.MANNERS.split()]
        assert kncl_env([*words, "--passage-bytes", "200", "--vocab-size", "300"]) == 0
        whole = bench.room("whole")
        assert bench.run(case.words, whole) == 0
        wanted, row, rng = kills.left(whole)[0], kills.Row("open"), random.Random(0)
        assert {"r/curriculum.jsonl", "r/summary.json"} <= wanted.keys()
        # Told by steps alone, and before the last ones: a delay by the clock might outlast the run.
        moments = [(step, 0.0) for step in sorted(rng.sample(range(case.steps - 2), 2))]
        kills.trial(bench, case, row, wanted, moments)
    assert row.is_sound, row.told
    assert row.kills == 2


def test_a_run_that_asks_again_or_ends_otherwise_is_told(kills: ModuleType) -> None:
    row = kills.Row("open world", kills=3, trials=1)
    assert row.is_sound
    row.note("asked_again", "Article 1")
    row.note("different", "summary.json")
    assert not row.is_sound
    assert "1 different, 0 litter, 1 asked again" in row.line()
    assert row.told[1] == "open world, trial 1: different: summary.json"

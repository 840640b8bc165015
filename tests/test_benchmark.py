"""The reference benchmark: cells are data, a cell runs once, and a kill costs no figure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.arm import Listed, Player
from policies.arms.registry import ARMS
from policies.benchmark.cells import ALL, CELLS, Cell, Learning, Recipe, chosen
from policies.benchmark.page import page_of, write_page
from policies.benchmark.playing import arms_of, identity_of, playable
from policies.benchmark.runs import Places, claimed, run_benchmark
from policies.benchmark.standings import against_uniform, pairwise_p, placing, worded
from policies.benchmark.stored import ArmFigures, Duel, Score, read_score
from policies.cli.main import main
from train_lm.checked.digests import sealed

SETTINGS = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 4,
    "steps": 3,
    "updates_per_step": 1,
    "slots": 4,
    "batch": 4,
}
RECIPE = Recipe("synthetic", "broad", topics=24)
TINY = Cell("tiny", RECIPE, SETTINGS, ("uniform", "random"), seeds=2, learners=2, points=3)
ROOT = Path(__file__).parents[1]

PLAYS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_benchmark import TINY
from policies.benchmark.runs import Places, run_benchmark
run_benchmark([TINY], Places(Path({out!r}), Path({results!r})))
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """The tiny cell, played once."""
    folder = tmp_path_factory.mktemp("benchmark")
    places = Places(folder / "out", folder / "results")
    run_benchmark([TINY], places)
    return places


def figures(loss: float, family: str = "frontier rule", seeds: int = 8) -> ArmFigures:
    test = tuple(loss + 0.001 * seed for seed in range(seeds))
    centre = float(np.mean(test))
    return ArmFigures(
        family=family,
        digest="d",
        trainings=0,
        test=test,
        curve=(3.0, loss),
        tokens=100.0,
        per_run=6.0,
        once=0.0,
        loss=(centre, centre - 0.01, centre + 0.01),
        speed_up=(1.5, 1.2, 1.8),
        difference=(-0.1, -0.2, -0.05),
        p=0.01,
        verdict="better",
    )


def test_a_cell_has_every_arm_of_the_registry_unless_it_names_its_own() -> None:
    whole = replace(TINY, arms=ALL)
    assert set(arms_of(whole)) == set(ARMS)
    assert arms_of(whole)[0] == "uniform"
    assert arms_of(TINY) == ("uniform", "random")


def test_the_benchmark_covers_worlds_scenarios_and_both_sizes() -> None:
    def cells(**wanted: str) -> list[Cell]:
        return [
            cell
            for cell in CELLS.values()
            if cell.recipe.source == wanted["source"] and wanted["part"] in cell.name
        ]

    for source in ("synthetic", "pydoc", "wikispeedia"):
        for part, least in (("-distant-", 2), ("-focused-", 2), ("-noisy", 1), ("-broad", 1)):
            found = cells(source=source, part=part)
            assert len([cell for cell in found if cell.preset == "xs"]) >= least, (source, part)
    assert all(cell.seeds >= 8 for cell in CELLS.values() if cell.preset == "xs")
    assert all(cell.subject is not None for cell in CELLS.values() if cell.arms == ALL)  # controls
    trained = {
        cell.recipe.source
        for cell in CELLS.values()
        if "-distant-" in cell.name and cell.learning and cell.learning.trainings >= 3
    }
    assert len(trained) >= 2
    assert all(set(arms_of(cell)) <= set(ARMS) for cell in CELLS.values())
    small = [cell for cell in CELLS.values() if cell.preset == "s"]
    assert len({cell.recipe.region for cell in small}) >= 2
    assert all("uniform" in cell.arms and cell.seeds >= 5 for cell in small)


def test_cells_at_s_hold_the_five_arms_that_lead_the_same_regions_at_xs() -> None:
    """By the stored scores: the lowest mean loss of those that nobody trained or recorded."""
    small = [cell for cell in CELLS.values() if cell.preset == "s"]
    scores = [
        read_score(ROOT / "docs" / "results" / f"{cell.name.removesuffix('-s')}.json")
        for cell in small
    ]
    losses = {
        arm: np.mean([np.mean(score.arms[arm].test) for score in scores])
        for arm, figures in scores[0].arms.items()
        if figures.family not in ("reference", "control", "learned")
    }
    leading = sorted(losses, key=losses.__getitem__)[:5]
    assert all(set(cell.arms) == {"uniform", *leading} for cell in small)


def test_a_name_that_is_no_cell_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["benchmark", "--cells", "wiki-nowhere", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "wiki-nowhere" in told
    assert "synthetic-broad" in told
    assert not out.exists()


def test_patterns_choose_cells_in_the_order_of_the_table() -> None:
    found = [cell.name for cell in chosen(["*-broad", "synthetic-noisy"])]
    assert set(found) == {
        "wikispeedia-broad",
        "synthetic-noisy",
        "synthetic-broad",
        "pydoc-broad",
    }
    assert found == [name for name in CELLS if name in found]


def test_the_list_says_which_cells_need_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--cells", "*-broad", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    needing = [line.split()[0] for line in lines if "needs --data" in line]
    assert needing == ["wikispeedia-broad"]


def test_a_cell_without_its_data_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "--cells", "wikispeedia-broad", "--out", str(tmp_path / "out")]
    assert main([*words, "--results", str(tmp_path / "results")]) == 0
    assert "wikispeedia-broad: left out" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_a_directory_that_was_planned_in_can_be_played_in(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "out"):
            (tmp_path / "out" / "paces").mkdir(exist_ok=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="did not make"), claimed(tmp_path / "other"):
        pass


def test_a_played_cell_has_all_that_the_table_says_of_it(played: Places) -> None:
    score = read_score(played.score(TINY))
    assert list(score.arms) == ["uniform", "random"]
    tokens = 3 * 1 * 4 * 32  # steps, updates, windows, tokens of a window of xxs
    for arm in score.arms.values():
        assert len(arm.test) == 2
        assert arm.tokens == tokens
        assert len(arm.curve) == len(score.moments)
    assert score.arms["random"].family == "frontier rule"
    assert score.arms["uniform"].difference is None
    assert score.made_by["command"] == "kncl-policy benchmark --cells tiny --out DIR"
    best = min(score.arms, key=lambda arm: sum(score.arms[arm].test))
    assert score.placing.winner == best
    assert played.score(TINY).stat().st_size < 200_000


def test_a_cell_that_has_its_score_is_not_played_again(played: Places) -> None:
    before = played.score(TINY).read_bytes()
    cell_folders = list((played.out / "cells").iterdir())
    told: list[bool] = []
    run_benchmark([TINY], played, on_score=lambda score, found: told.append(found))
    assert told == [True]
    assert played.score(TINY).read_bytes() == before
    assert list((played.out / "cells").iterdir()) == cell_folders


def _refuses(env: TopicExpansionEnv, rng: np.random.Generator) -> Player:
    raise ValueError("expected a target apart from the rest, got every topic")


def test_an_arm_that_a_world_has_nothing_for_is_left_out_with_its_reason(
    played: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "needs", Listed(_refuses, "selection", "It needs a target."))
    world = World.open(played.world(RECIPE))
    names, refused = playable(world, Settings.of(**SETTINGS), ["uniform", "needs", "random"])
    assert names == ["uniform", "random"]
    assert refused == {"needs": "expected a target apart from the rest, got every topic"}


def test_another_cell_world_or_arm_has_another_identity() -> None:
    first = identity_of(TINY, "a")
    assert first == identity_of(replace(TINY), "a")
    assert first != identity_of(TINY, "b")
    assert first != identity_of(replace(TINY, seeds=3), "a")
    assert first != identity_of(replace(TINY, arms=("uniform", "degree")), "a")
    assert first != identity_of(replace(TINY, settings={**SETTINGS, "steps": 4}), "a")


def test_a_score_that_was_edited_is_refused_before_any_work(played: Places, tmp_path: Path) -> None:
    card = json.loads(played.score(TINY).read_text())
    card["arms"]["random"]["test"][0] -= 0.1
    (tmp_path / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"tiny\.json.*edited or damaged.*play the cell again"):
        read_score(tmp_path / "tiny.json")
    with pytest.raises(ValueError, match="edited or damaged"):
        run_benchmark([TINY], Places(tmp_path / "out", tmp_path))
    assert not (tmp_path / "out").exists()
    del card["seal"]
    (tmp_path / "tiny.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="found none"):
        read_score(tmp_path / "tiny.json")


def test_a_score_that_lacks_anything_or_has_it_of_another_kind_is_one_clear_error(
    played: Places, tmp_path: Path
) -> None:
    whole = json.loads(played.score(TINY).read_text())

    def holes(value: object) -> Iterator[object]:
        """The same with a field left out, and with one that is a number."""
        if not isinstance(value, dict):
            return
        for name, inner in value.items():
            rest = {key: own for key, own in value.items() if key != name}
            yield rest
            yield {**rest, name: -1}
            yield from ({**rest, name: hole} for hole in holes(inner))

    said = []
    for hole in holes({name: own for name, own in whole.items() if name != "seal"}):
        (tmp_path / "tiny.json").write_text(json.dumps(sealed(hole)))
        try:
            score = read_score(tmp_path / "tiny.json")
        except ValueError as error:
            said.append(str(error))
        else:  # what no page shows: versions, settings of the learner
            page_of({"tiny": score}, {"tiny": TINY})
    assert len(said) > 100
    assert all("tiny.json" in line for line in said)


def test_a_score_under_the_name_of_another_cell_is_refused(played: Places, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_bytes(played.score(TINY).read_bytes())
    with pytest.raises(ValueError, match="expected the score of other"):
        read_score(tmp_path / "other.json")


def test_a_benchmark_killed_in_the_middle_goes_on_to_the_same_bytes(
    played: Places, tmp_path: Path
) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    out.mkdir()
    shutil.copy(played.out / "config.json", out)
    shutil.copytree(played.out / "worlds", out / "worlds")  # what is built is not the question
    names = {"tests": str(ROOT / "tests"), "out": str(out), "results": str(results)}
    words = [sys.executable, "-c", PLAYS.format(**names)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # A cache of its own, so that the nucleus phase is a part of what is killed.
    environment = {**os.environ, "PYTHONPATH": path, "KNCL_CACHE": str(tmp_path / "cache")}
    child = subprocess.Popen(words, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        journals = (out / "cells").glob("*/evaluation/episodes.jsonl")
        lines = [file.read_bytes().count(b"\n") for file in journals]
        if lines and lines[0] >= 2:  # a head, and an episode
            break
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert lines, "it was to be killed among its episodes"
    run_benchmark([TINY], Places(out, results))
    assert (results / "tiny.json").read_bytes() == played.score(TINY).read_bytes()


def test_a_cell_with_learning_plays_clones_trainings_fresh_policies_and_controls(
    played: Places, tmp_path: Path
) -> None:
    learning = Learning(
        trainings=2, scratch=1, cloned=1, walks=60, iterations=1, episodes=2, learning_rate=1e-3
    )
    cell = replace(TINY, name="taught", learning=learning, subject="learned")
    places = Places(played.out, tmp_path / "results")  # the same world
    (score,), left_out = run_benchmark([cell], places)
    assert left_out == []
    arms = score.arms
    assert list(arms)[:2] == ["uniform", "random"]
    assert {"cloned", "learned", "scratch", "shuffle", "static-final", "rewired"} <= set(arms)
    assert arms["shuffle"].family == "control"
    assert arms["learned"].trainings == 2
    assert len(arms["learned"].digest.split(",")) == 2  # each was trained by itself
    # Two episodes of PPO cost two episodes at least, beside the clone that they began with.
    episode = arms["uniform"].per_run
    assert arms["learned"].once > 2 * episode
    assert 0 < arms["cloned"].once < arms["learned"].once
    assert score.duels[0].against == "uniform"
    assert "shuffle" in [one.against for one in score.controls]
    assert any("learner seeds" in lack for lack in score.lacks)
    assert read_score(places.score(cell)) == score


def test_who_came_first_is_told_by_hand_made_losses() -> None:
    near, first = [1.5, 1.51] * 4, [1.4, 1.42] * 4
    tests = {"uniform": [2.0, 2.1] * 4, "near": near, "first": first, "told": [1.0] * 8}
    families = {"uniform": "independent", "near": "selection", "first": "bandit"}
    found = placing(tests, {**families, "told": "reference"})
    assert (found.winner, found.runner_up, found.among) == ("first", "near", 3)
    assert found.ahead[0] == pytest.approx(-0.095)
    # No flip but none and all of them leaves as large a t: 2 of 256.
    assert found.p == pytest.approx(2 / 256)
    assert found.shown


def test_a_policy_that_comes_first_needs_trainings_that_agree() -> None:
    tests = {"rule": [2.0, 2.1] * 4, "learned": [1.5, 1.61] * 4}
    families = {"rule": "frontier rule", "learned": "learned"}
    once = placing(tests, families, {"learned": ["a"] * 8})
    assert once.p == 1.0
    agreed = placing(tests, families, {"learned": ["a", "a", "b", "b", "c", "c", "a", "b"]})
    assert agreed.shown
    rival = placing({**tests, "rule": [1.0, 1.1] * 4}, families, {"learned": ["a"] * 8})
    assert rival.winner == "rule"
    assert rival.shown


def test_how_far_a_policy_is_ahead_has_an_interval_over_its_trainings() -> None:
    taken = [*"abcabcab"]
    learned = [{"a": 1.2, "b": 1.5, "c": 1.8}[name] + 0.01 * i for i, name in enumerate(taken)]
    tests = {"rule": [2.0, 2.1] * 4, "learned": learned}
    families = {"rule": "frontier rule", "learned": "learned"}
    seeds, trainings = (placing(tests, families, told) for told in ({}, {"learned": taken}))
    assert seeds.ahead[0] == trainings.ahead[0]
    assert trainings.ahead[2] - trainings.ahead[1] > 1.5 * (seeds.ahead[2] - seeds.ahead[1])


def test_five_seeds_show_no_winner_whatever_comes_out() -> None:
    found = placing(
        {"a": [1.0] * 5, "b": [2.0, 2.1, 2.2, 2.3, 2.4]}, {"a": "bandit", "b": "bandit"}
    )
    assert found.p == pytest.approx(2 / 32)
    assert not found.shown


def test_p_of_all_pairs_is_what_enumerating_flips_gives() -> None:
    losses = np.random.default_rng(0).normal(size=(4, 6)) + np.array([[0.0], [0.2], [0.9], [2.0]])

    def t(pair: np.ndarray) -> float:
        return abs(pair.mean()) / (pair.std(ddof=1) / np.sqrt(6))

    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    largest = [
        max(t(np.array(flip) * (losses[i] - losses[j])) for i, j in pairs)
        for flip in product((1, -1), repeat=6)
    ]
    found = pairwise_p(losses)
    for i, j in pairs:
        own = t(losses[i] - losses[j])
        assert found[i, j] == pytest.approx(np.mean(np.array(largest) >= own - 1e-9))


def test_equal_arms_seldom_show_a_winner_and_a_clear_one_is_found() -> None:
    rng = np.random.default_rng(1)
    found = [pairwise_p(rng.normal(size=(6, 8))).min() < 0.05 for _ in range(200)]
    assert np.mean(found) <= 0.07
    ahead = np.zeros((30, 1))
    ahead[0] = -8.0
    clear = [pairwise_p(rng.normal(size=(30, 8)) + ahead)[0, 1:].max() < 0.05 for _ in range(5)]
    assert all(clear)


def test_eight_seeds_can_show_something_of_sixty_arms_against_uniform() -> None:
    rng = np.random.default_rng(2)
    arms = ["uniform", *(f"arm-{i}" for i in range(60)), "shuffle"]
    families = dict.fromkeys(arms, "selection") | {"arm-0": "reference", "shuffle": "control"}

    def shown(better: float) -> set[str]:
        tests = {arm: rng.normal(size=8) for arm in arms}
        tests["arm-0"] = tests["uniform"] - better + 0.1 * rng.normal(size=8)
        found = against_uniform({a: [*own] for a, own in tests.items()}, families)
        assert set(found) == {*arms} - {"uniform", "shuffle"}
        assert min(p for p, _ in found.values()) >= 2 / 2**8
        return {arm for arm, (_, word) in found.items() if word in ("better", "worse")}

    assert shown(2.0) == {"arm-0"}
    assert sum(bool(shown(0.0)) for _ in range(200)) <= 14  # at most 7 %
    # The same p as that of the pair alone, where there is one arm.
    one, other = rng.normal(size=(2, 8))
    pair = {"uniform": [*one], "arm-1": [*other]}
    ((p, word),) = against_uniform(pair, families).values()
    assert p == pairwise_p([one, other])[0, 1]
    assert word == worded(p, float(other.mean() - one.mean()), 8)
    assert [worded(p, mean, n) for p, mean, n in ((0.01, -1, 8), (0.01, 1, 8), (0.1, 1, 5))] == [
        "better",
        "worse",
        "too few seeds",
    ]


def test_the_page_names_the_winner_among_all_and_the_cells_that_are_missing() -> None:
    cells = {"tiny": TINY, "other": replace(TINY, name="other")}
    arms = {
        "uniform": replace(figures(2.5, "independent"), difference=None, p=None),
        "rule": figures(2.4),
        "knn": figures(2.3, "selection"),
        "learned": replace(figures(2.45, "learned"), trainings=3),
        "target-text": figures(2.0, "reference"),
    }
    tests = {arm: own.test for arm, own in arms.items()}
    families = {arm: own.family for arm, own in arms.items()}
    score = Score(
        cell={**TINY.to_json(), "subject": "learned"},
        identity="i",
        world={
            "source": "s",
            "licence": "l",
            "hash": "0" * 64,
            "build": "kncl-env build",
            "counts": {"topics": 24, "tokens": 9},
        },
        made_by={"command": "c", "commit": "abc", "torch": "2", "machine": "m"},
        moments=(0.0, 100.0),
        arms=arms,
        placing=placing(tests, families),
        duels=(
            Duel("the best selection method", "knn", (0.15, 0.14, 0.16), 0.01, "worse"),
            Duel("uniform", "uniform", (-0.05, -0.06, -0.04), 0.01, "better"),
        ),
        controls=(Duel("shuffle", "shuffle", (0.0, -0.01, 0.01), 0.8, "no difference shown"),),
        lacks=("8 learner seeds",),
    )
    page = page_of({"tiny": score}, cells)
    assert "**knn** (selection) has the lowest final loss of all 4 arms that compete" in page
    assert "0.1000 [0.1000, 0.1000] above it" in page
    # A policy that lost is told to have lost.
    assert "- against the best selection method, knn: +0.1500 [+0.1400, +0.1600]" in page
    assert "p = 0.01: worse" in page
    assert "- control *shuffle*: +0.0000" in page
    assert "an estimate, no headline: it lacks 8 learner seeds" in page
    assert "| learned, 3 trainings |" in page
    assert "## Not played yet" in page
    assert "- other: `kncl-policy benchmark --cells other --out DIR`" in page
    assert "| target-text |" in page
    assert page == page_of({"tiny": score}, cells)


def test_the_table_in_the_repository_is_what_the_stored_scores_give(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for file in (ROOT / "docs" / "results").glob("*.json"):
        (results / file.name).write_bytes(file.read_bytes())
    page = write_page(results)
    assert page == tmp_path / "RESULTS.md"
    assert page.read_bytes() == (ROOT / "docs" / "RESULTS.md").read_bytes()
    assert write_page(results) == page, "its own page it replaces"
    page.write_text("my results\n")
    with pytest.raises(FileExistsError, match="something that this command made"):
        write_page(results)
    assert page.read_text() == "my results\n"


def test_a_folder_of_scores_that_there_is_not_makes_no_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "--table", "--results", str(tmp_path / "typo" / "results")]
    assert main(words) == 2
    assert "expected stored scores in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_score_of_no_cell_is_not_passed_over(played: Places) -> None:
    with pytest.raises(ValueError, match=r"tiny\.json: no cell is called that"):
        write_page(played.results)

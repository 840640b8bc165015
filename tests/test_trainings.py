"""Several trainings of one policy: they are the sample, however many episodes each plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from policies.verdict.scores import ArmRun, summarise
from policies.verdict.statistics import (
    cluster_bootstrap_ci,
    cluster_test,
    iqm,
    mean,
    performance_band,
    performance_profile,
    split_halves,
)
from policies.verdict.summary import Standing, Summary


def run(arm: str, seed: int, final: float, **about: object) -> ArmRun:
    about = {"family": "frontier rule", "learner_seed": seed} | about
    loss = np.array([4.0, (4 + final) / 2, final])
    return ArmRun(arm, seed, np.array([0, 1000, 2000]), loss, 4.0, final, **about)  # type: ignore[arg-type]


def table(n: int = 9, trainings: int = 3, gap: float = -0.1, spread: float = 0.0) -> list[ArmRun]:
    """`uniform`, a rule, a selection method and a policy of some trainings `gap` below uniform."""
    rng = np.random.default_rng(0)
    base = 3 + 0.02 * rng.normal(size=n)
    effect = spread * rng.normal(size=trainings)
    runs = []
    for seed in range(n):
        noise = 0.005 * rng.normal(size=3)
        k = seed % trainings
        runs += [
            run("uniform", seed, base[seed], family="independent"),
            run("rule", seed, base[seed] - 0.03 + noise[0]),
            run("dsir", seed, base[seed] - 0.02 + noise[1], family="selection"),
            run(
                "learned",
                seed,
                base[seed] + gap + effect[k] + noise[2],
                family="learned",
                training=f"training {k}",
            ),
        ]
    return runs


def summary_of(runs: Sequence[ArmRun], subject: str | None = "learned") -> Summary:
    return summarise(runs, subject=subject, rng=np.random.default_rng(0), reps=60)


def test_the_test_of_trainings_is_students_on_their_means() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        values, clusters = rng.normal(size=12), [i % 4 for i in range(12)]
        means = [values[k::4].mean() for k in range(4)]
        assert cluster_test(values, clusters) == pytest.approx(stats.ttest_1samp(means, 0.0).pvalue)


def test_more_episodes_of_one_training_say_nothing_of_trainings() -> None:
    assert cluster_test([-1.0, -1.1, -0.9], ["a"] * 3) == 1.0
    assert cluster_test([-1.0, -1.0], ["a", "b"]) == 0.0
    assert cluster_test([0.0, 0.0], ["a", "b"]) == 1.0
    few, many = [-1.0, -0.4, -0.9], [-1.0, -0.4, -0.9] * 20
    assert cluster_test(few, "abc") == pytest.approx(cluster_test(many, "abc" * 20))
    with pytest.raises(ValueError, match="a cluster for each"):
        cluster_test([1.0], "ab")


def test_under_no_effect_trainings_reject_as_often_as_they_say() -> None:
    """A policy of no effect on average, whose trainings differ: flips of seeds alone are fooled."""
    rng = np.random.default_rng(2)
    clusters = [i % 3 for i in range(12)]
    wrong = 0
    for _ in range(1000):
        effect = 0.2 * rng.normal(size=3)
        values = [effect[k] + 0.05 * rng.normal() for k in clusters]
        wrong += cluster_test(values, clusters) < 0.05
    assert 0.03 <= wrong / 1000 <= 0.07


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_an_interval_over_trainings_covers_the_truth_about_as_often_as_it_says(
    statistic: object,
) -> None:
    rng = np.random.default_rng(3)
    clusters = [i % 4 for i in range(12)]
    hits = 0
    for _ in range(150):
        effect = 0.2 * rng.normal(size=4)
        values = [3 + effect[k] + 0.05 * rng.normal() for k in clusters]
        low, high = cluster_bootstrap_ci(values, clusters, statistic, rng, reps=60)  # type: ignore[arg-type]
        hits += low <= 3 <= high
    assert 0.89 <= hits / 150 <= 1.0


def test_one_training_gives_no_interval_over_trainings() -> None:
    found = cluster_bootstrap_ci([1.0, 2.0], ["a", "a"], mean, np.random.default_rng(0))
    assert np.isnan(found).all()
    with pytest.raises(ValueError, match="expected 0 < level < 1"):
        cluster_bootstrap_ci([1.0, 2.0], "ab", mean, np.random.default_rng(0), level=1.0)


def test_trainings_that_differ_make_a_wide_interval_and_no_verdict() -> None:
    alike, apart = (summary_of(table(spread=spread)) for spread in (0.0, 0.15))
    narrow, wide = (s.arms["learned"].difference for s in (alike, apart))
    assert alike.arms["learned"].verdict == "better"
    assert apart.arms["learned"].verdict == "no difference shown"
    assert wide.mean.high - wide.mean.low > 5 * (narrow.mean.high - narrow.mean.low)
    # Taken for nine independent runs, the same numbers would have been called better.
    taken = [replace(r, training="one") if r.arm == "learned" else r for r in table(spread=0.15)]
    assert summary_of(taken).arms["learned"].verdict == "better"
    assert alike.arms["learned"].trainings == 3
    assert alike.arms["rule"].trainings == 0


def test_two_policies_of_several_trainings_are_no_more_clusters_than_either_has() -> None:
    runs = [one for one in table(12, trainings=3) if one.arm != "learned"]
    rng, n = np.random.default_rng(1), 12
    effect = {"a": 0.05 * rng.normal(size=3), "b": 0.05 * rng.normal(size=2)}
    finals = {
        arm: np.array([own[s % len(own)] for s in range(n)]) + 2.9 + 0.001 * rng.normal(size=n)
        for arm, own in effect.items()
    }
    finals["a"] -= 0.1
    runs += [
        run(arm, s, own[s], family="learned", training=f"{arm}{s % len(effect[arm])}")
        for arm, own in finals.items()
        for s in range(n)
    ]
    found = summary_of(runs, "a").contest
    assert found is not None
    assert found.rival == "b"
    gaps = finals["a"] - finals["b"]
    least = [cluster_test(gaps, [s % k for s in range(n)]) for k in (2, 3)]
    assert found.difference.p >= max(least)
    # The six pairs of trainings are no six that were drawn apart.
    assert cluster_test(gaps, [s % 6 for s in range(n)]) < max(least) / 2


def test_learners_that_seeds_share_are_clusters_where_a_headline_speaks_of_them() -> None:
    def p(learners: int) -> float:
        rng = np.random.default_rng(2)
        runs, effect = [], 0.02 * rng.normal(size=16) - 0.01
        for seed in range(16):
            gap = effect[seed % 8] + 1e-4 * rng.normal()
            about = {"learner_seed": seed % learners}
            runs.append(run("uniform", seed, 3.0, family="independent", **about))
            runs.append(run("rule", seed, 3.0 + gap, **about))
        difference = summary_of(runs, None).arms["rule"].difference
        assert difference is not None
        values = [difference.mean.values[i] for i in range(16)]
        assert learners != 8 or difference.p >= cluster_test(values, [*range(8)] * 2)
        return difference.p

    assert p(16) == p(4)  # of these four alone, an estimate
    assert p(8) > 2 * p(16)


def test_the_gap_that_is_closed_has_an_interval_over_trainings() -> None:
    text = [run("target-text", s, 2.7 + 0.001 * s, family="reference") for s in range(9)]
    runs = [*table(9, spread=0.05), *text]

    def width(runs: list[ArmRun]) -> float:
        rng = np.random.default_rng(0)
        gap = summarise(runs, target_text="target-text", rng=rng, reps=200).arms["learned"]
        assert gap.gap_closed is not None
        assert gap.gap_closed.low is not None
        assert gap.gap_closed.high is not None
        return gap.gap_closed.high - gap.gap_closed.low

    assert width(runs) > 2 * width([replace(one, training="") for one in runs])


def test_a_headline_needs_learner_seeds_trainings_and_every_named_comparison() -> None:
    assert summary_of(table()).standing == Standing(9, 3, ())
    assert summary_of(table()).standing.lacks == ()
    cases = {
        "8 learner seeds, of which there is 1 (--inits 8)": [
            replace(r, learner_seed=0) for r in table()
        ],
        "3 trainings of the policy, of which there are 2 (--trainings NAME=A,B,C)": table(
            trainings=2
        ),
        "a selection method among the arms": [r for r in table() if r.arm != "dsir"],
    }
    for lacking, runs in cases.items():
        assert summary_of(runs).standing.lacks == (lacking,)
    # A rule was not trained: nothing is asked of its trainings.
    rule = summary_of(table(), "rule").standing
    assert rule.trainings is None
    assert rule.lacks == ("a hand-made rule among the arms",)


def test_the_named_comparisons_are_corrected_for_their_number() -> None:
    found = summary_of([replace(r, training="") for r in table()])
    against = {one.against: one.contest for one in found.comparisons}
    assert {words: c.rival for words, c in against.items()} == {
        "uniform": "uniform",
        "the best hand-made rule": "rule",
        "the best selection method": "dsir",
    }
    for contest in against.values():
        assert contest.difference.p == pytest.approx(3 * 2 / 2**9)
        assert contest.difference.smallest_p == pytest.approx(3 * 2 / 2**9)
        assert contest.verdict == "better"


def test_controls_are_no_rivals_and_are_corrected_among_themselves() -> None:
    runs = [replace(r, training="") for r in table()]
    for seed in range(9):
        own = next(r.test_after for r in runs if r.arm == "learned" and r.seed == seed)
        runs.append(run("shuffle", seed, own - 0.01, family="control"))
        runs.append(run("yoked", seed, own + 0.05, family="control"))
    found = summary_of(runs)
    assert found.contest.rival == "rule"
    told = {c.rival: (c.verdict, c.difference.p) for c in found.controls}
    p = pytest.approx(2 * 2 / 2**9)
    assert told == {"shuffle": ("worse", p), "yoked": ("better", p)}
    # And the other arms are corrected for no more than they were.
    alone = summary_of([r for r in runs if r.family != "control"])
    for arm in ("rule", "dsir", "learned"):
        assert found.arms[arm].difference.p == alone.arms[arm].difference.p


def test_what_is_said_of_the_subject_comes_back_from_its_file() -> None:
    found = summary_of(table())
    assert Summary.from_json(found.to_json()).to_json() == found.to_json()
    assert found.to_json()["standing"]["headline"] is True  # type: ignore[index]
    assert found.noise_floor > 0


def test_runs_that_do_not_tell_their_learners_are_judged_as_ever() -> None:
    found = summary_of([replace(r, learner_seed=None) for r in table()])
    assert (found.standing, found.comparisons, found.noise_floor) == (None, (), None)


def test_a_profile_counts_the_scores_that_are_at_least_a_level() -> None:
    rng = np.random.default_rng(4)
    scores, levels = rng.integers(0, 5, 40).astype(float), np.linspace(-1, 6, 29)
    expected = [np.mean([score >= level for score in scores]) for level in levels]
    assert performance_profile(scores, levels) == pytest.approx(expected)
    low, high = performance_band(scores, levels, rng, reps=200)
    assert (low <= performance_profile(scores, levels)).all()
    assert (performance_profile(scores, levels) <= high).all()
    assert low[0] == high[0] == 1.0
    with pytest.raises(ValueError, match="none of them nan"):
        performance_profile([np.nan], levels)


def test_a_profiles_band_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(100):
        low, high = performance_band(rng.random(30), [0.5], rng, reps=60)
        hits += low[0] <= 0.5 <= high[0]
    assert 0.86 <= hits / 100 <= 1.0


def test_halves_are_all_ways_to_split_the_runs() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    expected = [
        np.mean([values[i] for i in own])
        - np.mean([v for i, v in enumerate(values) if i not in own])
        for own in combinations(range(4), 2)
    ]
    found = split_halves(values, np.random.default_rng(0))
    assert sorted(found.tolist()) == pytest.approx(sorted(expected))
    odd = split_halves([1.0, 2.0, 4.0], np.random.default_rng(0), reps=500)
    assert set(np.round(odd, 9)) == {a - b for a, b in product((1.0, 2.0, 4.0), repeat=2)} - {0.0}
    with pytest.raises(ValueError, match="two values or more"):
        split_halves([1.0], np.random.default_rng(0))

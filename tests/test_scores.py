"""Known answers for the score table."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from policies.verdict.scores import (
    ArmRun,
    area_under_curve,
    gap_closed,
    seeds_needed,
    speed_over,
    summarise,
    tokens_ratio,
    tokens_to_reach,
    verdict,
)
from policies.verdict.statistics import (
    holm,
    iqm,
    mean,
    paired_bootstrap_ci,
    paired_difference,
    permutation_test,
    probability_of_improvement,
    smallest_p,
    stratified_bootstrap_ci,
)
from policies.verdict.summary import Difference, Interval


def run(
    arm: str, seed: int, loss: list[float], test: float | None = None, **rest: object
) -> ArmRun:
    tokens = np.arange(len(loss)) * 1000
    return ArmRun(arm, seed, tokens, np.array(loss), 4.0, test or loss[-1], **rest)  # type: ignore[arg-type]


def seeds_of(arm: str, finals: list[float]) -> list[ArmRun]:
    return [run(arm, seed, [4.0, (4 + f) / 2, f]) for seed, f in enumerate(finals)]


# Eight pairs: the least p of two comparisons is 2/256 twice, which still says something.
UNIFORM = [3.00, 3.02, 2.98, 3.01, 2.99, 3.02, 2.97, 3.00]
BETTER = [2.90, 2.93, 2.88, 2.90, 2.88, 2.91, 2.88, 2.89]


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
def test_iqm_is_the_quarter_trimmed_mean_of_scipy(n: int) -> None:
    x = np.random.default_rng(n).exponential(size=n)
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25))


def test_iqm_ignores_one_outlier_among_four() -> None:
    assert iqm([1.0, 2.0, 3.0, 1000.0]) == 2.5


def test_constant_scores_have_an_interval_without_width() -> None:
    low, high = stratified_bootstrap_ci([2.0] * 5, mean, np.random.default_rng(0))
    assert (low, high) == (2.0, 2.0)


def test_one_run_has_no_interval() -> None:
    low, high = stratified_bootstrap_ci([2.0], mean, np.random.default_rng(0))
    assert math.isnan(low)
    assert math.isnan(high)


def test_the_generator_decides_the_interval() -> None:
    x = np.random.default_rng(0).normal(size=7)
    one, same, other = (
        stratified_bootstrap_ci(x, mean, np.random.default_rng(seed), reps=200)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_plain_interval_stays_within_the_data_and_the_widened_one_holds_it() -> None:
    x = [1.0, 2.0, 4.0]
    plain = stratified_bootstrap_ci(x, mean, np.random.default_rng(0), widen=False)
    wide = stratified_bootstrap_ci(x, mean, np.random.default_rng(0))
    assert 1.0 <= plain[0] <= plain[1] <= 4.0
    assert wide[0] < plain[0]
    assert wide[1] > plain[1]


@pytest.mark.parametrize("n", [2, 3, 4, 9, 30])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_resamples_drawn_at_once_are_those_drawn_one_after_another(
    n: int, statistic: Callable[[np.ndarray], float]
) -> None:
    x = np.random.default_rng(n).normal(size=n) * 3
    ends = [
        stratified_bootstrap_ci(x, how, np.random.default_rng(1), reps=99)
        for how in (statistic, lambda rows: statistic(rows))
    ]
    assert ends[0] == ends[1]


def test_strata_are_resampled_apart() -> None:
    # Were runs of one task to stand in for the other's, the mean would move; here it cannot.
    table = np.array([[0.0, 100.0]] * 6)
    assert stratified_bootstrap_ci(table, mean, np.random.default_rng(0)) == (50.0, 50.0)


def test_rows_of_a_paired_bootstrap_stay_together() -> None:
    seed_effect = np.random.default_rng(0).normal(size=6) * 100
    columns = np.stack([seed_effect, seed_effect + 1], axis=1)
    low, high = paired_bootstrap_ci(
        columns, lambda x: mean(x[:, 1] - x[:, 0]), np.random.default_rng(0)
    )
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("statistic", [mean, iqm])
def test_widened_interval_covers_the_truth_as_often_as_it_says(n: int, statistic: object) -> None:
    rng = np.random.default_rng(n)
    trials = 400
    hits = 0
    for _ in range(trials):
        x = rng.normal(loc=3.0, size=n)
        low, high = stratified_bootstrap_ci(x, statistic, rng, reps=150)  # type: ignore[arg-type]
        hits += low <= 3.0 <= high
    # 150 repetitions instead of 2000 cost a little; the plain interval reaches 0.75 at n = 3.
    assert 0.91 <= hits / trials <= 0.995


def test_paired_difference_finds_what_unpaired_spread_hides() -> None:
    rng = np.random.default_rng(0)
    seed_effect = rng.normal(size=6)
    a = seed_effect - 0.1 + rng.normal(scale=0.01, size=6)
    centre, low, high = paired_difference(a, seed_effect, rng)
    assert low < centre < high < 0
    assert -0.13 < centre < -0.07


def test_separated_five_against_five_have_the_smallest_possible_p() -> None:
    a, b = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]
    assert permutation_test(a, b, paired=True) == 1 / 2**5
    assert permutation_test(a, b, paired=False) == 1 / math.comb(10, 5)
    assert permutation_test(b, a, paired=True) == 1.0
    assert permutation_test(b, a, paired=False) == 1.0


def test_equal_arms_have_p_one() -> None:
    assert permutation_test([1.0, 2.0], [1.0, 2.0], paired=True) == 1.0
    assert permutation_test([1.0, 1.0], [1.0, 1.0], paired=False) == 1.0


def test_sampled_p_agrees_with_the_enumerated_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=12)
    y = x + rng.normal(loc=0.3, size=12)
    exact = permutation_test(x, y, paired=True)
    # A thirteenth pair that is equal changes no sum, only the way of counting.
    sampled = permutation_test([*x, 0.0], [*y, 0.0], paired=True, rng=rng, reps=20_000)
    assert sampled == pytest.approx(exact, abs=0.01)


def test_sampled_unpaired_p_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=12), rng.normal(loc=0.5, size=12)
    ours = permutation_test(x, y, paired=False, rng=rng, reps=20_000)
    theirs = stats.permutation_test(
        (x, y),
        lambda a, b: a.mean() - b.mean(),
        alternative="less",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)


def test_too_many_pairs_without_a_generator_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a generator"):
        permutation_test(np.zeros(13), np.ones(13), paired=True)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="pair runs by seed"):
        permutation_test([1.0], [1.0, 2.0], paired=True)


def test_probability_of_improvement_counts_lower_losses_and_half_the_ties() -> None:
    assert probability_of_improvement([1, 2], [3, 4]) == 1.0
    assert probability_of_improvement([3, 4], [1, 2]) == 0.0
    assert probability_of_improvement([1, 2, 3], [1, 2, 3]) == 0.5


def test_area_of_a_constant_curve_is_the_constant_however_it_is_measured() -> None:
    assert area_under_curve([0, 10, 500, 1000], [3.5] * 4) == pytest.approx(3.5)


def test_area_of_a_straight_line_is_its_middle() -> None:
    assert area_under_curve([0, 100, 1000], [4.0, 3.9, 3.0]) == pytest.approx(3.5)


def test_tokens_to_reach_interpolates_between_measurements() -> None:
    tokens, loss = [0, 100, 200], [4.0, 3.0, 2.0]
    assert tokens_to_reach(tokens, loss, 2.5) == 150
    assert tokens_to_reach(tokens, loss, 3.0) == 100
    assert tokens_to_reach(tokens, loss, 4.0) == 0
    assert tokens_to_reach(tokens, loss, 1.9) == math.inf


def test_tokens_to_reach_takes_the_first_touch_of_a_curve_that_wobbles() -> None:
    assert tokens_to_reach([0, 100, 200, 300], [4.0, 3.0, 3.5, 3.0], 3.0) == 100


def test_tokens_ratio_of_twice_as_fast_never_and_meaningless() -> None:
    base = run("uniform", 0, [4.0, 3.5, 3.0])
    assert tokens_ratio(run("a", 0, [4.0, 3.0, 2.5]), base) == 0.5
    assert tokens_ratio(run("a", 0, [4.0, 3.9, 3.8]), base) == math.inf
    assert tokens_ratio(base, base) == 1.0
    rising = run("uniform", 0, [4.0, 4.1, 4.2])
    assert math.isnan(tokens_ratio(base, rising))


def test_a_reference_that_wobbles_is_held_to_its_own_first_touch() -> None:
    base = run("uniform", 0, [4.0, 3.0, 3.2, 3.0])
    assert tokens_ratio(run("a", 0, [4.0, 3.0, 2.8, 2.6]), base) == 1.0


def test_gap_closed_runs_from_the_reference_to_the_arm_that_reads_the_target() -> None:
    assert gap_closed([3.0], [3.0], [2.0]) == 0.0
    assert gap_closed([2.0], [3.0], [2.0]) == 1.0
    assert gap_closed([3.5], [3.0], [2.0]) == -0.5
    assert math.isnan(gap_closed([3.0], [2.0], [2.0]))


def difference(centre: float, p: float, smallest: float | None = 0.01) -> Difference:
    return Difference(Interval(centre, centre - 1, centre + 1), p, smallest, 0.5)


def test_verdict_speaks_only_where_p_is_small() -> None:
    assert verdict(difference(-0.2, 0.049)) == "better"
    assert verdict(difference(0.2, 0.049)) == "worse"
    assert verdict(difference(-0.2, 0.05)) == "no difference shown"
    assert verdict(difference(0.0, 1.0)) == "no difference shown"
    assert verdict(difference(-0.2, 0.01, None)) == "better"


def test_verdict_says_where_no_outcome_could_have_shown_anything() -> None:
    assert verdict(difference(-0.2, 0.25, 0.25)) == "too few seeds"
    assert verdict(difference(-0.2, 0.05, 0.05)) == "too few seeds"


def test_holm_corrects_step_by_step() -> None:
    # By hand: 4 x 0.01, 3 x 0.015 = 0.045, 2 x 0.04 = 0.08, 1 x 0.05 raised to 0.08.
    assert holm([0.04, 0.01, 0.05, 0.015]) == pytest.approx([0.08, 0.04, 0.08, 0.045])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match=r"p values in 0\.\.1"):
        holm([1.5])


def test_holm_rejects_what_the_closed_test_of_bonferroni_rejects() -> None:
    """The closed testing principle (Marcus et al. 1976), by brute force over all intersections."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(5) ** 3
        for i, corrected in enumerate(holm(p)):
            sets = [s for n in range(1, 6) for s in combinations(range(5), n) if i in s]
            closed = max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets)
            assert corrected == pytest.approx(closed)


def test_two_sided_p_counts_both_ends() -> None:
    a, b = [1.0, 1.1, 1.2, 1.3], [2.0, 2.3, 2.1, 2.4]
    assert permutation_test(a, b, paired=True, two_sided=True) == 2 / 2**4
    assert permutation_test(b, a, paired=True, two_sided=True) == 2 / 2**4
    assert smallest_p(4) == 2 / 2**4
    assert smallest_p(13) is None


@pytest.mark.parametrize(("arms", "seeds"), [(2, 6), (3, 7), (6, 8), (12, 9)])
def test_seeds_needed_are_those_that_can_show_a_difference(arms: int, seeds: int) -> None:
    assert seeds_needed(arms) == seeds

    def words(n: int) -> set[str]:
        runs = [x for k in range(arms - 1) for x in seeds_of(f"a{k}", [2.0] * n)]
        found = summarise(
            seeds_of("uniform", [3.0] * n) + runs, rng=np.random.default_rng(0), reps=9
        )
        return {score.verdict for arm, score in found.arms.items() if arm != "uniform"}

    assert words(seeds) == {"better"}
    assert words(seeds - 1) == {"too few seeds"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1, 2, 3]}, "rise from 0"),
        ({"tokens": [0, 2, 2]}, "rise from 0"),
        ({"tokens": [0], "loss": [4.0]}, "at least two measurements"),
        ({"loss": [4.0, 3.0]}, "expected 3 values in loss"),
        ({"loss": [4.0, math.nan, 3.0]}, "got nan at measurement 1"),
        ({"test_after": math.inf}, "test_after"),
        ({"test_before": -1.0}, "test_before"),
        ({"noise_share": 1.5}, "noise_share"),
        ({"arm": " "}, "expected an arm with a name"),
    ],
)
def test_a_broken_run_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "arm": "uniform",
        "seed": 0,
        "tokens": [0, 1, 2],
        "loss": [4.0, 3.5, 3.0],
        "test_before": 4.0,
        "test_after": 3.0,
    }
    with pytest.raises(ValueError, match=message):
        ArmRun(**(good | change))  # type: ignore[arg-type]


def test_a_run_cannot_be_changed_through_the_array_it_was_built_from() -> None:
    loss = np.array([4.0, 3.0])
    made = ArmRun("uniform", 0, np.array([0, 10]), loss, 4.0, 3.0)
    loss[0] = 9.0
    assert made.loss[0] == 4.0
    with pytest.raises(ValueError, match="read-only"):
        made.loss[0] = 9.0


def test_summary_is_json_without_nan_and_the_same_for_the_same_seed() -> None:
    runs = seeds_of("uniform", UNIFORM) + seeds_of("goal", BETTER)
    one, two = (summarise(runs, rng=np.random.default_rng(3), reps=300) for _ in range(2))
    one_text, two_text = (json.dumps(x.to_json(), allow_nan=False) for x in (one, two))
    assert one_text == two_text


def test_summary_of_a_better_arm() -> None:
    runs = (
        seeds_of("uniform", UNIFORM)
        + seeds_of("goal", BETTER)
        + seeds_of("target-text", [f - 0.05 for f in BETTER])
    )
    summary = summarise(runs, target_text="target-text", rng=np.random.default_rng(0))
    goal = summary.arms["goal"]
    assert goal.verdict == "better"
    assert goal.difference.mean.centre == pytest.approx(np.mean(BETTER) - np.mean(UNIFORM))
    assert goal.difference.mean.high < 0
    assert goal.difference.p == goal.difference.smallest_p == 2 * 2 / 2**8
    assert goal.difference.probability_of_improvement == 1.0
    assert goal.test.centre == pytest.approx(iqm(BETTER))
    assert goal.test.low <= goal.test.centre <= goal.test.high
    assert goal.speed_up.low > 1
    assert goal.tokens_ratio.centre == pytest.approx(1 / goal.speed_up.centre)
    assert goal.gap_closed.centre == pytest.approx(
        (np.mean(UNIFORM) - np.mean(BETTER)) / (np.mean(UNIFORM) - np.mean(BETTER) + 0.05)
    )
    uniform = summary.arms["uniform"]
    assert uniform.verdict == "reference"
    assert uniform.difference is None
    assert uniform.speed_up.centre == 1.0
    assert summary.arms["target-text"].gap_closed is None
    assert summary.budget_tokens == 2000
    assert summary.seeds == tuple(range(8))


def test_a_run_that_never_arrives_is_counted_and_pulls_the_speed_up_to_zero() -> None:
    goal = [*seeds_of("goal", BETTER[:7]), run("goal", 7, [4.0, 3.9, 3.8])]
    summary = summarise(seeds_of("uniform", UNIFORM) + goal, rng=np.random.default_rng(0))
    found = summary.arms["goal"]
    assert found.never == 1
    assert found.tokens_ratio.values[7] == math.inf
    assert found.speed_up.values[7] == 0.0
    assert found.speed_up.low >= 0.0
    assert found.verdict == "no difference shown"


def test_an_arm_that_never_arrives_has_no_finite_ratio() -> None:
    runs = seeds_of("uniform", UNIFORM) + seeds_of("random", [f + 0.1 for f in UNIFORM])
    found = summarise(runs, rng=np.random.default_rng(0)).arms["random"]
    assert found.verdict == "worse"
    assert found.speed_up.centre == 0.0
    assert found.tokens_ratio.centre is None
    assert found.never == 8


def test_equal_arms_show_no_difference() -> None:
    summary = summarise(
        seeds_of("uniform", UNIFORM) + seeds_of("random", UNIFORM), rng=np.random.default_rng(0)
    )
    found = summary.arms["random"]
    assert found.verdict == "no difference shown"
    assert found.difference.p == 1.0
    assert found.speed_up.centre == 1.0


def test_one_seed_never_shows_a_difference() -> None:
    summary = summarise(
        seeds_of("uniform", [3.0]) + seeds_of("goal", [2.0]), rng=np.random.default_rng(0)
    )
    assert summary.arms["goal"].verdict == "too few seeds"
    assert summary.arms["goal"].difference.mean.low is None


def words_of(repeats: int, shift: float, n: int, arms: int = 1) -> list[list[str]]:
    """Verdicts on `arms` arms below the reference by `shift`, noise of 0.1 and a shared seed."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(repeats):
        base = 3 + 0.1 * rng.normal(size=n)
        runs = seeds_of("uniform", list(base + 0.1 * rng.normal(size=n)))
        for k in range(arms):
            runs += seeds_of(f"a{k}", list(base - shift + 0.1 * rng.normal(size=n)))
        scores = summarise(runs, rng=rng, reps=2).arms
        found.append([scores[f"a{k}"].verdict for k in range(arms)])
    return found


@pytest.mark.parametrize(("n", "arms"), [(8, 1), (10, 5)])
def test_the_same_arm_under_other_names_is_seldom_called_different(n: int, arms: int) -> None:
    words = words_of(200, 0.0, n, arms)
    wrong = [any(w in ("better", "worse") for w in row) for row in words]
    assert np.mean(wrong) <= 0.07


def test_a_planted_improvement_of_five_percent_is_found() -> None:
    # 0.15 of 3.0 bits per byte, the noise of a pair being 0.14: eight pairs find it by Student's
    # test in 74 of 100 experiments, and so do sign flips.
    words = [row[0] for row in words_of(200, 0.15, 8)]
    assert "worse" not in words
    assert 0.62 <= words.count("better") / len(words) <= 0.86


def test_three_seeds_call_nothing_better() -> None:
    assert {row[0] for row in words_of(50, 1.0, 3)} == {"too few seeds"}


def test_the_subject_is_compared_with_its_strongest_rival() -> None:
    rule = [f - 0.05 for f in BETTER]
    runs = [
        *seeds_of("uniform", UNIFORM),
        *seeds_of("goal", BETTER),
        *seeds_of("rule", rule),
        *seeds_of("target-text", [f - 0.3 for f in BETTER]),
    ]
    found = summarise(
        runs, target_text="target-text", subject="goal", rng=np.random.default_rng(0)
    ).contest
    assert (found.subject, found.rival, found.verdict) == ("goal", "rule", "worse")
    assert found.difference.mean.centre == pytest.approx(0.05)
    assert found.difference.p == 2 * 2 / 2**8  # two rivals, so the correction doubles it
    ahead = summarise(
        runs, target_text="target-text", subject="rule", rng=np.random.default_rng(0)
    ).contest
    assert (ahead.rival, ahead.verdict) == ("goal", "better")
    assert ahead.difference.p == 2 / 2**8
    alone = summarise(seeds_of("uniform", UNIFORM), subject="uniform", rng=np.random.default_rng(0))
    assert alone.contest is None


def test_beating_the_strongest_rival_needs_a_win_over_each_other_arm() -> None:
    # Far below a noisy arm on average, but not in every seed: p is that of the noisy comparison.
    noisy = [2.5 if seed == 0 else 3.2 for seed in range(8)]
    runs = seeds_of("uniform", UNIFORM) + seeds_of("goal", BETTER) + seeds_of("noisy", noisy)
    found = summarise(runs, subject="goal", rng=np.random.default_rng(0)).contest
    assert found.rival == "uniform"
    assert found.difference.p == permutation_test(BETTER, noisy, True, two_sided=True) > 0.05
    assert found.verdict == "no difference shown"


def test_gap_is_left_out_where_the_targets_text_shows_no_advantage() -> None:
    runs = (
        seeds_of("uniform", UNIFORM) + seeds_of("goal", BETTER) + seeds_of("target-text", UNIFORM)
    )
    summary = summarise(runs, target_text="target-text", rng=np.random.default_rng(0))
    assert summary.arms["goal"].gap_closed is None


def test_noise_share_is_averaged_over_the_runs_that_know_it() -> None:
    runs = [run("uniform", s, [4.0, 3.0], noise_share=share) for s, share in enumerate((0.1, 0.3))]
    arms = summarise(runs, rng=np.random.default_rng(0)).arms
    assert arms["uniform"].noise_share == pytest.approx(0.2)
    unknown = summarise(seeds_of("uniform", UNIFORM), rng=np.random.default_rng(0)).arms
    assert unknown["uniform"].noise_share is None


def test_a_shorter_episode_is_noted() -> None:
    runs = [run("uniform", 0, [4.0, 3.5, 3.0]), run("breadth", 0, [4.0, 3.5])]
    notes = summarise(runs, rng=np.random.default_rng(0)).notes
    assert len(notes) == 1
    assert "breadth seed 0 trained 1,000 tokens" in notes[0]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (seeds_of("goal", BETTER), "expected runs of 'uniform'"),
        (seeds_of("uniform", [3.0]) * 2, "twice"),
        (seeds_of("uniform", UNIFORM) + seeds_of("goal", BETTER[:3]), "finish the missing runs"),
        (
            [run("uniform", 0, [4.0, 3.0]), ArmRun("a", 0, [0, 1], [4.0, 3.0], 3.9, 3.0)],  # type: ignore[arg-type]
            "share their initialisation",
        ),
    ],
)
def test_an_unfair_table_is_refused(runs: list[ArmRun], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(runs, rng=np.random.default_rng(0))


def test_tokens_are_counted_against_a_rival_too() -> None:
    uniform = run("uniform", 0, [4.0, 3.5, 3.0])
    fast, slow = run("a", 0, [4.0, 3.0, 2.5]), run("random", 0, [4.0, 3.8, 3.6])
    assert speed_over(fast, uniform, uniform) == 2.0
    # It would have needed more than its 2,000 tokens: at least twice as many.
    assert speed_over(fast, slow, uniform) == 2.0
    assert speed_over(slow, fast, uniform) == 0.0
    assert math.isnan(speed_over(run("a", 0, [2.9, 2.8, 2.7]), slow, uniform))
    runs = [
        run(arm, seed, [4.0, middle, end])
        for seed in range(3)
        for arm, middle, end in (("uniform", 3.5, 3.0), ("random", 3.6, 3.2), ("a", 3.0, 2.5))
    ]
    found = summarise(runs, rival="random", rng=np.random.default_rng(0))
    assert found.arms["a"].speed_over_rival.centre == 2.0
    assert found.arms["random"].speed_over_rival is None
    assert summarise(runs, rng=np.random.default_rng(0)).arms["a"].speed_over_rival is None
    with pytest.raises(ValueError, match="runs of 'degree'"):
        summarise(runs, rival="degree", rng=np.random.default_rng(0))

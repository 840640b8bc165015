"""Every bandit's update against a step computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from policies.arms.arm import Ints
from policies.arms.bandits.aioli import reweighted as aioli_reweighted
from policies.arms.bandits.aioli import rounds, solved, visits
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.doremi import reweighted as doremi_reweighted
from policies.arms.bandits.graves import Graves, exp3s, rescaled
from policies.arms.bandits.learning_progress import LearningProgress, progress_shares, stretched
from policies.arms.bandits.mixtures import best, in_proportion, restricted, softmax
from policies.arms.bandits.odm import Odm, exp3, floor_of
from policies.arms.bandits.op_mix import merged
from policies.arms.bandits.plr import Plr, replay_shares
from policies.arms.bandits.rho import learnable
from policies.arms.bandits.rule import Draw, Rule
from policies.arms.bandits.skill_it import SkillIt, edges, halved, influence, skill_shares
from policies.arms.bandits.tscl import Tscl
from policies.arms.bandits.ucb1 import Ucb1, ucb

OPEN = np.ones(3, dtype=bool)


def numbers(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


class Answers:
    """The losses that a rule finds when it measures, one row after another."""

    def __init__(self, *rows: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        self.rows = list(rows)

    def __call__(self, *_: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return self.rows.pop(0)


def arena_of(k: int = 3, **parts: object) -> Arena:
    """As much of an arena as a rule looks at."""
    usual = {"k": k, "steps": 8, "updates_per_step": 2, "of_target": True}
    return cast(Arena, SimpleNamespace(**{**usual, **parts}))


def draw_of(shares: list[float], domain: list[int]) -> Draw:
    return Draw(numbers(*shares), np.unique(domain), np.arange(len(domain)), np.array(domain))


def test_shares_add_up_and_closed_domains_get_nothing() -> None:
    assert softmax(numbers(0, np.log(3))).tolist() == pytest.approx([0.25, 0.75])
    assert in_proportion(numbers(1, 3)).tolist() == [0.25, 0.75]
    assert in_proportion(numbers(0, 0)).tolist() == [0.5, 0.5]
    some = np.array([True, False, True])
    assert restricted(numbers(0.2, 0.5, 0.3), some).tolist() == pytest.approx([0.4, 0, 0.6])
    assert restricted(numbers(0, 1, 0), some).tolist() == [0.5, 0, 0.5]
    assert best(numbers(1, 9, 1), some).tolist() == [0.5, 0, 0.5]
    with pytest.raises(ValueError, match="at least one domain to draw from, got none"):
        restricted(numbers(1, 0, 0), ~OPEN)


def test_odm_keeps_a_floor_and_weighs_the_rest_by_what_was_earned() -> None:
    # E_3 = sqrt(ln 2 / 6) = 0.339888, E_4 = sqrt(ln 2 / 8) = 0.294352.
    assert [floor_of(2, t) for t in (0, 1)] == [0.5, 0.5]
    assert floor_of(2, 3) == pytest.approx(0.339888, abs=1e-6)
    assert floor_of(2, 4) == pytest.approx(0.294352, abs=1e-6)
    # exp(0.339888) = 1.404790, of 2.404790: 0.584163; (1 - 2 x 0.294352) x 0.584163 + 0.294352.
    assert exp3(numbers(1, 0), 4).tolist() == pytest.approx([0.534616, 0.465384], abs=2e-6)


def test_odm_pays_each_domain_its_loss_over_its_share() -> None:
    losses = Answers(numbers(1.0, 3.0, 4.0))
    rule = Odm(arena_of(probe=SimpleNamespace(losses=losses)))
    rule.rewards = numbers(1.0, 7.0, 0.0)
    draw = draw_of([0.25, 0.35, 0.4], [0, 0, 2])  # losses of windows 0, 1 and 2; none of domain 1
    rule.before(draw)
    rule.after(draw, 0.0)
    # 0.9 x 1 + 0.1 x (mean of 1 and 3) / 0.25 = 1.7;  0.1 x 4 / 0.4 = 1.
    assert rule.rewards.tolist() == pytest.approx([1.7, 7.0, 1.0])
    assert rule.turn == 3  # updates of the learner


def test_ucb1_adds_to_the_mean_what_is_not_known_of_it() -> None:
    # 0.2 / 2 / 0.2 + sqrt(2 ln 3 / 2) = 0.5 + 1.048147;  0.1 / 1 / 0.2 + sqrt(2 ln 3) = 1.982304.
    index = ucb(numbers(0.2, 0.1, 0), numbers(2, 1, 0), 0.2)
    assert index.tolist() == pytest.approx([1.548147, 1.982304, np.inf], abs=1e-6)


def test_ucb1_reads_every_domain_once_and_is_paid_the_loss_drop() -> None:
    nan = float("nan")
    rule = Ucb1(arena_of(losses=Answers(numbers(nan, 3, nan), numbers(nan, 2.5, nan))))
    assert rule.mixture(OPEN).tolist() == pytest.approx([1 / 3] * 3)
    rule.before(draw_of([0, 1, 0], [1]))
    rule.after(draw_of([0, 1, 0], [1]), 0.0)
    assert rule.total.tolist() == [0, 0.5, 0]
    assert rule.plays.tolist() == [0, 1, 0]
    assert rule.largest == 0.5
    assert rule.mixture(OPEN).tolist() == [0.5, 0, 0.5]
    rule.plays = numbers(2, 2, 2)
    assert rule.mixture(OPEN).tolist() == [0, 1, 0]
    assert rule.mixture(np.array([True, False, False])).tolist() == [1, 0, 0]


def test_tscl_follows_the_change_since_a_domain_was_last_read() -> None:
    nan = float("nan")
    rule = Tscl(arena_of(losses=Answers(numbers(3.0, 3.0, 3.0), numbers(2.6, nan, nan))))
    rule.prepare()
    rule.quality = numbers(0.5, -0.6, 0)
    rule.after(draw_of([1, 0, 0], [0]), 0.0)
    # 0.5 + 0.1 x (3.0 - 2.6 - 0.5) = 0.49; the largest |Q| is that of a domain that gets worse.
    assert rule.quality.tolist() == pytest.approx([0.49, -0.6, 0])
    assert rule.last.tolist() == [2.6, 3.0, 3.0]
    assert rule.mixture(OPEN).tolist() == pytest.approx([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])


def test_learning_progress_is_the_gap_of_two_moving_means() -> None:
    # f(0.5) = 0.45 / 0.5, f(0.25) = 0.225 / (0.25 + 0.05).
    assert stretched(numbers(0.5, 0.25)).tolist() == pytest.approx([0.9, 0.75])
    # Progress 0.15 and 0: z = 1 and -1, sigmoids 0.731059 and 0.268941.
    shares = progress_shares(numbers(0.5, 0.3), numbers(0.25, 0.3))
    assert shares.tolist() == pytest.approx([0.731059, 0.268941], abs=1e-6)
    assert progress_shares(numbers(0.5, 0.5), numbers(0.5, 0.5)).tolist() == [0.5, 0.5]


def test_learning_progress_takes_the_chance_of_a_byte_for_a_rate_of_success() -> None:
    rule = LearningProgress(arena_of(2, losses=Answers(numbers(2, 2), numbers(1, 2))))
    rule.prepare()
    assert rule.fast.tolist() == rule.slow.tolist() == [0.25, 0.25]
    rule.after(draw_of([0.5, 0.5], [0]), 0.0)
    # 0.1 x 0.5 + 0.9 x 0.25 = 0.275;  0.1 x 0.275 + 0.9 x 0.25 = 0.2525.
    assert rule.fast.tolist() == pytest.approx([0.275, 0.25])
    assert rule.slow.tolist() == pytest.approx([0.2525, 0.25])


def test_gains_are_rescaled_by_running_percentiles() -> None:
    # Of 0 to 4 they are 0.8 and 3.2.
    assert rescaled(numbers(0, 1, 2, 3, 4)) == 1.0
    assert rescaled(numbers(0, 1, 3, 4, 2)) == pytest.approx(0.0)
    assert rescaled(numbers(0, 2, 3, 4, 1)) == pytest.approx(2 * 0.2 / 2.4 - 1)
    assert rescaled(numbers(5)) == rescaled(numbers(5, 5)) == 0.0


def test_exp3s_shares_weight_with_the_others() -> None:
    # exp(w + r~) is 3 and 1: ln(0.75 x 3 + 0.25 x 1), ln(0.75 x 1 + 0.25 x 3).
    found = exp3s(numbers(0, 0), numbers(np.log(3), 0), 0.25)
    assert found.tolist() == pytest.approx([np.log(2.5), np.log(1.5)])
    # Of three, each gets the mean of the two others: 3, 1, 2 become 2.25 + 0.375, 0.75 + 0.625, ...
    found = exp3s(numbers(np.log(3), 0, np.log(2)), numbers(0, 0, 0), 0.25)
    assert np.exp(found).tolist() == pytest.approx([2.625, 1.375, 2.0])
    assert exp3s(numbers(900, 0), numbers(0, 0), 0.5).tolist() == pytest.approx(
        [900 - np.log(2)] * 2
    )


def test_graves_pays_the_domain_that_was_read_over_its_share() -> None:
    rule = Graves(arena_of())
    assert rule.rate == pytest.approx(np.sqrt(2 * np.log(3) / 24))
    rule.gains = numbers(0, 1, 2, 3)
    rule.after(draw_of([0.5, 0.25, 0.25], [1, 1]), 4.0)  # the fifth: r = 1, s = 1 / 6
    worth = numbers(1, np.exp(rule.rate / 0.25), 1)
    others = numbers(worth[1] + 1, 2, worth[1] + 1) / 2
    assert rule.weights.tolist() == pytest.approx(np.log(5 / 6 * worth + 1 / 6 * others).tolist())
    shares = 0.95 * np.exp(rule.weights) / np.exp(rule.weights).sum() + 0.05 / 3
    assert rule.mixture(OPEN).tolist() == pytest.approx(shares.tolist())


def test_plr_ranks_scores_and_remembers_what_was_left_alone() -> None:
    # Ranks 1, 3, 2 to the power of -10; steps waited 0, 2, 1.
    by_rank = numbers(1, 3.0**-10, 2.0**-10)
    by_rank /= by_rank.sum()
    found = replay_shares(numbers(0.3, 0.1, 0.2), numbers(2, 0, 1), 3)
    wanted = 0.9 * by_rank + 0.1 * numbers(0, 2 / 3, 1 / 3)
    assert found.tolist() == pytest.approx(wanted.tolist())
    # One of three was read: a third of the shares is replay, all of its own.
    found = replay_shares(numbers(0.3, 9, 9), numbers(2, -1, -1), 3)
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert replay_shares(numbers(0, 0), numbers(-1, -1), 0).tolist() == [0.5, 0.5]


def test_plr_scores_a_domain_by_how_far_its_loss_moved() -> None:
    nan = float("nan")
    rule = Plr(arena_of(losses=Answers(numbers(3, 3, 3), numbers(2.5, nan, 3.5))))
    rule.prepare()
    rule.after(draw_of([0.5, 0.0, 0.5], [0, 2]), 0.0)
    assert rule.scores.tolist() == [0.5, 0, 0.5]
    assert rule.used.tolist() == [0, -1, 0]
    assert rule.step == 1
    assert rule.last.tolist() == [2.5, 3, 3.5]


def test_rho_draws_what_can_be_learnt_and_is_not() -> None:
    assert learnable(numbers(3, 2, 1), numbers(2.5, 2.5, 0.5)).tolist() == [0.5, 0, 0.5]
    assert learnable(numbers(1, 1), numbers(2, 2)).tolist() == [0.5, 0.5]


def test_skill_it_halves_edges_off_the_diagonal() -> None:
    drops = np.array([[0.2, 0.1], [-0.1, 0.3]])
    assert edges(drops).tolist() == [[1, 0.5], [0, 1]]
    assert halved(edges(drops)).tolist() == [[1, 0.25], [0, 1]]
    assert edges(drops[:, :1]).tolist() == [[1], [0]]  # of one target there is no diagonal
    # Weights: 0.1 of 0.3 is a third.
    assert influence(drops).tolist() == [[1, pytest.approx(1 / 3)], [0, 1]]
    assert influence(-drops[:, 1:]).tolist() == [[0], [0]]


def test_skill_it_weighs_domains_by_the_losses_that_they_lower() -> None:
    graph = np.array([[1, 0.5], [0, 1]])
    losses = np.array([[9, 9], [1, 2], [3, 1], [2, 1]])
    # The last three add up to (6, 4): 0.2 x (6 + 0.5 x 4) = 1.6 and 0.2 x 4 = 0.8.
    shares = skill_shares(graph, losses.astype(np.float64))
    assert shares.tolist() == pytest.approx([0.689974, 0.310026], abs=1e-6)


def test_skill_it_starts_from_losses_of_one_and_forgets_all_but_three_steps() -> None:
    latest = Answers(*(numbers(x) for x in (4, 3, 2)))
    rule = SkillIt(arena_of(2, latest_objective=latest))
    rule.graph = np.array([[1.0], [0.0]])
    assert rule.mixture(OPEN[:2]).tolist() == pytest.approx(softmax(numbers(0.2, 0)).tolist())
    rule.after(draw_of([0.5, 0.5], [0]), 0.0)
    assert rule.losses.tolist() == [[4]]  # the 1 was a stand-in
    for _ in range(2):
        rule.after(draw_of([0.5, 0.5], [0]), 0.0)
    assert rule.losses.tolist() == [[4], [3], [2]]
    assert rule.mixture(OPEN[:2]).tolist() == pytest.approx(softmax(numbers(1.8, 0)).tolist())


def test_aioli_solves_for_the_effect_of_pure_domains() -> None:
    mixtures = visits(3)
    assert mixtures.tolist() == [[0.625 if i == j else 0.1875 for j in range(3)] for i in range(3)]
    # Effects (3, 1, 0): mixed, 0.625 x 3 + 0.1875, 0.1875 x 3 + 0.625, 0.1875 x 4.
    drops = np.array([[2.0625, 1.1875, 0.75]])
    assert solved(mixtures, drops)[0].tolist() == pytest.approx([0.75, 0.25, 0])
    # Effects (2, -1, 1) are shifted to (3, 0, 2).
    drops = np.array([mixtures @ numbers(2, -1, 1)])
    assert solved(mixtures, drops)[0].tolist() == pytest.approx([0.6, 0, 0.4])
    assert solved(mixtures, np.zeros((2, 3))).tolist() == [[0] * 3] * 2
    assert visits(1).tolist() == [[1]]


def test_aioli_moves_shares_by_an_exponentiated_step() -> None:
    # exp(0.5 x (0.75, 0.25, 0)) = 1.454991, 1.133148, 1; they add up to 3.588140.
    effect = np.array([[0.5, 0.25, 0], [0.25, 0, 0]])
    found = aioli_reweighted(numbers(1, 1, 1) / 3, effect)
    assert found.tolist() == pytest.approx([0.405500, 0.315804, 0.278696], abs=1e-6)
    assert rounds(40) == [1, 11, 21, 31]
    assert rounds(3) == [1, 2]
    assert rounds(1) == [0]


def test_doremi_raises_what_the_reference_does_better() -> None:
    # exp(ln 3) and exp(0) of a negative excess: 0.75 and 0.25, then 0.999 of it and 0.0005.
    found = doremi_reweighted(numbers(0.5, 0.5), numbers(np.log(3), -1))
    assert found.tolist() == pytest.approx([0.74975, 0.25025])


def test_op_mix_adds_adapters_by_their_shares() -> None:
    base = {"w": torch.tensor([1.0, 2.0]), "v": torch.tensor([5.0])}
    parts = [{"w": torch.tensor([2.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}]
    found = merged(base, parts, numbers(0.25, 0.75))
    assert found["w"].tolist() == [1.25, 3.5]
    assert found["v"].tolist() == [5.0]
    assert base["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (Odm, {"rewards": [1.0]}, r"expected rewards of a saved arm with shape \(3,\), got \(1,\)"),
        (Odm, {"turn": "x"}, "expected numbers as turn of a saved arm, got none"),
        (Graves, {"gains": [[1.0]]}, "expected gains of a saved arm"),
    ],
)
def test_a_state_of_another_arm_is_refused(
    make: Callable[[Arena], Rule], changed: dict[str, object], message: str
) -> None:
    rule = make(arena_of())
    with pytest.raises(ValueError, match=message):
        rule.restore({**rule.state(), **changed})


def test_a_state_is_json_and_comes_back_whole() -> None:
    rule = Graves(arena_of())
    rule.weights, rule.gains = numbers(1, 2, 3), numbers(4, 5)
    twin = Graves(arena_of())
    twin.restore(rule.state())
    assert twin.state() == {"weights": [1, 2, 3], "gains": [4, 5]}


def test_a_step_s_windows_are_told_apart_by_domain() -> None:
    windows: Ints = np.array([10, 11, 12, 13])
    draw = Draw(numbers(0.5, 0.5, 0), np.array([0, 1]), windows, np.array([1, 0, 1, 1]))
    assert [own.tolist() for own in draw.of_each(3, 2)] == [[11], [10, 12], []]

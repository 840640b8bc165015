"""Figures of forgetting and transfer: by hand, at their edges, and from saved checkpoints."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from kncl_env.forgetting import (
    LossMatrix,
    accuracy,
    backward_transfer,
    figures,
    forgetting,
    forgetting_at,
    forward_transfer,
    intransigence,
    learning,
    learning_accuracy,
)
from policies.verdict.figures import heat_map_section
from train_lm.checked.records import Fields

# Three neighbourhoods, one a stage; by hand, with R = -L:
#   BWT = ((2.0 - 2.3) + (1.9 - 2.1)) / 2 = -0.25
#   FWT = ((3.0 - 2.8) + (3.2 - 2.7)) / 2 = 0.35
#   F   = ((2.3 - 2.0) + (2.1 - 1.9)) / 2 = 0.25;  ACC = -(2.3 + 2.1 + 1.5) / 3
#   LA  = -(2.0 + 1.9 + 1.5) / 3;  I = ((2.0 - 1.9) + (1.9 - 1.9) + (1.5 - 1.6)) / 3 = 0
BY_HAND = LossMatrix.square(
    before=[3.1, 3.0, 3.2],
    after=[[2.0, 2.8, 3.0], [2.2, 1.9, 2.7], [2.3, 2.1, 1.5]],
    names=("one", "two", "three"),
)


def test_the_figures_of_three_neighbourhoods_are_those_computed_by_hand() -> None:
    assert backward_transfer(BY_HAND) == pytest.approx(-0.25)
    assert forward_transfer(BY_HAND) == pytest.approx(0.35)
    assert forgetting(BY_HAND) == pytest.approx(0.25)
    assert accuracy(BY_HAND) == pytest.approx(-5.9 / 3)
    assert learning_accuracy(BY_HAND) == pytest.approx(-1.8)
    assert learning(BY_HAND) == pytest.approx((1.1 + 1.1 + 1.7) / 3)
    assert intransigence(BY_HAND, np.array([1.9, 1.9, 1.6])) == pytest.approx(0.0)


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_own_stage() -> None:
    # The second stage helps the first neighbourhood before the third one spoils it.
    found = LossMatrix.square([3.0] * 3, [[2.0, 3.0, 3.0], [1.8, 2.0, 3.0], [2.1, 2.0, 2.0]])
    assert backward_transfer(found) == pytest.approx((-0.1 + 0.0) / 2)
    assert forgetting(found) == pytest.approx((0.3 + 0.0) / 2)


def test_a_stage_that_goes_on_helping_has_negative_forgetting() -> None:
    found = LossMatrix.square([3.0, 3.0], [[2.0, 3.0], [1.5, 2.0]])
    assert backward_transfer(found) == pytest.approx(0.5)
    assert forgetting(found) == pytest.approx(-0.5)


def test_what_was_taught_before_the_first_stage_can_be_forgotten_and_was_not_learned() -> None:
    found = LossMatrix([2.0, 3.0], [[2.2, 2.5], [2.4, 2.6]], [-1, 0], ("nucleus", "new"))
    assert backward_transfer(found) == pytest.approx((-0.4 - 0.1) / 2)
    assert forgetting(found) == pytest.approx((0.4 + 0.1) / 2)
    assert learning(found) == pytest.approx(0.5)
    assert learning_accuracy(found) == pytest.approx(-(2.0 + 2.5) / 2)


def test_one_stage_has_neither_transfer_nor_forgetting() -> None:
    found = figures(LossMatrix.square([3.0], [[2.0]]))
    assert np.isnan(
        [found[k] for k in ("backward_transfer", "forward_transfer", "forgetting")]
    ).all()
    assert found["accuracy"] == found["learning_accuracy"] == -2.0


def test_losses_that_were_not_measured_are_passed_over_where_no_figure_needs_them() -> None:
    nan = float("nan")
    found = LossMatrix([2.0, nan], [[2.1, nan], [1.9, nan], [2.2, 1.0]], [-1, 2], ("a", "b"))
    assert forgetting(found) == pytest.approx(0.3)
    assert np.isnan(forward_transfer(found))
    with pytest.raises(ValueError, match="measure the whole row there"):
        LossMatrix.square([3.0, 3.0], [[2.0, nan], [nan, 2.0]])


def test_a_matrix_reads_back_from_json_and_another_shape_is_refused() -> None:
    nan = float("nan")
    kept = LossMatrix([2.0, nan], [[2.1, nan], [2.2, 1.0]], [-1, 1], ("a", "b"))
    line = json.loads(json.dumps(kept.to_json(), allow_nan=False))
    again = LossMatrix.from_json(Fields.of(line, "a file"))
    np.testing.assert_array_equal(again.after, kept.after)
    np.testing.assert_array_equal(again.before, kept.before)
    assert (again.names, again.taught.tolist()) == (kept.names, [-1, 1])
    for wrong in ({"after": [[1.0], [1.0, 2.0]]}, {"names": ["a"]}, {"taught": [-1, 2]}):
        with pytest.raises(ValueError, match="a file"):
            LossMatrix.from_json(Fields.of({**line, **wrong}, "a file"))
    with pytest.raises(ValueError, match="one stage or more"):
        LossMatrix.square([], [])


def test_forgetting_at_equal_learning_lies_between_neighbouring_learning_rates() -> None:
    learned, forgot = [0.1, 0.2, 0.3], [0.01, 0.05, 0.10]
    assert forgetting_at(learned, forgot, 0.25) == pytest.approx(0.075)
    assert forgetting_at(learned, forgot, 0.2) == pytest.approx(0.05)
    assert np.isnan(forgetting_at(learned, forgot, 0.05))
    assert np.isnan(forgetting_at(learned, forgot, 0.31))
    assert forgetting_at(learned, forgot, 0.05, from_nothing=True) == pytest.approx(0.005)


def test_a_rate_that_is_too_high_does_not_count_against_a_lower_one() -> None:
    # The third rate learns less than the second and forgets more.
    assert forgetting_at([0.1, 0.3, 0.2], [0.0, 0.1, 0.5], 0.2) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="as many figures of learning as of forgetting"):
        forgetting_at([0.1], [], 0.1)


def test_the_heat_map_shows_every_measured_loss_and_which_of_them_were_forgotten() -> None:
    page = heat_map_section(BY_HAND, "Half <replay>", stages=["first", "second", "third"])
    cells = re.findall(r"<rect class='cell ([a-z ]+)' .*?<title>(.*?)</title>", page)
    assert [kind for kind, _ in cells] == [
        *("better own", "unseen", "unseen"),
        *("worse", "better own", "unseen"),
        *("worse", "worse", "better own"),
    ]
    assert cells[6][1] == "one after third: 2.3000 (+0.3000)"
    assert cells[1][1] == "two after first: 2.8000"
    assert "Half &lt;replay&gt;" in page
    assert "Backward transfer: \u22120.2500, forgetting: +0.2500 bits per byte." in page
    # The largest change has the full colour, half of it a half.
    shades = [float(x) for x in re.findall(r"fill-opacity='([0-9.]+)'", page)]
    assert shades[6] == pytest.approx(0.85)
    assert shades[3] == pytest.approx(0.85 * 2 / 3, abs=1e-3)
    with pytest.raises(ValueError, match="3 names of stages or none, got 1"):
        heat_map_section(BY_HAND, "", stages=["one"])


def test_a_heat_map_leaves_out_what_was_not_measured() -> None:
    nan = float("nan")
    found = LossMatrix([2.0, nan], [[2.1, nan], [2.2, 1.0]], [-1, 1], ("a", "b"))
    page = heat_map_section(found, "An episode")
    assert page.count("<rect") == 3
    assert "nan" not in page

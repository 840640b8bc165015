"""A summary as JSON: what `scores.json` has always held, number by number, and back again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.verdict.scores import ArmRun, summarise
from policies.verdict.summary import Interval, Summary

# Written before there were types for it; nobody's scores.json may change its shape unnoticed.
WRITTEN = json.loads((Path(__file__).parent / "scores_as_written.json").read_text())

TOKENS = (0, 1000, 2000)
FINALS = {
    "uniform": (3.00, 3.02, 2.98, 3.01),
    "random": (3.05, 3.01, 3.06, 3.04),
    "goal": (2.90, 2.93, 2.88, 2.90),
    "target-text": (2.80, 2.83, 2.79, 2.81),
}


def runs() -> list[ArmRun]:
    return [
        ArmRun(
            arm,
            seed,
            np.array(TOKENS),
            np.array([4.0, 3.9 if (arm, seed) == ("goal", 3) else (4 + final) / 2, final]),
            4.0,
            final,
            0.1 * seed if arm == "uniform" else math.nan,
        )
        for arm, finals in FINALS.items()
        for seed, final in enumerate(finals)
    ]


def written(summary: Summary) -> object:
    """As a file would hold it."""
    return json.loads(json.dumps(summary.to_json(), allow_nan=False))


def summary_of(played: list[ArmRun], **arms: str) -> Summary:
    return summarise(played, rng=np.random.default_rng(0), reps=200, **arms)


def flat(value: object, name: str = "") -> dict[str, object]:
    """Leaves by their path."""
    if isinstance(value, dict) and value:
        parts = [flat(part, f"{name}/{key}") for key, part in value.items()]
    elif isinstance(value, list) and value:
        parts = [flat(part, f"{name}/{i}") for i, part in enumerate(value)]
    else:
        return {name: value}
    return {path: leaf for part in parts for path, leaf in part.items()}


def test_the_file_of_scores_keeps_its_keys_their_order_and_its_numbers() -> None:
    found, expected = (
        flat(x)
        for x in (written(summary_of(runs(), target_text="target-text", rival="random")), WRITTEN)
    )
    assert list(found) == list(expected)
    for path, value in expected.items():
        if isinstance(value, float):
            # A library may round the last bit otherwise on another machine.
            assert found[path] == pytest.approx(value, rel=1e-12, abs=1e-14), path
        else:
            assert found[path] == value, path


def test_a_summary_comes_back_from_its_file() -> None:
    again = Summary.from_json(WRITTEN)
    assert written(again) == WRITTEN
    assert again.arms["random"].never == 3
    assert again.arms["random"].tokens_ratio.values[0] == math.inf
    assert again.target_text == "target-text"
    assert Summary.from_json({**WRITTEN, "commit": "0123abc"}) == again


def test_ratios_without_a_meaning_come_back_as_such() -> None:
    rising = [
        ArmRun(arm, seed, np.array(TOKENS), np.array([4.0, 4.1, 4.2]), 4.0, 4.2)
        for arm in ("uniform", "a")
        for seed in range(3)
    ]
    summary = summary_of(rising, rival="a")
    assert summary.arms["a"].undefined == 3
    again = Summary.from_json(written(summary))  # type: ignore[arg-type]
    assert again.arms["a"].undefined == 3
    assert again.arms["a"].speed_up == Interval(None, None, None)
    assert written(again) == written(summary)


@pytest.mark.parametrize(
    "broken", [{}, {**WRITTEN, "arms": {"uniform": {}}}, {**WRITTEN, "arms": 1}]
)
def test_a_file_of_something_else_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"give the scores\.json"):
        Summary.from_json(broken)


def test_a_summary_is_valid_from_birth() -> None:
    summary = Summary.from_json(WRITTEN)
    goal = summary.arms["goal"]
    with pytest.raises(ValueError, match="expected a score of 'nobody'"):
        replace(summary, rival="nobody")
    with pytest.raises(ValueError, match="expected 3 final losses of 'uniform'"):
        replace(summary, seeds=(0, 1, 2))
    with pytest.raises(ValueError, match="expected a verdict"):
        replace(goal, verdict="splendid")
    with pytest.raises(ValueError, match="every arm but the reference"):
        replace(goal, difference=None)

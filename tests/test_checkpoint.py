"""A folder belongs to one run: the same settings go on, others are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from train_lm.checkpoint import claim_run
from train_lm.files import read_json

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "settings": {"steps": 40, "nucleus": {"topics": 8, "updates": 400}},
    "arms": ["uniform", "rule"],
    "init": None,
}


def refusal(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> str:
    claim_run(folder / "run", there, made_by="a test")
    with pytest.raises(ValueError, match="got others") as caught:
        claim_run(folder / "run", here, made_by="a test")
    assert read_json(folder / "run" / "config.json") == {"command": "a test", **there}
    found = re.search(r"got others \((.*)\): name another --out", str(caught.value))
    assert found is not None, caught.value
    return found[1]


def test_the_same_settings_go_on_whatever_their_order(tmp_path: Path) -> None:
    claim_run(tmp_path / "run", SETTINGS, made_by="a test")
    claim_run(tmp_path / "run", dict(reversed(SETTINGS.items())), made_by="a test")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        (
            {"settings": {"steps": 60, "nucleus": {"topics": 8, "updates": 400}}},
            "settings.steps is 40 there, 60 here",
        ),
        (
            {"settings": {"steps": 40, "nucleus": {"topics": 8, "updates": 9}}, "seed": 2},
            "seed is 0 there, 2 here; settings.nucleus.updates is 400 there, 9 here",
        ),
        ({"arms": ["uniform"]}, 'arms is ["uniform", "rule"] there, ["uniform"] here'),
        ({"init": "ab"}, 'init is null there, "ab" here'),
        ({"settings": 3}, "settings is {"),
    ],
)
def test_the_setting_that_differs_is_named_with_both_values(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    assert refusal(tmp_path, SETTINGS, {**SETTINGS, **changed}).startswith(named)


def test_a_setting_that_one_side_lacks_is_named(tmp_path: Path) -> None:
    less = {name: value for name, value in SETTINGS.items() if name not in ("init", "settings")}
    everything = (
        "init is {}; settings.nucleus.topics is {}; settings.nucleus.updates is {}; "
        "settings.steps is {}"
    )
    added = [f"missing there, {value} here" for value in ("null", 8, 400, 40)]
    assert refusal(tmp_path / "added", less, SETTINGS) == everything.format(*added)
    gone = [f"{value} there, missing here" for value in ("null", 8, 400, 40)]
    assert refusal(tmp_path / "gone", SETTINGS, less) == everything.format(*gone)
    empty = refusal(tmp_path / "empty", less, {**less, "extra": {}})
    assert empty == "extra is missing there, {} here"


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    named = refusal(tmp_path, {"order": list(range(999))}, {"order": [0]})
    assert named.endswith("… there, [0] here")
    assert len(named) < 200

"""A folder belongs to one run: the same settings go on, others are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from train_lm.checkpoint import CARD, Checkpoints, claim_run, cut_metrics
from train_lm.files import read_json, write_json

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


def three_kept(run: Path) -> Checkpoints:
    run.mkdir()
    kept = Checkpoints(run, "steps")
    for done in (2, 4, 6):
        head = {"said": f"after {done}"}
        kept.keep(done, {"a": torch.full((3,), float(done))}, head, {"more": done})
    return kept


def flipped(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_the_newest_checkpoint_and_the_one_before_are_kept(tmp_path: Path) -> None:
    kept = three_kept(tmp_path / "run")
    found = kept.newest()
    assert found is not None
    assert (found.done, found.head, found.card.whole("more")) == (6, {"said": "after 6"}, 6)
    assert found.tensors["a"].tolist() == [6, 6, 6]
    names = sorted(f.name for f in (tmp_path / "run").glob("*.safetensors"))
    assert names == ["checkpoint-0000004.safetensors", "checkpoint-0000006.safetensors"]
    assert Checkpoints(tmp_path, "steps").newest() is None


def test_any_flipped_bit_of_a_checkpoint_leads_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = three_kept(tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-0000006.safetensors"
    whole = file.read_bytes()
    for place in range(len(whole)):
        flipped(file, place)
        found = kept.newest()
        assert found is not None
        assert (found.done, found.tensors["a"].tolist()) == (4, [4, 4, 4]), place
        file.write_bytes(whole)
    assert str(file) in caplog.text
    file.unlink()
    assert kept.newest().done == 4  # type: ignore[union-attr]
    # Going on, the damaged one is made again and counts again.
    kept.keep(6, {"a": torch.zeros(3)})
    assert [e.whole("steps") for e in kept._entries()] == [6, 4]


def test_a_run_without_a_whole_checkpoint_says_so(tmp_path: Path) -> None:
    kept = three_kept(tmp_path / "run")
    for file in (tmp_path / "run").glob("*.safetensors"):
        flipped(file, -1)
    with pytest.raises(ValueError, match=r"checkpoint-0000006.*no older checkpoint is whole"):
        kept.newest()


def test_an_edited_card_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    kept = three_kept(tmp_path / "run")
    card = read_json(tmp_path / "run" / CARD)
    for wrong in (
        {**card, "steps": 8},
        {**card, "file": "../other.safetensors"},
        {**card, "more": 1},
        {k: v for k, v in card.items() if k != "before"},
    ):
        write_json(tmp_path / "run" / CARD, wrong)
        with pytest.raises(ValueError, match=r"checkpoint\.json"):
            kept.newest()
    # A card of before there were digests.
    write_json(tmp_path / "run" / CARD, {"steps": 6, "file": card["file"]})
    assert kept.newest().done == 6  # type: ignore[union-attr]


def test_lines_of_metrics_that_damage_took_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [f'{{"update": {n}}}\n' for n in range(1, 6)]
    file.write_text("".join(lines) + '{"upd')
    cut_metrics(file, 4)
    assert file.read_text() == "".join(lines[:4])
    assert not caplog.records
    file.write_text("".join([*lines[:2], "{", *lines[2:]]))
    cut_metrics(file, 4)
    assert file.read_text() == "".join(lines[:2])
    assert caplog.messages == [f"{file}: lines of update 3 to 4 are lost: damaged"]
    caplog.clear()
    file.write_text("".join([*lines[:4], lines[3]]))  # doubled
    cut_metrics(file, 4)
    assert file.read_text() == "".join(lines[:4])
    assert not caplog.records


def test_lines_beside_a_checkpoint_that_changed_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(tmp_path, "steps", beside="metrics.jsonl")
    journal = tmp_path / "metrics.jsonl"
    for done in (1, 2, 3):
        with journal.open("a") as stream:
            stream.write(json.dumps({"step": done, "loss": 1 / done}) + "\n")
        kept.keep(done, {"x": torch.tensor(float(done))})
    with journal.open("a") as stream:
        stream.write("what came later\n")
    assert Checkpoints(tmp_path, "steps", beside="metrics.jsonl").newest() is not None
    assert caplog.messages == []
    journal.write_text(journal.read_text().replace('"loss": 0.5', '"loss": 0.6'))
    assert kept.newest().done == 3  # type: ignore[union-attr]
    (said,) = caplog.messages
    assert said.startswith(f"{journal}: other lines than were written")

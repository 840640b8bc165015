"""The journal: only ever appended, and a torn line loses nothing that was whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kncl_env.settings import Settings
from policies.play.journal import Journal, read_lines

HEADER = {"format": "kncl-test", "world": "w", "settings": Settings.of(slots=5).to_json()}


def line(seed: int) -> dict[str, object]:
    return {"arm": "random", "digest": "d", "seed": seed, "learner_seed": 0, "return": seed / 3}


def test_lines_are_found_again_by_their_key(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", HEADER, about={"more": 1})
    for seed in (0, 1):
        journal.append(line(seed))
    again = Journal(tmp_path / "j", HEADER, about={"more": 2})
    assert again.lines == journal.lines
    assert again.header["more"] == 1  # what is about the first line stays as it was written
    assert list(again.lines) == [("random", "d", "0", "0"), ("random", "d", "1", "0")]


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_line_is_dropped_and_never_fuses_with_the_next(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "j"
    journal = Journal(file, HEADER)
    journal.append(line(0))
    whole = file.read_bytes()
    journal.append(line(1))
    file.write_bytes(whole + json.dumps(line(1)).encode()[:kept])
    again = Journal(file, HEADER)
    assert len(again.lines) == 1
    again.append(line(2))
    assert read_lines(file, "kncl-test")[1] == [line(0), line(2)]


def test_a_file_that_was_killed_in_its_first_line_has_lost_nothing(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps(HEADER)[:30])
    Journal(tmp_path / "j", HEADER).append(line(0))
    assert read_lines(tmp_path / "j", "kncl-test")[1] == [line(0)]


def test_a_file_that_is_whole_is_not_written_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "j", HEADER).append(line(0))
    before = (tmp_path / "j").stat()
    Journal(tmp_path / "j", HEADER)
    after = (tmp_path / "j").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_setting_that_the_file_does_not_know_is_its_default(tmp_path: Path) -> None:
    old = {**HEADER, "settings": {"slots": 5}}
    (tmp_path / "j").write_text(json.dumps(old) + "\n" + json.dumps(line(0)) + "\n")
    assert len(Journal(tmp_path / "j", HEADER).lines) == 1
    other = {**HEADER, "settings": Settings.of(slots=6).to_json()}
    with pytest.raises(ValueError, match=r"got others \(settings.slots is 5 there, 6 here\)"):
        Journal(tmp_path / "j", other)


def test_another_kind_of_file_is_refused_and_stays(tmp_path: Path) -> None:
    for text, message in (
        ('{"format": "else"}\n', "another kind"),
        ("[1]\n", "j:1"),
        ("x\n", "j:1"),
    ):
        (tmp_path / "j").write_text(text)
        with pytest.raises(ValueError, match=message):
            Journal(tmp_path / "j", HEADER)
        assert (tmp_path / "j").read_text() == text

"""Folders as nodes of a cluster have them: known by their content, fetched once, brought home."""

from __future__ import annotations

from pathlib import Path

import pytest

from train_lm.crew import folders
from train_lm.crew.folders import Folder, located, settle


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "_PLACES", {})


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of no, one, exactly two and two and a half pieces."""
    monkeypatch.setattr(folders, "PIECE", 4)
    place = tmp_path / "text"
    (place / "inner").mkdir(parents=True)
    for name, said in (
        ("empty", ""),
        ("short", "abc"),
        ("even", "12345678"),
        ("odd", "1234567890"),
    ):
        (place / "inner" / name).write_text(said)
    return place


def read(place: Path) -> dict[str, str]:
    return {f.name: f.read_text() for f in place.rglob("*") if f.is_file()}


def test_what_is_sent_is_what_is_kept(text: Path, tmp_path: Path) -> None:
    sent = Folder.of(text, "texts/a")
    pieces, wanted = list(sent.pieces()), read(text)
    text.rename(tmp_path / "gone")
    assert sent.here() is None
    place = sent.keep(pieces)
    assert place == tmp_path / "cache" / "texts" / "a" == sent.here()
    assert read(place) == wanted


def test_a_folder_that_is_there_is_not_fetched(text: Path) -> None:
    assert Folder.of(text, "texts/a").keep(iter(())) == text


def test_another_file_in_its_place_is_not_taken_for_it(text: Path) -> None:
    asked = Folder.of(text, "texts/a")
    (text / "inner" / "short").write_text("abd")
    assert asked.here() is None
    with pytest.raises(ValueError, match="as it is on the machine that asks, got other files"):
        asked.keep([("inner/short", 0, b"abd")])


def test_a_name_that_leads_out_writes_nothing(text: Path, tmp_path: Path) -> None:
    asked = Folder.of(text, "texts/a")
    (text / "inner" / "short").unlink()
    with pytest.raises(ValueError, match="is not in the subpath"):
        asked.keep([("../../../out", 0, b"x")])
    assert not (tmp_path / "out").exists()


def test_what_a_task_names_is_found_where_it_was_fetched(text: Path, tmp_path: Path) -> None:
    sent = Folder.of(text, "texts/a")
    pieces = list(sent.pieces())
    text.rename(tmp_path / "gone")
    sent.keep(pieces)
    settle([sent])
    assert located(text / "inner" / "short").read_text() == "abc"
    assert located(tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_one_file_is_a_folder_of_one(text: Path) -> None:
    one = Folder.of(text / "inner" / "short", "tastes/a")
    assert [name for name, _, _ in one.pieces()] == ["short"]


def test_what_a_node_wrote_comes_home(text: Path, tmp_path: Path) -> None:
    left = Folder.of(text, "")
    pieces, wanted = list(left.pieces()), read(text)
    text.rename(tmp_path / "gone")
    left.put_back(pieces)
    assert read(text) == wanted


def test_what_comes_home_replaces_what_an_earlier_try_left(text: Path) -> None:
    left = Folder.of(text, "")
    pieces, wanted = list(left.pieces()), read(text)
    (text / "inner" / "short").write_text("abd")
    (text / "inner" / "half").write_text("of another try")
    left.put_back(pieces)
    assert read(text) == wanted


def test_a_folder_of_which_a_piece_is_missing_does_not_come_home(
    text: Path, tmp_path: Path
) -> None:
    left = Folder.of(text, "")
    pieces = [piece for piece in left.pieces() if piece[0] != "inner/odd" or piece[1] < 8]
    text.rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="expected all pieces of inner/odd, got 8 bytes"):
        left.put_back(pieces)
    assert not text.exists()


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file or a folder with files at"):
        Folder.of(tmp_path / "nothing", "a")

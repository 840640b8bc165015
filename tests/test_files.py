import contextlib

import pytest

from train_lm.files import hash_file, hash_json, read_json, replacing, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    full = RuntimeError("the disk is full")
    with contextlib.suppress(RuntimeError), replacing(file) as part:
        part.write_text("half")
        raise full
    assert read_json(file) == {"x": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_json_survives_a_round_trip_with_any_letters(tmp_path) -> None:
    value = {"title": "Zürich 東京", "n": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_a_damaged_file_is_named(tmp_path) -> None:
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(ValueError, match=r"a\.json.*damaged"):
        read_json(tmp_path / "a.json")


def test_equal_settings_have_equal_hashes_whatever_their_order() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")
    assert hash_file(tmp_path / "a").startswith("ba7816bf")  # SHA-256 of "abc", FIPS 180-2

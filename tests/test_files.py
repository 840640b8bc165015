import contextlib
import os
import subprocess
import sys

import pytest

from train_lm.files import (
    hash_file,
    hash_json,
    read_json,
    replacing,
    replacing_folder,
    sweep,
    write_json,
)


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

    (tmp_path / "a.json").write_bytes(b'{"x": "\xff"}')
    with pytest.raises(ValueError, match=r"a\.json.*damaged"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"^expected a file at .*b\.json, found none$"):
        read_json(tmp_path / "b.json")


def test_json_is_utf_8_whatever_the_machine_speaks(tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; from train_lm.files import read_json, write_json\n"
        "file, value = Path(sys.argv[1]), {'title': f'Z{chr(252)}rich'}\n"
        "write_json(file, value)\nassert read_json(file) == value"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = tmp_path / "a.json"
    subprocess.run([sys.executable, "-c", code, str(file)], env=env, check=True)
    assert read_json(file) == {"title": "Zürich"}


def test_a_failed_write_is_told_of_the_file_that_was_asked_for(tmp_path) -> None:
    nowhere = tmp_path / "nowhere" / "a.json"
    with pytest.raises(FileNotFoundError, match=r"expected a folder at .*nowhere") as caught:
        write_json(nowhere, {})
    assert ".part" not in str(caught.value)
    (tmp_path / "a.json").mkdir()  # cannot be replaced by a file
    with pytest.raises(IsADirectoryError) as taken:
        write_json(tmp_path / "a.json", {})
    assert taken.value.filename == str(tmp_path / "a.json")
    assert ".part" not in str(taken.value)
    spoken = OSError("disk full while writing {}")
    with pytest.raises(OSError, match="disk full") as full, replacing(tmp_path / "b") as part:
        raise OSError(str(spoken).format(part))
    assert str(full.value) == f"disk full while writing {tmp_path / 'b'}"


def test_a_folder_is_whole_or_absent(tmp_path) -> None:
    broken = RuntimeError("the disk is full")
    with contextlib.suppress(RuntimeError), replacing_folder(tmp_path / "a") as part:
        (part / "half").write_text("half")
        raise broken
    assert not list(tmp_path.iterdir())
    with replacing_folder(tmp_path / "a") as part:
        (part / "whole").write_text("whole")
    assert [f.name for f in tmp_path.rglob("*")] == ["a", "whole"]
    with pytest.raises(OSError, match=r"a'$") as taken, replacing_folder(tmp_path / "a") as part:
        (part / "other").write_text("other")
    assert ".part" not in str(taken.value)
    assert [f.name for f in tmp_path.rglob("*")] == ["a", "whole"]


def test_what_a_killed_process_left_half_written_is_swept(tmp_path) -> None:
    (tmp_path / ".a.json.12.part").write_text("half")
    (tmp_path / ".model.12.part").mkdir()
    (tmp_path / ".model.12.part" / "half").write_text("half")
    (tmp_path / "kept.part").write_text("somebody's")
    sweep(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["kept.part"]


def test_equal_settings_have_equal_hashes_whatever_their_order() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")
    assert hash_file(tmp_path / "a").startswith("ba7816bf")  # SHA-256 of "abc", FIPS 180-2

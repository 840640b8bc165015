"""Files are what their writers said, and are read once to know it."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from train_lm.checked import digests
from train_lm.checked.digests import WORTH_A_THREAD, Verified

FILES = {"small": b"a" * 10, "middle": b"b" * 1000, "large": b"c" * WORTH_A_THREAD}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)  # as if they had been written a while ago
    found = tmp_path / "folder"
    found.mkdir()
    for name, content in FILES.items():
        (found / name).write_bytes(content)
    return found


def known(folder: Path) -> Verified:
    return Verified(
        folder, {n: hashlib.sha256(content).hexdigest() for n, content in FILES.items()}
    )


def looked_ahead(files: Verified) -> None:
    before = set(threading.enumerate())
    files.look_ahead()
    for thread in set(threading.enumerate()) - before:
        thread.join()


def no_reading(path: Path) -> str:
    raise AssertionError(f"{path} is read again")


def test_what_was_looked_at_ahead_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = known(folder)
    looked_ahead(files)
    monkeypatch.setattr(digests, "hash_file", no_reading)
    assert all(name in files for name in FILES)
    assert all(name in known(folder) for name in FILES)  # nor by another process


def test_a_look_ahead_never_stands_for_another_file(folder: Path) -> None:
    for name in FILES:
        looked_ahead(known(folder))
        content = FILES[name][:-1] + b"x"  # of the same size
        (folder / name).write_bytes(content)
        files = known(folder)
        looked_ahead(files)
        assert name not in files
        assert name not in known(folder)
        (folder / name).write_bytes(FILES[name])


def test_a_file_that_is_gone_is_missed_by_whoever_asks_for_it(folder: Path) -> None:
    os.unlink(folder / "middle")
    files = known(folder)
    looked_ahead(files)
    assert "large" in files
    with pytest.raises(FileNotFoundError, match="middle"):
        _ = "middle" in files


def test_a_child_that_was_forked_asks_for_itself(folder: Path) -> None:
    files = known(folder)
    files._looked_ahead = True  # its thread is in the parent alone
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(name in files for name in FILES) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(list((folder.parent / "cache" / "whole").iterdir())) == len(FILES)

"""A slice of `benchmarks/faults.py`: commands killed, or out of room, at a few moments each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_disturbed_command_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("expected Linux and gcc, for a library that counts what is written")
    out = tmp_path / "faults.json"
    # One moment of each, of a folder, of files and of a journal.
    options = ("--how", "both", "--points", "1", "--only", "force|pretrain|record$")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "faults.py"), *options, "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    rows = json.loads(out.read_text())
    assert done.returncode == 0, [row["told"] for row in rows]
    assert all(row["points"] and row["operations"] > row["points"] for row in rows)


@pytest.mark.slow
def test_a_command_that_is_stopped_ends_at_once_and_goes_on(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not sys.platform.startswith("linux"):
        pytest.skip("expected Linux and gcc, for a library that counts what is written")
    out = tmp_path / "stopped.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "signals.py"), "--only", "^stats$"]
    done = subprocess.run(
        [*script, "--cold", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    (row,) = json.loads(out.read_text())
    assert row["points"] > 2, done.stdout
    # How soon the last process is gone is no matter for a busy machine.
    wrong = ("refused", "different", "litter", "told_more", "status")
    assert [row[name] for name in wrong] == [0] * len(wrong), row["told"]

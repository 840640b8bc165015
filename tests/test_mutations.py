"""A slice of `benchmarks/mutations.py`: what is damaged is never taken for content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_no_mutated_file_gives_a_traceback_or_another_result_in_silence(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "mutations.py"), "--quick"]
    done = subprocess.run(
        [*script, "--inputs", "150", "--seed", "7", "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert out.is_file(), done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["examples"] == []
    assert done.returncode == 0
    outcomes = [
        sum(c.get(name, 0) for c in found["counts"].values()) for name in ("error", "again")
    ]
    assert min(outcomes) > 5  # they were mutated indeed
    assert sum(sum(c.values()) for c in found["counts"].values()) == 150


def test_the_harness_tells_each_outcome_apart(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from mutations import Kind, judged
    finally:
        sys.path.pop(0)

    def outcome(read: str) -> str:
        def reader(place: Path) -> str:
            return str(eval(read, {"place": place, "np": np, "os": os, "kill": os.kill}))

        kind = Kind("any", tmp_path, "a.json", reader, "json")
        honest = {"value": "1", "grown": 0, "inputs": [{"name": "a", "sha256": "ab"}]}
        return judged(kind, tmp_path, honest)[0]

    log = "__import__('logging').getLogger('x').warning('said')"
    assert outcome("1") == "same"
    assert outcome(f"[{log}, 1][1]") == "again"
    assert outcome("2") == "silent"
    for name, digest, told in (
        (tmp_path / "a.json", "cd", "named"),
        (tmp_path, "cd", "named"),
        ("http://server/", "cd", "named"),
        (tmp_path / "a.json", "ab", "silent"),  # the honest file's
        ("elsewhere", "cd", "silent"),
    ):
        note = "__import__('train_lm.inputs').inputs.note_input"
        assert outcome(f"[{note}({str(name)!r}, {digest!r}), 2][1]") == told
    assert outcome(f"[{log}, 2][1]") == "named"
    assert outcome("open(place / 'a.json').read()") == "error"
    assert outcome("open('elsewhere').read()") == "unnamed"
    assert outcome("{}['a']") == "raw"
    assert outcome("kill(os.getpid(), 9)") == "abort"
    assert outcome("np.ones(10**8).sum() and 1") == "memory"
    assert outcome("np.ones(10**13).sum() and 1") == "memory"

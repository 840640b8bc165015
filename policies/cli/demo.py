"""The whole story on the embedded default corpus: the same commands a user would type."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from train_lm.command_line import say

# Small enough for minutes on two cores, large enough that arms differ by many times the noise.
SETTINGS = (
    *("--nucleus-topics", "80", "--nucleus-updates", "400", "--steps", "30"),
    *("--updates-per-step", "5", "--breadth", "128", "--slots", "32"),
)
ARMS = "uniform,random,rule,target-text"


Command = Callable[[list[str]], int]


def demo(out: Path, seeds: int, commands: Mapping[str, Command]) -> int:
    """Build, walk, pretrain, taste, train, evaluate; what is already there is used again.

    Args:
        commands: `kncl-env`, `rabbit-holes` and `kncl-policy` by name.
    """
    began = time.monotonic()
    for line, result in _stages(out, seeds):
        if result is not None and result.is_file():
            say(f"found {result}")
            continue
        say()
        say(f"$ {shlex.join(line)}", flush=True)
        code = commands[line[0]](line[1:])
        if code:
            return code
    say(f"{time.monotonic() - began:.0f} s in all")
    return 0


def _stages(out: Path, seeds: int) -> list[tuple[list[str], Path | None]]:
    """Each command, and the file that tells that it is done."""
    world, holes, taste = str(out / "world"), str(out / "holes.jsonl"), str(out / "taste.json")
    cloned, learned = str(out / "cloned"), str(out / "learned")
    return [
        (
            ["kncl-env", "build", "pydoc", "--scenario", "focused", "--out", world],
            Path(world, "world.json"),
        ),
        (
            [
                *("rabbit-holes", "walk", "--world", world, "--walker", "wayfinder"),
                *("--walks", "2000", "--out", holes),
            ],
            Path(holes),
        ),
        (
            ["kncl-policy", "pretrain", "--world", world, "--holes", holes, "--out", cloned],
            Path(cloned, "policy.json"),
        ),
        (
            [
                *("kncl-policy", "taste", "--world", world, "--policy", cloned, "--out", taste),
                *("--episodes", "18", "--trials", "1", "--learners", "6", *SETTINGS),
            ],
            Path(taste),
        ),
        (
            [
                *("kncl-policy", "train", "--world", world, "--init", cloned, "--taste", taste),
                *("--out", learned, "--iterations", "6", "--episodes", "6", "--learners", "6"),
                *SETTINGS,
            ],
            Path(learned, "policy.json"),
        ),
        (
            [
                *("kncl-policy", "evaluate", "--world", world),
                *("--policies", f"{ARMS},rule+{taste},{cloned},{learned}"),
                *("--seeds", str(seeds), "--learners", "6", "--out", str(out / "evaluation")),
                *SETTINGS,
            ],
            None,  # goes on with the episodes that are there
        ),
    ]

"""The whole story on the embedded default corpus: the same commands a user would type."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# Small enough for minutes on two cores, large enough that arms differ by many times the noise.
SETTINGS = (
    "--nucleus-topics 80 --nucleus-updates 400 --steps 30 --updates-per-step 5 "
    "--breadth 128 --slots 32"
)
ARMS = "uniform,random,rule,oracle"


def demo(out: Path, seeds: int) -> int:
    """Build, walk, pretrain, taste, train, evaluate; what is already there is used again."""
    from kncl_env.cli import main as kncl_env
    from policies.cli.main import main as kncl_policy
    from rabbit_holes.cli import main as rabbit_holes

    world, holes = out / "world", out / "holes.jsonl"
    cloned, learned, run = out / "cloned", out / "learned", out / "evaluation"
    taste = out / "taste.json"
    stages: list[tuple[str, Callable[[list[str]], int], str, Path | None]] = [
        (
            "kncl-env",
            kncl_env,
            f"build pydoc --scenario focused --out {world}",
            world / "world.json",
        ),
        (
            "rabbit-holes",
            rabbit_holes,
            f"walk --world {world} --walker wayfinder --walks 2000 --out {holes}",
            holes,
        ),
        (
            "kncl-policy",
            kncl_policy,
            f"pretrain --world {world} --holes {holes} --out {cloned}",
            cloned / "policy.json",
        ),
        (
            "kncl-policy",
            kncl_policy,
            f"taste --world {world} --policy {cloned} --out {taste} --episodes 18 --trials 1 "
            f"--learners 6 {SETTINGS}",
            taste,
        ),
        (
            "kncl-policy",
            kncl_policy,
            f"train --world {world} --init {cloned} --taste {taste} --out {learned} "
            f"--iterations 6 --episodes 6 --learners 6 {SETTINGS}",
            learned / "policy.json",
        ),
        (
            "kncl-policy",
            kncl_policy,
            f"evaluate --world {world} --policies {ARMS},rule+{taste},{cloned},{learned} "
            f"--seeds {seeds} --learners 6 --out {run} {SETTINGS}",
            None,  # goes on with the episodes that are there
        ),
    ]
    began = time.monotonic()
    for name, command, line, result in stages:
        if result is not None and result.is_file():
            print(f"found {result}")
            continue
        print(f"\n$ {name} {line}", flush=True)
        code = command(line.split())
        if code:
            return code
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0

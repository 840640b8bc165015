"""What becomes of a model that two processes of torchrun train, when they are stopped.

    python benchmarks/launched.py --seed 1 --out launched.json

The launcher is killed, or told to end, or all get a Ctrl-C, after an update drawn from the seed.
Right is that nothing of its session is left 5 s later, and that the same command goes on to the
bytes of a run that nobody stopped. Then a run that two stopped goes on with one process, and one
that one process stopped with two: to the same data in the same order and to losses that are equal
but for rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).parent)]
from faults import GONE, gone, of_session  # noqa: E402

TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
STOPS: dict[str, Callable[[int], None]] = {
    "SIGKILL of the launcher": lambda pid: os.kill(pid, signal.SIGKILL),
    "SIGTERM of the launcher": lambda pid: os.kill(pid, signal.SIGTERM),
    "SIGTERM of all": lambda pid: os.killpg(pid, signal.SIGTERM),
    "Ctrl-C": lambda pid: os.killpg(pid, signal.SIGINT),
}


class Runs:
    """Runs of one world, order of reading and model, in a folder."""

    def __init__(self, base: Path, shard: bool) -> None:
        self.base, self.shard = base, shard
        env = {**os.environ, "PYTHONPATH": str(ROOT), "KNCL_CACHE": str(base / "cache")}
        self.env = {**env, "OMP_NUM_THREADS": "1"}

    def make_inputs(self) -> None:
        words = ["kncl_env", "build", "synthetic", "--topics", "40", "--out", str(self.base / "w")]
        subprocess.run([sys.executable, "-m", *words], env=self.env, check=True)
        world = json.loads((self.base / "w" / "world.json").read_text())
        header = {"format": "kncl-curriculum", "version": 1, "world": world["hash"]}
        steps = [{"topics": [0], "passages": [0, 1, 2], "tokens": 600}] * 10
        lines = "".join(json.dumps(line) + "\n" for line in (header, *steps))
        (self.base / "c.jsonl").write_text(lines)

    def start(self, name: str, processes: int) -> subprocess.Popen[bytes]:
        words = ["run", "--world", str(self.base / "w"), "--curriculum", str(self.base / "c.jsonl")]
        words += ["--model", "xs", "--batch", "4", "--save-every", "2", "--cpu"]
        words += ["--out", str(self.base / name)]
        words += ["--shard"] if self.shard and processes > 1 else []
        launcher = TOGETHER if processes > 1 else ()
        with (self.base / f"{name}.said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, *launcher, "-m", "train_lm.cli", *words],
                env=self.env,
                stdout=said,
                stderr=said,
                start_new_session=True,
                # Where a script runs in the background, its children ignore a Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def finish(self, name: str, processes: int) -> None:
        if self.start(name, processes).wait() != 0:
            said = (self.base / f"{name}.said").read_text(errors="replace")
            raise RuntimeError(f"{name} fails: {said[-2000:]}")

    def stopped(
        self, name: str, processes: int, updates: int, stop: Callable[[int], None]
    ) -> tuple[float | None, int | None]:
        """Seconds until all of it was gone, None where it was not; and its exit status."""
        process = self.start(name, processes)
        metrics = self.base / name / "metrics.jsonl"
        while process.poll() is None and lines(metrics) < updates:
            time.sleep(0.005)
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended before it was to be stopped")
        began = time.monotonic()
        stop(process.pid)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GONE)
        left = max(0.0, GONE - (time.monotonic() - began))
        went = gone(process.pid, left) and not of_session(process.pid)
        taken = time.monotonic() - began
        return (taken if went else None), process.wait()

    def files(self, name: str) -> dict[str, bytes]:
        """What a run comes to, but for what is timed."""
        found = {}
        for file in sorted((self.base / name).rglob("*")):
            if file.is_file() and "tensorboard" not in file.parts:
                found[str(file.relative_to(self.base / name))] = file.read_bytes()
        return found

    def losses(self, name: str) -> np.ndarray:
        text = (self.base / name / "metrics.jsonl").read_text()
        return np.array([json.loads(line)["loss"] for line in text.splitlines()])


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def farthest(runs: Runs, one: str, other: str) -> float:
    """Largest difference between the weights of two models."""
    from safetensors.numpy import load_file

    both = [load_file(runs.base / name / "model" / "model.safetensors") for name in (one, other)]
    return max(float(np.abs(both[0][name] - both[1][name]).max()) for name in both[0])


def measure(base: Path, seed: int, shard: bool) -> list[dict[str, object]]:
    runs, rng = Runs(base, shard), random.Random(seed)
    runs.make_inputs()
    runs.finish("two", 2)
    runs.finish("one", 1)
    n, found = len(runs.losses("two")), []
    for number, (how, stop) in enumerate(STOPS.items()):
        name, at = f"stopped-{number}", rng.randrange(1, n - 4)
        taken, status = runs.stopped(name, 2, at, stop)
        shutil.copytree(base / name, base / f"{name}-alone")
        runs.finish(name, 2)
        same = runs.files(name) == runs.files("two")
        found.append({"how": how, "at": at, "gone": taken, "status": status, "same": same})
        print(json.dumps(found[-1]), flush=True)
    name, at = "stopped-one", rng.randrange(3, n - 4)
    runs.stopped(name, 1, at, STOPS["SIGKILL of the launcher"])
    runs.finish(name, 2)
    runs.finish("stopped-0-alone", 1)
    for what, name in (("two, then one", "stopped-0-alone"), ("one, then two", "stopped-one")):
        gap = float(np.abs(runs.losses(name) / runs.losses("two") - 1).max())
        line = {"how": what, "updates": [n, len(runs.losses(name))], "losses": gap}
        found.append({**line, "weights": farthest(runs, name, "two")})
        print(json.dumps(found[-1]), flush=True)
    gap = float(np.abs(runs.losses("one") / runs.losses("two") - 1).max())
    found.append({"how": "one, two", "losses": gap, "weights": farthest(runs, "one", "two")})
    print(json.dumps(found[-1]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--shard", action="store_true", help="shard the model, FSDP2 (copies, DDP)")
    parser.add_argument("--out", type=Path, help="write what came as JSON (print it only)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kncl-launched-") as base:
        found = measure(Path(base), args.seed, args.shard)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    wrong = [line for line in found if "same" in line and not (line["same"] and line["gone"])]
    far = [line for line in found if float(str(line.get("losses", 0))) > 1e-4]
    return int(bool(wrong or far))


if __name__ == "__main__":
    sys.exit(main())

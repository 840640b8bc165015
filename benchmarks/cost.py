"""What a change costs: two checkouts measured in turn, in pairs, on the same work.

    git archive d421577 | tar x -C ../before
    python benchmarks/cost.py --before ../before --out cost.json

Each checkout has a process of its own, which makes the same small world and waits to be asked. In
each round both do the same thing in an order drawn anew, so that a slow moment of the machine hits
both. A figure is the median over the rounds of the ratio after / before, with the quartiles of that
median under resampling of the rounds; CPU seconds beside wall seconds, since other work disturbs
only the latter.

    step          a step of the environment, random expansions, its learner included
    open          a world opened and every part of it read, as by every command after the first
    first open    the same where nobody has read its files yet
    checkpoint    a learner and its optimizer written, durably
    resume        the same read and put back
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

WORK = {"step": 1, "open": 4, "first open": 2, "checkpoint": 2, "resume": 2}  # times a round


def found(name: str, *modules: str) -> Any:
    """Something by its name, from the first module that is there: checkouts differ in their rooms.

    A module of the same name elsewhere, as an editable installation may offer, does not count.
    """
    for module in modules:
        with suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    raise ImportError(f"expected {name} in one of {modules}")


def read_all(world: Any) -> None:
    """Every part of a world that was just opened, but a copy of all texts: no command has one."""
    world.tokens()
    world.embed(["some words"])
    _ = (
        world.titles,
        world.passage_topic,
        world.graph.pagerank,
        world.topic_vectors,
        world.index.passages,
    )
    _ = (world.tokenizer, world.target_topics(), world.windows(65))


class Worker:
    """Does the work of one checkout, in this process, whose path leads there."""

    def __init__(self, place: Path) -> None:
        import torch

        torch.set_num_threads(1)
        with suppress(ImportError):  # as every command begins, where it does
            found("keep_freed_memory", "train_lm.machine.allocator", "train_lm.memory")()
        self.place = place
        os.environ["KNCL_CACHE"] = str(place / "cache")
        config = found("BuildConfig", "kncl_env.world.build", "kncl_env.build")
        build = found("build_world", "kncl_env.world.build", "kncl_env.build")
        synthetic = "kncl_env.world.sources.synthetic", "kncl_env.sources.synthetic"
        size = found("SyntheticConfig", *synthetic)(n_topics=400, n_communities=8)
        corpus = found("read_synthetic", *synthetic)(size)
        build(corpus, place / "world", config(passage_bytes=300))
        time.sleep(2.5)  # so that its files are older than the resolution of a clock
        self.world = found("World", "kncl_env.world.world", "kncl_env.world")
        self.alone = found("Alone", "train_lm.machine.parallel", "train_lm.parallel")()
        self._left = 0
        self._rng = np.random.default_rng(0)
        (place / "run").mkdir()

    @cached_property
    def env(self) -> Any:
        make = found("topic_expansion", "kncl_env.entry_points", "kncl_env.make")
        return make(self.place / "world", nucleus_updates=30)

    @cached_property
    def trainer(self) -> Any:
        from train_lm.model import PRESETS, build_model
        from train_lm.trainer import Trainer, TrainerConfig

        size = self.world.open(self.place / "world").tokenizer.get_vocab_size()
        trainer = Trainer(build_model(PRESETS["xs"], size), TrainerConfig(batch=4), "cpu")
        trainer.begin_phase(10**6, decay=False)
        for _ in range(4):
            trainer.update(self._rng.integers(0, size, (4, 65)))
        return trainer

    def step(self) -> None:
        if not self._left:
            self.env.reset(seed=0)
            self._left = 15
        self._left -= 1
        self.env.step(int(self._rng.integers(self.env.action_masks().sum() - 1)))

    def open(self) -> None:
        read_all(self.world.open(self.place / "world"))

    def forget(self) -> None:
        """Nothing is known of the world's files: no part of what a command does."""
        shutil.rmtree(self.place / "cache" / "whole", ignore_errors=True)

    def checkpoint(self) -> None:
        from train_lm.checkpoint import save_checkpoint

        self.trainer.updates += 1
        save_checkpoint(self.place / "run", self.trainer, self.alone)

    def resume(self) -> None:
        from train_lm.checkpoint import restore_checkpoint

        restore_checkpoint(self.place / "run", self.trainer, self.alone)

    def serve(self, answers: object) -> None:
        for line in sys.stdin:
            name = line.strip()
            action: Callable[[], None] = getattr(self, name.split()[-1])
            told = [0.0, 0.0]
            for _ in range(WORK[name]):
                if name == "first open":
                    self.forget()
                wall, cpu = time.perf_counter(), time.process_time()
                action()
                told[0] += time.perf_counter() - wall
                told[1] += time.process_time() - cpu
            print(json.dumps([t / WORK[name] for t in told]), file=answers, flush=True)  # type: ignore[call-overload]


class Checkout:
    """A checkout's process."""

    def __init__(self, root: Path, place: Path) -> None:
        place.mkdir()
        env = {**os.environ, "PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}
        env |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(place)],
            cwd=place,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, name: str) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(name, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} failed")
        found: list[float] = json.loads(answer)
        return found


def compared(before: Path, after: Path, rounds: int, names: list[str]) -> dict[str, object]:
    """Medians and ratios of every piece of work."""
    rng = np.random.default_rng(0)
    taken: dict[str, list[list[list[float]]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        sides = [Checkout(r, Path(folder) / n) for r, n in ((before, "before"), (after, "after"))]
        for side in sides:
            for name in names:  # warms up, and waits until it is ready
                side.ask("checkpoint" if name == "resume" else name)
        for n in range(rounds):
            for name in names:
                pair: list[list[float]] = [[], []]
                for i in rng.permutation(2):
                    pair[i] = sides[i].ask(name)
                taken[name].append(pair)
            print(f"\rround {n + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        for side in sides:
            side.process.kill()
            side.process.wait()
    return {name: _summary(np.array(found), rng) for name, found in taken.items()}


def _summary(found: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Of an array (rounds, before and after, wall and CPU)."""
    result: dict[str, object] = {"rounds": len(found)}
    for i, clock in enumerate(("wall", "cpu")):
        ratios = found[:, 1, i] / found[:, 0, i]
        draws = np.median(ratios[rng.integers(len(ratios), size=(2000, len(ratios)))], axis=1)
        low, high = np.quantile(draws, (0.025, 0.975))
        result |= {
            f"{clock}_before_s": float(np.median(found[:, 0, i])),
            f"{clock}_after_s": float(np.median(found[:, 1, i])),
            f"{clock}_ratio": float(np.median(ratios)),
            f"{clock}_ratio_95": [float(low), float(high)],
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="the other checkout's folder")
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--after", type=Path, default=here, help="this checkout (where it stands)")
    parser.add_argument("--rounds", type=int, default=30, help="pairs (30)")
    parser.add_argument("--only", default=",".join(WORK), help="which work, by comma (all)")
    parser.add_argument("--out", type=Path, help="JSON to write (none)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        answers = os.fdopen(os.dup(1), "w")
        sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in str(f)]
        os.dup2(2, 1)  # whatever is printed meanwhile is no answer
        Worker(args.work).serve(answers)
        return 0
    if args.before is None:
        parser.error("expected --before FOLDER")
    found = compared(args.before, args.after, args.rounds, args.only.split(","))
    print("| work | before [ms CPU] | after | ratio, CPU (95 %) | ratio, wall (95 %) |")
    print("|---|---|---|---|---|")
    for name, f in found.items():
        cells = [f"{1000 * f[k]:.2f}" for k in ("cpu_before_s", "cpu_after_s")]  # type: ignore[index]
        for clock in ("cpu", "wall"):
            low, high = f[f"{clock}_ratio_95"]  # type: ignore[index]
            cells.append(f"{f[f'{clock}_ratio']:.3f} ({low:.3f} to {high:.3f})")  # type: ignore[index]
        print(f"| {name} | {' | '.join(cells)} |")
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

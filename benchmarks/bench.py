"""Speed of everything that trains, side by side: `make bench`.

All ways train the same model on the same windows, in turn, in an order drawn anew each round, so
that a slow moment of the machine hits all of them. A rate is the median of the rounds; a ratio is
the median of each round's ratio. Prints tables, writes `out/bench.json`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

# As `kncl-policy` does: numpy's own threads would spin on for a while after each product of the
# environment's observations, on the cores that the next way is timed on.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import arms
import cluster
import numpy as np
import scale
import torch
from environment import OtherDraws, TimedSteps, file_seconds, reward_noise, snapshot_seconds
from loops import (
    BareLoop,
    Ints,
    Way,
    bank_way,
    hugging_face,
    matmul_rate,
    one_after_another,
    trainer_way,
)
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS, ClockedLearner
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.arms.registry import ARMS
from train_lm.adapters import Adapted, AdapterConfig
from train_lm.bank.bank import LearnerBank
from train_lm.files import write_json
from train_lm.machine.allocator import keep_freed_memory
from train_lm.machine.compiling import can_compile
from train_lm.model import PRESETS, build_model
from train_lm.trainer import Trainer, TrainerConfig

Rates = dict[str, NDArray[np.float64]]  # tokens per second of each round

BANKS = (1, 2, 4, 8, 16)
ADAPTERS = ("peft_x8", "adapter_bank8")
TINY = {"model": "xxs", "slots": 8, "steps": 4, "updates_per_step": 2, "batch": 4}
TINY |= {"nucleus_topics": 6, "nucleus_updates": 30, "breadth": 16}

# Numerator and denominator of each ratio.
RATIOS = {
    "trainer_over_bare_loop": ("trainer", "bare_loop"),
    "env_over_bare_loop": ("env_step", "bare_loop"),
    "hf_trainer_over_bare_loop": ("hf_trainer", "bare_loop"),
    "trainer_over_hf_trainer": ("trainer_compiled", "hf_trainer"),
    "trainer_eager_over_hf_trainer": ("trainer", "hf_trainer"),
    "trainer_over_hf_trainer_both_compiled": ("trainer_compiled", "hf_trainer_compiled"),
    "bank8_over_sequential": ("bank8", "bare_loop_x8"),
    "bank8_over_trainer_compiled": ("bank8", "trainer_compiled"),
    "adapter_bank8_over_sequential": ("adapter_bank8", "peft_x8"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, help="a world's directory (a generated world)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, nothing compiled: a trial")
    parser.add_argument(
        "--scale", metavar="N,N", help="also build, index and play worlds of so many passages (no)"
    )
    parser.add_argument(
        "--vectors", type=int, help="vectors of the index (1,000,000; with --tiny 0: none)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "bench.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    keep_freed_memory()  # as every command does; all ways have it
    cores = torch.get_num_threads()
    opened = nullcontext(args.world) if args.world else tempfile.TemporaryDirectory()
    with opened as folder, tempfile.TemporaryDirectory() as scratch:
        world = World.open(folder) if args.world else generated(Path(folder) / "world", args.tiny)
        stage = open_stage(world, Settings.of(**(TINY if args.tiny else {})))
        env = TopicExpansionEnv(stage, ClockedLearner(stage.learner()))
        found: dict[str, float] = {"cores": cores}
        torch.set_num_threads(1)  # on busy cores two threads mostly wait for each other
        rewards = measure_reward(env, args.tiny)
        ways, learners, steps = ways_of(env, scratch, not args.tiny, cores)
        others = Others()
        every, peak = interleave(env, ways, learners, args.rounds, cores)
        found |= others.measured()
        speed = {n: float(np.median(every["bare_loop", n])) for n in sorted({1, cores})}
        threads = max(speed, key=lambda n: speed[n])
        rates = {name: every[name, threads] for name in ways}
        found |= {f"bare_loop_threads{n}_tokens_per_s": rate for n, rate in speed.items()}
        found["threads_of_a_single_learner"] = threads
        found |= steps.shares(threads)
        step = steps.seconds(1)  # as a search, which has one thread
        torch.set_num_threads(threads)
        found |= steps.knowledge_share(threads)
        found |= snapshot_seconds(env)
        trainer = Trainer(model_of(env), TrainerConfig(), "cpu")
        trainer.begin_phase(1, decay=False)
        trainer.update(windows_of(env)[: TrainerConfig().batch])
        found |= file_seconds(world, trainer, Path(scratch))
        progress("bookkeeping of arms")
        torch.set_num_threads(1)
        # Those that search spend episodes on it: `arms.py` has them.
        names = [n for n, arm in ARMS.items() if arm.family not in ("mixture", "search")]
        found |= arms.flat(arms.measure(stage, names, 1 if args.tiny else 3))
    found |= rewards
    if importlib.util.find_spec("ray"):  # without it there is nobody to compare with
        progress("episodes by processes and by Ray")
        with tempfile.TemporaryDirectory() as folder:
            played = cluster.generated(Path(folder) / "world")
            found |= cluster.measure(played, 16, 1, args.tiny)
    vectors = (0 if args.tiny else 1_000_000) if args.vectors is None else args.vectors
    progress("index")
    with tempfile.TemporaryDirectory() as folder:
        if args.scale:
            sizes = [int(size) for size in args.scale.split(",")]
            found |= scale.measure(sizes, vectors or sizes[-1], 384, Path(folder))
        elif vectors:
            found |= scale.index_figures(vectors, 384, Path(folder), step)
    found |= summary(rates, peak, 6.0 * sum(p.numel() for p in model_of(env).parameters()))
    progress("")
    print_table(rates, found)
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, found)
    print(args.out)


def generated(folder: Path, tiny: bool) -> World:
    """A world whose frontier fills the default slots."""
    size = SyntheticConfig() if tiny else SyntheticConfig(n_topics=400, n_communities=8)
    return build_world(read_synthetic(size), folder, BuildConfig(passage_bytes=300))


def model_of(env: TopicExpansionEnv) -> torch.nn.Module:
    """A fresh model of the environment's preset."""
    vocabulary = env.stage.world.tokenizer.get_vocab_size()
    return build_model(PRESETS[env.settings.learner.model], vocabulary)


def windows_of(env: TopicExpansionEnv) -> Ints:
    """(n, T + 1) a step's windows, drawn evenly from the world."""
    rng = np.random.default_rng(0)
    store = env.stage.store
    return store.read(rng.integers(len(store), size=env.settings.windows_per_step))


def measure_reward(env: TopicExpansionEnv, tiny: bool) -> dict[str, float]:
    progress("reward and noise")
    text = env.stage.text
    assert text is not None
    draws = OtherDraws(env.learner, text, "reward", 4 if tiny else 12, MEASURED_WINDOWS["reward"])
    if tiny:
        return reward_noise(env, (0, 1), 2, 2, draws)
    return reward_noise(env, (0, 10), 5, 3, draws)


def ways_of(
    env: TopicExpansionEnv, scratch: str, compile: bool, cores: int
) -> tuple[dict[str, Way], dict[str, int], TimedSteps]:
    """The ways by name, how many learners each trains, and the watch on the environment."""
    batch, compile = env.settings.learner.batch, compile and can_compile(torch.device("cpu"))
    config = TrainerConfig(learning_rate=3e-3, batch=batch)
    steps = TimedSteps(env)
    ways: dict[str, Way] = {
        "bare_loop": BareLoop(model_of(env), batch),
        "bare_loop_x8": one_after_another([BareLoop(model_of(env), batch) for _ in range(8)]),
        "hf_trainer": hugging_face(model_of(env), batch, scratch, compile=False),
        "hf_trainer_compiled": hugging_face(model_of(env), batch, scratch, compile),
        "trainer": trainer_way(Trainer(model_of(env), config, "cpu")),
        "trainer_compiled": trainer_way(Trainer(model_of(env), config, "cpu", compile=compile)),
        "env_step": steps,
    }
    learners = dict.fromkeys(ways, 1) | {"bare_loop_x8": 8}
    # Each learner of a bank is a program run of its own on a CPU, so the first n of one bank are
    # a bank of n.
    bank = LearnerBank([model_of(env)] * max(BANKS), config, "cpu", compile=compile, threads=cores)
    for n in BANKS:
        ways[f"bank{n}"] = bank_way(bank, n)
        learners[f"bank{n}"] = n
    # Eight adapters: eight peft models, each with a base of its own, and one bank with one base.
    shape = AdapterConfig(rank=8)
    alone = [BareLoop(Adapted(model_of(env), shape).model, batch) for _ in range(8)]
    beside = LearnerBank(
        [model_of(env)] * 8, config, "cpu", compile=compile, threads=cores, adapter=shape
    )
    ways |= zip(ADAPTERS, (one_after_another(alone), bank_way(beside, 8)), strict=True)
    learners |= dict.fromkeys(ADAPTERS, 8)
    return ways, learners, steps


def interleave(
    env: TopicExpansionEnv,
    ways: Mapping[str, Way],
    learners: Mapping[str, int],
    rounds: int,
    cores: int,
) -> tuple[dict[tuple[str, int], NDArray[np.float64]], float]:
    """Tokens per second of each way and number of threads in each round, and the peak [FLOP/s].

    A bank has one thread per core by itself; everything else is run with one thread and with one
    per core, because which is faster depends on the machine and on who else uses it.
    """
    windows = windows_of(env)
    order = np.random.default_rng(0)
    counts = sorted({1, cores})
    turns = [(name, n) for name in ways for n in counts if n == cores or "bank" not in name]
    rates: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    peaks = []
    for round_ in range(rounds + 1):
        for i in order.permutation(len(turns)):
            name, threads = turns[i]
            progress(f"round {round_} of {rounds}: {name}, {threads} threads")
            torch.set_num_threads(threads)
            seconds = ways[name](windows)
            if round_:  # the first round warms up and compiles
                rates[turns[i]].append(learners[name] * windows[:, 1:].size / seconds)
        torch.set_num_threads(cores)
        peaks.append(matmul_rate(1024))
    found = {turn: np.array(r) for turn, r in rates.items()}
    found |= {(name, 1): r for (name, _), r in found.items() if "bank" in name}
    return found, max(peaks)


class Others:
    """Watches how many cores other processes use meanwhile: figures count where it is near 0."""

    def __init__(self) -> None:
        self._began = self._read()

    def measured(self) -> dict[str, float]:
        if self._began is None or (ended := self._read()) is None:
            return {}
        wall, busy, own = (b - a for a, b in zip(self._began, ended, strict=True))
        return {"cores_used_by_others": max(0.0, (busy - own) / wall)}

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds of wall, of all busy cores and of this process; None where it is not told."""
        if not Path("/proc/stat").is_file():
            return None
        ticks = [int(t) for t in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        busy = (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
        own = sum(os.times()[:4])  # with its children
        return time.perf_counter(), busy, own


def progress(what: str) -> None:
    print(f"\r{what:60s}", end="", file=sys.stderr, flush=True)


def summary(rates: Rates, peak: float, flops_per_token: float) -> dict[str, float]:
    found = {"matmul_peak_flops": peak}
    for name, r in rates.items():
        found[f"{name}_tokens_per_s"] = rate = float(np.median(r))
        if name not in ADAPTERS:  # these have other FLOPs a token
            found[f"{name}_of_peak"] = rate * flops_per_token / peak
    for name, (above, below) in RATIOS.items():
        found[name] = float(np.median(rates[above] / rates[below]))
    return found


def print_table(rates: Rates, found: Mapping[str, float]) -> None:
    print(f"{'':28s} {'tokens/s':>10s} {'of bare':>8s} {'of peak':>8s}")
    for name, r in rates.items():
        of_bare = np.median(r / rates["bare_loop"])
        rate, of_peak = found[f"{name}_tokens_per_s"], found.get(f"{name}_of_peak")
        share = "" if of_peak is None else f"{of_peak:8.2f}"
        print(f"{name:28s} {rate:10,.0f} {of_bare:8.2f} {share}")
    print()
    shown = {f"{name}{what}" for name in rates for what in ("_tokens_per_s", "_of_peak")}
    for name, value in found.items():
        if name not in shown:
            print(f"{name:44s} {value if isinstance(value, str) else f'{value:.4g}'}")


if __name__ == "__main__":
    main()

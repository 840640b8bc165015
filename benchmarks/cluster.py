"""Episodes by local processes and by a Ray cluster, at equal cores, and PPO with both collections.

All ways play the same tasks in the same waves in turn, in an order drawn anew each round, and each
begins with nothing: a cluster is started and left, processes are started and ended. A rate counts
from the record on with which every worker has delivered one, so that starting counts for neither;
starting is a figure of its own. Beside the wall, the processor's seconds of an episode are
counted over all processes, those of Ray among them: they bear a machine that others use. Records
are compared: they must be the same. Last, the same training in lockstep and with `--collect async`.

Without Ray, the local ways alone. Prints a table, writes `out/cluster.json`.

    python benchmarks/cluster.py --world worlds/pydoc --rounds 4
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# As `kncl-policy` does.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import psutil
import torch

from kncl_env.settings import Settings
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import EpisodeRecord, EpisodeTask, play_all
from policies.play.journal import Journal
from train_lm.crew.cluster import leave
from train_lm.crew.hands import Hands
from train_lm.crew.local import HERE
from train_lm.files import write_json
from train_lm.machine.cores import CORES, cores

SMALL = {"model": "xxs", "slots": 8, "steps": 4, "updates_per_step": 2, "batch": 4}
SMALL |= {"nucleus_topics": 6, "nucleus_updates": 30, "breadth": 16}


@dataclass(frozen=True)
class Way:
    """Who plays.

    Attributes:
        hands: Processes, or a cluster.
        workers: Of it.
    """

    hands: Hands
    workers: int


@dataclass(frozen=True)
class Rate:
    """What one way took once.

    Attributes:
        start: Seconds until the first record.
        wall: Seconds of an episode from then on.
        cpu: Seconds of the processor for an episode, over all processes.
    """

    start: float
    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, help="a world (a generated one)")
    parser.add_argument("--rounds", type=int, default=2, help="of every way (2)")
    parser.add_argument("--episodes", type=int, default=16, help="of each round (16)")
    parser.add_argument("--tiny", action="store_true", help="few short episodes: a trial")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "cluster.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        world = World.open(args.world) if args.world else generated(Path(scratch) / "world")
        n = 2 * cores() if args.tiny else args.episodes
        found = measure(world, n, 1 if args.tiny else args.rounds, args.tiny)
        if not args.tiny:
            found |= collections(world, args.rounds)
    for name, value in found.items():
        print(f"{name:44s} {value:8.3f}")
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, found)
    print(args.out)


def generated(place: Path) -> World:
    corpus = read_synthetic(SyntheticConfig(n_topics=200))
    return build_world(corpus, place, BuildConfig(passage_bytes=200))


def measure(world: World, n: int, rounds: int, tiny: bool = False) -> dict[str, float]:
    """Episodes per second of each way, and their ratios."""
    settings = Settings.of(**SMALL) if tiny else Settings.of(slots=16, steps=6, nucleus_updates=50)
    tasks = [
        EpisodeTask(str(world.path), settings, "random", seed, 7, CurveMeter(points=2))
        for seed in range(n)
    ]
    ways = ways_of(tiny)
    rates: dict[str, list[Rate]] = {name: [] for name in ways}
    first: Sequence[EpisodeRecord[Curve]] | None = None
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for name in order.permutation(list(ways)):
            records, rate = played(world, tasks, ways[name])
            first = first or records
            if records != first:
                raise AssertionError(f"expected the same records of every way, {name} differs")
            rates[name].append(rate)
    return summary(rates)


def ways_of(tiny: bool) -> dict[str, Way]:
    """One worker and as many as cores, of both kinds; a trial has no time for all."""
    all_ = cores()
    ways = {"one_process": Way(Hands(), 1), "processes": Way(Hands(all_), all_)}
    if importlib.util.find_spec("ray"):
        ways |= {"ray": Way(Hands(ray=HERE), all_)}
        ways |= {} if tiny else {"ray_one_worker": Way(Hands(ray=HERE), 1)}
    return ways


def played(
    world: World, tasks: Sequence[EpisodeTask[Curve]], way: Way
) -> tuple[list[EpisodeRecord[Curve]], Rate]:
    """The records of all tasks, played by a way that begins with nothing."""
    walls, cpus = [], []

    def ended(record: EpisodeRecord[Curve]) -> None:
        walls.append(time.perf_counter())
        if len(walls) in (way.workers, len(tasks)):
            cpus.append(processor_seconds())

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, limited_to(way.workers):
        journal = Journal(Path(scratch) / "episodes.jsonl", {"format": "benchmark"})
        records = play_all(world, tasks, journal, learners=1, hands=way.hands, on_record=ended)
        leave()
    counted = len(tasks) - way.workers
    wall, cpu = walls[-1] - walls[way.workers - 1], cpus[-1] - cpus[0]
    return records, Rate(walls[0] - began, wall / counted, cpu / counted)


@contextmanager
def limited_to(workers: int) -> Iterator[None]:
    """A cluster that is started here has so many workers."""
    before = os.environ.get(CORES)
    os.environ[CORES] = str(workers)
    try:
        yield
    finally:
        os.environ.pop(CORES)
        if before is not None:
            os.environ[CORES] = before


def processor_seconds() -> float:
    """Of this process and all that it started, and they in turn."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system
    return total


def summary(rates: Mapping[str, Sequence[Rate]]) -> dict[str, float]:
    found = {}
    for name, all_ in rates.items():
        found[f"{name}_episodes_per_s"] = 1 / float(np.median([one.wall for one in all_]))
        found[f"{name}_cpu_s_of_an_episode"] = float(np.median([one.cpu for one in all_]))
        found[f"{name}_start_s"] = float(np.median([one.start for one in all_]))
    pairs = {
        "ray_over_processes": ("ray", "processes"),
        "processes_over_one": ("processes", "one_process"),
        "ray_over_ray_one_worker": ("ray", "ray_one_worker"),
    }
    for name, (a, b) in pairs.items():
        if a in rates and b in rates:
            both = [*zip(rates[a], rates[b], strict=True)]
            found[f"{name}_rate"] = float(np.median([y.wall / x.wall for x, y in both]))
            found[f"{name}_cpu"] = float(np.median([x.cpu / y.cpu for x, y in both]))
    return found


def collections(world: World, rounds: int) -> dict[str, float]:
    """Rollouts per minute of a tiny training, in lockstep and with workers that play ahead."""
    from policies.learn.ppo import PPOConfig

    each = 2 * cores()
    config = PPOConfig(iterations=6, episodes=each, learners=cores(), batch=8)
    ways = {"lockstep": None, "async": 1}
    kinds = {"processes": Hands(cores())}
    if importlib.util.find_spec("ray"):
        kinds |= {"ray": Hands(ray=HERE)}
    rates: dict[str, list[float]] = {f"{kind}_{way}": [] for kind in kinds for way in ways}
    order = np.random.default_rng(1)
    for _ in range(rounds):
        for name in order.permutation(list(rates)):
            kind, way = name.rsplit("_", 1)
            rates[name].append(rollouts_per_minute(world, config, ways[way], kinds[kind]))
    found = {f"{name}_rollouts_per_min": float(np.median(all_)) for name, all_ in rates.items()}
    for kind in kinds:
        gain = np.divide(rates[f"{kind}_async"], rates[f"{kind}_lockstep"])
        found[f"{kind}_async_over_lockstep"] = float(np.median(gain))
    return found


def rollouts_per_minute(world: World, config: object, lag: int | None, hands: Hands) -> float:
    """Counted from the end of the first one on."""
    from dataclasses import replace

    from policies.learn.training import TrainingPlan, train_policy

    ends: list[float] = []
    note: Callable[..., None] = lambda *_: ends.append(time.perf_counter())  # noqa: E731
    with tempfile.TemporaryDirectory() as scratch:
        plan = TrainingPlan(replace(config, lag=lag), hands=hands)  # type: ignore[type-var]
        settings = Settings.of(**{**SMALL, "steps": 16})
        train_policy(world, settings, plan, Path(scratch) / "out", note)
        leave()
    return 60 * (len(ends) - 1) / (ends[-1] - ends[0])


if __name__ == "__main__":
    main()

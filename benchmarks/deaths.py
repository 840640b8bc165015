"""A Ray cluster that loses workers and nodes: in a build, an evaluation and a training.

Each job is done in this process, then on a cluster of nodes of one core: undisturbed; with workers
killed (SIGKILL) at moments drawn from a seed, each after something was finished since the one
before, until so many kills met a busy one; and with a node removed while it worked. What it leaves
is compared, byte for byte. The build is done by two local processes, too, which are killed
likewise.
Needs `kncl[ray]`. Prints a table, writes `out/deaths.json`.

    python benchmarks/deaths.py --kills 10 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from kncl_env.settings import Settings
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from policies.play.curves import CurveMeter
from policies.play.episodes import EpisodeTask, play_all
from policies.play.journal import Journal
from train_lm.crew.cluster import leave, prepare
from train_lm.crew.hands import Hands
from train_lm.crew.standing import Standing
from train_lm.crew.under_way import UnderWay
from train_lm.files import write_json

STORE = 80 * 2**20  # [bytes] of a node's objects
NODES = 2
SETTINGS = Settings.of(
    model="xxs", nucleus_topics=6, nucleus_updates=30, steps=8, updates_per_step=4, slots=8
)
CONFIG = BuildConfig(passage_bytes=200)

Job = Callable[[Path, Hands], str]


FINISHED = [0]  # results of tasks, and answers of workers that keep environments


def count(of: type, method: str) -> None:
    """From now on every return of a method counts as something finished."""
    plain = getattr(of, method)

    def counted(self: object, *args: Any) -> Any:
        found = plain(self, *args)
        FINISHED[0] += 1
        return found

    setattr(of, method, counted)


@dataclass
class Killer:
    """Kills busy workers, one after another.

    Args:
        find: The processes that are busy.
        n: Kills, at most.
        gap: Time between them, half of it to one and a half [s].
    """

    find: Callable[[], list[int]]
    n: int
    gap: float
    draw: random.Random
    kills: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Killer:
        self._thread = threading.Thread(target=self._kill, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()

    def _kill(self) -> None:
        before = FINISHED[0]
        while self.kills < self.n and not self.over.wait(self.gap * self.draw.uniform(0.5, 1.5)):
            while FINISHED[0] == before or not (busy := self.find()):
                if self.over.wait(0.05):
                    return
            before = FINISHED[0]
            with suppress(ProcessLookupError):
                os.kill(self.draw.choice(busy), signal.SIGKILL)
                self.kills += 1


def build(place: Path, hands: Hands, topics: int) -> str:
    world = build_world(
        read_synthetic(SyntheticConfig(n_topics=topics)), place, CONFIG, hands=hands
    )
    return world.hash


def evaluate(place: Path, hands: Hands, world: World, episodes: int) -> str:
    tasks = [
        EpisodeTask(str(world.path), SETTINGS, "random", seed, 7, CurveMeter(points=2))
        for seed in range(episodes)
    ]
    journal = Journal(place, {"format": "deaths"})
    return repr(play_all(world, tasks, journal, learners=1, hands=hands))


def train(place: Path, hands: Hands, world: World, iterations: int) -> str:
    config = PPOConfig(iterations=iterations, episodes=2, learners=2, epochs=1, batch=8)
    train_policy(world, SETTINGS, TrainingPlan(config, hands=hands), place, lambda *_: None)
    return hashlib.sha256((place / "policy.safetensors").read_bytes()).hexdigest()


def on_cluster() -> list[int]:
    """Workers of this process's cluster that play a task or keep environments."""
    return _named("ray::_Keeper", "ray::_play")


def local() -> list[int]:
    """Workers of a pool of this process."""
    return _named(f"{sys.executable} -c from multiprocessing.spawn")


def _named(*begins: str) -> list[int]:
    """Processes below this one, never those of another cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(begins):
                found.append(process.pid)
    return sorted(found)


def workers_of(node: Any) -> set[int]:
    found = set()
    for processes in node.all_processes.values():
        for info in processes:
            with suppress(psutil.NoSuchProcess):
                found |= {p.pid for p in psutil.Process(info.process.pid).children(recursive=True)}
    return found


def remove_one(nodes: Cluster, draw: random.Random, delay: float, over: threading.Event) -> str:
    """After a while, a node whose worker is busy; its process numbers, to tell that it was done."""
    over.wait(delay * draw.uniform(0.5, 1.5))
    while not over.wait(0.05):
        busy = set(on_cluster())
        for node in nodes.worker_nodes:
            if own := busy & workers_of(node):
                nodes.remove_node(node, allow_graceful=False)
                return f"with {len(own)} busy"
    return ""


def measure(name: str, job: Job, nodes: Cluster, args: argparse.Namespace) -> dict[str, float]:
    """One job in every way; raises where a way leaves other bytes."""
    draw = random.Random(f"{args.seed} {name}")
    there = Hands(ray=nodes.address)
    found: dict[str, float] = {}
    wanted = ""

    def done(way: str, hands: Hands) -> None:
        nonlocal wanted
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            result = job(Path(scratch) / "out", hands)
        found[f"{name}_{way}_s"] = time.monotonic() - began
        wanted = wanted or result
        if result != wanted:
            raise AssertionError(f"expected {name} as of one process, {way} differs")
        print(f"{name:12s} {way:24s} {found[f'{name}_{way}_s']:7.1f} s, the same", flush=True)

    done("here", Hands())
    done("there", there)
    gap = args.gap or found[f"{name}_there_s"] / 8
    with Killer(on_cluster, args.kills, gap, draw) as killer:
        done("workers_killed", there)
    found[f"{name}_kills"] = killer.kills
    print(f"{name:12s} workers killed: {killer.kills}", flush=True)
    over, removed = threading.Event(), []
    thread = threading.Thread(
        target=lambda: removed.append(remove_one(nodes, draw, found[f"{name}_here_s"] / 8, over))
    )
    thread.start()
    done("node_removed", there)
    over.set()
    thread.join()
    found[f"{name}_nodes_removed"] = float(bool(removed[0]))
    print(f"{name:12s} node removed: {removed[0] or 'none'}", flush=True)
    if removed[0]:
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
    if name == "build":
        with Killer(local, args.kills, gap, draw) as killer:
            done("local_killed", Hands(2))
        found[f"{name}_local_kills"] = killer.kills
        print(f"{name:12s} local workers killed: {killer.kills}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each job (10)")
    parser.add_argument("--gap", type=float, help="between kills, about [s] (an eighth of a job)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--topics", type=int, default=6_000, help="of the world built (6000)")
    parser.add_argument("--episodes", type=int, default=40, help="evaluated (40)")
    parser.add_argument("--iterations", type=int, default=10, help="of the training (10)")
    parser.add_argument("--only", default="build,evaluation,training", help="jobs (all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "deaths.json")
    args = parser.parse_args()
    prepare()
    count(UnderWay, "done")
    count(Standing, "each")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KNCL_CACHE"] = str(Path(scratch) / "cache")
        small = read_synthetic(SyntheticConfig(n_topics=60))
        world = build_world(small, Path(scratch) / "world", CONFIG)
        jobs: dict[str, Job] = {
            "build": lambda place, hands: build(place, hands, args.topics),
            "evaluation": lambda place, hands: evaluate(place, hands, world, args.episodes),
            "training": lambda place, hands: train(place, hands, world, args.iterations),
        }
        head = {"num_cpus": 1, "object_store_memory": STORE}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(NODES - 1):
                nodes.add_node(num_cpus=1, object_store_memory=STORE)
            for name in args.only.split(","):
                found |= measure(name, jobs[name], nodes, args)
        finally:
            leave()
            nodes.shutdown()
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, found)
    print(args.out)


if __name__ == "__main__":
    main()

"""A long run of training and evaluating on a Ray cluster of two nodes: does anything grow?

One process trains a policy, evaluates arms, throws both away and begins again, on a cluster of two
nodes of this machine. After each round it looks at itself and at all processes of the cluster:
memory, open handles, threads, processes, and the disk that the cluster's logs take. Memory is what
stands for no file, and the object store: a share of a library's pages would change with whatever
else on the machine uses that library. Growth is the median of the last sixth of the rounds over
that of the sixth after the first ten minutes.
Needs `kncl[ray]`. Prints a table, writes `out/soak.json`.

    python benchmarks/soak.py --minutes 120
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from kncl_env.settings import Settings
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from policies.play.evaluation import evaluate
from policies.play.plan import Plan
from train_lm.crew.cluster import leave, prepare
from train_lm.crew.hands import Hands
from train_lm.files import write_json

SETTINGS: dict[str, object] = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 6,
    "updates_per_step": 2,
    "slots": 8,
}
ARMS = ("uniform", "random", "rule", "coverage")
STORE = 80 * 2**20  # [bytes] of a node's object store
WARM = 600.0  # [s] from which on nothing may grow

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=120.0, help="that it goes on (120)")
    parser.add_argument("--warm", type=float, default=WARM, help="seconds to warm up (600)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "soak.json")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, two_nodes() as address:
        corpus = read_synthetic(SyntheticConfig(n_topics=60))
        world = build_world(corpus, Path(scratch) / "world", BuildConfig(passage_bytes=200))
        looks = soak(world, Hands(ray=address), 60 * args.minutes, Path(scratch), args.out)
    found = growth(looks, args.warm)
    for name, value in found.items():
        print(f"{name:32s} {value:12.4f}")
    write_json(args.out, {"growth": found, "looks": looks})
    print(args.out)


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes, one core each."""
    prepare()
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE}
    )
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    try:
        yield cluster.address
    finally:
        leave()
        cluster.shutdown()


def soak(world: World, hands: Hands, seconds: float, scratch: Path, out: Path) -> list[Figures]:
    """Rounds until the time is up; what was found after each."""
    looks: list[Figures] = []
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            one_round(world, hands, len(looks), Path(place))
        looks.append({"seconds": time.monotonic() - began, **look()})
        write_json(out, {"growth": {}, "looks": looks})
        told = looks[-1]
        print(f"round {len(looks)}", *(f"{k} {v:.0f}" for k, v in told.items()), flush=True)
    return looks


def one_round(world: World, hands: Hands, number: int, place: Path) -> None:
    """A training and an evaluation, of seeds of their own."""
    settings = Settings.of(**SETTINGS)
    ppo = PPOConfig(iterations=2, episodes=4, learners=2, epochs=2, batch=8, seed=number)
    train_policy(world, settings, TrainingPlan(ppo, hands=hands), place / "train")
    plan = Plan((*ARMS, str(place / "train")), seeds=4, hands=hands)
    evaluate(world, settings, plan, place / "verdict")


def look() -> Figures:
    """What this process and the cluster's hold. Memory in MiB, the logs' disk too."""
    gc.collect()
    own = psutil.Process()
    all_ = [own, *own.children(recursive=True)]
    found = {"own_mib": _held(own)[0], "all_mib": 0.0, "handles": 0.0, "threads": 0.0}
    found["own_handles"], found["own_threads"] = float(own.num_fds()), float(own.num_threads())
    alive, store = 0, 0.0
    for process in all_:
        try:
            private, shared = _held(process)
            found["all_mib"] += private
            store = max(store, shared)  # all map the same one
            found["handles"] += process.num_fds()
            found["threads"] += process.num_threads()
            alive += 1
        except (psutil.NoSuchProcess, FileNotFoundError):  # it ended meanwhile
            continue
    return {**found, "store_mib": store, "processes": float(alive), "logs_mib": _logs() / 2**20}


def _held(process: psutil.Process) -> tuple[float, float]:
    """MiB of its own that stand for no file, and of memory that processes share on purpose."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    private, shared = (int(sizes[name].split()[0]) / 1024 for name in ("RssAnon", "RssShmem"))
    return private, shared


def _logs() -> int:
    """Bytes of the cluster's session."""
    import ray

    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    return sum(path.lstat().st_size for path in session.rglob("*") if path.is_file())


def growth(looks: list[Figures], warm: float) -> Figures:
    """Rounds, minutes, and of each figure the last sixth over the first one when warm.

    Raises:
        ValueError: Too few rounds after the warm-up.
    """
    after = [one for one in looks if one["seconds"] >= warm]
    if len(after) < 6:
        raise ValueError(f"expected 6 rounds or more after {warm:.0f} s, got {len(after)}")
    sixth = len(after) // 6
    found: Figures = {"rounds": len(looks), "minutes": looks[-1]["seconds"] / 60}
    for name in looks[0]:
        if name != "seconds":
            first = float(np.median([one[name] for one in after[:sixth]]))
            last = float(np.median([one[name] for one in after[-sixth:]]))
            found[f"{name}_first"], found[f"{name}_last"] = first, last
            found[f"{name}_growth"] = last / first
    return found


if __name__ == "__main__":
    main()

"""Episodes by local processes and by a Ray cluster, at equal cores: throughput as a ratio.

Both play the same tasks in the same waves in turn, in an order drawn anew each round. A rate counts
from the first record on, so that starting workers counts for neither. Records are compared: they
must be the same.
Needs `kncl[ray]`. Prints a table, writes `out/cluster.json`.

    python benchmarks/cluster.py --world worlds/pydoc --rounds 4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
from train_lm.machine.cores import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, help="a world (a generated one)")
    parser.add_argument("--rounds", type=int, default=4, help="of every way (4)")
    parser.add_argument("--episodes", type=int, default=16, help="of each round (16)")
    parser.add_argument("--tiny", action="store_true", help="few short episodes: a trial")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "cluster.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        world = World.open(args.world) if args.world else generated(Path(scratch) / "world")
        n = 2 if args.tiny else args.episodes
        found = measure(world, n, 1 if args.tiny else args.rounds, args.tiny)
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
    size = {"model": "xxs", "steps": 3, "nucleus_updates": 20} if tiny else {"steps": 20}
    settings = Settings.of(slots=16, **size)
    tasks = [
        EpisodeTask(str(world.path), settings, "random", seed, 7, CurveMeter(points=2))
        for seed in range(n)
    ]
    all_ = cores()
    ways = {"one process": Hands(), f"{all_} processes": Hands(all_), "ray": Hands(ray=HERE)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    first: Sequence[EpisodeRecord[Curve]] | None = None
    order = np.random.default_rng(0)
    try:
        for round_ in range(rounds + 1):  # the first one warms up
            for name in order.permutation(list(ways)):
                with tempfile.TemporaryDirectory() as scratch:
                    journal = Journal(Path(scratch) / "episodes.jsonl", {"format": "benchmark"})
                    ends: list[float] = []
                    records = play_all(
                        world,
                        tasks,
                        journal,
                        learners=1,
                        hands=ways[name],
                        on_record=lambda _, ends=ends: ends.append(time.perf_counter()),  # type: ignore[misc]
                    )
                    took = ends[-1] - ends[0]
                first = first or records
                if records != first:
                    raise AssertionError(f"expected the same records of every way, {name} differs")
                if round_:
                    rates[name].append((n - 1) / took)
    finally:
        leave()
    median = {name: float(np.median(values)) for name, values in rates.items()}
    local = f"{all_} processes"
    found = {f"{name.replace(' ', '_')}_episodes_per_s": rate for name, rate in median.items()}
    pairs = {"ray_over_local_processes": ("ray", local), "local_over_one": (local, "one process")}
    return found | {
        name: float(np.median(np.divide(rates[a], rates[b]))) for name, (a, b) in pairs.items()
    }


if __name__ == "__main__":
    main()

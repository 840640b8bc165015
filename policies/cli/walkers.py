"""`kncl-policy pretrain`, `predict`, `walk`: what has to do with walkers and their paths."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_lm.command_line import claim_output

if TYPE_CHECKING:
    from rabbit_holes.path import Path as RabbitHole

# As in rabbit_holes/demonstrations.py, which a plain --help must not import.
GOALS = ("given", "withheld", "widened", "mixed")


def pretrain_parser(verbs: Any) -> None:
    verb = verbs.add_parser("pretrain", help="clone the choices of recorded rabbit holes")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--holes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument("--out", type=Path, required=True, metavar="POLICY")
    verb.add_argument("--paths", type=int, help="use this many paths, drawn evenly")
    verb.add_argument(
        "--goals",
        choices=GOALS,
        nargs="+",
        default=["mixed"],
        help="how a walker's goal is shown; each path once in every way named (mixed)",
    )
    verb.add_argument(
        "--frontier",
        action="store_true",
        help="offer the whole frontier at each click, as the environment does",
    )
    verb.add_argument(
        "--slots", type=int, default=32, help="candidates per click, the others by lot (32)"
    )
    verb.add_argument("--width", type=int, default=64, help="units of the network (64)")
    verb.add_argument("--epochs", type=int, default=9, help="passes at most (9)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(action=_pretrain)


def predict_parser(verbs: Any) -> None:
    verb = verbs.add_parser("predict", help="next-click figures of a policy, as JSON")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--policy", type=Path, required=True)
    verb.add_argument("--holes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument(
        "--split",
        choices=("all", "train", "select", "test"),
        default="test",
        help="pairs to measure on; pretrain never sees `test` (test)",
    )
    verb.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        metavar="F.jsonl",
        help="count transitions on the training pairs of these paths: a Markov rung",
    )
    verb.add_argument("--clicks", type=int, help="at most this many clicks")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(action=_predict)


def walk_parser(verbs: Any) -> None:
    from rabbit_holes.live.cli import add_collection_options

    verb = verbs.add_parser("walk", help="let a policy collect rabbit holes on a live wiki")
    verb.add_argument("--policy", type=Path, required=True)
    verb.add_argument("--temperature", type=float, default=1.0, help="0 takes the best link (1)")
    verb.add_argument("--goal", metavar="TITLE", help="page to look for")
    add_collection_options(verb)
    verb.set_defaults(action=_walk)


def _walk(args: argparse.Namespace) -> int:
    from policies.curiosity import CuriosityPolicy
    from policies.learn.walker import PolicyWalker
    from rabbit_holes.live.cli import run_collection
    from train_lm.files import hash_file

    policy = CuriosityPolicy.load(args.policy)
    walker = PolicyWalker(policy, args.policy.name, args.temperature, args.goal)
    weights = hash_file(args.policy / "policy.safetensors")
    options = {"policy": weights, "temperature": args.temperature, "goal": args.goal}
    return run_collection(args, walker, options)


def _holes(files: list[Path], dropped: Counter[str]) -> list[RabbitHole]:
    from rabbit_holes.path import read_paths

    def bad(reason: str) -> None:
        dropped["malformed lines"] += 1
        print(f"left out: {reason}", file=sys.stderr)

    return [path for file in files for path in read_paths(file, on_error=bad)]


def _pretrain(args: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from rich.progress import Progress

    from kncl_env.world.world import World
    from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
    from policies.learn.cloning import CloningConfig, clone
    from rabbit_holes.demonstrations import demonstrate_in_parallel, joined, pair_split

    torch.set_num_threads(os.cpu_count() or 1)
    claim_output(args.out, args.force, marker="policy.json")
    began = time.monotonic()
    world = World.open(args.world)
    dropped: Counter[str] = Counter()
    rng = np.random.default_rng(args.seed)
    paths = _holes(args.holes, dropped)
    split = {name: [p for p in paths if pair_split(p) == name] for name in ("train", "select")}
    if args.paths is not None and args.paths < len(split["train"]):
        keep = np.sort(rng.choice(len(split["train"]), args.paths, replace=False))
        split["train"] = [split["train"][i] for i in keep]
    split["select"] = split["select"][: max(200, len(split["train"]) // 5)]
    seen = {}
    with Progress(transient=True) as bar:
        for i, (name, part) in enumerate(split.items()):
            rows = bar.add_task(f"{name} paths", total=len(part) * len(args.goals))
            seen[name] = joined(
                [
                    demonstrate_in_parallel(
                        part,
                        world,
                        args.seed + i,
                        on_chunk=partial(bar.advance, rows),
                        slots=args.slots,
                        goals=goals,
                        frontier=args.frontier,
                    )
                    for goals in args.goals
                ]
            )
    for name, clicks in seen.items():
        print(f"{name}: {len(split[name]):,} paths, {len(clicks):,} clicks")
        dropped.update(clicks.dropped)
    for reason, n in dropped.items():
        print(f"  dropped {n:,}: {reason}")
    network = CuriosityNetwork(CuriosityConfig(width=args.width, seed=args.seed))
    history = clone(
        network,
        seen["train"],
        seen["select"],
        CloningConfig(epochs=args.epochs, seed=args.seed),
        lambda epoch, a, b: print(f"epoch {epoch + 1}: train {a:.4f}, select {b:.4f} nats/click"),
    )
    policy = CuriosityPolicy(
        network,
        {
            "made_by": "cloning",
            "world": world.hash,
            "walkers": dict(Counter(p.walker for p in split["train"]).most_common(20)),
            "clicks": len(seen["train"]),
            "select_loss": min(h[1] for h in history),
            "goals": args.goals,
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    policy.save(args.out)
    print(f"{args.out}: cloned in {time.monotonic() - began:.0f} s")
    return 0


def _predict(args: argparse.Namespace) -> int:
    import numpy as np

    from kncl_env.topic_table import TopicTable
    from kncl_env.world.world import World
    from policies.curiosity import CuriosityPolicy
    from policies.learn.prediction import markov_places, predict
    from rabbit_holes.demonstrations import Showing, demonstrate, pair_split

    if args.train and args.split in ("all", "train"):
        raise ValueError(
            f"expected --split select or test with --train, got {args.split}: a chain that has "
            "counted a click would predict it"
        )
    policy = CuriosityPolicy.load(args.policy)
    world = World.open(args.world)
    table = TopicTable.of(world)
    dropped: Counter[str] = Counter()
    counted = [p for p in _holes(args.train, dropped) if pair_split(p) == "train"]
    paths = [
        p for p in _holes(args.holes, dropped) if args.split == "all" or pair_split(p) == args.split
    ]
    found: dict[str, Any] = {"world": world.hash, "split": args.split}
    for goals in ("given", "withheld"):
        rng = np.random.default_rng(args.seed)
        how = Showing(slots=None, goals=goals, limit=args.clicks)
        clicks = demonstrate(paths, world, table, rng, how)
        more = {"Markov": markov_places(counted, paths, world, len(clicks))} if counted else {}
        found[f"goal {goals}"] = predict(policy.network, clicks, rng, more)
    print(json.dumps(found, indent=1))
    return 0

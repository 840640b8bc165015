"""`kncl-policy pretrain`, `predict`, `walk`: what has to do with walkers and their paths."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from train_lm.command_line import GOES_ON, Verbs, comma_separated, say, say_lines
from train_lm.files import read_json
from train_lm.inputs import inputs
from train_lm.outputs import alone, holds_json
from train_lm.plain_text import in_json

if TYPE_CHECKING:
    from rich.progress import TaskID

    from policies.learn.cloning import Lesson
    from rabbit_holes.path import Path as RabbitHole


SHOWN = 20  # malformed lines that are printed one by one


def pretrain_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "pretrain",
        help="clone the choices of recorded rabbit holes",
        description="Learns to choose as the walkers of recorded paths did, and writes a policy "
        "directory. Pairs of start and goal are split: most train, a tenth decides when to stop, "
        "and a tenth, which `predict` measures on, is never looked at.",
        epilog="Example: kncl-policy pretrain --world worlds/wiki --holes people.jsonl "
        "--goals given,withheld --out runs/cloned",
    )
    _add_world_and_holes(verb, "paths to learn from: one or more files; required")
    verb.add_argument(
        "--out", type=Path, required=True, metavar="POLICY", help="policy directory; required"
    )
    verb.add_argument(
        "--paths", type=int, metavar="N", help="training paths to use, drawn evenly (all)"
    )
    verb.add_argument(
        "--goals",
        type=comma_separated,
        default=["mixed"],
        metavar="HOW,...",
        help="how a walker's goal is shown, by comma; each path once in every way named: given, as "
        "the path names it; withheld; widened, to the topics around it, as the environment's goal "
        "is a region; mixed, one of these three drawn per path (mixed)",
    )
    verb.add_argument(
        "--frontier",
        action="store_true",
        help="offer everything next to the visited topics at each click, as the environment does, "
        "rather than the links of one page (off)",
    )
    verb.add_argument(
        "--slots",
        type=int,
        default=32,
        metavar="K",
        help="candidates per click at most, the others by lot (%(default)s)",
    )
    verb.add_argument(
        "--width",
        type=int,
        default=64,
        metavar="D",
        help="units of the network, a multiple of 4 (%(default)s)",
    )
    verb.add_argument(
        "--epochs",
        type=int,
        default=9,
        metavar="N",
        help="passes over the clicks at most; it stops when others are predicted no better "
        "(%(default)s)",
    )
    verb.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="number that decides all draws (%(default)s)",
    )
    verb.add_argument(
        "--force", action="store_true", help="replace the policy that --out holds (off)"
    )
    verb.set_defaults(action=_pretrain)


def predict_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "predict",
        help="next-click figures of a policy, as JSON",
        description="Measures how often a policy ranks first what a walker clicked next, and the "
        "mean reciprocal rank, beside predictors that learned nothing. Prints JSON.",
        epilog="Example: kncl-policy predict --world worlds/wiki --policy runs/cloned "
        "--holes people.jsonl --train people.jsonl --clicks 10000",
    )
    _add_world_and_holes(verb, "paths whose clicks are predicted: one or more files; required")
    verb.add_argument(
        "--policy", type=Path, required=True, metavar="POLICY", help="policy directory; required"
    )
    verb.add_argument(
        "--split",
        choices=("all", "train", "select", "test"),
        default="test",
        help="pairs of start and goal to measure on; pretrain never looks at test (%(default)s)",
    )
    verb.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        metavar="F.jsonl",
        help="count the transitions of the training pairs of these paths, and put a Markov chain "
        "of them beside the others (no chain)",
    )
    verb.add_argument(
        "--clicks",
        type=int,
        metavar="N",
        help="stop at the end of the path in which there are so many clicks (all)",
    )
    verb.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="number that decides the resampling of intervals (%(default)s)",
    )
    verb.set_defaults(action=_predict)


def _add_world_and_holes(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument(
        "--world",
        type=Path,
        required=True,
        metavar="WORLD",
        help="world whose topics and links the paths are held against; required",
    )
    verb.add_argument("--holes", type=Path, nargs="+", required=True, metavar="F.jsonl", help=what)


def walk_parser(verbs: Verbs) -> None:
    from rabbit_holes.live.cli import add_collection_options

    verb = verbs.add_parser(
        "walk",
        help="let a policy collect rabbit holes on a live wiki",
        description="Walks a live MediaWiki as `rabbit-holes collect` does; a policy chooses the "
        "links. Interrupted or killed, the same command goes on where it was.",
        epilog="Example: kncl-policy walk --policy runs/cloned --seed Jazz --goal Physics "
        "--contact you@example.org --out walks.jsonl",
    )
    chooser = verb.add_argument_group("who walks")
    chooser.add_argument(
        "--policy", type=Path, required=True, metavar="POLICY", help="policy directory; required"
    )
    chooser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="divides the policy's scores before a link is drawn; 0 takes the best (%(default)s)",
    )
    chooser.add_argument("--goal", metavar="TITLE", help="page to look for (none)")
    add_collection_options(verb)
    verb.set_defaults(action=_walk, **{GOES_ON: True})


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


def _read(files: Iterable[Path]) -> tuple[list[RabbitHole], int]:
    """All paths, and how many lines held none; the first of those are printed."""
    from rabbit_holes.path import read_paths

    malformed: list[str] = []
    paths = [path for file in files for path in read_paths(file, on_error=malformed.append)]
    for problem in malformed[:SHOWN]:
        say(f"left out: {problem}", error=True)
    if len(malformed) > SHOWN:
        say(f"left out: {len(malformed) - SHOWN:,} more malformed lines", error=True)
    return paths, len(malformed)


def _pretrain(args: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress

    from kncl_env.world.world import World
    from policies.learn.cloning import PretrainConfig, pretrain

    config = PretrainConfig(
        paths=args.paths,
        goals=tuple(args.goals),
        frontier=args.frontier,
        slots=args.slots,
        width=args.width,
        epochs=args.epochs,
        seed=args.seed,
    )
    torch.set_num_threads(os.cpu_count() or 1)
    began = time.monotonic()
    with alone(args.out) as hold:
        hold.begin_anew(args.force, _is_clone, [args.world, *args.holes])
        world = World.open(args.world)
        paths, malformed = _read(args.holes)
        with Progress(transient=True) as bar:
            tasks: dict[str, TaskID] = {}

            def show_paths(split: str, total: int, done: int) -> None:
                if split not in tasks:
                    tasks[split] = bar.add_task(f"{split} paths", total=total)
                bar.advance(tasks[split], done)

            def show_lessons(lessons: Mapping[str, Lesson]) -> None:
                for task in tasks.values():
                    bar.remove_task(task)
                _print_lessons(lessons, malformed)

            policy = pretrain(
                world,
                paths,
                config,
                show_paths,
                show_lessons,
                lambda i, a, b: say(f"epoch {i + 1}: train {a:.4f}, select {b:.4f} nats/click"),
            )
        policy.provenance["inputs"] = inputs()
        policy.save(args.out, over=True)
    say(f"{args.out}: cloned in {time.monotonic() - began:.0f} s")
    return 0


def _is_clone(folder: Path) -> bool:
    """Whether a folder is a policy that was cloned, and nothing else."""
    card = folder / "policy.json"
    if not holds_json(card, format="kncl-policy"):
        return False
    made = read_json(card).get("provenance")
    alone = {f.name for f in folder.iterdir()} <= {"policy.json", "policy.safetensors"}
    return alone and isinstance(made, dict) and made.get("made_by") == "cloning"


def _print_lessons(lessons: Mapping[str, Lesson], malformed: int) -> None:
    dropped = Counter({"malformed lines": malformed} if malformed else {})
    for name, lesson in lessons.items():
        say(f"{name}: {len(lesson.paths):,} paths, {len(lesson.clicks):,} clicks")
        dropped.update(lesson.clicks.dropped)
    for reason, n in dropped.items():
        say(f"  dropped {n:,}: {reason}")


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
    counted = [p for p in _read(args.train)[0] if pair_split(p) == "train"]
    paths = [p for p in _read(args.holes)[0] if args.split in ("all", pair_split(p))]
    found: dict[str, object] = {"world": world.hash, "split": args.split}
    for goals in ("given", "withheld"):
        rng = np.random.default_rng(args.seed)
        how = Showing(slots=None, goals=goals, limit=args.clicks)
        clicks = demonstrate(paths, world, table, rng, how)
        more = {"Markov": markov_places(counted, paths, world, len(clicks))} if counted else {}
        found[f"goal {goals}"] = asdict(predict(policy.network, clicks, rng, more))
    say_lines(in_json(found))
    return 0

"""`kncl-policy benchmark`: every arm in every world, stored scores, and the table out of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from train_lm.command_line import GOES_ON, Verbs, comma_separated, say, say_lines
from train_lm.crew.options import add_hands, hands_of

RESULTS = Path("docs/results")


def benchmark_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "benchmark",
        help="all arms in the reference worlds, and the table of docs/RESULTS.md",
        description="Build the worlds of the reference benchmark, learn policies, play all arms "
        "and store a score for each cell. A cell that has its score is not played again; the same "
        "command goes on where it was stopped. --list, --plan and --table play nothing.",
        epilog="Example: kncl-policy benchmark --cells 'synthetic-*' --processes 2 "
        "--out runs/benchmark",
    )
    verb.add_argument(
        "--cells",
        type=comma_separated,
        default=["*"],
        metavar="NAME,…",
        help="cells to play, list or plan, by name or by a pattern such as '*-distant-*' (all)",
    )
    verb.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory of worlds, policies and episodes; required to play and to plan",
    )
    verb.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="folder of the stored scores; the table stands beside it (docs/results)",
    )
    verb.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with Wikispeedia's unpacked archives; without it its cells are left out, and "
        "that is said (none)",
    )
    add_hands(verb, "cells")
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the cells instead (off)")
    what.add_argument(
        "--plan",
        action="store_true",
        help="print the minutes that each cell will take on this machine instead, from a step that "
        "is measured once; arms that pay for trial runs take longer (off)",
    )
    what.add_argument(
        "--table",
        action="store_true",
        help="write RESULTS.md out of the stored scores instead (off)",
    )
    verb.set_defaults(action=_benchmark, **{GOES_ON: True})


def regret_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "regret",
        help="exact regret of arms and policies in the table world, in seconds",
        description="Play arms in a small world of which every action in every state was measured "
        "once (kncl-env tabulate), and print what each action cost against the best one.",
        epilog="Example: kncl-policy regret --policies random,coverage,runs/learned",
    )
    verb.add_argument(
        "--policies",
        type=comma_separated,
        metavar="A,B",
        help="arms and policy directories, as for evaluate (every arm that has a name)",
    )
    verb.add_argument(
        "--rounds", type=int, default=8, metavar="N", help="episodes of each arm in each draw (8)"
    )
    verb.add_argument(
        "--table", type=Path, metavar="F.npz", help="another table of the same recipe (ours)"
    )
    verb.set_defaults(action=_regret)


def _regret(args: argparse.Namespace) -> int:
    from kncl_env.table_world.game import open_table_world
    from kncl_env.table_world.table import SHIPPED, load_table
    from policies.arms.registry import ARMS, arm_of
    from policies.benchmark.regret import lines_of, regret_of

    if args.rounds < 1:
        raise ValueError(f"expected --rounds of 1 or more, got {args.rounds}")
    arms = [arm_of(spec) for spec in args.policies or ARMS]
    env = open_table_world(load_table(args.table or SHIPPED))
    rows = [regret_of(env, arm, args.rounds) for arm in arms]
    say_lines("\n".join(lines_of(env, rows)))
    return 0


def _benchmark(args: argparse.Namespace) -> int:
    from policies.benchmark.cells import chosen

    cells = chosen(args.cells)
    if args.list:
        from policies.benchmark.page import listed

        say_lines("\n".join(listed(cells)))
        return 0
    if args.table:
        from policies.benchmark.page import write_page

        if args.results != RESULTS and not args.results.is_dir():
            raise FileNotFoundError(
                f"expected stored scores in {args.results}, found no such folder: name the one "
                "that cells were played into"
            )
        say(write_page(args.results))
        return 0
    if args.out is None:
        raise ValueError("expected --out, a directory for worlds and episodes, got none: name one")
    return _plan(args) if args.plan else _play(args)


def _plan(args: argparse.Namespace) -> int:
    from policies.benchmark.cells import chosen
    from policies.benchmark.planning import paces
    from policies.benchmark.runs import claimed

    cells = chosen(args.cells)
    with claimed(args.out):
        found = paces(cells, args.out / "paces")
    minutes = [found[cell.preset].minutes(cell) for cell in cells]
    width = max(len(cell.name) for cell in cells)
    for cell, own in zip(cells, minutes, strict=True):
        say(f"{cell.name:{width}} {own:8.1f} min")
    say(f"{'all, one after another':{width}} {sum(minutes):8.1f} min")
    return 0


def _play(args: argparse.Namespace) -> int:
    from policies.benchmark.cells import chosen
    from policies.benchmark.runs import Places, run_benchmark
    from policies.benchmark.stored import Score

    if args.data is not None and not args.data.is_dir():
        raise FileNotFoundError(f"expected Wikispeedia's folder at {args.data}, found none")

    def tell(score: Score, found: bool) -> None:
        first = score.placing
        shown = "shown" if first.shown else "not shown"
        how = "found" if found else "played"
        say(f"{score.name}: {how}; lowest of {first.among}: {first.winner} ({shown})", flush=True)

    places = Places(args.out, args.results, args.data)
    _, left_out = run_benchmark(chosen(args.cells), places, hands_of(args), tell)
    for cell in left_out:
        say(f"{cell.name}: left out, it needs --data, the folder with Wikispeedia's files")
    say(f"{args.results}: for the table, `kncl-policy benchmark --table`")
    return 0

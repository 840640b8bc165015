"""`kncl-policy stream`: what a learner keeps of what it learned before, by which method."""

from __future__ import annotations

import argparse
from pathlib import Path

from policies.cli.settings import add_settings, add_world, settings_of
from policies.stream.methods import OF_LEARNERS
from train_lm.command_line import GOES_ON, Verbs, comma_separated, say, say_lines
from train_lm.crew.options import add_hands, hands_of
from train_lm.outputs import alone

METHODS = (
    "none,joint,replay/2,replay/8,replay/100,self,ewc,lora,lora-routed,lora-arrow,lora-linear,"
    "lora-ties,lora-dare,lora-svd,lora-cat,relora,topk/20,topk/100,lowrank/8"
)


def parts(text: str) -> int | list[str]:
    """A number of neighbourhoods, or names of regions by comma."""
    return int(text) if text.isascii() and text.isdigit() else comma_separated(text)


def add_layout(verb: argparse.ArgumentParser, neighbourhoods: int) -> None:
    """Options of what is learned and measured; they are read by `layout_of`."""
    verb.add_argument(
        "--neighbourhoods",
        type=parts,
        default=neighbourhoods,
        metavar="N|A,B",
        help="parts that the world is divided into by likeness, or names of regions "
        f"({neighbourhoods})",
    )
    verb.add_argument(
        "--size",
        type=int,
        default=40,
        metavar="N",
        help="topics of a neighbourhood, the most typical ones; 0 takes all (40)",
    )
    verb.add_argument(
        "--stage-updates",
        type=int,
        default=40,
        metavar="N",
        help="updates of the learner for each neighbourhood (40)",
    )
    verb.add_argument(
        "--windows",
        type=int,
        default=48,
        metavar="N",
        help="held-out windows that each neighbourhood is measured on (48)",
    )


def stream_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "stream",
        help="learn neighbourhoods in turn and measure what is forgotten",
        description="Play a stream of neighbourhoods, one after another from the nucleated "
        "learner, with each method at several learning rates, and write cells.jsonl, scores.json, "
        "matrices.csv and report.html: learning against forgetting. The same command goes on where "
        "it was stopped.",
        epilog="Example: kncl-policy stream --world worlds/wiki --neighbourhoods 8 "
        "--methods none,replay/2,lora-routed --rates 3 --seeds 5 --out runs/stream",
    )
    add_world(verb)
    add_layout(verb, neighbourhoods=8)
    verb.add_argument(
        "--methods",
        type=comma_separated,
        default=METHODS.split(","),
        metavar="A,B",
        help="replay/N and self/N take a window in N, ewc/N has strength N, topk/N keeps a "
        "gradient in N, lowrank/N and lora/N have rank N; by default all: "
        f"{METHODS}",
    )
    verb.add_argument(
        "--rates",
        type=int,
        default=3,
        metavar="N",
        help="learning rates of each method, a factor of 3 apart, about --rate (3)",
    )
    verb.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="middle learning rate of a stage; topk takes three times as much, adapters ten times "
        "(a third of --learning-rate, which is the nucleus phase's)",
    )
    verb.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="seeds of learner, order of neighbourhoods and of text (5)",
    )
    add_hands(verb, "cells")
    verb.add_argument(
        "--keep",
        action="store_true",
        help="keep the weights after every stage in RUN/kept, and check what is kept (neither)",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of it all")
    verb.add_argument(
        "--force", action="store_true", help="begin again: empty RUN first (go on with it)"
    )
    verb.set_defaults(action=_stream, **{GOES_ON: True})
    add_settings(verb, OF_LEARNERS)


def _stream(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from kncl_env.world.world import World
    from policies.stream.course import Layout
    from policies.stream.page import headline, table
    from policies.stream.results import write_results
    from policies.stream.runs import COMMAND, StreamPlan, check_kept, run_stream

    settings = settings_of(args)
    layout = Layout(args.neighbourhoods, args.size, args.stage_updates, args.windows)
    plan = StreamPlan(args.methods, args.rates, args.seeds, args.rate, hands_of(args), args.keep)
    with alone(args.out) as hold:
        world = World.open(args.world)
        hold.begin_run(COMMAND, args.force, [args.world])
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("cells", total=len(plan.methods) * plan.rates * plan.seeds)
            records = run_stream(
                world, settings, layout, plan, args.out, lambda _: bar.advance(task)
            )
        summary = write_results(world, settings, layout, plan, records, args.out)
        checked = check_kept(world, settings, layout, plan, records, args.out) if args.keep else 0
    say_lines(table(summary))
    for line in headline(summary):
        say(line)
    if checked:
        say(f"kept weights: the matrices of {checked} cells came out again as they are written")
    say(f"report: {args.out / 'report.html'}")
    return 0


def neighbourhoods_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "neighbourhoods",
        help="learn neighbourhoods side by side, each its own adapter",
        description="Train an adapter for each neighbourhood in processes of their own, put them "
        "together by routing and by merging, and compare with one adapter after another, with "
        "joint training and with random splits, all on the same windows. Writes adapters/, which "
        "plain peft opens, tasks.jsonl, scores.json and report.html. The same command goes on "
        "where it was stopped.",
        epilog="Example: kncl-policy neighbourhoods --world worlds/wiki --neighbourhoods 4 "
        "--processes 2 --timed --out runs/parallel",
    )
    add_world(verb)
    add_layout(verb, neighbourhoods=4)
    verb.add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="seeds of learner, order of neighbourhoods and of text (5)",
    )
    verb.add_argument("--rank", type=int, default=8, metavar="N", help="rank of an adapter (8)")
    verb.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="learning rate of a whole model; adapters take ten times as much (a third of "
        "--learning-rate, which is the nucleus phase's)",
    )
    add_hands(verb, "adapters", processes=2)
    verb.add_argument(
        "--timed",
        action="store_true",
        help="train the first seed's adapters twice more, by one process and by all, for the "
        "speed-up (do not)",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of it all")
    verb.add_argument(
        "--force", action="store_true", help="begin again: empty RUN first (go on with it)"
    )
    verb.set_defaults(action=_neighbourhoods, **{GOES_ON: True})
    add_settings(verb, OF_LEARNERS)


def _neighbourhoods(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from kncl_env.world.world import World
    from policies.stream.course import Layout
    from policies.stream.parallel_page import headline, table
    from policies.stream.parallel_run import COMMAND, ParallelPlan, run_parallel
    from policies.stream.results import write_parallel_results

    settings = settings_of(args)
    layout = Layout(args.neighbourhoods, args.size, args.stage_updates, args.windows)
    plan = ParallelPlan(args.seeds, args.rank, args.rate, hands_of(args), args.timed)
    with alone(args.out) as hold:
        world = World.open(args.world)
        hold.begin_run(COMMAND, args.force, [args.world])
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("tasks", total=plan.seeds * (2 * layout.n + 4))
            found = run_parallel(world, settings, layout, plan, args.out, lambda: bar.advance(task))
        summary = write_parallel_results(world, settings, layout, plan, found, args.out)
    say_lines(table(summary))
    for line in headline(summary, found.speed):
        say(line)
    say(f"report: {args.out / 'report.html'}")
    return 0

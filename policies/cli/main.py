"""`kncl-policy`: pretrain, train and evaluate curiosity policies. Parses and prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kncl_env.world.sources.wiki.options import add_manners, etiquette_of
from policies.cli.arms import arms_parser
from policies.cli.benchmark import benchmark_parser, regret_parser
from policies.cli.demo import demo
from policies.cli.settings import add_learners, add_settings, add_world, settings_of
from policies.cli.stream import neighbourhoods_parser, stream_parser
from policies.cli.training import record_parser, surrogate_parser, taste_parser, train_parser
from policies.cli.walkers import predict_parser, pretrain_parser, walk_parser
from policies.verdict.controls_section import CONTROLS
from train_lm.command_line import (
    GOES_ON,
    Verbs,
    again,
    comma_separated,
    command,
    run,
    say,
    say_lines,
)
from train_lm.crew.options import add_hands, hands_of
from train_lm.outputs import alone
from train_lm.plain_text import visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from kncl_env.open_world.game import LiveWorld
    from kncl_env.settings import Settings
    from kncl_env.world.world import World
    from policies.play.closed_loop import Line
    from policies.play.curves import CurveMeter
    from policies.play.plan import Plan

ARMS = (
    "by comma: names that `kncl-policy arms` lists (uniform, random, coverage, dsir, ...), policy "
    "directories, arms of your own by import path (my_package.arms:MyArm), and any of them with "
    "the taste of another place (random+POLICY)"
)


def main(argv: list[str] | None = None) -> int:
    # Several processes play side by side; threads of one would only take cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args = _parser().parse_args(argv)
    return run(lambda: args.action(args))


def _parser() -> argparse.ArgumentParser:
    parser = command(
        "kncl-policy",
        "Learn which topic a language model should read next, and find out whether it helps: "
        "pretrain on rabbit holes, train by reward, evaluate against baselines.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    arms_parser(verbs)
    pretrain_parser(verbs)
    predict_parser(verbs)
    record_parser(verbs)
    surrogate_parser(verbs)
    taste_parser(verbs)
    train_parser(verbs)
    _evaluate_parser(verbs)
    _run_parser(verbs)
    stream_parser(verbs)
    neighbourhoods_parser(verbs)
    walk_parser(verbs)
    benchmark_parser(verbs)
    regret_parser(verbs)
    _demo_parser(verbs)
    return parser


def _evaluate_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "evaluate",
        help="policies against baselines, with a report",
        description="Play arms with paired seeds and write scores.json, curves.csv, report.html "
        "and what each episode read. The same command goes on where it was stopped.",
        epilog="Example: kncl-policy evaluate --world worlds/wiki "
        "--policies uniform,random,rule --trainings learned=runs/l1,runs/l2,runs/l3 --controls "
        "--inits 8 --seeds 9 --out runs/wiki-run",
    )
    add_world(verb)
    verb.add_argument(
        "--policies",
        type=comma_separated,
        required=True,
        metavar="A,B",
        help=f"arms to play, uniform among them, {ARMS}",
    )
    verb.add_argument(
        "--seeds",
        type=int,
        default=9,
        metavar="N",
        help="paired seeds, an episode of each arm; with fewer than 6 no verdict is possible (9)",
    )
    verb.add_argument(
        "--inits",
        type=int,
        default=1,
        metavar="N",
        help="initial learners that the seeds are spread over (1)",
    )
    _add_subject(verb)
    verb.add_argument(
        "--curve-points",
        type=int,
        metavar="N",
        help="measurements of a learning curve, more of them at its beginning (7 to 13, as many as "
        "fit a quarter of the training)",
    )
    verb.add_argument(
        "--curve-windows",
        type=int,
        metavar="N",
        help="windows of `select` at each, and nothing is estimated (all 512 at both ends, as many "
        "as fit a quarter of the training in between)",
    )
    verb.add_argument(
        "--knowledge",
        type=int,
        nargs="?",
        const=3,
        default=0,
        metavar="N",
        help="ask the learner at N moments of a curve which links of the world it knows (not at "
        "all; 3 where N is left out)",
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="directory of the results"
    )
    add_learners(verb)
    add_hands(verb, "episodes")
    verb.add_argument(
        "--force", action="store_true", help="begin again: empty RUN first (go on with it)"
    )
    verb.set_defaults(action=_evaluate, **{GOES_ON: True})
    add_settings(verb)


def _add_subject(verb: argparse.ArgumentParser) -> None:
    """Whom an evaluation is about, and what else could have done what it did."""
    verb.add_argument(
        "--trainings",
        type=_trainings,
        action="append",
        default=[],
        metavar="NAME=A,B,C",
        help="trainings of one policy, an arm of that name that they share the seeds of; its "
        "interval and its test take the trainings for clusters; may be given again (none)",
    )
    verb.add_argument(
        "--subject",
        metavar="ARM",
        help="arm that the report is about and that controls are of; fixed before the first "
        "episode (the last learned policy)",
    )
    verb.add_argument(
        "--controls",
        nargs="?",
        type=comma_separated,
        const=[*CONTROLS],
        default=[],
        metavar="A,B",
        help=f"play controls of the subject: {', '.join(CONTROLS)}; all of them, if none is named "
        "(none)",
    )
    verb.add_argument(
        "--search-cap",
        type=int,
        default=32,
        metavar="N",
        help="random curricula that the control equal-search tries, at most; it tries as many as "
        "the subject's training took episodes (32)",
    )


def _trainings(text: str) -> tuple[str, list[str]]:
    """`NAME=A,B,C`, as it is typed."""
    name, found, places = text.partition("=")
    if not found or not name.strip():
        raise argparse.ArgumentTypeError(f"expected NAME=A,B,C, got {text!r}")
    return name.strip(), comma_separated(places)


def _run_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "run",
        help="close the loop: a policy decides while a larger model trains",
        description="Let a policy choose what a larger model reads while it trains. The same "
        "command goes on where it was stopped.",
        epilog="Example: kncl-policy run --world worlds/wiki --policy runs/learned --model s "
        "--out runs/closed",
    )
    add_world(verb, grows=True)
    verb.add_argument("--policy", required=True, help="one arm, as for evaluate")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN", help="directory of the run")
    verb.add_argument(
        "--save-every", type=int, default=5, metavar="N", help="steps between checkpoints (5)"
    )
    verb.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="threads of the CPU (all cores)",
    )
    verb.add_argument("--seed", type=int, default=0, help="of slots, order of text and choices (0)")
    verb.add_argument(
        "--force", action="store_true", help="begin again: empty RUN first (go on with it)"
    )
    verb.set_defaults(action=_run_loop, **{GOES_ON: True})
    wiki = verb.add_argument_group("a world out of a live wiki, which grows while the model trains")
    where = wiki.add_mutually_exclusive_group()
    where.add_argument(
        "--live", action="store_true", help="fetch what expanded topics link to from its wiki (off)"
    )
    where.add_argument(
        "--articles",
        type=Path,
        metavar="F",
        help="take it from the articles.jsonl of an earlier run instead; no wiki is asked (none)",
    )
    wiki.add_argument(
        "--reach",
        type=int,
        metavar="N",
        help="titles that an expansion asks for, at most; --live and --articles only (50)",
    )
    add_manners(wiki)
    add_settings(verb, model="s", learning_rate=1e-3)


def _demo_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "demo",
        help="the whole story on the embedded default corpus",
        description="Build a world of this Python's documentation, walk, pretrain, taste, train "
        "and evaluate, by the commands a user would type. What is there already is used again.",
        epilog="Example: kncl-policy demo --out runs/demo",
    )
    verb.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="directory of it all (runs/demo)"
    )
    verb.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="paired seeds of the evaluation (3)"
    )
    verb.set_defaults(action=_demo, **{GOES_ON: True})


def _evaluate(args: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress

    from kncl_env.world.world import World
    from policies.arms.registry import places_of
    from policies.play.evaluation import COMMAND, check_nothing_lost, evaluate
    from policies.play.plan import Plan, usual_subject
    from policies.verdict.table import table

    torch.set_num_threads(1)
    settings = settings_of(args)
    plan = Plan(
        args.policies,
        args.seeds,
        args.inits,
        args.learners,
        meter=_meter(args, settings),
        trainings=dict(args.trainings),
        searched=args.search_cap,
        hands=hands_of(args),
    )
    plan = replace(plan, subject=args.subject or usual_subject(plan))
    plan = replace(plan, controls=args.controls)
    cast = plan.cast()
    with alone(args.out) as hold:
        world = World.open(args.world)
        places = [place for one in cast for spec in one.specs for place in places_of(spec)]
        hold.begin_run(COMMAND, args.force, [args.world, *places])
        check_nothing_lost(args.out, [*(one.name for one in cast), *plan.controls], plan.seeds)
        first = settings.learner.seed
        _nucleate(world, [settings.with_learner_seed(first + i) for i in range(plan.inits)], plan)
        with Progress(transient=True) as bar:
            arms = len(cast) + len(plan.controls)
            task = bar.add_task("episodes", total=arms * plan.seeds)
            summary = evaluate(world, settings, plan, args.out, lambda _: bar.advance(task))
    say_lines(table(summary))
    say(f"report: {args.out / 'report.html'}")
    return 0


def _meter(args: argparse.Namespace, settings: Settings) -> CurveMeter:
    from kncl_env.knowledge.meter import KnowledgeMeter
    from policies.play.curves import CurveMeter

    asked = KnowledgeMeter(args.knowledge) if args.knowledge else None
    if args.curve_windows is None:
        return CurveMeter.within(settings, args.curve_points, asked)
    points = CurveMeter.points if args.curve_points is None else args.curve_points
    return CurveMeter(points, args.curve_windows, knowledge=asked)


def _nucleate(world: World, starts: Sequence[Settings], plan: Plan) -> None:
    """The nucleus phases of all initial learners, side by side where episodes are."""
    from rich.progress import Progress

    from kncl_env.stage import open_stage
    from policies.play.episodes import nucleate

    if plan.hands.processes == 1 or len(starts) == 1:
        for start in starts:  # the nucleus phase has a progress bar of its own
            open_stage(world, start)
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("nucleus phases", total=len(starts))
        for _ in plan.hands.played([(str(world.path), start) for start in starts], nucleate):
            bar.advance(task)


def _run_loop(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.open_world.game import LiveWorld
    from kncl_env.world.world import World
    from policies.arms.registry import arm_of, places_of
    from policies.play.closed_loop import COMMAND, run_closed_loop
    from train_lm.checkpoint import last_checkpoint
    from train_lm.model import hide_library_bars

    torch.set_num_threads(args.threads)
    hide_library_bars()
    settings = settings_of(args)
    arm_of(args.policy)
    world = _growing(args, World.open(args.world))
    # The bar begins with the first step: the nucleus phase has one of its own.
    bar = _bar_of_titles(quiet=not sys.stderr.isatty())

    def show(line: Line) -> None:
        if not bar.tasks:
            bar.add_task("", total=settings.rules.steps)
            bar.start()
        text = f"loss {line['loss']:.3f}, {visible(line['title'] or 'no topic', 60)}"
        bar.update(bar.task_ids[0], completed=line["step"], description=text)

    try:
        with alone(args.out) as hold:
            read = [args.world, args.articles, *places_of(args.policy)]
            hold.begin_run(COMMAND, args.force, read)
            place = run_closed_loop(
                world,
                args.policy,
                settings,
                args.out,
                seed=args.seed,
                save_every=args.save_every,
                on_step=show,
            )
    except KeyboardInterrupt as stopped:
        how = f"{last_checkpoint(args.out)}; {again('kncl-policy', args.argv)}"
        raise type(stopped)(how) from None
    finally:
        bar.stop()
        if isinstance(world, LiveWorld):
            world.source.close()
    say(f"{place}: open it with AutoModelForCausalLM.from_pretrained")
    say(f"{args.out / 'curriculum.jsonl'}: what it read, for `train-lm run`")
    return 0


def _growing(args: argparse.Namespace, world: World) -> World | LiveWorld:
    """The world, and where more of it comes from, if that is asked for."""
    from kncl_env.open_world.articles import ArticleJournal, JournalSource
    from kncl_env.open_world.game import LiveWorld
    from kncl_env.open_world.growth import REACH
    from kncl_env.open_world.outward import Outward

    if args.reach is not None and not (args.live or args.articles):
        raise ValueError(
            f"expected no --reach without --live or --articles, got {args.reach}: a world that "
            "does not grow asks for nothing"
        )
    reach = REACH if args.reach is None else args.reach
    if args.articles is not None:
        if not args.articles.is_file():
            raise FileNotFoundError(
                f"expected the articles of a run at {args.articles}, found none"
            )
        about = {"api": Outward.of(world).api}
        journal = ArticleJournal(args.articles, about, read_only=True)
        return LiveWorld(world, JournalSource(journal), reach)
    if args.live:
        from kncl_env.world.sources.wiki.articles import wiki_of

        return LiveWorld(world, wiki_of(world, etiquette_of(args)), reach)
    return world


def _bar_of_titles(quiet: bool) -> Progress:
    """A bar that shows what it is told as it is: a title may spell out rich's markup."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", style="progress.description", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )


def _demo(args: argparse.Namespace) -> int:
    from kncl_env.cli import main as kncl_env
    from rabbit_holes.cli import main as rabbit_holes

    commands = {"kncl-env": kncl_env, "rabbit-holes": rabbit_holes, "kncl-policy": main}
    return demo(args.out, args.seeds, commands)

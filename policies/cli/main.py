"""`kncl-policy`: pretrain, train and evaluate curiosity policies. Parses and prints."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from policies.cli.runs import begin, warm_up
from policies.cli.training import record_parser, surrogate_parser, taste_parser, train_parser
from policies.cli.walkers import predict_parser, pretrain_parser, walk_parser
from train_lm.command_line import again, run


def main(argv: list[str] | None = None) -> int:
    # Several processes play side by side; threads of one would only take cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = _parser(argv if argv is not None else sys.argv[1:])
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    return run(lambda: args.action(args))


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kncl-policy",
        description="Learn which topic a language model should read next, and find out whether "
        "it helps: pretrain on rabbit holes, train by reward, evaluate against baselines.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    pretrain_parser(verbs)
    predict_parser(verbs)
    # The environment's options are read off its settings, which takes imports that the other
    # verbs and a plain --help can do without.
    wanted = argv[0] if argv else ""
    record_parser(verbs, wanted == "record")
    surrogate_parser(verbs)
    taste_parser(verbs, wanted == "taste")
    train_parser(verbs, wanted == "train")
    _evaluate_parser(verbs, wanted == "evaluate")
    _run_parser(verbs, wanted == "run")
    walk_parser(verbs)
    demo = verbs.add_parser("demo", help="the whole story on the embedded default corpus")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--seeds", type=int, default=3)
    demo.set_defaults(action=_demo)
    return parser


def _evaluate_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("evaluate", help="policies against baselines, with a report")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument(
        "--policies",
        required=True,
        help="arms, by comma: baselines (uniform, proportional, random, breadth-first, nearest, "
        "degree, goal, rule, coverage, oracle), policy directories, and baselines with the taste "
        "of another place (random+POLICY)",
    )
    verb.add_argument("--seeds", type=int, default=5, help="paired seeds (5)")
    verb.add_argument("--inits", type=int, default=1, help="initial learners among them (1)")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--force", action="store_true", help="begin again")
    verb.set_defaults(action=_evaluate)
    if with_settings:
        from policies.cli.settings import add_settings

        add_settings(verb)


def _run_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser(
        "run", help="close the loop: a policy decides while a larger model trains"
    )
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--policy", required=True, help="an arm: as for evaluate")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument("--save-every", type=int, default=5, help="steps between checkpoints (5)")
    verb.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU (all)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true", help="begin again")
    verb.set_defaults(action=_run_loop)
    if with_settings:
        from policies.cli.settings import add_settings

        add_settings(verb, model="s", learning_rate=1e-3)


def _evaluate(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.world.world import World
    from policies.arms.baselines import place_of
    from policies.cli.settings import settings_of
    from policies.play.evaluation import check_arms, evaluate
    from policies.verdict.table import table

    torch.set_num_threads(1)
    world = World.open(args.world)
    settings = settings_of(args)
    arms = [name.strip() for name in args.policies.split(",") if name.strip()]
    check_arms(arms)
    begin(args.out, args.force, [args.world, *map(place_of, arms)])
    learned = [Path(name).name for name in arms if Path(name).is_dir()]
    for i in range(args.inits):
        warm_up(world.path, {**settings, "learner_seed": settings.get("learner_seed", 0) + i})
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=len(arms) * args.seeds)
        summary = evaluate(
            world,
            settings,
            arms,
            range(args.seeds),
            args.out,
            inits=args.inits,
            learners=args.learners,
            subject=learned[-1] if learned else None,
            on_episode=lambda _: bar.advance(task),
        )
    print(table(summary))
    print(f"report: {args.out / 'report.html'}")
    return 0


def _run_loop(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils.logging import disable_progress_bar

    from kncl_env.stage import Setup
    from kncl_env.world.world import World
    from policies.arms.baselines import place_of
    from policies.cli.settings import settings_of
    from policies.play.closed_loop import run_closed_loop
    from train_lm.checkpoint import last_checkpoint

    torch.set_num_threads(args.threads)
    disable_progress_bar()  # there is one already
    world = World.open(args.world)
    settings = settings_of(args)
    steps = Setup.from_settings(settings).steps
    begin(args.out, args.force, [args.world, place_of(args.policy)])
    # The bar begins with the first step: the nucleus phase has one of its own.
    quiet = not sys.stderr.isatty()
    bar = Progress(console=Console(stderr=True), transient=True, disable=quiet)

    def show(line: dict[str, Any]) -> None:
        if not bar.tasks:
            bar.add_task("", total=steps)
            bar.start()
        text = f"loss {line['loss']:.3f}, {line['title'] or 'no topic'}"
        bar.update(bar.task_ids[0], completed=line["step"], description=text)

    try:
        place = run_closed_loop(
            world,
            args.policy,
            settings,
            args.out,
            seed=args.seed,
            save_every=args.save_every,
            on_step=show,
        )
    except KeyboardInterrupt:
        how = f"{last_checkpoint(args.out)}; {again('kncl-policy', args.argv)}"
        raise KeyboardInterrupt(how) from None
    finally:
        bar.stop()
    print(f"{place}: open it with AutoModelForCausalLM.from_pretrained")
    print(f"{args.out / 'curriculum.jsonl'}: what it read, for `train-lm run`")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from policies.cli.demo import demo

    return demo(args.out, args.seeds)

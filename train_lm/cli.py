"""`train-lm`: train a model in the order that a policy chose. Parses and prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from train_lm.command_line import run


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train-lm", description="Train a language model on a world's text in a given order."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "run",
        help="train a model along a recorded curriculum; goes on where it stopped",
        epilog="Example: train-lm run --world worlds/wiki "
        "--curriculum runs/wiki-run/curricula/rule-0.jsonl --model s --out runs/larger",
    )
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--curriculum", type=Path, required=True, metavar="C.jsonl")
    verb.add_argument("--model", default="s", help="preset: xxs, xs, s, m or l (s)")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument("--learning-rate", type=float, default=1e-3, help="peak (1e-3)")
    verb.add_argument("--batch", type=int, default=16, help="windows per update (16)")
    verb.add_argument("--save-every", type=int, default=5, help="steps between checkpoints (5)")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> int:
    from rich.progress import Progress

    from train_lm.curriculum_run import RunConfig, run_curriculum

    config = RunConfig(args.model, args.learning_rate, args.batch, args.save_every, args.seed)
    with Progress(transient=True) as bar:
        task = bar.add_task("steps", total=None)
        place = run_curriculum(
            args.world,
            args.curriculum,
            args.out,
            config,
            lambda step, steps, _: bar.update(task, completed=step, total=steps),
        )
    print(f"{place}: open it with AutoModelForCausalLM.from_pretrained")
    return 0

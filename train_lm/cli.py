"""`train-lm`: train a model in the order that a policy chose. Parses and prints."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from train_lm.command_line import GOES_ON, again, command, exit_status, program, run, say


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = command("train-lm", "Train a language model on a world's text in a given order.")
    parser.epilog = "Example: train-lm run --help"
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser(
        "run",
        help="train a model along a recorded curriculum; goes on where it stopped",
        description="Train a model along a recorded curriculum. The same command goes on where a "
        "stopped run was. Several processes: torchrun --nproc_per_node N -m train_lm.cli run ...",
        epilog="Example: train-lm run --world worlds/wiki --curriculum rule-0.jsonl --model s "
        "--out runs/larger",
    )
    verb.add_argument(
        "--world", type=Path, required=True, help="world directory that holds the text; required"
    )
    verb.add_argument(
        "--curriculum",
        type=Path,
        required=True,
        metavar="C.jsonl",
        help="what to read at each step, as evaluate and run record it; required",
    )
    verb.add_argument(
        "--model",
        default="s",
        help="what is trained: a preset (xxs, xs, s, m, l), a model directory or a hub id such as "
        "owner/name (default: s)",
    )
    verb.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="directory for checkpoints, metrics and the model; required",
    )
    verb.add_argument(
        "--force", action="store_true", help="empty RUN and begin again (default: go on in it)"
    )
    _add_settings(verb)
    _add_part(verb)
    _add_machine(verb)
    verb.set_defaults(run=_run, **{GOES_ON: True})
    return parser


def _add_settings(verb: argparse.ArgumentParser) -> None:
    what = verb.add_argument_group("what is trained")
    what.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        help="peak, per update, after a short warm-up and before a cosine decay (default: 1e-3)",
    )
    what.add_argument(
        "--batch", type=int, default=16, help="windows per update, over all processes (default: 16)"
    )
    what.add_argument(
        "--context",
        type=int,
        default=0,
        help="tokens per window (default: 0, a preset's own, or at most 512 of a model's)",
    )
    what.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="numbers in matrix products: of 32 or 16 bits; weights keep 32 (default: fp32)",
    )
    what.add_argument(
        "--optimizer",
        choices=("adamw", "muon"),
        default="adamw",
        help="adamw, or muon for hidden matrices and adamw for the rest (default: adamw)",
    )
    what.add_argument(
        "--weight-decay",
        type=float,
        default=0.1,
        help="share of a matrix that decays per update, times the learning rate (default: 0.1)",
    )
    what.add_argument(
        "--replay",
        type=float,
        default=0.0,
        help="share of each step, 0 to below 1, that rereads earlier steps; a recorded order has "
        "its own replay already (default: 0)",
    )
    what.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of initial weights and of the order within a step, from 0 to 2^32 - 1 (default: 0)",
    )


def _add_part(verb: argparse.ArgumentParser) -> None:
    part = verb.add_argument_group("which part of the model changes")
    part.add_argument(
        "--adapter",
        choices=("none", "lora", "relora"),
        default="none",
        help="lora: weights of low rank beside the model's own, which stay; relora: the same, "
        "merged now and then (default: none, the whole model)",
    )
    part.add_argument(
        "--adapter-rank", type=int, default=8, help="rank of an adapter's matrices (default: 8)"
    )
    part.add_argument(
        "--adapter-alpha",
        type=float,
        default=16.0,
        help="factor of what an adapter adds, times its rank (default: 16)",
    )
    part.add_argument(
        "--adapter-targets",
        default="all",
        metavar="NAMES",
        help="layers that get an adapter, by the ends of their names, with commas: q_proj,v_proj "
        "(default: all, every linear layer but the head)",
    )
    part.add_argument(
        "--merge-every",
        type=int,
        default=10,
        help="steps of the curriculum after which relora merges (default: 10)",
    )
    part.add_argument(
        "--merge",
        action="store_true",
        help="also write the model with lora's adapter merged in (default: the adapter alone)",
    )
    part.add_argument(
        "--updates",
        dest="updates_rule",
        choices=("full", "topk", "lowrank"),
        default="full",
        help="what becomes of a gradient; topk: its largest numbers count; lowrank: it is "
        "projected on few directions (default: full)",
    )
    part.add_argument(
        "--updates-share",
        type=float,
        default=0.05,
        help="share of the numbers that topk changes, above 0, at most 1 (default: 0.05)",
    )
    part.add_argument(
        "--updates-scope",
        choices=("global", "tensor"),
        default="global",
        help="whether that share is of all numbers or of each tensor's (default: global)",
    )
    part.add_argument(
        "--updates-feedback",
        action="store_true",
        help="topk adds what it left out to the next gradient (default: it is forgotten)",
    )
    part.add_argument(
        "--updates-rank", type=int, default=8, help="rank of lowrank's gradients (default: 8)"
    )
    part.add_argument(
        "--updates-refresh",
        type=int,
        default=200,
        help="updates after which lowrank chooses its directions anew (default: 200)",
    )


def _add_machine(verb: argparse.ArgumentParser) -> None:
    how = verb.add_argument_group("how it is carried out; the result is the same but for rounding")
    how.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help="pieces that a process cuts its batch into, where it does not fit into memory; they "
        "share it evenly (default: 1)",
    )
    how.add_argument(
        "--save-every", type=int, default=100, help="updates between checkpoints (default: 100)"
    )
    how.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute activations twice: less memory, slower (default: keep them)",
    )
    how.add_argument(
        "--compile",
        action="store_true",
        help="compile the model first: a minute, then faster (default: do not)",
    )
    how.add_argument(
        "--shard",
        action="store_true",
        help="split the model over the processes by FSDP2 (default: a copy for each, by DDP)",
    )
    how.add_argument(
        "--cpu", action="store_true", help="stay on the CPU (default: use a GPU where there is one)"
    )


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from train_lm.checkpoint import last_checkpoint
    from train_lm.curriculum_run import Machine, RunConfig, run_curriculum
    from train_lm.model import hide_library_bars

    hide_library_bars()
    config = RunConfig(
        model=args.model,
        learning_rate=args.learning_rate,
        batch=args.batch,
        context=args.context,
        precision=args.dtype,
        optimizer=args.optimizer,
        replay=args.replay,
        weight_decay=args.weight_decay,
        seed=args.seed,
        adapter=args.adapter,
        adapter_rank=args.adapter_rank,
        adapter_alpha=args.adapter_alpha,
        adapter_targets=args.adapter_targets,
        merge_every=args.merge_every,
        merge=args.merge,
        updates_rule=args.updates_rule,
        updates_share=args.updates_share,
        updates_scope=args.updates_scope,
        updates_feedback=args.updates_feedback,
        updates_rank=args.updates_rank,
        updates_refresh=args.updates_refresh,
    )
    machine = Machine(
        cpu=args.cpu,
        shard=args.shard,
        gradient_checkpointing=args.gradient_checkpointing,
        compile=args.compile,
        accumulate=args.accumulate,
        save_every=args.save_every,
    )
    first = os.environ.get("RANK", "0") == "0"
    quiet = not first or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("updates", total=None)

        def show(line: dict[str, Any]) -> None:
            text = f"loss {line['loss']:.3f}"
            bar.update(task, completed=line["update"], total=line["updates"], description=text)

        try:
            place = run_curriculum(
                args.world, args.curriculum, args.out, config, machine, show, args.force
            )
        except KeyboardInterrupt as stopped:
            if not first:
                return exit_status(stopped)  # one process speaks for all
            several = "WORLD_SIZE" in os.environ
            how = "to go on: torchrun as before" if several else again("train-lm", args.argv)
            raise type(stopped)(f"{last_checkpoint(args.out)}; {how}") from None
    if first:
        opened = "AutoModelForCausalLM" if place.name == "model" else "peft.PeftModel"
        say(f"{place}: open it with {opened}.from_pretrained")
    return 0


if __name__ == "__main__":
    program("train_lm.cli")

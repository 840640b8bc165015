"""`kncl-env`: build a world, look at it, check it. Parses and prints; the work is elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from kncl_env.knowledge.verb import knowledge_parser
from kncl_env.table_world.verb import tabulate_parser
from kncl_env.world.build_config import LEAST_SAMPLE_KB, SAMPLE_KB, SCENARIOS, BuildConfig
from kncl_env.world.sources.registry import (
    SOURCES,
    add_options,
    open_source,
    open_target,
    refuse_what_would_be_ignored,
)
from kncl_env.world.verbs import add_topic_options, add_verbs, told_target, topic_settings
from train_lm.command_line import command, run, say
from train_lm.crew.options import add_hands, hands_of
from train_lm.outputs import alone
from train_lm.plain_text import counted


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.action(args))


def _parser() -> argparse.ArgumentParser:
    parser = command(
        "kncl-env", "Build and inspect worlds: a corpus with its topic graph, splits and index."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _build_parser(verbs)
    add_verbs(verbs)
    knowledge_parser(verbs)
    tabulate_parser(verbs)
    check = verbs.add_parser(
        "check",
        help="prove that a world is whole and leaks nothing",
        description="Prove that a world's files are those of its build, and that no held-out "
        "passage shares a run of words with another split; of a distant world, that nothing of its "
        "target is trained on. Exits with 1 where that fails.",
        epilog="Example: kncl-env check worlds/pydoc",
    )
    check.add_argument("world", type=Path, metavar="WORLD", help="a world directory")
    check.set_defaults(action=_check)
    return parser


def _build_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = verbs.add_parser(
        "build",
        help="make a world directory from a corpus",
        description="Make a world directory from a corpus: passages in splits, tokens, vectors, a "
        "topic graph and a passage index. It appears whole or not at all.",
        epilog="Example: kncl-env build pydoc --scenario focused --out worlds/pydoc",
    )
    add_options(build)
    build.add_argument(
        "--out", type=Path, required=True, metavar="WORLD", help="directory to make; required"
    )
    build.add_argument(
        "--force", action="store_true", help="replace an existing world (default: refuse)"
    )
    what = build.add_argument_group("what counts")
    what.add_argument(
        "--scenario",
        choices=SCENARIOS,
        default=BuildConfig.scenario,
        help="broad: every topic alike; focused: one region far from the nucleus; noisy: every "
        "topic, with junk in the text; distant: a region, or documents of your own, none of whose "
        "text is trained on (default: %(default)s)",
    )
    what.add_argument(
        "--region",
        metavar="NAME",
        help="focused and distant only: the region that counts (default: the farthest that fits)",
    )
    what.add_argument(
        "--target",
        metavar="PLACE",
        help="distant only: documents of your own that count, in the place of a region: a .jsonl "
        "file, plain or packed, or a folder of such, or of text and Markdown files (default: none)",
    )
    what.add_argument(
        "--sample-kb",
        type=int,
        metavar="N",
        help="distant only: how much of the target's text is visible, in kB, "
        f"{LEAST_SAMPLE_KB} or more (default: {SAMPLE_KB}, or a third of it where that is less)",
    )
    what.add_argument(
        "--noise-share",
        type=float,
        metavar="SHARE",
        help="noisy only: share of the training bytes that is junk, above 0 and at most 0.9 "
        f"(default: {BuildConfig.noise_share})",
    )
    add_topic_options(build)
    how = build.add_argument_group("how it is made")
    how.add_argument(
        "--vocab-size",
        type=int,
        default=BuildConfig.vocab_size,
        metavar="N",
        help="token ids of the world's tokenizer, 257 to 1,048,576 (default: %(default)s)",
    )
    how.add_argument(
        "--passage-bytes",
        type=int,
        metavar="N",
        help="size of a passage, about, in bytes of UTF-8, 50 or more (default: "
        + ", ".join(f"{SOURCES[name].passage_bytes} for {name}" for name in ("pydoc", "synthetic"))
        + ", 600 for wikispeedia and every other source"
        + ")",
    )
    how.add_argument(
        "--seed",
        type=int,
        default=BuildConfig.seed,
        metavar="N",
        help="seed of splits, noise, vectors and generated text (default: %(default)s)",
    )
    add_hands(build, "blocks of text")
    build.set_defaults(action=_build)


def _build(args: argparse.Namespace) -> int:
    from kncl_env.world.build import build_world, is_world

    refuse_what_would_be_ignored(args)
    if args.noise_share is not None and args.scenario != "noisy":
        raise ValueError(
            f"expected no --noise-share in the {args.scenario} scenario, got {args.noise_share}: "
            "it is the share of junk in the text, use --scenario noisy"
        )
    if args.source == "live" and args.scenario == "distant":
        raise ValueError(
            "expected a corpus that stands still for a distant world, got live: what is fetched "
            "later could hold the target's text, use another source or scenario"
        )
    config = BuildConfig(
        scenario=args.scenario,
        region=args.region,
        target=args.target,
        sample_kb=args.sample_kb,
        vocab_size=args.vocab_size,
        passage_bytes=SOURCES[args.source].passage_bytes
        if args.passage_bytes is None
        else args.passage_bytes,
        noise_share=BuildConfig.noise_share if args.noise_share is None else args.noise_share,
        seed=args.seed,
        **topic_settings(args),
    )
    hands = hands_of(args)
    hands.at_once()  # says so before anything is read, where no cluster answers
    with alone(args.out) as hold:
        kept = [Path(place) for place in (args.place, args.target) if place]
        hold.begin_anew(args.force, is_world, kept)
        corpus, target = open_source(args), open_target(args)
        world = build_world(
            corpus, args.out, config, lambda stage: say(stage, error=True), target, hands
        )
    counts = world.card["counts"]
    region = f", target {world.target_region}" if world.target_region else ""
    if world.is_distant:
        sample = world.card["target"]["sample_bytes"] / 1000
        region = region if args.target is None else f", target {args.target}"
        region += f", of whose text {sample:,.0f} kB are visible and none is trained on"
    say(
        f"{args.out}: {counted(counts['topics'], 'topic')}, {counted(counts['links'], 'link')}, "
        f"{counts['passages']:,} passages, {counts['tokens']:,} tokens{region}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    from kncl_env.world.leaks import faults
    from kncl_env.world.world import World

    world = World.open(args.world)
    found = faults(world)
    for fault in found[:20]:
        say(fault, error=True)
    if found:
        say(f"{args.world}: {len(found)} faults", error=True)
        return 1
    if world.is_distant:
        say(
            f"{args.world}: whole, no held-out text in another split, none of the target trained on"
        )
        for line in told_target(world):
            say(line)
    else:
        say(f"{args.world}: whole, and no held-out text in another split")
    return 0

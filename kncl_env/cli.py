"""`kncl-env`: build a world, look at it, check it. Parses and prints; the work is elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from train_lm.command_line import claim_output, run

if TYPE_CHECKING:
    from kncl_env.world.corpus import Corpus

SCENARIOS = ("broad", "focused", "noisy")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.action(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kncl-env",
        description="Build and inspect worlds: a corpus with its topic graph, splits and index.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    build = verbs.add_parser(
        "build",
        help="make a world directory from a corpus",
        epilog="Example: kncl-env build pydoc --scenario focused --out worlds/pydoc",
    )
    build.add_argument("source", choices=("pydoc", "synthetic", "wikispeedia"))
    build.add_argument("place", nargs="?", type=Path, help="where the source's files are")
    build.add_argument("--out", type=Path, required=True, metavar="WORLD")
    build.add_argument("--scenario", choices=SCENARIOS, default="broad")
    build.add_argument("--region", help="target region of the focused scenario")
    build.add_argument("--vocab-size", type=int, default=512, help="token ids (512)")
    build.add_argument(
        "--passage-bytes",
        type=int,
        help="bytes of a passage (600; 300 for pydoc and synthetic, whose articles are short)",
    )
    build.add_argument("--noise-share", type=float, default=0.3, help="junk in noisy (0.3)")
    build.add_argument("--topics", type=int, help="topics of a synthetic world")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--download", action="store_true", help="fetch wikispeedia from SNAP")
    build.add_argument("--force", action="store_true", help="replace an existing world")
    build.set_defaults(action=_build)
    show = verbs.add_parser("show", help="what a world holds, or one of its topics")
    show.add_argument("world", type=Path)
    show.add_argument("--topic", metavar="TITLE")
    show.add_argument("--regions", action="store_true", help="list the regions")
    show.set_defaults(action=_show)
    check = verbs.add_parser("check", help="prove that a world is whole and leaks nothing")
    check.add_argument("world", type=Path)
    check.set_defaults(action=_check)
    return parser


def _build(args: argparse.Namespace) -> int:
    from kncl_env.world.build import BuildConfig, build_world

    config = BuildConfig(
        scenario=args.scenario,
        region=args.region,
        vocab_size=args.vocab_size,
        passage_bytes=args.passage_bytes or (600 if args.source == "wikispeedia" else 300),
        noise_share=args.noise_share,
        seed=args.seed,
    )
    claim_output(args.out, args.force, marker="world.json")
    corpus = _corpus(args)
    print(f"{args.source}: {len(corpus.articles):,} articles read", file=sys.stderr)
    world = build_world(corpus, args.out, config, lambda stage: print(stage, file=sys.stderr))
    counts = world.card["counts"]
    region = f", target {world.target_region}" if world.target_region else ""
    print(
        f"{args.out}: {counts['topics']:,} topics, {counts['links']:,} links, "
        f"{counts['passages']:,} passages, {counts['tokens']:,} tokens{region}"
    )
    return 0


def _corpus(args: argparse.Namespace) -> Corpus:
    if args.source == "pydoc":
        from kncl_env.world.sources.pydoc.read import read_pydoc

        return read_pydoc()
    if args.source == "synthetic":
        from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic

        sizes = {} if args.topics is None else {"n_topics": args.topics}
        return read_synthetic(SyntheticConfig(seed=args.seed, **sizes))
    from kncl_env.world.sources.wikispeedia import download_wikispeedia, read_wikispeedia

    if args.place is None:
        raise ValueError(
            "expected the folder with Wikispeedia's unpacked archives: name it, or name an empty "
            "one and add --download"
        )
    if args.download:
        download_wikispeedia(args.place, progress=_tell_download)
    return read_wikispeedia(args.place)


def _tell_download(name: str, done: int, total: int | None) -> None:
    size = f" of {total / 1e6:.0f}" if total else ""
    end = "\n" if done == total else "\r"
    print(f"{name}: {done / 1e6:.0f}{size} MB", end=end, file=sys.stderr)


def _show(args: argparse.Namespace) -> int:
    from kncl_env.world.world import World

    world = World.open(args.world)
    if args.topic is not None:
        topic = world.topic_of(args.topic)
        nearest = (-(world.topic_vectors @ world.topic_vectors[topic])).argsort(kind="stable")
        print(f"{args.topic}\n")
        print("links to:   ", ", ".join(world.titles[t] for t in world.graph.out(topic)[:20]))
        print("linked from:", ", ".join(world.titles[t] for t in world.graph.into(topic)[:20]))
        print("alike:      ", ", ".join(world.titles[t] for t in nearest[1:11]))
        own = world.passages_of(topic)
        print(f"training:    {world.train_tokens_of[topic]:,} tokens, {len(own)} passages\n")
        if len(own):
            print(world.passage_text(int(own[0])))
        return 0
    if args.regions:
        for name, topics in world.regions.items():
            print(f"{len(topics):6d}  {name}")
        return 0
    card = world.card
    print(f"{args.world}: {card['source']}, {card['scenario']['name']}, hash {world.hash[:12]}")
    print(f"licence: {card['licence']}")
    if world.target_region:
        print(f"target: {world.target_region}, {len(world.target_topics())} topics")
    for name, value in card["counts"].items():
        print(f"  {name.replace('_', ' ')}: {value:,}")
    central = (-world.graph.pagerank).argsort(kind="stable")[:10]
    print("most central:", ", ".join(world.titles[t] for t in central))
    return 0


def _check(args: argparse.Namespace) -> int:
    from kncl_env.world.leaks import faults
    from kncl_env.world.world import World

    found = faults(World.open(args.world))
    for fault in found[:20]:
        print(fault, file=sys.stderr)
    if found:
        print(f"{args.world}: {len(found)} faults", file=sys.stderr)
        return 1
    print(f"{args.world}: whole, and no held-out text in another split")
    return 0

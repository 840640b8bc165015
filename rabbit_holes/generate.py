"""The command `rabbit-holes generate`: from options to a file of walks and a word on them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabbit_holes.path import Path as Walk
from rabbit_holes.path import PathWriter, read_paths
from rabbit_holes.walkers.generative import GenerationSettings, generate, run_name
from rabbit_holes.walkers.prompts import MODES

if TYPE_CHECKING:
    from kncl_env.world.world import World

_DESCRIPTION = """\
A language model wanders over a world. In mode choose it picks among the links a page offers, by the
probability it gives their titles; in mode associate it names the next topic in its own words, which
are matched to the world's topics. A walk ends where it comes back to a page. Interrupted or killed,
the same command goes on where it was."""


def add_generate_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `generate` to the sub-commands of `rabbit-holes`; `args.run(args)` runs it."""
    default = GenerationSettings()
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="let a language model wander over a world",
        description=_DESCRIPTION,
        epilog="Example: rabbit-holes generate --world W --model runs/lm --out lm.jsonl",
    )
    parser.add_argument("--world", type=Path, required=True, metavar="WORLD")
    parser.add_argument("--model", required=True, metavar="DIR|ID", help="directory or hub id")
    parser.add_argument("--out", type=Path, required=True, metavar="F.jsonl")
    parser.add_argument("--mode", choices=MODES, default=default.mode, help="(%(default)s)")
    parser.add_argument("--walks", type=int, default=default.walks, help="(%(default)s)")
    parser.add_argument("--depth", type=int, default=default.depth, help="clicks (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=default.temperature, help="0: no chance (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="(%(default)s)")
    parser.add_argument(
        "--batch", type=int, default=default.batch, help="walks side by side (%(default)s)"
    )
    parser.add_argument(
        "--offered",
        type=int,
        default=default.offered,
        help="links of a page to choose among, drawn evenly; 0: all (%(default)s)",
    )
    parser.add_argument("--start", nargs="+", default=[], metavar="TITLE", help="where to begin")
    parser.add_argument("--goal", nargs="+", default=[], metavar="TITLE", help="what to look for")
    parser.add_argument(
        "--similarity",
        type=float,
        default=default.similarity,
        help="cosine at which words match a topic, in associate (%(default)s)",
    )
    parser.add_argument(
        "--words", type=int, default=default.words, help="tokens of an answer (%(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, … (a GPU if there is one)")
    parser.add_argument("--force", action="store_true", help="begin anew instead of going on")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> None:
    from kncl_env.world.world import World
    from rabbit_holes.walkers.language_model import load_language_model, silence_loading

    silence_loading()
    settings = GenerationSettings(
        mode=args.mode,
        walks=args.walks,
        depth=args.depth,
        temperature=args.temperature,
        seed=args.seed,
        batch=args.batch,
        offered=args.offered,
        starts=tuple(args.start),
        goals=tuple(args.goal),
        similarity=args.similarity,
        words=args.words,
    )
    world = World.open(args.world)
    model = load_language_model(args.model, device=args.device, tokenizer=world.tokenizer)
    if args.force:
        args.out.unlink(missing_ok=True)
    with PathWriter(args.out) as writer:
        name = run_name(world, model.name, settings)
        foreign = [path_id for path_id in writer.ids if not path_id.startswith(name)]
        if foreign:
            raise ValueError(
                f"expected walks of these settings in {args.out}, got {foreign[0]!r}: name another "
                "file or add --force to begin anew"
            )
        for path in _with_bar(generate(world, model, settings, frozenset(writer.ids)), settings):
            writer.write(path)
    for line in _report(args.out, world):
        print(line)
    print(args.out)


def _with_bar(paths: Iterator[Walk], settings: GenerationSettings) -> Iterator[Walk]:
    """A progress bar on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from paths
    else:
        yield from track(paths, "walks", total=settings.walks, console=console)


def _report(file: Path, world: World) -> Iterator[str]:
    """What the file holds, as a reader wants it."""
    from rabbit_holes.link_map import LinkMap

    links = LinkMap.of_world(world)
    walks = clicks = off_graph = loops = misses = reached = seeking = 0
    ends: dict[str, int] = {}
    for path in read_paths(file, on_error=partial(print, file=sys.stderr)):
        walks += 1
        clicks += len(path) - 1
        off_graph += links.off_graph(path)
        loops += path.status == "loop"
        misses += int(path.meta.get("misses") or 0)
        seeking += path.goal is not None
        reached += path.goal is not None and path.goal in path.titles
        ends[path.status] = ends.get(path.status, 0) + 1
    yield f"{walks:,} walks, {clicks:,} clicks"
    yield f"off the graph: {off_graph:,} clicks ({off_graph / max(1, clicks):.1%})"
    yield f"in a loop: {loops:,} walks ({loops / max(1, walks):.1%})"
    if misses:
        tries = clicks + misses
        yield f"words that match no topic: {misses:,} of {tries:,} answers ({misses / tries:.1%})"
    if seeking:
        yield f"goal reached: {reached:,} of {seeking:,} ({reached / seeking:.1%})"
    yield "ends: " + ", ".join(f"{count:,} {status}" for status, count in sorted(ends.items()))

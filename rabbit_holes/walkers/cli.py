"""The verbs `walk` and `generate` of `rabbit-holes`: simulated walkers, and language models."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabbit_holes.path import Path as Walk
from rabbit_holes.path import PathWriter, first_of, holds_paths, read_paths, write_paths
from rabbit_holes.walkers.settings import MODES, WALKERS, GenerationSettings
from train_lm.command_line import GOES_ON, say
from train_lm.inputs import SHOWN
from train_lm.outputs import alone

if TYPE_CHECKING:
    from kncl_env.world.world import World

_GENERATE = """\
A language model wanders over a world. In mode choose it picks among the links a page offers, by the
probability it gives their titles; in mode associate it names the next topic in its own words, which
are matched to the world's topics. A walk ends where it comes back to a page. Interrupted or killed,
the same command goes on where it was."""


def add_walk_parser(verbs: Any) -> None:
    """Add `walk` to the verbs of `rabbit-holes`; `args.run(args)` runs it."""
    verb = verbs.add_parser(
        "walk",
        help="simulated walks over a world, where no one's are at hand",
        description="Simulated walkers follow the links of a world. They stand in where no one's "
        "walks were recorded.",
        epilog="Example: rabbit-holes walk --world W --walker wayfinder --out walks.jsonl",
    )
    verb.add_argument(
        "--world", type=Path, required=True, metavar="WORLD", help="directory of the world"
    )
    verb.add_argument(
        "--walker",
        choices=WALKERS,
        default="wayfinder",
        help="random takes any link, similar stays near what it reads, wayfinder looks for a page "
        "as people do (default: %(default)s)",
    )
    verb.add_argument(
        "--walks", type=int, default=1000, metavar="N", help="number of walks (default: 1000)"
    )
    verb.add_argument(
        "--depth", type=int, default=12, metavar="D", help="clicks of a walk at most (default: 12)"
    )
    verb.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of all draws (default: 0)"
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="F.jsonl", help="file to write the paths to"
    )
    verb.add_argument("--force", action="store_true", help="replace an existing file")
    verb.set_defaults(run=_walk)


def add_generate_parser(verbs: Any) -> None:
    """Add `generate` to the verbs of `rabbit-holes`; `args.run(args)` runs it."""
    default = GenerationSettings()
    verb = verbs.add_parser(
        "generate",
        help="let a language model wander over a world",
        description=_GENERATE,
        epilog="Example: rabbit-holes generate --world W --model runs/lm --out lm.jsonl",
    )
    verb.add_argument(
        "--world", type=Path, required=True, metavar="WORLD", help="directory of the world"
    )
    verb.add_argument(
        "--model",
        required=True,
        metavar="DIR|ID",
        help="a causal language model: a directory, or an id of the hub; a directory without a "
        "tokenizer takes the world's",
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="F.jsonl", help="file to write the paths to"
    )
    verb.add_argument(
        "--mode",
        choices=MODES,
        default=default.mode,
        help="choose among a page's links, or associate freely (default: %(default)s)",
    )
    # A title may hold a comma, so titles are given word by word, each in its own quotes.
    for name, what in (("start", "begin at, in turn"), ("goal", "look for, in turn")):
        verb.add_argument(
            f"--{name}",
            nargs="+",
            action="extend",
            default=[],
            metavar="TITLE",
            help=f"pages to {what} (default: {'drawn' if name == 'start' else 'none'})",
        )
    verb.add_argument("--device", help="where the model runs: cpu, cuda, … (default: a GPU if any)")
    verb.add_argument("--force", action="store_true", help="begin anew instead of going on")
    _add_numbers(verb, default)
    verb.set_defaults(run=_generate, **{GOES_ON: True})


def _add_numbers(verb: argparse.ArgumentParser, default: GenerationSettings) -> None:
    for name, metavar, meaning in (
        ("walks", "N", "number of walks"),
        ("depth", "D", "clicks of a walk at most"),
        ("temperature", "T", "of the draws; 0 takes the likeliest"),
        ("seed", "S", "seed of starts, links offered and all draws"),
        ("batch", "B", "walks that go side by side, for speed"),
        ("offered", "K", "links of a page to choose among, drawn evenly; 0: all"),
        ("similarity", "COSINE", "at which words match a topic, in associate"),
        ("words", "TOKENS", "of an answer at most, in associate"),
    ):
        value = getattr(default, name)
        verb.add_argument(
            f"--{name}",
            type=type(value),
            default=value,
            metavar=metavar,
            help=f"{meaning} (default: %(default)s)",
        )


def _walk(args: argparse.Namespace) -> None:
    import numpy as np

    from kncl_env.world.world import World
    from rabbit_holes.walkers.over_world import simulate

    with alone(args.out) as hold:
        hold.begin_anew(args.force, partial(holds_paths, sources=("simulated",)), [args.world])
        world = World.open(args.world)
        rng = np.random.default_rng(args.seed)
        walks = simulate(world, args.walker, args.walks, args.depth, rng)
        n = write_paths(args.out, walks, force=True)
    say(f"{args.out}: {n:,} walks by {args.walker}")


def _generate(args: argparse.Namespace) -> None:
    from kncl_env.world.world import World
    from rabbit_holes.walkers.generative import MODEL_SHA256, generate, run_name
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
    for title in (*settings.starts, *settings.goals):
        world.topic_of(title)  # before a model is loaded, or an old file removed
    with alone(args.out):
        pass  # whoever writes there is named before a model is loaded
    model = load_language_model(args.model, device=args.device, tokenizer=world.tokenizer)
    mine = partial(holds_paths, sources=("generated:",))
    begun = None if args.force else first_of(args.out)
    own = model.sha256[:SHOWN]
    before = own if begun is None else begun.meta.get(MODEL_SHA256, own)
    if before != own:
        raise ValueError(
            f"expected the model that {args.out} was begun with, sha256 {before}…, got {own}…: "
            "name another file or add --force to begin anew"
        )
    with PathWriter(args.out, force=args.force, mine=mine) as writer:
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
        say(line)
    say(args.out)


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
    for path in read_paths(file, on_error=partial(say, error=True)):
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

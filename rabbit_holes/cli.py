"""`rabbit-holes`: collect, generate, import and understand walks. Parses and prints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabbit_holes.imports.tally import Tally
from rabbit_holes.live.cli import add_collect_parser
from rabbit_holes.path import Path as Walk
from rabbit_holes.path import holds_paths, read_numbered_paths, read_paths, write_paths
from rabbit_holes.walkers.cli import add_generate_parser, add_walk_parser
from train_lm.command_line import command, program, run, say, say_lines
from train_lm.files import replacing, write_json
from train_lm.inputs import SHOWN as DIGITS
from train_lm.inputs import inputs, read_inputs
from train_lm.outputs import MADE_BY, alone, holds_json
from train_lm.plain_text import in_json, visible

if TYPE_CHECKING:
    from kncl_env.world.world import World
    from rabbit_holes.describe.stats import Group
    from rabbit_holes.link_map import LinkMap

Reader = Callable[[argparse.Namespace, Tally], Iterator[Walk]]

IMPORT, RECORD = "rabbit-holes import", ".inputs.json"  # what was read, beside the walks
SHOWN = 20  # [lines] of problems that are printed; the others stand in a file
# As in describe/stats.py, which brings numpy and scipy: `--help` need not wait for them.
GROUPINGS = ("kind", "walker", "source", "status")


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = command(
        "rabbit-holes",
        "How people and models wander: collect, generate, import and describe walks.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_collect_parser(verbs)
    add_walk_parser(verbs)
    add_generate_parser(verbs)
    _add_import_parser(verbs)
    _add_stats_parser(verbs)
    _add_export_parser(verbs)
    return parser


def _add_import_parser(verbs: Any) -> None:
    verb = verbs.add_parser(
        "import",
        help="read recorded walks of others into a file of paths",
        description="Reads walks that others recorded, and says what it read and what it dropped.",
        epilog="Example: rabbit-holes import wikispeedia DIR --out people.jsonl",
    )
    kinds = verb.add_subparsers(required=True, metavar="KIND", help="who recorded them, and how")

    def kind(
        name: str, about: str, read: Reader, source: str, makes: tuple[str, ...]
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = kinds.add_parser(
            name,
            help=about,
            description=f"Reads {about}.",
            epilog=f"Example: rabbit-holes import {name} SOURCE --out walks.jsonl",
        )
        parser.set_defaults(run=_import, read=read, makes=makes)
        parser.add_argument("source", type=Path, metavar="SOURCE", help=source)
        parser.add_argument(
            "--out", type=Path, required=True, metavar="F.jsonl", help="file to write the paths to"
        )
        parser.add_argument(
            "--world",
            type=Path,
            metavar="WORLD",
            help="leave out what this world does not know (default: keep all)",
        )
        parser.add_argument("--force", action="store_true", help="replace an existing file")
        return parser

    kind(
        "wikispeedia",
        "games of people, as SNAP distributes them",
        _read_wikispeedia,
        "folder of SNAP's unpacked archive",
        ("wikispeedia",),
    )
    games = kind(
        "llm-games",
        "games of language models, one JSON object per line",
        _read_llm_games,
        "JSON Lines, plain or .gz",
        ("llm_paths:",),
    )
    games.add_argument(
        "--links",
        type=Path,
        metavar="DIR",
        help="Wikispeedia folder to check pages and clicks by (default: take them on trust)",
    )
    clicks = kind(
        "clickstream",
        "Wikimedia's counts of clicks between pages, and draws walks from them",
        _read_clickstream,
        "TSV as Wikimedia publishes it, of 2015 or of today, or a table whose header names its "
        "columns; plain or .gz",
        ("clickstream",),
    )
    for name, default, metavar, meaning in (
        ("walks", 1000, "N", "number of walks to draw"),
        ("depth", 10, "D", "clicks of a walk at most"),
        ("seed", 0, "S", "seed of the draws"),
    ):
        clicks.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar=metavar,
            help=f"{meaning} (default: %(default)s)",
        )
    kind("jsonl", "paths in our own form, checked line by line", _read_jsonl, "JSON Lines", ())


def _add_stats_parser(verbs: Any) -> None:
    verb = verbs.add_parser(
        "stats",
        help="describe walks: people, models and synthetic walkers side by side",
        description="Describes walks by group, each number with a bootstrap interval.",
        epilog="Example: rabbit-holes stats people.jsonl models.jsonl --world W --html stats.html",
    )
    verb.set_defaults(run=_stats)
    verb.add_argument("files", type=Path, nargs="+", metavar="F.jsonl", help="files of paths")
    verb.add_argument(
        "--world",
        type=Path,
        metavar="WORLD",
        help="whose links and texts walks are held against (default: none)",
    )
    verb.add_argument(
        "--by", choices=GROUPINGS, default="kind", help="what makes a group (default: %(default)s)"
    )
    verb.add_argument(
        "--html", type=Path, metavar="F.html", help="write a page here, too (default: none)"
    )
    verb.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verb.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of bootstrap and reference walks (default: %(default)s)",
    )
    verb.add_argument("--force", action="store_true", help="replace an existing page")


def _add_export_parser(verbs: Any) -> None:
    verb = verbs.add_parser(
        "export",
        help="write paths as trajectories for other learners",
        description="Writes paths as trajectories over a world, split by (start, goal) pair.",
        epilog="Example: rabbit-holes export walks.jsonl --world W --out DIR --minari me/walks-v0",
    )
    verb.set_defaults(run=_export)
    verb.add_argument("file", type=Path, metavar="F.jsonl", help="file of paths")
    verb.add_argument(
        "--world", type=Path, required=True, metavar="WORLD", help="directory of the world"
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    verb.add_argument(
        "--minari",
        metavar="ID",
        help="write Minari data sets of this name, such as me/people-v0 (default: arrays of numpy)",
    )
    verb.add_argument(
        "--slots",
        type=int,
        default=64,
        metavar="K",
        help="candidates of a click at most, the others drawn evenly (default: %(default)s)",
    )
    verb.add_argument(
        "--frontier",
        action="store_true",
        help="offer everything next to the visited topics, as the environment does, not the links "
        "of the page alone",
    )
    verb.add_argument(
        "--limit", type=int, metavar="N", help="read this many paths at most (default: all)"
    )
    verb.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of drawn candidates (default: %(default)s)",
    )
    verb.add_argument("--force", action="store_true", help="replace what is there")


def _import(args: argparse.Namespace) -> None:
    tally = Tally()
    mine = partial(holds_paths, sources=args.makes)
    places = (args.source, args.world, getattr(args, "links", None))
    record = args.out.with_name(args.out.name + RECORD)
    with alone(args.out) as hold:
        hold.begin_anew(args.force, mine, places)
        if record.exists() and not holds_json(record, **{MADE_BY: IMPORT}):
            raise FileExistsError(
                f"expected a place for what was read at {record}, got another file: name another "
                "--out, or move it away"
            )
        paths: Iterator[Walk] = args.read(args, tally)
        first = next(paths, None)
        if first is None:
            raise ValueError(f"expected walks in {args.source}, got none{tally.why()}")
        with replacing(args.out, room=True) as part:
            written = write_paths(part, chain([first], paths), force=True)
            # Before the paths, which tell that all is done.
            problems = _list_problems(args.out, tally)
            write_json(record, {MADE_BY: IMPORT, "inputs": inputs()})
    for line in tally.lines():
        say(line)
    say(f"{args.out}: {written:,} paths")
    _print_some(tally.problems)
    if problems is not None:
        say(f"{problems}: {len(tally.problems):,} lines that lost something")


def _list_problems(out: Path, tally: Tally) -> Path | None:
    """The file beside `out` that lists what was lost; none where nothing was."""
    file = out.with_name(out.name + ".problems.txt")
    if not tally.problems:
        file.unlink(missing_ok=True)
        return None
    with replacing(file) as part:
        text = "".join(f"{visible(line)}\n" for line in tally.problems)
        part.write_text(text, encoding="utf-8")
    return file


def _read_wikispeedia(args: argparse.Namespace, tally: Tally) -> Iterator[Walk]:
    from rabbit_holes.imports.wikispeedia import read_games

    return read_games(args.source, tally, _link_map(args.world))


def _read_llm_games(args: argparse.Namespace, tally: Tally) -> Iterator[Walk]:
    from rabbit_holes.imports.llm_games import read_games
    from rabbit_holes.imports.wikispeedia import find_tables, read_link_map

    maps: list[LinkMap] = []
    if args.links is not None:
        maps.append(read_link_map(find_tables(args.links), tally))
    if (world := _link_map(args.world)) is not None:
        maps.append(world)
    return read_games(_file(args.source), tally, maps)


def _read_clickstream(args: argparse.Namespace, tally: Tally) -> Iterator[Walk]:
    from rabbit_holes.imports.clickstream import read_clickstream, sample_walks

    world = _link_map(args.world)
    counts = read_clickstream(_file(args.source), tally, world.titles if world else None)
    tally.noted["different clicks to draw from"] = counts.n_pairs
    offered = world.offered if world else None
    return sample_walks(counts, args.walks, args.depth, args.seed, offered)


def _read_jsonl(args: argparse.Namespace, tally: Tally) -> Iterator[Walk]:
    file, world = _file(args.source), _link_map(args.world)
    for line, path in read_numbered_paths(file, on_error=tally.drop_named_line):
        tally.read["paths"] += 1
        if world is None:
            yield path
            continue
        kept, dropped = world.prune(path, keep_off_graph=True)
        tally.drop_visits(file, line, dropped)
        if kept is None:
            tally.drop(file, line, "paths whose root is unknown", f"lost {path.id}")
            continue
        tally.noted["clicks not in the world, kept"] += world.off_graph(kept)
        yield kept


def _stats(args: argparse.Namespace) -> None:
    with nullcontext() if args.html is None else alone(args.html) as hold:
        if hold is not None:
            hold.begin_anew(args.force, _is_page, [args.world, *args.files])
        _describe(args)


def _is_page(file: Path) -> bool:
    from rabbit_holes.describe.page import MARK

    try:
        with file.open("rb") as stream:
            return MARK.encode() in stream.read(1000)
    except OSError:
        return False


def _describe(args: argparse.Namespace) -> None:
    import numpy as np

    from rabbit_holes.describe.stats import summarise
    from rabbit_holes.describe.styles import Landscape

    world = _open_world(args.world)
    problems: list[str] = []
    paths = list(_read_all(args.files, world, problems))
    _print_some(problems)
    say(f"{len(paths):,} walks read, {len(problems):,} lines with problems", error=True)
    if not paths:
        files = ", ".join(map(str, args.files))
        raise ValueError(f"expected paths in {files}, got none{_first(problems)}")
    rng = np.random.default_rng(args.seed)
    landscape = Landscape.of_world(world, rng) if world else None
    groups = summarise(paths, landscape, rng, by=args.by)
    if args.json:
        record = {
            "groups": [g.to_json() for g in groups],
            "lines_with_problems": len(problems),
            "inputs": inputs(),
        }
        say_lines(in_json(record))
    else:
        say_lines(_table(groups))
    if args.html is not None:
        from rabbit_holes.describe.page import render_page

        name = f"the {world.card['source']} world {world.hash[:12]}" if world else None
        # By place: two files may have one name.
        read = {os.path.realpath(one.name): one.sha256 for one in read_inputs()}
        sources = [f"{f.name} (sha256 {read[os.path.realpath(f)][:DIGITS]}…)" for f in args.files]
        page = render_page(groups, sources, name)
        with replacing(args.html) as part:
            part.write_text(page, encoding="utf-8")
        say(f"{args.html}: a page for the browser", error=args.json)


def _export(args: argparse.Namespace) -> None:
    from kncl_env.world.world import World
    from rabbit_holes.demonstrations import Showing
    from rabbit_holes.export import (
        SPLITS,
        is_arrays,
        is_root,
        minari_name,
        open_minari,
        split_by_pair,
        write_arrays,
        write_minari,
    )

    how = Showing(args.slots, frontier=args.frontier)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"expected --limit 1 or more, got {args.limit}")
    if args.minari is not None:
        minari_name(args.minari, SPLITS[0])
        open_minari()
    with alone(args.out) as hold:
        mine = is_arrays if args.minari is None else is_root
        hold.begin_anew(args.force, mine, [args.world, args.file])
        world = World.open(args.world)
        problems: list[str] = []
        with closing(read_paths(_file(args.file), on_error=problems.append)) as paths:
            parts = split_by_pair(islice(paths, args.limit))
        _print_some(problems)
        if not any(parts.values()):
            raise ValueError(f"expected paths in {args.file}, got none{_first(problems)}")
        if args.minari is not None:
            digest = inputs().get(args.file.name, "")[:DIGITS]
            about = f"{args.file.name} (sha256 {digest}…): recorded paths as trajectories; "
            about += "rewards are 0."
            export = write_minari(args.out, args.minari, parts, world, how, args.seed, about)
            end = f"read them with MINARI_DATASETS_PATH={args.out.resolve()}"
        else:
            export = write_arrays(args.out, parts, world, how, args.seed, inputs())
            end = f"{args.out}: arrays of {', '.join(SPLITS)}, and card.json"
    for own in export.splits:
        place = own.place or f"{own.split}, which has no data set"
        say(f"{place}: {own.choices:,} choices of {own.episodes:,} paths")
    for reason, count in export.dropped.items():
        say(f"dropped {count:,} clicks: {reason}")
    say(end)


def _first(problems: Sequence[str]) -> str:
    """The end of an error that nothing is left."""
    return f"; {len(problems):,} lines were dropped, the first: {problems[0]}" if problems else ""


def _read_all(files: Sequence[Path], world: World | None, problems: list[str]) -> Iterator[Walk]:
    for file in files:
        for line, path in read_numbered_paths(_file(file), on_error=problems.append):
            unknown = [t for t in path.titles if world is not None and t not in world]
            if unknown:
                problems.append(
                    f"{file}:{line}: {len(unknown)} visits to pages unknown to the world, such as "
                    f"{unknown[0]!r}: left out of what needs its links or texts"
                )
            yield path


def _table(groups: Sequence[Group]) -> str:
    from rabbit_holes.describe.stats import MEASURES

    rows = [["", *(f"{visible(g.name)} ({g.n_walks:,} walks)" for g in groups)]]
    for measure in MEASURES:
        found = [group.estimates.get(measure.key) for group in groups]
        if any(found):
            cells = [f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]" if e else "-" for e in found]
            rows.append([f"{measure.title}, {measure.statistic}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _print_some(problems: Iterable[str]) -> None:
    problems = list(problems)
    for problem in problems[:SHOWN]:
        say(problem, error=True)
    if len(problems) > SHOWN:
        say(f"… and {len(problems) - SHOWN:,} more", error=True)


def _open_world(place: Path | None) -> World | None:
    if place is None:
        return None
    from kncl_env.world.world import World

    return World.open(place)


def _link_map(place: Path | None) -> LinkMap | None:
    world = _open_world(place)
    if world is None:
        return None
    from rabbit_holes.link_map import LinkMap

    return LinkMap.of_world(world)


def _file(place: Path) -> Path:
    if not place.is_file():
        found = "a folder" if place.is_dir() else "nothing"
        raise FileNotFoundError(f"expected a file at {place}, found {found}")
    return place


if __name__ == "__main__":
    program("rabbit_holes.cli")

"""`rabbit-holes`: collect, generate, import and understand walks. Parses and prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rabbit_holes.export import add_export_parser
from rabbit_holes.generate import add_generate_parser
from rabbit_holes.imports.tally import Tally
from rabbit_holes.live.cli import add_collect_parser
from rabbit_holes.path import Path as Walk
from rabbit_holes.path import read_numbered_paths, write_paths
from rabbit_holes.walkers.over_world import add_walk_parser
from train_lm.command_line import claim_output, run

if TYPE_CHECKING:
    from kncl_env.world.world import World
    from rabbit_holes.describe.stats import Group
    from rabbit_holes.link_map import LinkMap

SHOWN = 20  # [lines] of problems that are printed; the others stand in a file


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return run(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rabbit-holes",
        description="How people and models wander: collect, generate, import and describe walks.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_collect_parser(verbs)
    add_walk_parser(verbs)
    add_generate_parser(verbs)
    _add_import_parser(verbs)
    _add_stats_parser(verbs)
    add_export_parser(verbs)
    return parser


def _add_import_parser(verbs: Any) -> None:
    verb = verbs.add_parser(
        "import",
        help="read recorded walks of others into a file of paths",
        epilog="Example: rabbit-holes import wikispeedia DIR --out people.jsonl",
    )
    kinds = verb.add_subparsers(required=True, metavar="KIND")
    wikispeedia = kinds.add_parser("wikispeedia", help="games of people, as SNAP distributes them")
    wikispeedia.set_defaults(read=_read_wikispeedia)
    wikispeedia.add_argument("source", type=Path, help="folder of SNAP's unpacked archive")
    games = kinds.add_parser("llm-games", help="the same game played by language models (JSONL)")
    games.set_defaults(read=_read_llm_games)
    games.add_argument("source", type=Path, help="JSON Lines, plain or .gz")
    games.add_argument(
        "--links", type=Path, metavar="DIR", help="Wikispeedia folder to check pages and clicks by"
    )
    clickstream = kinds.add_parser(
        "clickstream", help="walks drawn from Wikimedia's counts of clicks between pages"
    )
    clickstream.set_defaults(read=_read_clickstream)
    clickstream.add_argument("source", type=Path, help="TSV, plain or .gz, or CSV with a header")
    clickstream.add_argument("--walks", type=int, default=1000, help="walks to draw (1000)")
    clickstream.add_argument("--depth", type=int, default=10, help="clicks of a walk (10)")
    clickstream.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    jsonl = kinds.add_parser("jsonl", help="paths in our own form, checked line by line")
    jsonl.set_defaults(read=_read_jsonl)
    jsonl.add_argument("source", type=Path, help="JSON Lines")
    for kind in (wikispeedia, games, clickstream, jsonl):
        kind.set_defaults(run=_import)
        kind.add_argument("--out", type=Path, required=True, metavar="F.jsonl")
        kind.add_argument(
            "--world", type=Path, metavar="WORLD", help="leave out what this world does not know"
        )
        kind.add_argument("--force", action="store_true", help="replace an existing file")


def _add_stats_parser(verbs: Any) -> None:
    # `stats.py` brings numpy and scipy, which `--help` need not wait for.
    groupings = ("kind", "walker", "source", "status")
    verb = verbs.add_parser(
        "stats",
        help="describe walks: people, models and synthetic walkers side by side",
        epilog="Example: rabbit-holes stats people.jsonl models.jsonl --world W --html stats.html",
    )
    verb.set_defaults(run=_stats)
    verb.add_argument("files", type=Path, nargs="+", metavar="F.jsonl")
    verb.add_argument(
        "--world", type=Path, metavar="WORLD", help="whose links and texts walks are held against"
    )
    verb.add_argument("--by", choices=groupings, default="kind", help="what makes a group (kind)")
    verb.add_argument("--html", type=Path, metavar="F.html", help="write the page here")
    verb.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verb.add_argument("--seed", type=int, default=0, help="of bootstrap and reference walks (0)")
    verb.add_argument("--force", action="store_true", help="replace an existing page")


def _import(args: argparse.Namespace) -> None:
    claim_output(args.out, args.force)
    tally = Tally()
    paths: Iterator[Walk] = args.read(args, tally)
    first = next(paths, None)
    if first is None:
        why = f", the first for this reason: {tally.problems[0]}" if tally.problems else ""
        raise ValueError(f"expected walks in {args.source}, got none{why}")
    written = write_paths(args.out, chain([first], paths), force=args.force)
    for line in tally.lines():
        print(line)
    print(f"{args.out}: {written:,} paths")
    list_of_problems = args.out.with_name(args.out.name + ".problems.txt")
    list_of_problems.unlink(missing_ok=True)
    if tally.problems:
        _print_some(tally.problems)
        text = "".join(f"{line}\n" for line in tally.problems)
        list_of_problems.write_text(text, encoding="utf-8", errors="backslashreplace")
        print(f"{list_of_problems}: {len(tally.problems):,} lines that lost something")


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
    import numpy as np

    from rabbit_holes.describe.stats import summarise
    from rabbit_holes.describe.styles import Landscape

    if args.html is not None:
        claim_output(args.html, args.force)
    world = _open_world(args.world)
    problems: list[str] = []
    paths = list(_read_all(args.files, world, problems))
    _print_some(problems)
    print(f"{len(paths):,} walks read, {len(problems):,} lines with problems", file=sys.stderr)
    rng = np.random.default_rng(args.seed)
    landscape = Landscape.of_world(world, rng) if world else None
    groups = summarise(paths, landscape, rng, by=args.by)
    if args.json:
        record = {"groups": [g.to_json() for g in groups], "lines_with_problems": len(problems)}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(_table(groups))
    if args.html is not None:
        from rabbit_holes.describe.page import render_page

        name = f"the {world.card['source']} world {world.hash[:12]}" if world else None
        page = render_page(groups, [file.name for file in args.files], name)
        args.html.write_text(page, encoding="utf-8", errors="backslashreplace")
        print(f"{args.html}: a page for the browser", file=sys.stderr if args.json else sys.stdout)


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

    rows = [["", *(f"{g.name} ({g.n_walks:,} walks)" for g in groups)]]
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
        print(problem, file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN:,} more", file=sys.stderr)


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
    sys.exit(main())

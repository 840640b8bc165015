"""Games that people played on Wikispeedia, as SNAP distributes them, read into paths.

West, Pineau & Precup, IJCAI 2009; West & Leskovec, WWW 2012. A game is a search for a goal, with
back clicks, so it is a tree. This file knows SNAP's files and their quirks; it leaves out the
hashed address of the player on purpose.
"""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from urllib.parse import unquote

from rabbit_holes.imports.lines import read_lines
from rabbit_holes.imports.tally import Tally
from rabbit_holes.link_map import LinkMap
from rabbit_holes.path import MetaValue, Path, StrPath, Visit
from train_lm.checked.inside import checked
from train_lm.inputs import note_files

SOURCE = "wikispeedia"
LICENCE = "Wikispeedia navigation paths, SNAP: cite West et al. 2009 and West & Leskovec 2012"
FOLDER = "wikispeedia_paths-and-graph"
BACK = "<"

Row = tuple[int, list[str]]


def decode_title(encoded: str) -> str:
    """`%C3%85land_Islands` -> `Åland Islands`.

    Raises:
        ValueError: If the bytes behind the percent signs are not UTF-8, or nothing is left.
    """
    try:
        title = unquote(encoded, errors="strict").replace("_", " ")
    except UnicodeDecodeError:
        raise ValueError(f"expected a title in percent-encoded UTF-8, got {encoded!r}") from None
    if not title.strip():
        raise ValueError(f"expected a title, got {encoded!r}")
    return title


LINK_TABLES = ("articles.tsv", "links.tsv")


def find_tables(source: StrPath) -> pathlib.Path:
    """The folder of the TSV files: `source` itself or the one that SNAP's archive unpacks to.

    Raises:
        FileNotFoundError: naming what is missing.
        ValueError: A table is a link that leads out of `source`.
    """
    folder = pathlib.Path(source)
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    wanted = ("articles.tsv", "links.tsv", "paths_finished.tsv", "paths_unfinished.tsv")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected {missing[0]} in {folder} or its {FOLDER}: unpack SNAP's "
            "wikispeedia_paths-and-graph.tar.gz there"
        )
    for name in wanted:
        checked(folder / name, pathlib.Path(source))
    return folder


def read_rows(file: pathlib.Path, columns: int, tally: Tally) -> Iterator[Row]:
    """`(line number, fields)` of a SNAP table; lines of another shape are counted and named."""
    for number, line in read_lines(file, tally):
        if line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) == columns:
            yield number, fields
        else:
            tally.drop_line(file, number, f"expected {columns} columns, got {len(fields)}", line)


def read_link_map(folder: pathlib.Path, tally: Tally) -> LinkMap:
    """Titles of `articles.tsv` and links of `links.tsv`; links of unknown pages are dropped."""
    note_files(folder, LINK_TABLES)
    return _link_map(folder, tally)


def _link_map(folder: pathlib.Path, tally: Tally) -> LinkMap:
    offered: dict[str, set[str]] = {}
    file = folder / "articles.tsv"
    for number, (encoded,) in read_rows(file, 1, tally):
        try:
            offered[decode_title(encoded)] = set()
        except ValueError as error:
            tally.drop_line(file, number, str(error), encoded)
    file = folder / "links.tsv"
    for number, fields in read_rows(file, 2, tally):
        try:
            source, target = map(decode_title, fields)
        except ValueError as error:
            tally.drop_line(file, number, str(error), "\t".join(fields))
            continue
        if source in offered and target in offered:
            offered[source].add(target)
        else:
            unknown = source if source not in offered else target
            reason = f"link of {unknown!r}, which articles.tsv lacks"
            tally.drop_line(file, number, reason, "\t".join(fields))
    tally.read["titles known"] = len(offered)
    tally.read["links known"] = sum(map(len, offered.values()))
    frozen = {title: frozenset(targets) for title, targets in offered.items()}
    return LinkMap("articles.tsv", "links.tsv", frozen.keys(), frozen.__getitem__)


def read_games(source: StrPath, tally: Tally, world: LinkMap | None = None) -> Iterator[Path]:
    """Stream the finished, then the unfinished games.

    Args:
        source: The directory that SNAP's archive unpacks to, or its parent.
        tally: Is filled on the way; complete once the iterator ends.
        world: Also drop what this map does not know.

    Raises:
        FileNotFoundError: If a table is missing.
    """
    folder = find_tables(source)
    note_files(folder, (*LINK_TABLES, "paths_finished.tsv", "paths_unfinished.tsv"))
    maps = [_link_map(folder, tally)]
    if world is not None:
        maps.append(world)
    for status in ("finished", "unfinished"):
        file = folder / f"paths_{status}.tsv"
        tally.read[f"{status} games"] = 0
        for number, fields in read_rows(file, 5 if status == "finished" else 6, tally):
            try:
                game, back_clicks = _parse_game(number, fields, status)
            except ValueError as error:
                tally.drop_line(file, number, str(error), "\t".join(fields))
                continue
            tally.read[f"{status} games"] += 1
            tally.read["visits"] += len(game)
            tally.read["back clicks"] += back_clicks
            if game.goal not in maps[0].titles:
                tally.noted["games whose goal articles.tsv lacks"] += 1
            kept = _prune(game, maps, tally, file, number)
            if kept is not None:
                if status == "finished" and game.goal not in kept.titles:
                    tally.noted["finished games that lost the visit to their goal"] += 1
                yield kept


def _prune(
    game: Path, maps: Sequence[LinkMap], tally: Tally, file: pathlib.Path, number: int
) -> Path | None:
    reasons: Counter[str] = Counter()
    kept: Path | None = game
    for link_map in maps:
        if kept is not None:
            kept, dropped = link_map.prune(kept)
            reasons += dropped
    tally.drop_visits(file, number, reasons)
    if kept is None:
        tally.drop(file, number, "games whose start page is unknown", f"lost {game.id}")
    return kept


def _parse_game(number: int, fields: list[str], status: str) -> tuple[Path, int]:
    """Fields of a line to a path and its number of back clicks; ValueError says what is wrong."""
    _, timestamp, duration, clicks = fields[:4]  # the first field identifies a player
    meta: dict[str, MetaValue] = {
        "timestamp": _whole("timestamp [s]", timestamp),
        "duration": _whole("duration [s]", duration),
    }
    pages = clicks.split(";")
    if status == "finished":
        goal = pages[-1]
        meta["rating"] = None if fields[4] == "NULL" else _whole("rating or NULL", fields[4])
    else:
        goal = fields[4]
        meta["ended_by"] = fields[5]
        if fields[5] not in ("timeout", "restart"):
            raise ValueError(f"expected timeout or restart, got {fields[5]!r}")
    visits, back_clicks = _walk(pages)
    meta["back_clicks"] = back_clicks
    path = Path(
        id=f"{SOURCE}-{status}-{number}",
        visits=visits,
        source=SOURCE,
        walker="person",
        licence=LICENCE,
        goal=decode_title(goal),
        status=status,
        meta=meta,
    )
    return path, back_clicks


def _walk(pages: Sequence[str]) -> tuple[tuple[Visit, ...], int]:
    """Pages and back clicks in order of time to a tree; going back stops at the start page."""
    visits: list[Visit] = []
    stack: list[int] = []
    for page in pages:
        if page == BACK:
            if not stack:
                raise ValueError("expected a page before the first back click")
            if len(stack) > 1:
                stack.pop()
            continue
        visits.append(Visit(decode_title(page), stack[-1] if stack else None))
        stack.append(len(visits) - 1)
    return tuple(visits), sum(page == BACK for page in pages)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError(f"expected {name} as a whole number, got {text!r}")
    return int(text)

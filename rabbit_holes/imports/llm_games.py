"""Wikispeedia games that language models played, read into paths.

One JSON object per line: `source, model, pair, start, target, status, path`, titles encoded as
Wikispeedia encodes them; a target that was not recorded is null. Models name pages in their own
words, so a click may follow no link; it is kept and counted, since how often that happens is what
one wants to know about a model.
"""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rabbit_holes.imports.lines import read_lines
from rabbit_holes.imports.tally import Tally
from rabbit_holes.imports.wikispeedia import decode_title
from rabbit_holes.link_map import LinkMap
from rabbit_holes.path import Path, StrPath, Visit
from train_lm.inputs import note_file

LICENCE = "not stated by the collectors: cite, do not redistribute"
# As the collectors word it -> as a path does.
STATUSES = {"success": "finished"}
UNKNOWN_START = "games whose start page is unknown"
FIELDS = ("source", "model", "pair", "start", "target", "status", "path")


def read_games(file: StrPath, tally: Tally, link_maps: Iterable[LinkMap] = ()) -> Iterator[Path]:
    """Stream the games of a JSON Lines file, plain or `.gz`.

    Args:
        tally: Is filled on the way; complete once the iterator ends.
        link_maps: Drop visits to pages that one of these does not know, and what came after them;
            count clicks that follow no link of the first. Without any, titles are taken on trust.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    file = pathlib.Path(file)
    note_file(file)
    maps = list(link_maps)
    played: Counter[str] = Counter()
    tally.read["games"] = 0
    for number, line in read_lines(file, tally):
        try:
            record = _parse_record(line)
        except ValueError as error:
            tally.drop_line(file, number, str(error), line)
            continue
        tally.read["games"] += 1
        try:
            game = _game(record, played)
        except ValueError as error:
            tally.drop(file, number, "games without usable pages", str(error), line)
            continue
        tally.read["visits"] += len(game)
        tally.read["games that end in a loop"] += game.status == "loop"
        reasons: Counter[str] = Counter()
        kept: Path | None = game
        for link_map in maps:
            if kept is not None:
                kept, dropped = link_map.prune(kept, keep_off_graph=True)
                reasons += dropped
        tally.drop_visits(file, number, reasons)
        if kept is None:
            tally.drop(file, number, UNKNOWN_START, f"lost {game.id}", line)
            continue
        if maps:
            off_graph = maps[0].off_graph(kept)
            tally.noted[f"clicks not in {maps[0].links}, kept"] += off_graph
            tally.noted["games with such a click"] += off_graph > 0
        yield kept


def _parse_record(line: str) -> dict[str, Any]:
    try:
        record: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected one JSON object per line, got {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"expected a game as a JSON object, got {type(record).__name__}")
    for name in FIELDS:
        if name not in record:
            raise ValueError(f"expected field {name!r} in a game, got {sorted(record)}")
    for name in FIELDS[:-1]:
        if name == "target" and record[name] is None:
            continue
        if not isinstance(record[name], str) or not record[name].strip():
            raise ValueError(f"expected {name} as a string, got {record[name]!r}")
    if not isinstance(record["path"], list):
        raise ValueError(f"expected path as a list of titles, got {record['path']!r}")
    return record


def _game(record: dict[str, Any], played: Counter[str]) -> Path:
    """Raises ValueError where nothing of the game was recorded, or a remark stands in its place."""
    pages = record["path"]
    if not pages or not all(isinstance(page, str) for page in pages):
        raise ValueError(f"expected titles in path, got {pages!r}")
    if pages[0] != record["start"]:
        raise ValueError(f"expected the path to begin at {record['start']!r}, got {pages[0]!r}")
    source, model = record["source"], record["model"]
    # A pair may have been played more than once by one model.
    name = f"{source}-{model}-{record['pair']}"
    played[name] += 1
    return Path(
        id=name if played[name] == 1 else f"{name}-{played[name]}",
        visits=tuple(Visit(decode_title(p), i - 1 if i else None) for i, p in enumerate(pages)),
        source=f"llm_paths:{source}",
        walker=f"lm:{model}",
        licence=LICENCE,
        goal=None if record["target"] is None else decode_title(record["target"]),
        status=STATUSES.get(record["status"], record["status"]),
        meta={"pair": record["pair"]},
    )

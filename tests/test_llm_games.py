"""Games that models played: read, checked, and odd ones named."""

import gzip
import json

import pytest
from rabbit_hole_fakes import FakeWorld

from rabbit_holes.imports.llm_games import read_games
from rabbit_holes.imports.tally import Tally
from rabbit_holes.imports.wikispeedia import find_tables, read_link_map
from rabbit_holes.link_map import LinkMap
from rabbit_holes.path import Path

GAME = {
    "source": "course", "model": "gpt/memory", "pair": "7", "start": "Ant", "target": "Big_Cat",
    "status": "success", "path": ["Ant", "Bee", "Big_Cat"],
}  # fmt: skip


def read(file, maps=()) -> tuple[list[Path], Tally]:
    tally = Tally()
    return list(read_games(file, tally, maps)), tally


def write(file, *records: object) -> object:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.parametrize("packed", [False, True])
def test_a_game_becomes_a_chain(tmp_path, packed: bool) -> None:
    file = tmp_path / "games.jsonl"
    content = json.dumps(GAME).encode() + b"\n"
    file.write_bytes(gzip.compress(content) if packed else content)
    (path,), tally = read(file)
    assert path.titles == ("Ant", "Bee", "Big Cat")
    assert [visit.parent for visit in path.visits] == [None, 0, 1]
    assert (path.walker, path.source) == ("lm:gpt/memory", "llm_paths:course")
    assert (path.goal, path.status) == ("Big Cat", "finished")
    assert tally.read["games"] == 1


def test_a_pair_played_twice_gives_two_paths_with_different_ids(tmp_path) -> None:
    paths, _ = read(write(tmp_path / "g", GAME, GAME, {**GAME, "model": "other"}))
    assert len({path.id for path in paths}) == 3


def test_loops_are_counted_and_keep_their_status(tmp_path) -> None:
    loop = {**GAME, "status": "loop", "path": ["Ant", "Bee", "Ant"]}
    paths, tally = read(write(tmp_path / "g", loop, {**GAME, "target": None}))
    assert [path.status for path in paths] == ["loop", "finished"]
    assert paths[1].goal is None
    assert tally.read["games that end in a loop"] == 1


def test_clicks_off_the_graph_are_kept_and_counted_and_unknown_pages_dropped(tmp_path) -> None:
    # In the fake world Ant links to Bee, Cat and Fox; there is no page called Zebu.
    games = [
        {**GAME, "path": ["Ant", "Bee", "Cat"]},
        {**GAME, "path": ["Ant", "Hen", "Jay", "Zebu", "Ant"]},
        {**GAME, "start": "Zebu", "path": ["Zebu", "Ant"]},
    ]
    paths, tally = read(write(tmp_path / "g", *games), [LinkMap.of_world(FakeWorld())])
    assert [path.titles for path in paths] == [("Ant", "Bee", "Cat"), ("Ant", "Hen", "Jay")]
    assert tally.noted == {"clicks not in the world, kept": 1, "games with such a click": 1}
    assert tally.dropped == {
        "visits: page unknown to the world": 2,
        "visits: reached through a dropped visit": 2,
        "games whose start page is unknown": 1,
    }


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"\xff\xfe",
        json.dumps({k: v for k, v in GAME.items() if k != "model"}).encode(),
        json.dumps({**GAME, "model": 4}).encode(),
        json.dumps({**GAME, "start": None}).encode(),
        json.dumps({**GAME, "path": "Ant"}).encode(),
    ],
)
def test_a_malformed_line_is_counted_and_named_and_is_no_game(tmp_path, line: bytes) -> None:
    file = tmp_path / "games.jsonl"
    file.write_bytes(line + b"\n" + json.dumps(GAME).encode() + b"\n")
    paths, tally = read(file)
    assert len(paths) == 1
    assert tally.read["games"] == 1
    assert tally.dropped == {"malformed lines": 1}
    assert tally.problems[0].startswith(f"{file}:1: expected ")


@pytest.mark.parametrize("pages", [[], ["Multiple retries"], ["Ant", 5], ["Ant", "%FF"]])
def test_a_game_without_usable_pages_was_read_and_is_named(tmp_path, pages: list) -> None:
    file = write(tmp_path / "g", {**GAME, "path": pages})
    paths, tally = read(file)
    assert not paths
    assert tally.read["games"] == 1
    assert tally.dropped == {"games without usable pages": 1}
    assert tally.problems[0].startswith(f"{file}:1: ")


@pytest.mark.shared_data
def test_every_game_of_the_real_data_is_read(shared_data, wikispeedia_dir) -> None:
    links = read_link_map(find_tables(wikispeedia_dir), Tally())
    paths, tally = read(shared_data / "llm_paths" / "llm_paths.jsonl.gz", [links])
    assert tally.read["games"] == 42_759
    assert len({path.id for path in paths}) == len(paths)
    whole_games = tally.dropped["games without usable pages"]
    whole_games += tally.dropped["games whose start page is unknown"]
    assert len(paths) == 42_759 - whole_games
    # The cleanest collection has no click off the graph.
    clean = [p for p in paths if p.walker in ("lm:gpt-4o-mini/memory", "lm:gpt-4o-mini/no-memory")]
    assert len(clean) > 30_000
    assert sum(links.off_graph(path) for path in clean) == 0

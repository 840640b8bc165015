"""Games of people: trees with back clicks, and nothing lost without a name."""

import time

import pytest
from rabbit_hole_fakes import PLAYER, FakeWorld, finished, unfinished, write_snap

from rabbit_holes.imports.tally import Tally
from rabbit_holes.imports.wikispeedia import decode_title, find_tables, read_games
from rabbit_holes.link_map import LinkMap
from rabbit_holes.path import Path, write_paths


def read(folder, world: LinkMap | None = None) -> tuple[list[Path], Tally]:
    tally = Tally()
    return list(read_games(folder, tally, world)), tally


def test_a_finished_game_becomes_a_tree_with_its_back_clicks(tmp_path) -> None:
    game = finished("%C3%85land;Ant;Big_Cat;<;<;Dog;%C3%85land", rating="3")
    (path,), tally = read(write_snap(tmp_path, [game], []))

    assert path.titles == ("Åland", "Ant", "Big Cat", "Dog", "Åland")
    assert [visit.parent for visit in path.visits] == [None, 0, 1, 0, 3]
    assert (path.goal, path.status, path.walker) == ("Åland", "finished", "person")
    assert path.meta == {"timestamp": 1227628729, "duration": 15, "rating": 3, "back_clicks": 2}
    assert tally.read["back clicks"] == 2
    assert not tally.dropped


def test_an_unfinished_game_keeps_its_goal_and_how_it_ended(tmp_path) -> None:
    (path,), _ = read(write_snap(tmp_path, [], [unfinished("Dog", "Big_Cat", "restart")]))
    assert (path.goal, path.status, path.titles) == ("Big Cat", "unfinished", ("Dog",))
    assert path.meta["ended_by"] == "restart"
    assert "rating" not in path.meta


def test_going_back_stops_at_the_start_page(tmp_path) -> None:
    (path,), _ = read(write_snap(tmp_path, [finished("%C3%85land;Ant;<;<;<;Dog")], []))
    assert [visit.parent for visit in path.visits] == [None, 0, 0]


def test_the_address_of_the_player_is_kept_nowhere(tmp_path) -> None:
    paths, _ = read(write_snap(tmp_path, [finished("Ant;Big_Cat")], [unfinished("Dog", "Ant")]))
    assert len(paths) == 2
    assert not any(PLAYER in str(path.to_json()) for path in paths)


def test_what_comes_after_a_dropped_visit_goes_too_and_what_comes_before_it_stays(
    tmp_path,
) -> None:
    # Ghost is no article; Licence is one, but Ant does not link to it.
    games = [
        finished("%C3%85land;Ghost;Ant;<;<;Dog"),
        finished("%C3%85land;Ant;Licence;Dog;<;<;Big_Cat"),
        finished("Ghost;Ant"),
    ]
    paths, tally = read(write_snap(tmp_path, games, []))

    assert [path.titles for path in paths] == [("Åland", "Dog"), ("Åland", "Ant", "Big Cat")]
    assert paths[1].visits[2].parent == 1
    assert [path.meta["dropped_visits"] for path in paths] == [2, 2]
    assert tally.read["finished games"] == 3
    assert tally.dropped == {
        "visits: page unknown to articles.tsv": 2,
        "visits: click not in links.tsv": 1,
        "visits: reached through a dropped visit": 3,
        "games whose start page is unknown": 1,
    }
    assert [int(p.split("paths_finished.tsv:")[1].split(":")[0]) for p in tally.problems] == [
        4, 5, 6, 6,
    ]  # fmt: skip


def test_a_game_that_lost_its_goal_and_a_goal_that_no_one_knows_are_noted(tmp_path) -> None:
    games = [finished("%C3%85land;Ant;Licence")]
    paths, tally = read(write_snap(tmp_path, games, [unfinished("Dog", "Christmas")]))
    assert [path.goal for path in paths] == ["Licence", "Christmas"]
    assert tally.noted["finished games that lost the visit to their goal"] == 1
    assert tally.noted["games whose goal articles.tsv lacks"] == 1


@pytest.mark.parametrize(
    "line",
    [
        "too\tfew\tcolumns",
        finished("Ant;Big_Cat") + "\textra",
        finished("Ant;Big_Cat", rating="NUL"),
        finished("Ant;Big_Cat", time="yesterday"),
        finished("Ant;Big_Cat", took="-3"),
        finished("Ant;;Big_Cat"),
        finished("<;Ant"),
        finished(""),
        finished("Ant;%FF%FE"),
        finished("Ant;_"),
        finished("Ant;Big_Cat").encode() + b"\xff",
        b"\x00\xff\xfe",
    ],
)
def test_a_malformed_line_is_counted_and_named_and_the_next_is_read(tmp_path, line) -> None:
    paths, tally = read(write_snap(tmp_path, [line, finished("Ant;Big_Cat")], []))
    assert len(paths) == 1
    assert tally.read["finished games"] == 1
    assert tally.dropped == {"malformed lines": 1}
    assert "paths_finished.tsv:4: expected" in tally.problems[0]


def test_a_table_cut_anywhere_loses_one_line_at_most_and_says_so(tmp_path) -> None:
    folder = write_snap(tmp_path, [finished("Ant;Big_Cat", rating="5")] * 2, [])
    file = folder / "wikispeedia_paths-and-graph" / "paths_finished.tsv"
    whole = file.read_bytes()
    start = whole.rindex(b"651ff")
    for cut in range(start + 1, len(whole) - 2):
        file.write_bytes(whole[:cut])
        paths, tally = read(folder)
        assert len(paths) == 1
        assert tally.dropped["malformed lines"] == 1


def test_an_unknown_way_to_end_is_malformed(tmp_path) -> None:
    _, tally = read(write_snap(tmp_path, [], [unfinished("Ant", "Dog", "time")]))
    assert "timeout or restart" in tally.problems[0]


def test_a_bad_link_table_is_named_and_its_good_rows_count(tmp_path) -> None:
    folder = write_snap(tmp_path, [finished("Ant;Big_Cat")], [])
    links = folder / "wikispeedia_paths-and-graph" / "links.tsv"
    links.write_bytes(links.read_bytes() + b"Ant\tGhost\nAnt\nAnt\t%FF\n")
    paths, tally = read(folder)
    assert len(paths) == 1
    assert tally.dropped == {"malformed lines": 3}
    assert "'Ghost', which articles.tsv lacks" in tally.problems[0]


def test_a_world_drops_what_it_lacks(tmp_path) -> None:
    # The fake world knows Ant and Dog, not Åland, and no link between the two.
    games = [finished("%C3%85land;Ant"), finished("Dog;%C3%85land;Ant;<;<")]
    paths, tally = read(write_snap(tmp_path, games, []), LinkMap.of_world(FakeWorld()))
    assert [path.titles for path in paths] == [("Dog",)]
    assert tally.dropped["visits: page unknown to the world"] == 2


@pytest.mark.parametrize(
    "missing", ["articles.tsv", "links.tsv", "paths_finished.tsv", "paths_unfinished.tsv"]
)
def test_a_missing_table_is_named(tmp_path, missing: str) -> None:
    folder = write_snap(tmp_path, [], [])
    (folder / "wikispeedia_paths-and-graph" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        read(folder)


def test_the_folder_of_the_tables_itself_will_do(tmp_path) -> None:
    folder = write_snap(tmp_path, [finished("Ant;Big_Cat")], [])
    assert len(read(folder / "wikispeedia_paths-and-graph")[0]) == 1
    assert find_tables(folder) == find_tables(folder / "wikispeedia_paths-and-graph")


@pytest.mark.parametrize("encoded", ["", "_", "%20", "%C3"])
def test_what_is_no_title_is_refused(encoded: str) -> None:
    with pytest.raises(ValueError, match="expected a title"):
        decode_title(encoded)


@pytest.mark.shared_data
def test_every_game_of_the_real_data_is_read_in_under_a_minute(wikispeedia_dir, tmp_path) -> None:
    began = time.monotonic()
    tally = Tally()
    written = write_paths(tmp_path / "people.jsonl", read_games(wikispeedia_dir, tally))
    assert time.monotonic() - began < 60
    assert tally.read["finished games"] == 22_974
    assert tally.read["unfinished games"] == 11_559
    assert tally.read["titles known"] == 4_604
    assert written == 22_974 + 11_559
    assert tally.dropped.keys() == {
        "visits: click not in links.tsv",
        "visits: reached through a dropped visit",
    }
    # The README of the full set counts 22 such clicks among the finished games.
    assert tally.dropped["visits: click not in links.tsv"] < 100

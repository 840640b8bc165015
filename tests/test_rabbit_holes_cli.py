"""`rabbit-holes` from the outside: what it prints, where it writes, how it refuses."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path as FilePath

import pytest
from rabbit_hole_fakes import build_animals, finished, unfinished, walk_of, write_snap

from rabbit_holes import cli
from rabbit_holes.cli import main
from rabbit_holes.describe.stats import GROUPINGS
from rabbit_holes.path import Path, read_paths, write_paths
from train_lm.inputs import inputs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> FilePath:
    """A world directory with the topics and links of the fake world."""
    place = tmp_path_factory.mktemp("worlds") / "animals"
    build_animals(place)
    return place


@pytest.fixture
def snap(tmp_path) -> FilePath:
    games = [finished("%C3%85land;Ant;<;Dog", rating="2"), finished("Ghost"), "half a line"]
    return write_snap(tmp_path / "snap", games, [unfinished("Ant", "Dog")])


def paths_of(file: FilePath) -> list[Path]:
    errors: list[str] = []
    paths = list(read_paths(file, on_error=errors.append))
    assert not errors
    return paths


VERBS = (
    [], ["collect"], ["walk"], ["generate"], ["import"], ["import", "wikispeedia"],
    ["import", "llm-games"], ["import", "clickstream"], ["import", "jsonl"], ["stats"], ["export"],
)  # fmt: skip


def test_help_of_every_verb_answers_without_numpy() -> None:
    script = (
        "import sys\n"
        "from rabbit_holes.cli import main\n"
        f"for words in {VERBS}:\n"
        "    try:\n"
        "        main([*words, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, words\n"
        "heavy = {'numpy', 'scipy', 'torch', 'transformers', 'faiss', 'sklearn', 'gymnasium'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loaded: []" in done.stdout


@pytest.mark.parametrize("words", VERBS[2:], ids=" ".join)
def test_help_gives_an_example_and_says_of_every_option_what_it_is(words, capsys) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    told = capsys.readouterr().out
    assert "Example: rabbit-holes" in told
    for action in parser_of(words)._actions:
        assert action.help, f"{words}: {action.dest}"
        given = action.default not in (None, False, argparse.SUPPRESS)
        if given and action.option_strings:
            assert "default" in action.help, f"{words}: {action.dest}"


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    parser = cli._parser()
    for word in words:
        (verbs,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = verbs.choices[word]
    return parser


def test_groupings_are_those_that_stats_knows() -> None:
    assert cli.GROUPINGS == GROUPINGS


def test_the_version_is_told(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("rabbit-holes ")


def test_import_prints_what_was_read_and_dropped_and_where_it_wrote(snap, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "people.jsonl"
    assert main(["import", "wikispeedia", str(snap), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert len(paths_of(out)) == 2
    assert "2 finished games" in printed.out
    assert "1 malformed lines" in printed.out
    assert f"{out}: 2 paths" in printed.out
    named = out.with_name("people.jsonl.problems.txt")
    assert f"{named}: 3 lines" in printed.out
    *problems, read = printed.err.splitlines()
    assert named.read_text().splitlines() == problems
    assert re.fullmatch(
        rf"read {snap}/\S*: 4 files, sha256 [0-9a-f]{{12}}…, nothing to check it against", read
    )


def test_an_import_keeps_beside_its_walks_what_it_read(snap, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "people.jsonl"
    record = out.with_name("people.jsonl.inputs.json")
    assert main(["import", "wikispeedia", str(snap), "--out", str(out)]) == 0
    ((_, digest),) = inputs().items()
    kept = json.loads(record.read_text())
    assert kept == {"command": "rabbit-holes import", "inputs": inputs()}
    assert f"sha256 {digest[:12]}…" in capsys.readouterr().err
    record.write_text("precious")
    assert main(["import", "wikispeedia", str(snap), "--out", str(out), "--force"]) == 2
    assert "expected a place for what was read at" in capsys.readouterr().err
    assert record.read_text() == "precious"


def test_an_existing_file_is_kept_without_force(snap, tmp_path, capsys) -> None:
    out = tmp_path / "people.jsonl"
    out.write_text("precious")
    command = ["import", "wikispeedia", str(snap), "--out", str(out)]
    assert main(command) == 2
    assert out.read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 2, "this command did not make it"
    assert out.read_text() == "precious"
    out.unlink()
    for more in ((), ("--force",)):
        assert main([*command, *more]) == 0
        assert len(paths_of(out)) == 2


def test_problems_of_an_earlier_import_do_not_stay(snap, tmp_path) -> None:
    out = tmp_path / "people.jsonl"
    assert main(["import", "wikispeedia", str(snap), "--out", str(out)]) == 0
    clean = write_snap(tmp_path / "clean", [finished("Ant;Big_Cat")], [])
    assert main(["import", "wikispeedia", str(clean), "--out", str(out), "--force"]) == 0
    assert not out.with_name("people.jsonl.problems.txt").exists()


def test_games_of_models_are_checked_against_links_and_world(snap, world, tmp_path, capsys) -> None:
    games = tmp_path / "games.jsonl"
    game = {"source": "s", "model": "m", "pair": "1", "start": "Ant", "target": "Dog",
            "status": "success"}  # fmt: skip
    rows = [{**game, "path": ["Ant", "Dog"]}, {**game, "path": ["Ant", "Big_Cat", "Dog"]}]
    games.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "models.jsonl"
    command = ["import", "llm-games", str(games), "--out", str(out), "--links", str(snap)]
    assert main([*command, "--world", str(world)]) == 0
    assert [path.titles for path in paths_of(out)] == [("Ant", "Dog"), ("Ant",)]
    printed = capsys.readouterr().out
    assert "2 games" in printed
    assert "1 clicks not in links.tsv, kept" in printed
    assert "visits: page unknown to the world" in printed


def test_clickstream_walks_over_a_world_follow_its_links(world, tmp_path, capsys) -> None:
    source = tmp_path / "clicks.tsv"
    source.write_text("Ant\tBee\tlink\t50\nBee\tAnt\tlink\t50\nBee\tCat\tlink\t50\n"
                      "other-empty\tAnt\texternal\t9\n")  # fmt: skip
    out = tmp_path / "markov.jsonl"
    command = ["import", "clickstream", str(source), "--out", str(out), "--walks", "20"]
    assert main([*command, "--depth", "4", "--seed", "3", "--world", str(world)]) == 0
    # Bee does not link back to Ant in that world, and from Cat no one went on.
    assert {path.titles for path in paths_of(out)} == {("Ant", "Bee", "Cat")}
    first = out.read_bytes()
    assert main([*command, "--depth", "4", "--seed", "3", "--world", str(world), "--force"]) == 0
    assert out.read_bytes() == first
    assert "3 different clicks to draw from" in capsys.readouterr().out


def test_our_own_form_is_checked_line_by_line(world, tmp_path, capsys) -> None:
    source, out = tmp_path / "mixed.jsonl", tmp_path / "checked.jsonl"
    write_paths(source, [walk_of("Ant", "Bee", "Zebu", id="a"), walk_of("Zebu", id="b")])
    source.write_bytes(source.read_bytes() + b"\xff\n{}\n" + source.read_bytes())
    assert main(["import", "jsonl", str(source), "--out", str(out), "--world", str(world)]) == 0
    assert [path.titles for path in paths_of(out)] == [("Ant", "Bee")]
    printed = capsys.readouterr()
    assert "4 malformed lines" in printed.out
    for line in (1, 2, 3, 4, 5, 6):
        assert f"{source}:{line}: " in printed.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["import", "wikispeedia", "nowhere"], "articles.tsv"),
        (["import", "jsonl", "nowhere"], "found nothing"),
        (["import", "llm-games", "."], "found a folder"),
        (["import", "clickstream", "empty.tsv"], "expected counts of clicks"),
        (["import", "jsonl", "empty.tsv"], "expected walks in empty.tsv, got none"),
        (["import", "jsonl", "bad.jsonl"], "bad.jsonl:1"),
        (["import", "clickstream", "empty.tsv", "--walks", "0"], "expected"),
        (["import", "jsonl", "empty.tsv", "--world", "nowhere"], "world"),
        (["stats", "nowhere"], "found nothing"),
        (["stats", "bad.jsonl"], "expected paths"),
        (["stats", "bad.jsonl", "--world", "nowhere"], "world"),
    ],
)
def test_bad_input_gives_one_clear_line_and_exit_code_2(
    tmp_path, monkeypatch, capsys, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "bad.jsonl").write_text("no json\n")
    out = ["--out", "out.jsonl"] if words[0] == "import" else []
    assert main([*words, *out]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert complaint in last
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("kind", ["clickstream", "llm-games", "jsonl"])
def test_a_byte_order_mark_costs_no_line(tmp_path, kind: str) -> None:
    game = {"source": "s", "model": "m", "pair": "1", "start": "Ant", "target": "Dog",
            "status": "success", "path": ["Ant", "Dog"]}  # fmt: skip
    content = {
        "clickstream": "Ant\tDog\tlink\t50\n",
        "llm-games": json.dumps(game) + "\n",
        "jsonl": json.dumps(walk_of("Ant", "Dog").to_json()) + "\n",
    }[kind]
    source, out = tmp_path / "source", tmp_path / "out.jsonl"
    source.write_text("\ufeff" + content)
    draws = ["--walks", "1"] if kind == "clickstream" else []
    assert main(["import", kind, str(source), "--out", str(out), *draws]) == 0
    assert [path.titles for path in paths_of(out)] == [("Ant", "Dog")]
    assert not out.with_name("out.jsonl.problems.txt").exists()


@pytest.mark.parametrize(
    ("kind", "content", "why"),
    [
        ("llm-games", "no json\n", "F:1: expected one JSON object per line, got Expecting value: "
         "line 1 column 1 (char 0): 'no json'"),
        ("llm-games", '{"a": 1}\n', """got ['a']: '{"a": 1}'"""),
        ("jsonl", "no json\n", "F:1: expected one JSON object per line, got Expecting value: "
         "line 1 column 1 (char 0): 'no json'"),
        ("jsonl", "{}\n", "F:1: expected field 'id' in a path, got []"),
    ],
)  # fmt: skip
def test_an_import_without_a_walk_quotes_the_first_line_that_was_dropped(
    tmp_path, capsys, kind: str, content: str, why: str
) -> None:
    source = tmp_path / "source"
    source.write_text(content)
    assert main(["import", kind, str(source), "--out", str(tmp_path / "out.jsonl")]) == 2
    told = capsys.readouterr().err
    assert f"expected walks in {source}, got none; dropped were 1 malformed lines" in told
    assert why.replace("F:", f"{source}:") in told


def test_games_that_are_all_dropped_quote_the_first_of_the_most_frequent_reason(
    tmp_path, capsys
) -> None:
    snap = write_snap(tmp_path / "snap", ["half", finished("Ghost"), finished("Ghost;Ant")], [])
    words = ["import", "wikispeedia", str(snap), "--out", str(tmp_path / "out.jsonl")]
    assert main(words) == 2
    told = capsys.readouterr().err
    file = snap / "wikispeedia_paths-and-graph" / "paths_finished.tsv"
    assert "2 visits: page unknown to articles.tsv" in told
    assert f"the first of them: {file}:5: page unknown to articles.tsv" in told


@pytest.mark.parametrize(
    "words",
    [
        ["import", "jsonl", "nowhere", "--out", "x.jsonl"],
        ["import", "wikispeedia", "nowhere", "--out", "x.jsonl"],
        ["import", "jsonl", "walks.jsonl", "--world", "nowhere", "--out", "x.jsonl"],
        ["stats", "nowhere"],
        ["stats", "walks.jsonl", "--world", "nowhere"],
        ["export", "nowhere", "--world", "w", "--out", "x"],
        ["export", "walks.jsonl", "--world", "nowhere", "--out", "x"],
        ["walk", "--world", "nowhere", "--out", "x.jsonl"],
        ["generate", "--world", "nowhere", "--model", "m", "--out", "x.jsonl"],
    ],
)
def test_what_is_missing_is_named_as_the_user_named_it(
    world, tmp_path, monkeypatch, capsys, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_paths("walks.jsonl", [walk_of("Ant", "Bee")])
    (tmp_path / "w").symlink_to(world)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "nowhere" in told
    assert "Errno" not in told
    assert "expected" in told
    assert sorted(f.name for f in tmp_path.iterdir()) == ["w", "walks.jsonl"]


@pytest.mark.parametrize(
    "words",
    [
        ["import", "jsonl", "walks.jsonl", "--out", "taken"],
        ["walk", "--world", "w", "--out", "taken"],
        ["stats", "walks.jsonl", "--html", "taken"],
        ["export", "walks.jsonl", "--world", "w", "--out", "a-file"],
    ],
)
def test_a_place_that_cannot_be_written_is_named_without_the_name_of_a_part(
    world, tmp_path, monkeypatch, capsys, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_paths("walks.jsonl", [walk_of("Ant", "Bee", "Cat", id=str(i)) for i in range(4)])
    (tmp_path / "w").symlink_to(world)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "a-file").touch()
    assert main([*words, "--force"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    refused = "expected something that this command made, and nothing else, to replace, got "
    assert f"expected to use {words[-1]}, got: " in told or f"{refused}{words[-1]}: " in told
    assert "part" not in told
    assert not list(tmp_path.glob(".*"))


def test_stats_prints_a_table_and_writes_a_page(world, tmp_path, capsys) -> None:
    people, models = tmp_path / "people.jsonl", tmp_path / "models.jsonl"
    write_paths(people, [walk_of("Ant", "Bee", "Cat", "Dog", id=str(i)) for i in range(5)])
    write_paths(models, [walk_of("Ant", "Zebu", id=str(i), walker="lm:m") for i in range(5)])
    models.write_bytes(models.read_bytes() + b"{\n")
    page = tmp_path / "stats.html"
    command = ["stats", str(people), str(models), "--html", str(page)]
    assert main([*command, "--world", str(world)]) == 0
    printed = capsys.readouterr()
    assert "people (5 walks)" in printed.out
    assert "language models (5 walks)" in printed.out
    assert f"{models}:6: " in printed.err
    assert f"{models}:1: 1 visits to pages unknown to the world, such as 'Zebu'" in printed.err
    assert "10 walks read, 6 lines with problems" in printed.err
    assert "animals world" in page.read_text()
    assert main(command) == 2, "the page exists"


def test_stats_prints_json_alone_on_stdout(tmp_path, capsys) -> None:
    file = tmp_path / "people.jsonl"
    write_paths(file, [walk_of("Ant", "Bee", "Cat", id=str(i)) for i in range(3)])
    page = tmp_path / "stats.html"
    assert main(["stats", str(file), "--json", "--by", "walker", "--html", str(page)]) == 0
    record = json.loads(capsys.readouterr().out)
    (group,) = record["groups"]
    assert (group["name"], group["walks"]) == ("person", 3)
    assert group["measures"]["depth"]["value"] == 2
    assert page.exists()


def test_titles_that_no_encoding_can_write_stop_nothing(world, tmp_path) -> None:
    source, out, page = (tmp_path / name for name in ("a.jsonl", "out.jsonl", "stats.html"))
    path = walk_of("Ant", "Bee").to_json()
    path["walker"] = path["visits"][1]["title"] = "half \ud800 a letter"
    source.write_text(json.dumps(path) + "\n")
    assert main(["import", "jsonl", str(source), "--out", str(out), "--world", str(world)]) == 0
    assert main(["import", "jsonl", str(source), "--out", str(out), "--force"]) == 0
    assert paths_of(out)[0].titles[1] == "half \ud800 a letter"
    assert main(["stats", str(out), "--json", "--html", str(page)]) == 0

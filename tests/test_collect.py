from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fork_server import ForkServer
from misbehaving_server import LICENCE, Fault, MisbehavingServer

from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
from kncl_env.world.sources.wiki.page_cache import Library, PageCache
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia
from rabbit_holes.cli import main
from rabbit_holes.live.collector import collect
from rabbit_holes.live.journal import Failure, Journal
from rabbit_holes.live.settings import CollectionSettings, Report
from rabbit_holes.path import Path as Walk
from rabbit_holes.path import Visit, read_paths
from rabbit_holes.walkers.walkers import RandomWalker, Walker

CONTACT = "walker@kncl.invalid"
PROGRAM = (
    *("rabbit_holes.cli", "rabbit_holes.live.collector"),
    "kncl_env.world.sources.wiki.wikipedia",
)
RING = {f"Page {n}": [f"Page {(n + step) % 40}" for step in (1, 2, 5, 11, 17)] for n in range(40)}


@pytest.fixture
def ring() -> Iterator[MisbehavingServer]:
    """A small wiki that behaves."""
    with MisbehavingServer(RING).running() as server:
        yield server


def options(server: Any, out: Path, *more: str) -> list[str]:
    """A command line for a quick collection."""
    fixed = ["--api-url", server.api, "--contact", CONTACT, "--rate", "1000"]
    seeds = [] if "--seed" in more else ["--seed", "Page 0"]
    return ["collect", "--out", str(out), *fixed, *seeds, *more]


def walks_in(out: Path) -> list[Walk]:
    def fail(message: str) -> None:
        raise AssertionError(message)

    return list(read_paths(out, on_error=fail))


def visits_in(out: Path) -> Counter[tuple[Any, ...]]:
    """What was visited: everything of a visit but its time, with how often it is there."""
    return Counter(
        (walk.id, index, visit.title, visit.parent, visit.page_id, visit.revision_id, visit.offered)
        for walk in walks_in(out)
        for index, visit in enumerate(walk.visits)
    )


def collect_from(
    server: MisbehavingServer,
    out: Path,
    settings: CollectionSettings,
    *,
    walker: Walker | None = None,
    concurrency: int = 1,
    **etiquette: Any,
) -> Report:
    manners = Etiquette(
        contact=CONTACT, **{"rate": 1000.0, "backoff": 0.01, "retries": 1, **etiquette}
    )
    wiki = PoliteWikipedia(manners, Gate(manners.rate), server.api, needs_text=settings.text)
    cache = PageCache(out.parent / "cache", wiki.api)
    try:
        library = Library(cache, wiki)
        return collect(out, settings, walker or RandomWalker(), library, concurrency=concurrency)
    finally:
        cache.close()
        wiki.close()


# -- what is recorded ------------------------------------------------------------------------------


def test_a_walk_records_ids_offers_time_source_and_licence(
    ring: MisbehavingServer, tmp_path: Path
) -> None:
    out = tmp_path / "f.jsonl"
    assert main(options(ring, out, "--depth", "3", "--text")) == 0
    (walk,) = walks_in(out)
    assert walk.source == "mediawiki:" + ring.api.split("/")[2]
    assert (walk.walker, walk.licence, walk.status) == ("random", LICENCE, "finished")
    assert len(walk.visits) == 4
    for visit in walk.visits:
        number = list(RING).index(visit.title) + 1
        assert (visit.page_id, visit.revision_id) == (number, number * 10)
        assert visit.offered == tuple(sorted(RING[visit.title]))
        assert visit.text == f"{visit.title} is a page."
        assert visit.time is not None
    for source, target in walk.clicks():
        assert walk.visits[target].title in walk.visits[source].offered


def test_a_walk_without_branching_is_a_chain_and_one_with_it_a_tree(
    ring: MisbehavingServer, tmp_path: Path
) -> None:
    def branches(*more: str) -> int:
        out = tmp_path / f"{len(more)}.jsonl"
        assert main(options(ring, out, "--walks", "10", "--depth", "12", *more)) == 0
        walks = walks_in(out)
        assert all(len(set(walk.titles)) == len(walk) for walk in walks)
        return sum(target != source + 1 for walk in walks for source, target in walk.clicks())

    assert branches() == 0
    assert branches("--branching") > 10


def test_seeds_take_turns_and_walks_differ(ring: MisbehavingServer, tmp_path: Path) -> None:
    out = tmp_path / "f.jsonl"
    assert main(options(ring, out, "--seed", "Page 1", "Page 2", "--walks", "6")) == 0
    walks = walks_in(out)
    assert Counter(walk.titles[0] for walk in walks) == {"Page 1": 3, "Page 2": 3}
    assert len({walk.titles for walk in walks}) == 6


def test_concurrent_walks_visit_what_single_file_walks_visit(
    ring: MisbehavingServer, tmp_path: Path
) -> None:
    for name, more in (("one", ()), ("four", ("--concurrency", "4"))):
        out = tmp_path / name / "f.jsonl"
        assert main(options(ring, out, "--walks", "12", "--branching", *more)) == 0
    assert visits_in(tmp_path / "one" / "f.jsonl") == visits_in(tmp_path / "four" / "f.jsonl")


def test_a_limit_of_pages_holds_and_its_walks_say_so(
    ring: MisbehavingServer, tmp_path: Path
) -> None:
    out = tmp_path / "f.jsonl"
    limit = ("--max-pages", "7", "--concurrency", "4")
    assert main(options(ring, out, "--walks", "5", "--depth", "5", *limit)) == 0
    assert len({title for walk in walks_in(out) for title in walk.titles}) == 7
    assert {walk.status for walk in walks_in(out)} == {"finished", "max_pages"}


@pytest.mark.parametrize("walker", ["random", "similar", "markov"])
def test_each_walker_can_be_named_on_the_command_line(
    walker: str, ring: MisbehavingServer, tmp_path: Path
) -> None:
    first = tmp_path / "first.jsonl"
    assert main(options(ring, first)) == 0
    out = tmp_path / "second.jsonl"
    first.write_bytes(b"\xef\xbb\xbf" + first.read_bytes())  # as some editors save it
    more = ["--transitions", str(first)] if walker == "markov" else []
    assert main(options(ring, out, "--walker", walker, *more)) == 0
    assert {walk.walker for walk in walks_in(out)} == {walker}


@pytest.mark.slow
def test_a_language_model_picks_links_of_a_live_wiki(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train_lm.model import PRESETS, build_model
    from train_lm.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([" > ".join(RING)], 300)
    model: Any = build_model(PRESETS["xs"], tokenizer.get_vocab_size())
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save(str(tmp_path / "tiny" / "tokenizer.json"))
    out = tmp_path / "f.jsonl"
    lm = ("--walker", "lm", "--model", str(tmp_path / "tiny"), "--depth", "4")
    assert main(options(ring, out, *lm)) == 0
    (walk,) = walks_in(out)
    assert (walk.walker, len(walk)) == ("lm:tiny", 5)
    build_model(PRESETS["xs"], tokenizer.get_vocab_size() + 1).save_pretrained(tmp_path / "tiny")
    capsys.readouterr()
    assert main(options(ring, out, *lm, "--walks", "2")) == 2
    assert "expected to go on with walker_options = {'model': '" in capsys.readouterr().err
    assert len(walks_in(out)) == 1


# -- going on --------------------------------------------------------------------------------------


def test_a_repeated_collection_costs_no_request(ring: MisbehavingServer, tmp_path: Path) -> None:
    command = options(ring, tmp_path / "f.jsonl", "--walks", "5")
    assert main(command) == 0
    before, asked = (tmp_path / "f.jsonl").read_bytes(), len(ring.arrivals)
    assert main(command) == 0
    assert (tmp_path / "f.jsonl").read_bytes() == before
    visits = visits_in(tmp_path / "f.jsonl")
    assert main([*command, "--force"]) == 0
    assert visits_in(tmp_path / "f.jsonl") == visits
    assert len(ring.arrivals) == asked


def test_nothing_is_fetched_twice_by_many_walks(ring: MisbehavingServer, tmp_path: Path) -> None:
    command = options(ring, tmp_path / "f.jsonl", "--walks", "20", "--concurrency", "4")
    assert main(command) == 0
    assert max(Counter(arrival.target for arrival in ring.arrivals).values()) == 1


def test_more_walks_can_be_added_and_other_settings_are_refused(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    assert main(options(ring, out, "--walks", "3")) == 0
    three = walks_in(out)
    assert main(options(ring, out, "--walks", "5")) == 0
    assert walks_in(out)[:3] == three
    assert len(walks_in(out)) == 5
    assert main(options(ring, out, "--walks", "5", "--depth", "11")) == 2
    assert "depth = 10" in capsys.readouterr().err
    assert len(walks_in(out)) == 5


def test_paths_of_unknown_origin_are_not_touched(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    out.write_text("something\n")
    assert main(options(ring, out)) == 2
    assert "--force" in capsys.readouterr().err
    out.unlink()
    out.with_name("f.jsonl.journal").write_text("my own notes")
    assert main(options(ring, out)) == 2
    assert out.with_name("f.jsonl.journal").read_text() == "my own notes"
    assert ring.arrivals == []
    assert main([*options(ring, out), "--force"]) == 2
    assert out.with_name("f.jsonl.journal").read_text() == "my own notes"
    out.with_name("f.jsonl.journal").unlink()
    out.write_text("something\n")
    assert main([*options(ring, out), "--force"]) == 2
    assert out.read_text() == "something\n"
    assert ring.arrivals == []
    out.unlink()
    for _ in range(2):
        assert main([*options(ring, out), "--force"]) == 0
        assert len(walks_in(out)) == 1


def test_two_collections_cannot_write_one_file(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rabbit_holes.path import PathWriter

    with PathWriter(tmp_path / "f.jsonl"):
        for more in ((), ("--force",)):
            assert main(options(ring, tmp_path / "f.jsonl", *more)) == 2
            assert "another process" in capsys.readouterr().err
    assert ring.arrivals == []


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--contact", ""], "--contact"),
        (["--contact", "me"], "--contact"),
        (["--rate", "0"], "rate"),
        (["--api-url", "http://127.0.0.1/"], "api.php"),
        (["--depth", "0"], "depth"),
        (["--seed", "A", "B", "--walks", "1"], "each of 2 seeds"),
        (["--seed", "A", "A"], "different titles"),
        (["--seed", " "], "titles"),
        (["--max-pages", "0"], "max_pages"),
        (["--walker", "markov"], "--transitions"),
        (["--walker", "lm"], "--model"),
        (["--temperature", "2"], "another --walker"),
    ],
)
def test_bad_options_end_in_one_line_and_without_a_request(
    wrong: list[str],
    expected: str,
    ring: MisbehavingServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(options(ring, tmp_path / "f.jsonl", *wrong)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert expected in lines[0]
    assert ring.arrivals == []
    assert not (tmp_path / "f.jsonl").exists()


def test_every_option_says_what_it_means_and_its_default() -> None:
    from rabbit_holes.live.cli import add_collect_parser

    verbs = argparse.ArgumentParser().add_subparsers()
    add_collect_parser(verbs)
    parser = verbs.choices["collect"]
    assert str(parser.epilog).startswith("Example: rabbit-holes collect --seed ")
    for action in parser._actions[1:]:
        assert re.search(r".{10}(\(.+\)|required)", str(action.help)), action.option_strings


def test_seeds_that_lead_nowhere_are_named_once_and_asked_for_once_a_run(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = options(ring, tmp_path / "f.jsonl", "--seed", "Gone", "Page 1", "--walks", "6")
    for run in (1, 2):
        assert main(command) == 0
        error = capsys.readouterr().err
        assert error.count("Gone: missing") == 1
        assert len(walks_in(tmp_path / "f.jsonl")) == 3
        assert sum(arrival.title == "Gone" for arrival in ring.arrivals) == run


def test_a_seed_that_was_missing_is_walked_from_as_soon_as_somebody_has_written_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = dict(RING)
    with MisbehavingServer(graph).running() as server:
        command = options(server, tmp_path / "f.jsonl", "--seed", "Page 1", "New", "--walks", "4")
        assert main(command) == 0
        assert "2 of 4 walks, 1 pages not got" in capsys.readouterr().out
        graph["New"] = ["Page 3", "Page 4", "Page 5"]
        for _ in range(2):
            assert main(command) == 0
            assert "4 of 4 walks, 0 pages not got" in capsys.readouterr().out
        late = tmp_path / "late" / "f.jsonl"
        assert main(options(server, late, *command[command.index("--seed") :])) == 0
        assert visits_in(tmp_path / "f.jsonl") == visits_in(late)


def test_a_wiki_whose_letters_have_no_capital_is_walked(tmp_path: Path) -> None:
    graph = {"საქართველო": ["თბილისი"], "თბილისი": ["ქართული ანბანი"], "ქართული ანბანი": []}
    with MisbehavingServer(graph).running() as server:
        assert main(options(server, tmp_path / "f.jsonl", "--seed", "საქართველო")) == 0
    (walk,) = walks_in(tmp_path / "f.jsonl")
    assert walk.titles == tuple(graph)


def test_pages_of_other_namespaces_are_no_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = {"Kategorie:Dinge": ["Page 0"], **RING}
    with MisbehavingServer(graph, namespaces={"Kategorie": 14}).running() as server:
        assert main(options(server, tmp_path / "f.jsonl", "--seed", "Kategorie:Dinge")) == 1
        first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("Kategorie:Dinge: other_namespace (expected an article, got ")
    assert "the namespace Kategorie:" in first


LISTS = ("Mercury", "Page 3")


@pytest.fixture
def ambiguous() -> Iterator[MisbehavingServer]:
    """The ring, one of its pages and a page aside marked as disambiguations."""
    graph = {"Mercury": ["Page 0", "Page 1"], **RING}
    with MisbehavingServer(graph, disambiguations=LISTS).running() as server:
        yield server


def test_disambiguation_pages_are_neither_seeds_nor_offered(
    ambiguous: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.jsonl"
    assert main(options(ambiguous, out, "--seed", "Mercury", "Page 0", "--walks", "20")) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("Mercury: disambiguation (Mercury only lists ")
    assert "such as Page 0, or let such pages in with --disambiguation" in first
    assert [line.split(":")[0] for line in others] == ["read http"]
    walks = walks_in(out)
    assert len(walks) == 10
    visits = [visit for walk in walks for visit in walk.visits]
    assert {visit.title for visit in visits} >= {"Page 1", "Page 2"}  # which link to Page 3
    for visit in visits:
        assert visit.offered == tuple(sorted(set(RING[visit.title]) - set(LISTS)))
        assert not visit.disambiguation
    # The pages are known, only their clicks were not taken: letting them in asks for little.
    assert not any(arrival.title == "Page 3" for arrival in ambiguous.arrivals)


def test_disambiguation_pages_let_in_are_walked_through_and_marked(
    ambiguous: MisbehavingServer, tmp_path: Path
) -> None:
    out = tmp_path / "f.jsonl"
    more = ("--seed", "Mercury", "Page 0", "--walks", "20", "--disambiguation")
    assert main(options(ambiguous, out, *more)) == 0
    walks = walks_in(out)
    assert len(walks) == 20
    marked = {v.title for walk in walks for v in walk.visits if v.disambiguation}
    assert marked == set(LISTS)
    assert {v.title for walk in walks for v in walk.visits} > {*LISTS, "Page 0"}


def test_a_disambiguation_page_that_an_older_cache_offers_is_not_opened(
    ambiguous: MisbehavingServer, tmp_path: Path
) -> None:
    settings = CollectionSettings(("Page 2",), walks=8, depth=6)
    collect_from(ambiguous, tmp_path / "f.jsonl", settings)
    cache = PageCache(tmp_path / "cache", ambiguous.api)
    for title in RING:  # as version 1 knew them
        if (page := cache.get(title)) is not None:
            links = tuple(sorted(RING[title]))
            cache.put(title, replace(page, links=links, disambiguation=None, disambiguations=()))
    cache.close()
    again = tmp_path / "g.jsonl"
    report = collect_from(ambiguous, again, settings)
    assert {(f.title, f.reason) for f in report.failures} == {("Page 3", "disambiguation")}
    walks = walks_in(again)
    assert {len(walk) for walk in walks} == {7}  # another link was taken instead
    assert not any("Page 3" in walk.titles for walk in walks)


def test_a_collection_that_cannot_begin_anywhere_fails(
    ring: MisbehavingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options(ring, tmp_path / "f.jsonl", "--seed", "Gone")) == 1
    assert "no walk could begin" in capsys.readouterr().err


def test_a_wiki_that_refuses_stops_the_collection_which_goes_on_later(tmp_path: Path) -> None:
    faults = {"Page 5": Fault("forbidden", 1)}
    out = tmp_path / "f.jsonl"
    settings = CollectionSettings(("Page 0",), walks=20, depth=6)
    with MisbehavingServer(RING, faults).running() as server:
        report = collect_from(server, out, settings)
        assert report.stopped is not None
        assert "refused" in report.stopped
        assert report.walks < 20
        assert collect_from(server, out, settings).stopped is None
    assert len(walks_in(out)) == 20
    with MisbehavingServer(RING).running() as server:
        collect_from(server, tmp_path / "calm" / "f.jsonl", settings)
    titles = [sorted(w.titles for w in walks_in(f)) for f in (out, tmp_path / "calm" / "f.jsonl")]
    assert titles[0] == titles[1]


# -- the journal -----------------------------------------------------------------------------------


def journal_of(file: Path, **settings: Any) -> Journal:
    return Journal(file, {"depth": 3, **settings})


def test_a_journal_gives_back_what_was_noted(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "j")
    visit = Visit("北京", None, 1.5, 3, 4, ("B", "C"), "lead")
    failure = Failure("w", "X", "timeout", "ReadTimeout")
    journal.begin("w", 12.5)
    journal.visit("w", visit)
    journal.failure(failure)
    journal.close()
    again = journal_of(tmp_path / "j")
    assert again.walks["w"].began == 12.5
    assert again.begin("w", 99.0).visits == [visit]
    assert again.walks["w"].failures == again.failures == [failure]
    again.close()


def test_a_journal_cut_short_anywhere_keeps_every_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "j"
    journal = journal_of(file)
    journal.begin("w", 0.0)
    for number in range(3):
        journal.visit("w", Visit(f"Page {number}", number - 1 if number else None))
    journal.close()
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1  # a journal appears with its first line
    for cut in {*range(first, len(whole), 7), len(whole) - 1, len(whole)}:
        file.write_bytes(whole[:cut])
        again = journal_of(file)
        kept = again.walks["w"].visits if again.walks else []
        assert len(kept) == max(0, whole[:cut].count(b"\n") - 2)
        again.begin("w", 0.0)
        again.visit("w", Visit("Next", len(kept) - 1 if kept else None))
        again.close()
        assert all(json.loads(line) for line in file.read_bytes().splitlines())


def test_a_journal_of_an_earlier_release_is_taken_up(tmp_path: Path) -> None:
    settings = CollectionSettings(("Page 0", "Gone"), walks=2, depth=3)
    assert "disambiguation" not in settings.deciding()  # or ids and journals would change
    lines = [
        {"kind": "collection", "version": 1, "settings": settings.deciding()},
        {"kind": "begin", "walk": "w", "began": 1.0},
        {"kind": "visit", "walk": "w", "step": 0, "visit": {"title": "Page 0"}},
        {"kind": "failure", "walk": "w", "title": "X", "reason": "timeout", "detail": "late"},
    ]
    lines[-1]["passing"] = True
    (tmp_path / "j").write_text("".join(json.dumps(line) + "\n" for line in lines))
    journal = Journal(tmp_path / "j", settings.deciding())
    journal.close()
    assert journal.walks["w"].visits == [Visit("Page 0", None)]
    assert journal.failures == [Failure("w", "X", "timeout", "late")]


def test_a_root_that_comes_in_the_end_leaves_no_failure(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "j")
    for walk in ("w", "other"):
        journal.begin(walk, 0.0)
        journal.failure(Failure(walk, "Root", "missing", "not yet"))
    journal.visit("w", Visit("Root", None))
    later = Failure("w", "X", "timeout", "late")
    journal.failure(later)
    left = {Failure("other", "Root", "missing", "not yet"), later}
    assert set(journal.failures) == left
    killed = (tmp_path / "j").read_bytes()
    journal.close()
    assert killed.count(b"not yet") == 2
    assert (tmp_path / "j").read_bytes().count(b"not yet") == 1
    for number, done in enumerate(((), ("w",))):
        file = tmp_path / f"killed {number}"
        file.write_bytes(killed)
        again = Journal(file, {"depth": 3}, done=done)
        again.close()
        assert set(again.failures) == left
        assert all(
            log.failures == [f for f in left if f.walk == w] for w, log in again.walks.items()
        )


def test_walks_that_reached_their_file_leave_the_journal_but_failures_stay(tmp_path: Path) -> None:
    journal = journal_of(tmp_path / "j")
    for walk in ("a", "b"):
        journal.begin(walk, 0.0)
        journal.visit(walk, Visit("Page", None))
        journal.failure(Failure(walk, "X", "missing", "gone"))
    journal.close()
    again = Journal(tmp_path / "j", {"depth": 3}, done={"a"})
    again.close()
    assert list(again.walks) == ["b"]
    assert [failure.walk for failure in again.failures] == ["a", "b"]
    assert (tmp_path / "j").read_text().count('"visit":') == 1


def test_a_damaged_line_is_named_and_costs_only_what_it_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = journal_of(tmp_path / "j")
    for walk in ("a", "b"):
        journal.begin(walk, 0.0)
        journal.visit(walk, Visit("Page", None))
        journal.visit(walk, Visit("Next", 0))
    journal.close()
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    lines[2] = b'{"kind": "visit", "walk": "a", \xff\n'
    (tmp_path / "j").write_bytes(b"".join(lines))
    again = journal_of(tmp_path / "j")
    again.close()
    assert [len(again.walks[walk].visits) for walk in ("a", "b")] == [0, 2]
    assert f"{tmp_path / 'j'}:3:" in caplog.text


def test_what_a_kill_left_of_a_rewritten_journal_is_swept_away(tmp_path: Path) -> None:
    journal_of(tmp_path / "j").close()
    (tmp_path / ".j.123.part").write_text("half")
    journal_of(tmp_path / "j").close()
    assert [file.name for file in tmp_path.iterdir()] == ["j"]


# -- a server that misbehaves ----------------------------------------------------------------------

RATE = 20.0  # [requests/s]
FAILING = {
    "Silence": (Fault("silence", number=2.0), "timeout"),
    "Unavailable": (Fault("unavailable"), "server_error"),
    "Truncated": (Fault("truncated"), "truncated_json"),
    "Html": (Fault("html"), "not_json"),
    "Loop": (Fault("loop"), "redirect_loop"),
    "Elsewhere": (Fault("foreign"), "foreign_redirect"),
    "Huge": (Fault("huge", number=50e6), "too_large"),
    "Huge announced": (Fault("huge_announced", number=50e6), "too_large"),
    "Limited": (Fault("too_many", number=0), "rate_limited"),
    "Strange": (Fault("strange"), "unexpected_answer"),
}
PASSING = {
    "Slow down": Fault("too_many", 1, 1.0),
    "Slow down until": Fault("too_many_until", 1, 2.0),
    "Out of order": Fault("unavailable", 1, 1.0),
    "Lagged": Fault("lagged", 1, 1.0),
    "Half": Fault("truncated", 1),
    "Away": Fault("disconnect", 1),
}
GOOD = [f"Good {n}" for n in range(8)]


def test_a_misbehaving_server_gets_its_rate_and_every_loss_its_reason(tmp_path: Path) -> None:
    leaves = [*FAILING, *PASSING, *GOOD]
    star = {"Hub": leaves, **{leaf: ["Hub"] for leaf in leaves}}
    faults = {name: fault for name, (fault, _) in FAILING.items()} | PASSING
    out = tmp_path / "f.jsonl"
    settings = CollectionSettings(("Hub", *GOOD[:3]), depth=40, branching=True)
    other = MisbehavingServer(star)
    with other.running(), MisbehavingServer(star, faults).running() as server:
        server.foreign = other.api + "?action=query&titles=Elsewhere"
        begun = time.monotonic()
        report = collect_from(server, out, settings, concurrency=3, rate=RATE, timeout=0.5)
        took = time.monotonic() - begun

    # Complete records for what succeeded …
    assert report.stopped is None
    walks = walks_in(out)
    assert len(walks) == 4
    for walk in walks:
        assert set(walk.titles) == {"Hub", *PASSING, *GOOD}
        for visit in walk.visits:
            assert visit.offered == tuple(sorted(star[visit.title]))
            assert visit.page_id is not None
            assert visit.revision_id is not None
    # … a named reason for the rest, in the report and on the disk …
    reasons = {(failure.title, failure.reason) for failure in report.failures}
    assert reasons == {(name, reason) for name, (_, reason) in FAILING.items()}
    lines = (tmp_path / "f.jsonl.journal").read_text().splitlines()
    noted = [json.loads(line) for line in lines[1:]]
    assert {(n["title"], n["reason"]) for n in noted if n["kind"] == "failure"} == reasons
    # … nobody else was asked, and the huge answer was left long before its end …
    assert other.arrivals == []
    assert server.bytes_sent["Huge"] < 40e6
    # … and the rate was kept in every stretch of time, as the server saw it.
    times = sorted(arrival.time for arrival in server.arrivals)
    assert len(times) == report.requests <= RATE * took
    for i, first in enumerate(times):
        for j in range(i + 1, len(times)):
            assert j - i <= RATE * (times[j] - first) + 1, f"{j - i} in {times[j] - first:.3f} s"
    gaps = [(first, second - first) for first, second in pairwise(times)]
    for name in ("Slow down", "Slow down until", "Out of order", "Lagged"):
        asked = server.times_of(name)[0]
        # Requests under way when the server asked for a second of rest may still come in.
        assert any(asked <= first < asked + 0.5 and gap > 0.9 for first, gap in gaps), name


# -- killed ----------------------------------------------------------------------------------------


def kill_and_resume(
    command: Callable[[Path], list[str]], folder: Path, kills: int
) -> tuple[list[Path], int]:
    """Kill a collection at random moments and resume it until it is complete.

    Where it completes before it has been killed often enough, it begins again in a new folder. The
    moments are uniform between the start of the process and about twice the time that it takes to
    make a visit on this machine now, so that kills fall into the start as well as into the work.

    Returns:
        The completed output files, and how many of the killed processes had made a visit.
    """
    chance = random.Random(20)
    completed: list[Path] = []
    killed = fruitful = 0
    mean = 0.1  # [s]
    with ForkServer(*PROGRAM) as processes:
        while True:
            out = folder / f"round {len(completed)}" / "f.jsonl"
            before: Counter[tuple[Any, ...]] = Counter()
            while True:
                pid = processes.start(command(out))
                if killed < kills:
                    time.sleep(chance.uniform(0, 2 * mean))
                    processes.kill(pid)
                status = processes.wait(pid)
                if status == 0:
                    break
                assert status == -signal.SIGKILL
                killed += 1
                now = finished_visits(out)
                assert not before - now, "a kill lost a visit"
                assert all(count == 1 for count in now.values()), "a kill doubled a visit"
                fruitful += now != before
                mean *= 0.93 if now != before else 1.1
                before = now
            completed.append(out)
            if killed >= kills:
                return completed, fruitful


def finished_visits(out: Path) -> Counter[tuple[Any, ...]]:
    """Visits on the disk, in the file of paths or still in the journal."""
    found: Counter[tuple[Any, ...]] = Counter()
    if out.exists():
        whole = out.read_bytes().rpartition(b"\n")[0]
        for line in whole.splitlines():
            walk = Walk.from_json(json.loads(line))
            found.update((walk.id, step, v.title) for step, v in enumerate(walk.visits))
    done = {walk for walk, _, _ in found}
    journal = out.with_name(out.name + ".journal")
    if journal.exists():
        for line in journal.read_bytes().rpartition(b"\n")[0].splitlines():
            record = json.loads(line)
            if record["kind"] == "visit" and record["walk"] not in done:
                found[record["walk"], record["step"], record["visit"]["title"]] += 1
    return found


def check_that_kills_change_nothing(command: Callable[[Path], list[str]], folder: Path) -> None:
    uninterrupted = folder / "uninterrupted" / "f.jsonl"
    assert main([*command(uninterrupted), "--rate", "1000"]) == 0
    completed, fruitful = kill_and_resume(command, folder, kills=50)
    assert fruitful >= 15  # or the kills would prove little
    for out in completed:
        assert visits_in(out) == visits_in(uninterrupted)
        assert set(visits_in(out).values()) == {1}


def test_fifty_kills_neither_lose_nor_double_a_visit(tmp_path: Path) -> None:
    wide = {f"Page {n}": [f"Page {(n * 7 + k) % 400}" for k in range(1, 9)] for n in range(400)}
    faults = {f"Page {n}": Fault("html") for n in range(0, 400, 9) if n}
    with MisbehavingServer(wide, faults, per_answer=5).running() as server:

        def command(out: Path) -> list[str]:
            more = ("--walks", "16", "--depth", "20", "--branching", "--concurrency", "3")
            return [*options(server, out, *more), "--rate", "150"]

        check_that_kills_change_nothing(command, tmp_path)


def test_a_limit_of_pages_falls_at_the_same_place_after_kills(tmp_path: Path) -> None:
    with MisbehavingServer(RING).running() as server:

        def command(out: Path) -> list[str]:
            more = ("--walks", "8", "--depth", "6", "--max-pages", "25", "--branching")
            return [*options(server, out, *more), "--rate", "150"]

        uninterrupted = tmp_path / "uninterrupted" / "f.jsonl"
        assert main(command(uninterrupted)) == 0
        completed, _ = kill_and_resume(command, tmp_path, kills=5)
        assert all(visits_in(out) == visits_in(uninterrupted) for out in completed)


def test_control_c_keeps_what_is_finished_and_says_how_to_go_on(
    ring: MisbehavingServer, tmp_path: Path
) -> None:
    out = tmp_path / "f.jsonl"
    slowly = [*options(ring, out, "--walks", "4", "--depth", "8"), "--rate", "5"]
    root = Path(__file__).resolve().parent.parent
    # Where the tests run in the background, children inherit that interrupts are ignored.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from rabbit_holes.cli import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *slowly],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 30
    while sum(finished_visits(out).values()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "interrupted: run the same command again to go on\n"
    before = finished_visits(out)
    assert sum(before.values()) >= 3
    assert main([*slowly, "--rate", "1000"]) == 0
    assert not before - finished_visits(out)
    assert len(walks_in(out)) == 4


# -- a real MediaWiki ------------------------------------------------------------------------------


@contextmanager
def fresh_log(wiki: Any) -> Iterator[None]:
    wiki.forget_requests()
    yield
    wiki.forget_requests()


@pytest.mark.mediawiki
def test_a_real_wiki_is_walked_whole(loopback_wiki: Any, tmp_path: Path) -> None:
    from mediawiki import AWKWARD_TITLES, DISAMBIGUATION, HUB, LICENCE, LICENCE_URL, resolve

    wiki = loopback_wiki
    out = tmp_path / "f.jsonl"
    seeds = [*AWKWARD_TITLES, DISAMBIGUATION, HUB, "Peking", "Old name of PR", "ada_missing"]
    more = ["--walks", "50", "--depth", "12", "--branching", "--concurrency", "3", "--text"]
    command = options(wiki, out, "--seed", *seeds, *more, "--disambiguation")
    with fresh_log(wiki):
        assert main(command) == 0
        requests = wiki.requests()
        assert wiki.repeated_requests() == []  # nothing is fetched twice
        assert main([*command, "--force"]) == 0
        # A repetition costs nothing, but for what may be there by now.
        assert [query for _, query in wiki.requests()[len(requests) :]] == [
            query for _, query in requests if "titles=ada_missing" in query
        ]

        # Continuation: the hub's links came in more than one answer.
        assert any("gplcontinue" in query for _, query in requests)

    walks = walks_in(out)
    assert len(walks) == 48  # two walks began at the seed that is missing
    assert {walk.licence for walk in walks} == {f"{LICENCE} ({LICENCE_URL})"}
    visits = [visit for walk in walks for visit in walk.visits]
    visited = {visit.title for visit in visits}
    assert len(visited) >= 50
    assert visited.issuperset({*AWKWARD_TITLES, DISAMBIGUATION, HUB})
    assert {visit.title for visit in visits if visit.disambiguation} == {DISAMBIGUATION}
    # Redirects are resolved, wherever they were met.
    redirects = {title for title, text in wiki.pages.items() if text.startswith("#REDIRECT")}
    assert not redirects & (visited | {link for visit in visits for link in visit.offered})
    ids: dict[str, int | None] = {}
    for visit in visits:
        # Every recorded link exists in the wiki, and none that exists is left out.
        assert visit.offered == expected_links(wiki.pages, visit.title)
        assert ids.setdefault(visit.title, visit.page_id) == visit.page_id
        assert visit.revision_id is not None
    assert len(set(ids.values())) == len(ids)
    assert len(expected_links(wiki.pages, HUB)) > 500
    for walk in walks:
        assert walk.titles[0] == resolve(str(walk.meta["seed"]))
        for source, target in walk.clicks():
            assert walk.visits[target].title in walk.visits[source].offered
    texts = {visit.title: visit.text for visit in visits}
    assert str(texts["PageRank"]).startswith("Lead of page 0.")


def expected_links(pages: dict[str, str], title: str) -> tuple[str, ...]:
    """The articles that a page links to, read from the wikitext that was imported."""
    from mediawiki import resolve

    links = set()
    for target in re.findall(r"\[\[:?([^]|]+)", pages[title]):
        end = resolve(target[:1].upper() + target[1:])
        is_article = end in pages and not pages[end].startswith("#REDIRECT")
        if is_article and not end.startswith("Category:"):
            links.add(end)
    return tuple(sorted(links - {title}))


@pytest.mark.mediawiki
def test_titles_that_lead_nowhere_in_a_real_wiki_have_their_reasons(
    loopback_wiki: Any, tmp_path: Path
) -> None:
    expected = {
        "No such page": "missing",
        "Circle A": "redirect_loop",
        "A<b": "invalid_title",
        "a|b": "invalid_title",
        "Special:Random": "other_namespace",
        "Category:Things": "other_namespace",
        "talk:No such page": "other_namespace",
        "Image:Lena.png": "other_namespace",
        "Mercury": "disambiguation",
        "wikipedia:Foo": "other_wiki",
    }
    settings = CollectionSettings(("Dead end", *expected), depth=3)
    report = collect_from(loopback_wiki, tmp_path / "f.jsonl", settings)
    assert {failure.title: failure.reason for failure in report.failures} == expected
    details = {failure.title: failure.detail for failure in report.failures}
    # By the wiki's own name, whichever alias was asked for.
    assert "got File:Lena.png of the namespace File:" in details["Image:Lena.png"]
    (walk,) = walks_in(tmp_path / "f.jsonl")
    assert (walk.titles, walk.status, walk.visits[0].offered) == (("Dead end",), "dead_end", ())


@pytest.mark.mediawiki
def test_a_real_wiki_in_georgian_is_walked_from_any_spelling_of_a_seed(
    loopback_wiki: Any, tmp_path: Path
) -> None:
    from mediawiki import GEORGIAN

    ring = dict(zip(GEORGIAN, (*GEORGIAN[1:], GEORGIAN[0]), strict=True))
    for number, seed in enumerate((*GEORGIAN, "ქართული_ანბანი", " ქართული  ანბანი_")):
        out = tmp_path / str(number) / "f.jsonl"
        assert main(options(loopback_wiki, out, "--seed", seed, "--depth", "2")) == 0
        (walk,) = walks_in(out)
        root = walk.titles[0]
        assert root == " ".join(seed.replace("_", " ").split())
        assert walk.titles == (root, ring[root], ring[ring[root]])


@pytest.mark.mediawiki
def test_a_real_wiki_offers_its_disambiguation_pages_on_request_only(
    loopback_wiki: Any, tmp_path: Path
) -> None:
    from mediawiki import DISAMBIGUATION, HUB

    offered = {}
    for more in ((), ("--disambiguation",)):
        out = tmp_path / f"{len(more)}.jsonl"
        assert main(options(loopback_wiki, out, "--seed", HUB, "--depth", "1", *more)) == 0
        (walk,) = walks_in(out)
        offered[bool(more)] = set(walk.visits[0].offered)
    assert offered[True] - offered[False] == {DISAMBIGUATION}
    assert len(offered[False]) > 500


@pytest.mark.mediawiki
def test_the_librarys_own_pages_pass_the_same_gate(loopback_wiki: Any) -> None:
    manners = Etiquette(contact=CONTACT, rate=1000.0)
    wiki = PoliteWikipedia(manners, Gate(manners.rate), loopback_wiki.api)
    page = wiki.page("PageRank")
    assert page.exists()
    assert "List of everything" in page.links
    assert wiki.gate.passed >= 2
    wiki.close()


@pytest.mark.mediawiki
def test_fifty_kills_over_a_real_wiki_neither_lose_nor_double_a_visit(
    loopback_wiki: Any, tmp_path: Path
) -> None:
    from mediawiki import AWKWARD_TITLES

    def command(out: Path) -> list[str]:
        more = ["--walks", "12", "--depth", "16", "--branching", "--concurrency", "2"]
        return options(loopback_wiki, out, "--seed", *AWKWARD_TITLES[:12], *more)

    check_that_kills_change_nothing(command, tmp_path)

"""Hostile titles through every outlet: nothing but their own visible characters arrives."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import corpus_of, env_of
from rabbit_hole_fakes import walk_of
from test_report import (
    CHROMIUM,
    GOAL,
    INFO,
    UNIFORM,
    arm_runs,
    open_in_browser,
    some_growth,
    summary_of,
)

from kncl_env.cli import main as kncl_env
from kncl_env.settings import Settings
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.world import World
from policies.cli.main import _bar_of_titles
from policies.learn.ppo import _most_expanded
from policies.play.closed_loop import _write_events
from policies.play.results import _write_curricula, _write_curves
from policies.verdict.growth_map import Growth
from policies.verdict.report import Beside, RunInfo, write_report
from policies.verdict.table import table
from rabbit_holes.cli import main as rabbit_holes
from rabbit_holes.live.cli import _print
from rabbit_holes.live.journal import Failure
from rabbit_holes.live.settings import Report
from rabbit_holes.path import write_paths
from rabbit_holes.walkers.prompts import chat_prompt, plain_prompt
from train_lm.command_line import command, run, say
from train_lm.files import read_json, write_json
from train_lm.plain_text import (
    content_policy,
    counted,
    in_csv,
    in_file_name,
    in_html,
    in_json,
    in_markdown,
    visible,
    visible_lines,
)

ROOT = Path(__file__).parents[1]

# A title, and what of it can be seen.
HOSTILE = {
    "colour": ("\x1b[31mred\x1b[0m", "[31mred[0m"),
    "window title": ("\x1b]0;owned\x07Ant", "]0;ownedAnt"),
    "other controls": ("Ant\x9b31m\x85Bee", "Ant31m Bee"),
    "overwrites": ("Ant\b\b\b\x7fBee\r\x1b[2Kgone", "AntBee [2Kgone"),
    "new line": ("Ant\nerror: all is lost", "Ant error: all is lost"),
    "paragraphs": ("Ant\u2028Bee\u2029Cat", "Ant Bee Cat"),
    "turned around": ("Ant\u202egnp.exe\u202c", "Antgnp.exe"),
    "isolated": ("\u2066Ant\u2069 \u2067Bee", "Ant Bee"),
    "unseen": ("An\u200bt\ufeff\u00ad\u200d\U000e0041", "Ant"),
    "nothing said": ("nul\x00byte\ufff9", "nulbyte"),
    "markup of rich": ("[bold red]Ant[/nope] :bomb: [", "[bold red]Ant[/nope] :bomb: ["),
    "page": ("</td><script>alert(1)</script>", "</td><script>alert(1)</script>"),
    "attribute": ("'\"><img src=x onerror=alert(1)>", "'\"><img src=x onerror=alert(1)>"),
    "picture": ("![Ant](http://host/x.png)", "![Ant](http://host/x.png)"),
    "formula": ('=HYPERLINK("http://host","Ant")', '=HYPERLINK("http://host","Ant")'),
    "path": ("../../../etc/passwd", "../../../etc/passwd"),
    "command": ("$(reboot); `reboot` | reboot", "$(reboot); `reboot` | reboot"),
}
TITLES = [title for title, _ in HOSTILE.values()]
pairs = pytest.mark.parametrize(("title", "seen"), HOSTILE.values(), ids=HOSTILE)


class Read(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.fixture(scope="module")
def hostile_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """40 topics, of which the first bear hostile titles; so do the words about the world."""
    corpus = corpus_of(n_topics=40, seed=0)
    new = {a.title: t for a, t in zip(corpus.articles, TITLES, strict=False)}
    articles = tuple(
        replace(
            a,
            title=new.get(a.title, a.title),
            links=tuple((new.get(to, to), kind) for to, kind in a.links),
            labels=(f"region {TITLES[0]}",) if "0" in a.labels[0] else a.labels,
        )
        for a in corpus.articles
    )
    corpus = replace(corpus, articles=articles, source=TITLES[0], licence=TITLES[4])
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    return build_world(corpus, tmp_path_factory.mktemp("hostile") / "world", config)


# -- the module itself ---------------------------------------------------------------------------


@pairs
def test_a_line_holds_the_visible_characters_and_nothing_else(title: str, seen: str) -> None:
    assert visible(title) == seen
    assert visible(seen) == seen


def test_ordinary_text_of_any_script_stays_as_it_is(small_world: World) -> None:
    for text in ("Åland", "C++", "東京", "क्षत्रिय", "e\u0301", "👍🏽", "a  b", "", "x" * 9000):
        assert visible(text) == text
    # What needs a joiner keeps it; between Latin letters it would only hide.
    for text in ("\u0645\u06cc\u200c\u062e\u0648\u0645", "👨\u200d👩\u200d👧", "क्\u200dष"):
        assert visible(text) == text
    assert visible("pay\u200cpal") == "paypal"
    assert visible("half \ud800 a letter") == "half  a letter"
    assert all(visible(t) == t for t in small_world.titles)


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert visible("abcdef", 4) == "abc…"
    assert visible("abcd", 4) == "abcd"


def test_lines_that_are_a_texts_own_stay_lines() -> None:
    assert visible_lines("one\n\ttwo\x1b[2J\r\n") == "one\n two[2J \n"


@pairs
def test_json_reads_as_it_was_and_drives_no_terminal(title: str, seen: str) -> None:
    text = in_json({"title": title, title: [title]})
    assert json.loads(text) == {"title": title, title: [title]}
    assert harmless(text)
    assert in_json({"title": "Åland"}) == '{\n "title": "Åland"\n}'


@pytest.mark.parametrize("text", [*TITLES, "half \ud800 a letter", "\udcff"])
def test_json_on_file_reads_as_it_was(tmp_path: Path, text: str) -> None:
    write_json(tmp_path / "x.json", {text: [text]})
    assert read_json(tmp_path / "x.json") == {text: [text]}


@pairs
def test_a_page_shows_the_title_and_nothing_of_it_is_markup(title: str, seen: str) -> None:
    own = title.replace("\n", " ")
    read = Read()
    read.feed(f"<p title='{in_html(own)}' class=\"{in_html(own)}\">{in_html(own)}</p>")
    assert read.text == seen
    assert read.tags == ["p"]
    assert read.attributes == [("title", seen), ("class", seen)]


@pairs
def test_a_table_computes_no_title(title: str, seen: str) -> None:
    cell = in_csv(title)
    assert cell in (seen, f"'{seen}")
    assert cell[0] not in "=+-@\t\r"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1"])
def test_every_beginning_of_a_formula_is_quoted(cell: str) -> None:
    assert in_csv(cell).startswith("'")


@pairs
def test_a_file_name_is_one_plain_name(tmp_path: Path, title: str, seen: str) -> None:
    name = in_file_name(title)
    (tmp_path / name).write_text("here")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert harmless(name)
    assert "\n" not in name
    assert not set(name) & set('/\\:*?"<>|')
    assert name[0] != "."


def test_names_that_look_alike_stay_apart_and_plain_ones_stay() -> None:
    names = ["a/b", "a\\b", "a_b", "a:b", "a\x1bb", "ab", "", ".", "..", "x" * 999, "x" * 998]
    found = [in_file_name(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(len(name.encode()) < 200 for name in found)
    for plain in ("rule", "rule+taste", "my policy", "wiki-cloned.v2", "Å"):
        assert in_file_name(plain) == plain


# -- every outlet --------------------------------------------------------------------------------


@pairs
def test_an_error_is_one_harmless_line(
    title: str, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> int:
        raise ValueError(f"expected something, got {title}")

    assert run(fails) == 2
    told = capsys.readouterr().err
    assert harmless(told)
    assert told == f"error: expected something, got {' '.join(seen.split())}\n"


@pairs
def test_a_missing_file_and_a_wrong_option_are_told_harmlessly(
    title: str, seen: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = title.replace("/", "").replace("\0", "")
    assert rabbit_holes(["stats", str(tmp_path / name)]) == 2
    assert kncl_env(["show", str(tmp_path / name)]) == 2
    parser = command("tool", "Does things.")
    parser.add_argument("--n", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args([f"x{title}"])
    told = capsys.readouterr().err
    assert harmless(told)
    assert told.count("error: ") - told.count("error: all is lost") == 3


@pairs
def test_an_interruption_and_a_log_line_are_told_harmlessly(
    title: str, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging
    import warnings

    def stopped() -> int:
        logging.getLogger("of nobody").warning("a line of %s is left out", title)
        text = warnings.formatwarning(title, UserWarning, "file.py", 1, title)
        assert harmless(text)
        raise KeyboardInterrupt(f"the last good checkpoint is {title}")

    handlers, logging.root.handlers = logging.root.handlers, []
    try:
        assert run(stopped) == 130
    finally:
        logging.root.handlers = handlers
    told = capsys.readouterr().err
    assert harmless(told)
    assert visible_lines(title) in told
    assert told.splitlines()[-1] == f"interrupted: the last good checkpoint is {seen}"


def test_a_fault_of_ours_is_traced_harmlessly() -> None:
    code = (
        "from train_lm.command_line import run\n"
        "def fails():\n    raise KeyError('\\x1b[31m') from RuntimeError('\\x1b[31mred\\x07')\n"
        "run(fails)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert harmless(done.stderr)
    assert "Traceback" in done.stderr
    assert done.stderr.startswith("RuntimeError: [31mred\n")


def test_what_fails_beside_the_command_is_traced_harmlessly() -> None:
    code = (
        "import threading\nfrom train_lm.command_line import run\n"
        "def fails(error=KeyError('\\x1b[31mthread')):\n    raise error\n"
        "class Late:\n    def __init__(self, error): self.error = error\n"
        "    def __del__(self): raise self.error\n"
        "def action():\n    thread = threading.Thread(target=fails)\n"
        "    thread.start(); thread.join()\n"
        "    Late(KeyError('\\x1b[31mlate')); Late(OSError(28, 'No space left'))\n"
        "run(action)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert harmless(done.stderr)
    assert "thread" in done.stderr
    assert "late" in done.stderr
    assert "No space left" not in done.stderr  # who wrote there has been told


@pairs
def test_a_topic_is_shown_harmlessly(
    hostile_world: World, title: str, seen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kncl_env(["show", str(hostile_world.path), "--topic", title]) == 0
    shown = capsys.readouterr().out
    assert harmless(shown)
    assert shown.split("\n")[0] == seen
    near = hostile_world.topic_of(title)
    linked = [visible(hostile_world.titles[t]) for t in hostile_world.graph.out(near)]
    assert f"links to:    {', '.join(linked)}" in shown.split("\n")


def test_a_world_is_shown_and_checked_harmlessly(
    hostile_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kncl_env(["show", str(hostile_world.path)]) == 0
    assert kncl_env(["show", str(hostile_world.path), "--regions"]) == 0
    assert kncl_env(["check", str(hostile_world.path)]) == 0
    assert kncl_env(["show", str(hostile_world.path), "--topic", "\x1b[31mNobody"]) == 2
    shown = capsys.readouterr()
    assert harmless(shown.out)
    assert harmless(shown.err)
    assert f"licence: {HOSTILE['new line'][1]}\n" in shown.out
    assert f"region {HOSTILE['colour'][1]}\n" in shown.out


def test_a_human_sees_each_step_harmlessly(
    hostile_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"nucleus_topics": 3, "nucleus_updates": 1, "steps": 30, "updates_per_step": 1}
    env = env_of(hostile_world, render_mode="human", model="xxs", slots=8, **small)
    env.reset(seed=0)
    expected = []
    over = False
    while not over:
        *_, over, cut, info = env.step(0)
        over |= cut
        expected.append(visible(info["title"] or ""))
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    for line, title in zip(lines, expected, strict=True):
        assert f" expand {title}"[:50] in line or not title
    assert set(expected) & {seen for _, seen in HOSTILE.values()}


@pairs
def test_a_progress_bar_shows_a_title_as_it_is(
    title: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    bar = _bar_of_titles(quiet=False)
    with bar:
        task = bar.add_task("", total=3)
        bar.update(task, completed=1, description=f"loss 1.000, {visible(title, 60)}")
        bar.refresh()
    drawn = terminal.getvalue()
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn).replace("\r", "\n")
    assert harmless(bare)
    assert f"loss 1.000, {seen}" in bare


def test_the_score_table_has_a_line_per_arm(capsys: pytest.CaptureFixture[str]) -> None:
    runs = arm_runs("uniform", UNIFORM)
    for title in TITLES:
        runs = runs + arm_runs(title, GOAL)
    found = table(summary_of(runs))
    assert harmless(found)
    rows = found.split("\n")
    # Besides a head and the reference: that so many arms want more seeds, and what the figures are.
    assert len(rows) == 1 + 1 + len(TITLES) + 2
    for row, seen in zip(rows[2:], [s for _, s in HOSTILE.values()], strict=False):
        assert row.startswith(seen[:16])


def hostile_report(folder: Path) -> Path:
    runs = arm_runs("uniform", UNIFORM)
    for title in TITLES:
        runs = runs + arm_runs(title, GOAL)
    everything = " ".join(TITLES)
    words = {name: everything for name in vars(INFO) if name != "details"}
    info = RunInfo(**words, details={everything: everything})
    growth = vars(some_growth(tuple(TITLES))) | {"titles": (TITLES * 9)[:60]}
    return write_report(
        folder / "report.html", summary_of(runs), runs, info, Beside(Growth(**growth)), TITLES[0]
    )


def hostile_stats(folder: Path) -> Path:
    file = folder / "walks.jsonl"
    walks = [
        walk_of("Ant", title, "Cat", id=f"{i} {j}", walker=title)
        for i, title in enumerate(TITLES)
        for j in range(3)
    ]
    write_paths(file, walks, force=True)
    page = folder / "stats.html"
    assert rabbit_holes(["stats", str(file), "--by", "walker", "--html", str(page)]) == 0
    return page


@pytest.mark.parametrize("make", [hostile_report, hostile_stats])
def test_a_page_holds_no_foreign_markup_and_lets_nothing_in(
    tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = make(tmp_path).read_text(encoding="utf-8")
    told = capsys.readouterr()
    assert harmless(told.out)
    assert harmless(told.err)
    assert harmless(page)
    read = Read()
    read.feed(page)
    assert not set(read.tags) & {"script", "img", "link", "iframe", "object", "base", "form", "a"}
    inside = ("href", "#topic-map")  # a drawing that several pictures of the page share
    names = {name for name, value in read.attributes if (name, value) != inside}
    assert not {n for n in names if n.startswith("on") or n in ("style", "src", "href")}
    assert in_html(HOSTILE["page"][1]) in page
    (sheet,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert page.count(content_policy(sheet)) == 1
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "unsafe" not in page
    assert "default-src 'none'" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("make", [hostile_report, hostile_stats])
def test_a_browser_opens_a_page_of_hostile_titles_without_complaint(
    tmp_path: Path, make: Any
) -> None:
    page, console = open_in_browser(make(tmp_path), tmp_path / "profile")
    assert console == ""
    assert "</html>" in page


def test_walks_of_hostile_walkers_are_described_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile_stats(tmp_path)
    rows = capsys.readouterr().out.split("\n")
    for _, seen in HOSTILE.values():
        assert f"{seen} (3 walks)" in rows[0]
    assert rabbit_holes(["stats", str(tmp_path / "walks.jsonl"), "--by", "walker", "--json"]) == 0
    text = capsys.readouterr().out
    assert harmless(text)
    assert {g["name"] for g in json.loads(text)["groups"]} == set(TITLES)


def test_lines_that_are_dropped_are_told_and_kept_harmlessly(
    hostile_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    known = hostile_world.titles[30]
    walks = [
        walk_of(known, f"{t}?", known, id=f"\x1b[31m{i}", status=t) for i, t in enumerate(TITLES)
    ]
    walks += [walk_of(f"{t}?", known, id=f"{i}\x1b[31m") for i, t in enumerate(TITLES)]
    write_paths(file, walks)
    file.write_bytes(file.read_bytes() + b'{"id": "\x1b[31m"}\n\x1b[2J\n"' + b"\xff\n")
    world = ["--world", str(hostile_world.path)]
    assert rabbit_holes(["import", "jsonl", str(file), "--out", str(out), *world]) == 0
    assert rabbit_holes(["stats", str(file), *world]) == 0
    told = capsys.readouterr()
    assert harmless(told.out)
    assert harmless(told.err)
    problems = (tmp_path / "out.jsonl.problems.txt").read_text()
    assert harmless(problems)
    assert problems.count("\n") == 3 * len(TITLES) + 3


def test_a_collection_tells_its_losses_harmlessly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tuple(Failure(str(i), t, "missing", t) for i, t in enumerate(TITLES))
    _print(Report(tmp_path / "out", 1, 1, lost, 1, 0, stopped=TITLES[0]), 1)
    told = capsys.readouterr()
    assert harmless(told.out)
    assert harmless(told.err)
    assert f"{HOSTILE['colour'][1]}: missing ({HOSTILE['colour'][1]})" in told.err


def test_curves_and_curricula_of_hostile_arms_lie_where_they_belong(tmp_path: Path) -> None:
    curve = SimpleNamespace(tokens=[0, 9], loss=[2.0, 1.0], topics=[3], passages=[[1, 2]])
    records = [SimpleNamespace(arm=t, seed=s, measured=curve) for t in TITLES for s in (0, 1)]
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    _write_curves(records, 9, run_folder / "curves.csv")  # type: ignore[arg-type]
    world: Any = SimpleNamespace(hash="0" * 64)
    _write_curricula(world, Settings(), records, run_folder / "curricula")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    files = [p for p in run_folder.rglob("*") if p.is_file()]
    assert len(files) == 1 + 2 * len(TITLES)
    assert all(harmless(str(p)) for p in files)
    with (run_folder / "curves.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == 1 + 4 * len(TITLES)
    assert all(cell[:1] not in ("=", "+", "@") for row in rows for cell in row)
    assert {row[0] for row in rows[1:]} == {in_csv(t) for t in TITLES}


@pairs
def test_a_prompt_holds_a_title_as_one_visible_line(title: str, seen: str) -> None:
    plain = plain_prompt(["Ant", title], title).text
    assert plain == f"From page to page in search of {seen}: Ant > {seen} >"
    asked = chat_prompt([title, "Ant"], title, [title, "Bee"]).text.split("\n")
    assert len(asked) == 4
    assert f"looking for the page {seen!r}." in asked[0]
    assert asked[1] == f"Pages so far: {seen}, Ant."
    assert asked[2] == f"The last page links to: {seen}; Bee."


@pairs
def test_a_text_for_tensorboard_is_a_block_of_code(title: str, seen: str) -> None:
    told: list[str] = []
    events: Any = SimpleNamespace(number=lambda *_: None, text=lambda _, t, __: told.append(t))
    line = {"step": 1, "loss": 1.0, "reward": 0.0, "entropy": None, "topic": 3, "title": title}
    _write_events(events, line)
    assert told == [f"    {seen}"]
    most = in_markdown(_most_expanded([{"title": title}] * 3))
    assert most == f"    3 {seen}"


def test_everything_that_is_printed_goes_through_one_door() -> None:
    for package in ("train_lm", "kncl_env", "rabbit_holes", "policies"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name == "command_line.py" or file.parent.name == "pydoc":
                continue  # the door; and a child that talks to its parent
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Name):
                    assert node.id != "print", f"{file}:{node.lineno}: say it"
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                    wrote = node.value.attr in ("stdout", "stderr") and node.attr == "write"
                    assert not wrote, f"{file}:{node.lineno}: say it"


def test_what_is_said_ends_where_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb", end="\r", error=True)
    say()
    say(7)
    told = capsys.readouterr()
    assert told.err == "a b\r"
    assert told.out == "\n7\n"


def test_one_thing_is_not_named_as_several() -> None:
    assert [counted(n, "seed") for n in (0, 1, 2, 1200)] == [
        "0 seeds",
        "1 seed",
        "2 seeds",
        "1,200 seeds",
    ]

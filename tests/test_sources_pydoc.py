"""The standard library's documentation as a corpus: clean, the same everywhere, well linked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import types
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.graph import TopicGraph
from kncl_env.world.sources.pydoc import modules as pydoc_modules
from kncl_env.world.sources.pydoc import read as source
from kncl_env.world.sources.pydoc.collect import PACKAGE_AT_LEAST, TOPIC_AT_LEAST, collect
from kncl_env.world.sources.pydoc.entries import PARAGRAPH, Teller, blocks, paragraphs
from kncl_env.world.sources.pydoc.modules import CHAPTERS, chapter_of, is_left_out
from kncl_env.world.sources.pydoc.read import read_pydoc
from kncl_env.world.sources.pydoc.references import References, Topic


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_pydoc()


@pytest.fixture(scope="module")
def by_title(corpus: Corpus) -> dict[str, Article]:
    return {article.title: article for article in corpus.articles}


@pytest.fixture(scope="module")
def text(corpus: Corpus) -> str:
    return "\n\n".join(p for article in corpus.articles for p in article.paragraphs)


def text_of(article: Article) -> str:
    return "\n".join(article.paragraphs)


# --- the corpus -------------------------------------------------------------------------------


def test_topics_are_modules_larger_classes_and_chapters(by_title: dict[str, Article]) -> None:
    for title in ("argparse", "asyncio.events", "argparse.ArgumentParser", "The for statement"):
        assert title in by_title
    assert len(by_title) > 300
    assert sum(len(text_of(a)) for a in by_title.values()) > 1_000_000


def test_another_process_with_another_environment_gives_the_same_bytes(
    corpus: Corpus, tmp_path: Path
) -> None:
    root = Path(source.__file__).parents[2]
    code = "from kncl_env.world.sources.pydoc.read import read_pydoc; print(read_pydoc().sha256)"
    # What an environment and other libraries may change: hashes, home, language, clock, loggers.
    disturbed = (
        "import inspect, logging, sys, warnings; sys.excepthook = print; "
        "inspect.getfile = len; logging.Logger.shout = lambda self: 'Louder than any other.'; "
    )
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "PYTHONHASHSEED": "7",
        "HOME": str(tmp_path),
        "LANG": "C",
        "TZ": "Asia/Tokyo",
    }
    child = subprocess.run(
        [sys.executable, "-c", disturbed + code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stdout.split()[-1] == corpus.sha256


def test_nothing_of_this_machine_stands_in_the_text(text: str) -> None:
    address = re.compile(r" at 0x[0-9a-f]{6,}")
    # The language reference of some versions shows one, the same on every machine.
    shown = set(address.findall("\n".join(topics.values())))
    assert set(address.findall(text)) <= shown
    places = (sys.executable, os.path.dirname(os.__file__), str(Path.home()), os.getcwd())
    # folders of a Unix system may stand in examples.
    for place in (p for p in places if p.count("/") > 1):
        assert place not in text
    assert str(sys.maxsize) + ")" not in text


def test_gutters_headings_and_values_of_help_are_left_out(text: str) -> None:
    lines = text.split("\n")
    assert not any(line.startswith(" |") for line in lines)
    for gone in ("FILE", "DATA", "NAME", "Method resolution order:", "PACKAGE CONTENTS"):
        assert gone not in lines
    assert "Methods inherited from" not in text


def test_what_all_classes_say_alike_is_left_out(text: str) -> None:
    for gone in (
        "Return repr(self).",
        "Initialize self.  See help(type(self)) for accurate signature.",
        "list of weak references to the object",
        "Return self+value.",
    ):
        assert gone not in text


def test_no_paragraph_stands_twice(corpus: Corpus) -> None:
    counts = Counter(p for article in corpus.articles for p in article.paragraphs)
    assert [p for p, n in counts.items() if n > 1 and len(p) > 40] == []


def test_a_larger_class_is_left_out_of_its_modules_article(by_title: dict[str, Article]) -> None:
    assert "class ArgumentParser" in text_of(by_title["argparse.ArgumentParser"])
    assert "class ArgumentParser" not in text_of(by_title["argparse"])
    assert "class Namespace" in text_of(by_title["argparse"])


def test_what_a_package_only_shows_again_stands_in_the_module_that_defines_it(
    by_title: dict[str, Article],
) -> None:
    holders = [a.title for a in by_title.values() if re.search(r"class JSONEncoder\b", text_of(a))]
    assert len(holders) == 1
    assert holders[0].startswith("json.encoder")


def test_a_function_is_a_paragraph_of_signature_and_doc(by_title: dict[str, Article]) -> None:
    (found,) = (p for p in by_title["heapq"].paragraphs if p.startswith("merge("))
    assert found.startswith("merge(*iterables, key=None, reverse=False)\nMerge multiple sorted")


def test_paragraphs_are_of_readable_length(corpus: Corpus) -> None:
    sizes = sorted(len(p) for article in corpus.articles for p in article.paragraphs)
    assert sizes[-1] <= 2 * PARAGRAPH
    assert sizes[len(sizes) // 4] > 100
    assert sizes[9 * len(sizes) // 10] <= PARAGRAPH


def test_code_in_chapters_keeps_its_indentation(by_title: dict[str, Article]) -> None:
    assert "\n    print(i)\n" in text_of(by_title["The for statement"])


def test_modules_that_are_left_out_by_rule_are_no_topics(by_title: dict[str, Article]) -> None:
    for name in ("antigravity", "this", "idlelib", "tkinter", "ntpath", "winreg", "test"):
        assert not any(title == name or title.startswith(f"{name}.") for title in by_title)
    assert not any(part.startswith("_") for t in by_title if " " not in t for part in t.split("."))


def test_links_are_real_references_of_every_kind(by_title: dict[str, Article]) -> None:
    def links(title: str) -> dict[str, str]:
        return dict(by_title[title].links)

    assert links("argparse")["argparse.ArgumentParser"] == "member"
    assert links("argparse.ArgumentParser")["argparse"] == "member"
    assert links("argparse")["gettext"] == "import"
    assert links("asyncio")["asyncio.events"] == "member"
    assert links("io.BytesIO")["io"] == "member"
    assert links("The for statement")["The break statement"] == "link"
    assert links("http.server")["socketserver"] in ("base", "import")
    kinds = Counter(kind for article in by_title.values() for _, kind in article.links)
    assert set(kinds) == {"link", "import", "base", "member"}
    assert min(kinds.values()) > 50


def test_links_lead_to_topics_once_and_never_home(by_title: dict[str, Article]) -> None:
    for title, article in by_title.items():
        targets = [target for target, _ in article.links]
        assert len(set(targets)) == len(targets)
        assert title not in targets
        assert set(targets) <= set(by_title)


def test_nearly_every_topic_can_be_reached(corpus: Corpus) -> None:
    number = {article.title: i for i, article in enumerate(corpus.articles)}
    rows = [[(number[t], 0) for t, _ in article.links] for article in corpus.articles]
    graph = TopicGraph.from_links(len(rows), rows)
    assert (graph.distances([number["builtins"]]) < 0).mean() < 0.02


def test_every_topic_is_of_a_chapter_and_of_its_package_where_that_is_large(
    corpus: Corpus,
) -> None:
    sizes = Counter(label for article in corpus.articles for label in article.labels)
    for article in corpus.articles:
        assert sum(label.startswith("chapter.") for label in article.labels) == 1
        assert len(article.labels) <= 2
    packages = {label: n for label, n in sizes.items() if label.startswith("package.")}
    assert {"package.asyncio", "package.email", "package.xml"} <= set(packages)
    assert min(packages.values()) >= PACKAGE_AT_LEAST
    assert sizes["chapter.other"] <= 0.05 * len(corpus.articles)


def test_what_was_read_and_dropped_is_counted(corpus: Corpus) -> None:
    topics = sum(corpus.counts[f"{kind}_topics"] for kind in ("module", "class", "language"))
    assert topics == len(corpus.articles)
    for reason in ("modules_left_out_by_rule", "repeated_blocks_dropped"):
        assert corpus.counts[reason] > 0


def test_collecting_prints_nothing_and_starts_no_process(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a module started a process when it was imported")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    collected = collect()
    assert len(collected["articles"]) > 300
    assert capfd.readouterr() == ("", "")


def test_an_interpreter_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ValueError, match="expected a Python interpreter at '/nowhere/python'"):
        read_pydoc()


def test_a_collector_that_fails_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_CHILD", "raise OSError('no documentation here')")
    with pytest.raises(ValueError, match=r"got OSError: no documentation here$"):
        read_pydoc()


# --- modules by name --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["_abc", "email._parseaddr", "json.__main__", "unittest.test", "encodings.cp037", "dbm.gnu"],
)
def test_private_test_generated_and_optional_modules_are_left_out(name: str) -> None:
    assert is_left_out(name)


@pytest.mark.parametrize("name", ["json", "unittest", "doctest", "encodings", "dbm.dumb"])
def test_other_modules_are_not_left_out(name: str) -> None:
    assert not is_left_out(name)


def test_a_module_is_of_one_chapter_and_inherits_its_packages() -> None:
    names = [name for names in CHAPTERS.values() for name in names.split()]
    assert len(set(names)) == len(names)
    assert chapter_of("email.mime.text") == chapter_of("email") == "netdata"
    assert chapter_of("a_module_of_the_future") == "other"
    assert not any(is_left_out(name) for name in names if name != "os.path")


def test_every_reason_for_leaving_out_names_modules() -> None:
    assert all(names.split() for names in pydoc_modules.LEFT_OUT.values())


# --- entries ----------------------------------------------------------------------------------


class Base:
    def close(self) -> None:
        """Close the thing."""


class Shape(Base):
    """A thing with sides."""

    def __init__(self, sides: int = sys.maxsize) -> None:
        """Initialize self.  See help(type(self)) for accurate signature."""

    def __repr__(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def grow(self, by: object = Base()) -> None:
        """Make it larger."""

    @property
    def area(self) -> float:
        """What it covers."""
        return 0.0

    def _hidden(self) -> None:
        """Not for users."""


def test_a_class_tells_what_it_defines_itself_and_nothing_of_the_machine() -> None:
    entries = list(Teller(Counter()).class_entries("Shape", Shape))
    assert entries[0] == (
        "class Shape(Base)\nShape(sides: 'int' = sys.maxsize) -> 'None'\nA thing with sides."
    )
    assert entries[1].startswith("grow(self, by: 'object' = <")
    assert "0x" not in entries[1]
    assert entries[1].endswith("\nMake it larger.")
    assert entries[2:] == ["area\nWhat it covers."]


def test_a_doc_is_told_once_and_its_repetition_counted() -> None:
    counts: Counter[str] = Counter()
    teller = Teller(counts)
    assert teller.routine_entry("close", Base.close) == "close(self) -> 'None'\nClose the thing."
    assert teller.routine_entry("shut", Base.close) == "shut(self) -> 'None'"
    assert counts["repeated_blocks_dropped"] == 1


def test_blocks_are_parted_at_blank_lines_and_lose_underlines() -> None:
    assert blocks("Title\n=====\n\nOne\ntwo\n  \n three\n") == ["Title", "One\ntwo", " three"]


def test_short_entries_share_a_paragraph_and_long_ones_are_parted() -> None:
    long = "\n\n".join("word " * 100 for _ in range(3)).strip()
    done = paragraphs(["f()\nDo one thing, and another one.", "g()\nDo another one of them.", long])
    assert done[0] == "f()\nDo one thing, and another one.\ng()\nDo another one of them."
    assert len(done) == 4
    assert all(len(paragraph) <= PARAGRAPH for paragraph in done)
    table = "\n".join(f"row {i:04d} of a table without blank lines" for i in range(100))
    assert max(map(len, paragraphs([table]))) <= 2 * PARAGRAPH


# --- references -------------------------------------------------------------------------------


@pytest.fixture
def references(tmp_path: Path) -> tuple[References, dict[str, Topic]]:
    """A package `zoo` with modules `zoo.cats`, `zoo.tools` and a class `zoo.cats.BigCat`."""
    (tmp_path / "cats.py").write_text(
        textwrap.dedent(
            '''
            """Text that says `import nothing`."""
            from . import tools
            from .missing import thing
            '''
        )
    )
    big_cat, small_cat, helper = (type(n, (), {}) for n in ("BigCat", "SmallCat", "Helper"))
    lion = type("Lion", (big_cat,), {})
    modules = {name: types.ModuleType(name) for name in ("zoo", "zoo.cats", "zoo.tools", "zoo.den")}
    modules["zoo"].__path__ = []
    modules["zoo.cats"].__file__ = str(tmp_path / "cats.py")
    modules["zoo.cats"].BigCat = big_cat  # type: ignore[attr-defined]
    members = {
        "zoo": {},
        "zoo.cats": {"BigCat": big_cat, "SmallCat": small_cat},
        "zoo.tools": {"Helper": helper},
        "zoo.den": {"Lion": lion},
    }
    told = {
        "zoo": ("A package.",),
        "zoo.cats": ("A module.",),
        "zoo.tools": ("Uses zoo.cats.BigCat and zoo.cats.nothing; see also zoo.",),
        "zoo.den": ("A BigCat lives here, near tools, but no SmallCat.",),
    }
    topics = {name: Topic(name, name, modules[name], text) for name, text in told.items()}
    topics["zoo.cats.BigCat"] = Topic("zoo.cats.BigCat", "zoo.cats", big_cat, ("Roars.",))
    topics["The for statement"] = Topic(
        "The for statement", "", "for", ('A "while" statement is another loop.',)
    )
    topics["The while statement"] = Topic("The while statement", "", "while", ("Loops.",))
    return References(topics, modules, members), topics


def test_packages_modules_and_classes_are_members_of_one_another(
    references: tuple[References, dict[str, Topic]],
) -> None:
    finder, topics = references
    assert finder.of(topics["zoo"])[:3] == (
        ("zoo.cats", "member"),
        ("zoo.tools", "member"),
        ("zoo.den", "member"),
    )
    assert finder.of(topics["zoo.cats.BigCat"]) == (("zoo.cats", "member"),)


def test_import_statements_are_read_from_the_source(
    references: tuple[References, dict[str, Topic]],
) -> None:
    finder, topics = references
    assert dict(finder.of(topics["zoo.cats"])) == {
        "zoo": "member",
        "zoo.cats.BigCat": "member",
        "zoo.tools": "import",
    }


def test_names_in_the_text_are_links_if_they_name_something(
    references: tuple[References, dict[str, Topic]],
) -> None:
    finder, topics = references
    assert dict(finder.of(topics["zoo.tools"])) == {"zoo": "member", "zoo.cats.BigCat": "link"}


def test_a_base_is_linked_as_base_even_where_the_text_names_it(
    references: tuple[References, dict[str, Topic]],
) -> None:
    finder, topics = references
    assert dict(finder.of(topics["zoo.den"])) == {"zoo.cats.BigCat": "base", "zoo": "member"}


def test_statements_are_linked_by_their_keyword(
    references: tuple[References, dict[str, Topic]],
) -> None:
    finder, topics = references
    assert dict(finder.of(topics["The for statement"])) == {"The while statement": "link"}


def test_a_topic_is_at_least_as_long_as_stated(corpus: Corpus) -> None:
    assert min(len(text_of(article)) for article in corpus.articles) >= TOPIC_AT_LEAST

"""Whole articles of a wiki: what its answers mean, how it is asked, and how far a crawl goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeWiki

from kncl_env.cli import main as kncl_env
from kncl_env.open_world.articles import ArticleJournal, Fetched, SourceError
from kncl_env.open_world.outward import Outward
from kncl_env.world.sources.wiki.articles import WikiSource, _batches
from kncl_env.world.sources.wiki.errors import UnexpectedAnswerError, UnreachableError
from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
from kncl_env.world.sources.wiki.live import Crawl, corpus_of_crawl
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia
from kncl_env.world.sources.wikitext import Namespaces
from kncl_env.world.world import World
from policies.cli.main import main as kncl_policy

NAMESPACES = Namespaces({"file": 6, "category": 14, "talk": 1})


class Answering(PoliteWikipedia):
    """A client whose wiki gives these answers, one after another, and notes what was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        manners = Etiquette(contact="reader@kncl.invalid", rate=1000)
        super().__init__(manners, Gate(1000), "http://wiki.invalid/api.php")
        self.answers = list(answers)
        self.wanted: list[dict[str, Any]] = []

    def _ask(self, title: str, wanted: dict[str, Any]) -> dict[str, Any]:
        self.wanted.append(wanted)
        return self.answers.pop(0)


@pytest.fixture
def answering() -> Iterator[Any]:
    made: list[Answering] = []

    def make(*answers: dict[str, Any]) -> Answering:
        made.append(Answering(*answers))
        return made[-1]

    yield make
    for wiki in made:
        wiki.close()


def page(title: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    record = {"ns": 0, "title": title, "pageid": 1, "lastrevid": 7, **more}
    if text is not None:
        main = {"content": text, "contentmodel": "wikitext"}
        record["revisions"] = [{"revid": 7, "slots": {"main": main}}]
    return record


def test_names_lead_to_articles_as_the_wiki_says(answering: Any) -> None:
    wiki = answering(
        {
            "query": {
                "normalized": [{"from": "old_name", "to": "Old name"}],
                "redirects": [{"from": "Old name", "to": "Alpha"}],
                "pages": [
                    page("Alpha", "'''Alpha''' of [[beta]] and [[File:x.png|[[Gamma]]]] [[beta]]."),
                    page("Lost", missing=True),
                    page("Talk:Alpha", "talk", ns=1),
                    page("Mercury", "* [[Alpha]]", pageprops={"disambiguation": ""}),
                    page("Data", None),
                    page("Empty", "{{only a template}}"),
                ],
            }
        }
    )
    asked = ["old_name", "Lost", "Talk:Alpha", "Mercury", "Data", "Empty", "a|b", "Nowhere"]
    found = WikiSource(wiki, NAMESPACES).fetch(asked)
    assert [one.asked for one in found] == asked
    assert found[0] == Fetched("old_name", "Alpha", 7, ("Alpha of beta and beta.",), ("Beta",))
    reasons = [one.absent for one in found[1:]]
    assert reasons[:3] == ["missing", "other_namespace", "disambiguation"]
    assert reasons[3:] == ["no_text", "no_text", "invalid_title", "invalid_title"]
    assert wiki.wanted[0]["titles"] == "|".join([*asked[:6], "Nowhere"])


def test_an_answer_in_several_parts_is_put_together(answering: Any) -> None:
    wiki = answering(
        {
            "query": {"pages": [page("A", "text of A"), page("B")]},
            "continue": {"rvcontinue": "1", "continue": "||"},
        },
        {"query": {"pages": [page("A"), page("B", "text of B")]}},
    )
    found = WikiSource(wiki, NAMESPACES).fetch(["A", "B"])
    assert [one.paragraphs for one in found] == [("text of A",), ("text of B",)]
    assert wiki.wanted[1]["rvcontinue"] == "1"
    same = {"query": {"pages": []}, "continue": {"rvcontinue": "1"}}
    with pytest.raises(UnexpectedAnswerError, match="does not end"):
        answering(same, same).fetch_texts(["A"])


def test_titles_go_out_in_batches_that_a_wiki_and_an_address_can_hold() -> None:
    short = [f"Title {i}" for i in range(120)]
    assert [len(some) for some in _batches(short)] == [50, 50, 20]
    assert [t for some in _batches(short) for t in some] == short
    long = ["北" * 80 + str(i) for i in range(30)]  # 720 characters each in an address
    sizes = [len(some) for some in _batches(long)]
    assert max(sizes) <= 8
    assert sum(sizes) == 30
    assert list(_batches(["x" * 9000])) == [["x" * 9000]]
    assert list(_batches([])) == []


def test_what_leads_out_of_the_articles_is_what_the_wiki_says(answering: Any) -> None:
    wiki = answering(
        {
            "query": {
                "general": {"case": "first-letter"},
                "namespaces": {
                    "0": {"id": 0, "name": ""},
                    "1": {"id": 1, "name": "Diskussion", "canonical": "Talk"},
                    "6": {"id": 6, "name": "Datei", "canonical": "File"},
                },
                "namespacealiases": [{"id": 6, "alias": "Bild"}],
                "interwikimap": [
                    {"prefix": "wikt", "url": "x"},
                    {"prefix": "fr", "language": "français", "url": "x"},
                ],
            }
        },
        {"query": {"general": []}},
    )
    found = wiki.fetch_namespaces()
    assert found.first_letter
    known = {name: found.numbers[name] for name in ("diskussion", "talk", "datei", "file", "bild")}
    assert known == {"diskussion": 1, "talk": 1, "datei": 6, "file": 6, "bild": 6}
    assert found.of("wikt:word")[0] not in (0, 6)
    assert found.of("fr:mot")[0] is None
    assert found.of("CSI: Miami")[0] == 0
    with pytest.raises(UnexpectedAnswerError, match="what the site is"):
        wiki.fetch_namespaces()


def test_an_error_of_the_wiki_is_one_of_the_source(answering: Any) -> None:
    class Gone(Answering):
        def _ask(self, title: str, wanted: dict[str, Any]) -> dict[str, Any]:
            raise UnreachableError("wiki.invalid: refused")

    with pytest.raises(SourceError, match=r"unreachable: wiki\.invalid: refused"):
        WikiSource(Gone(), NAMESPACES).fetch(["A"])


# -- a crawl --------------------------------------------------------------------------------------


def test_a_crawl_goes_breadth_first_in_reading_order_and_ends_where_it_shall(
    tmp_path: Path,
) -> None:
    journal = ArticleJournal(tmp_path / "a.jsonl", {"api": "x"})
    crawl = Crawl(("Article 0", "Article 50"), 7)
    crawl.run(journal, FakeWiki(), lambda _: None)
    # The two, then what the first links to: a redirect is the article that it leads to.
    firsts = ["Article 0", "Article 50", "Article 1", "Article 2", "Article 7", "Article 31"]
    assert list(crawl.articles) == [*firsts, "Article 11"]
    assert crawl.names["Redirect 11"] == "Article 11"
    corpus = corpus_of_crawl(crawl, "x", "none", Outward("x"))
    (first, *_) = corpus.articles
    ends = ["Article 1", "Article 2", "Article 7", "Article 31", "Article 11"]
    assert [title for title, _ in first.links] == ends


def test_a_crawl_that_was_cut_short_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    whole = Crawl(("Article 0",), 60)
    whole.run(ArticleJournal(tmp_path / "whole.jsonl", {"api": "x"}), FakeWiki(), lambda _: None)
    file = tmp_path / "cut.jsonl"
    first, second = FakeWiki(dies_after=2), FakeWiki()
    with pytest.raises(SourceError, match=r"kept in .*cut.jsonl, the same command goes on"):
        Crawl(("Article 0",), 60).run(ArticleJournal(file, {"api": "x"}), first, lambda _: None)
    again = Crawl(("Article 0",), 60)
    again.run(ArticleJournal(file, {"api": "x"}), second, lambda _: None)
    assert list(again.articles.values()) == list(whole.articles.values())
    assert not set(first.asked) & set(second.asked)
    assert file.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_crawl_refuses_titles_that_lead_nowhere(tmp_path: Path) -> None:
    journal = ArticleJournal(tmp_path / "a.jsonl", {"api": "x"})
    with pytest.raises(
        ValueError, match=r"expected an article to begin at, got 'Nothing 1', .*miss"
    ):
        Crawl(("Nothing 1",), 9).run(journal, FakeWiki(), lambda _: None)
    with pytest.raises(ValueError, match="name some with --titles"):
        Crawl((), 9)
    with pytest.raises(ValueError, match="at least as many articles as titles to begin at, 2"):
        Crawl(("A", "B"), 1)


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--titles", "A"], "name one with --contact"),
        (["--contact", "a@b.org"], "name some with --titles"),
        (["--titles", "A", "--contact", "a@b.org", "--rate", "0"], "expected a rate above 0"),
        (["--titles", "A", "--contact", "a@b.org", "--api-url", "ftp://x"], "http or https"),
    ],
)
def test_a_build_from_a_wiki_refuses_what_it_cannot_follow(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kncl_env(["build", "live", *words, "--out", str(tmp_path / "world")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert [f.name for f in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--live", "--contact", "a@b.org"], "expected a world that was built from a live wiki"),
        (["--reach", "9"], "expected no --reach without --live or --articles, got 9"),
        (["--articles", "nowhere.jsonl"], "of a run at nowhere.jsonl, found none"),
    ],
)
def test_a_run_in_a_closed_world_does_not_grow(
    small_world: World,
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = ["run", "--world", str(small_world.path), "--policy", "random", "--model", "xxs"]
    assert kncl_policy([*run, *words, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == []

"""Wikitext, HTML and Markdown as a reader sees them: text that is left, links in their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kncl_env.world.sources.html_text import page_text
from kncl_env.world.sources.markdown import read_markdown
from kncl_env.world.sources.wikitext import Namespaces, read_wikitext


def wiki(text: str) -> tuple[str, ...]:
    return read_wikitext(text, Namespaces()).paragraphs


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("'''Ants''' are ''small'' [[insect]]s.", "Ants are small insects."),
        ("A {{nested|{{one|}}|{{two}}}} b", "A b"),
        ("A {{never closed b", "A never closed b"),
        ("A b}} c", "A b c"),
        ('A<ref name="x">note {{cite}}</ref> b<ref name="x"/> c', "A b c"),
        ("A <!-- hidden [[Link]] --> b <!-- open", "A b"),
        ("A <nowiki>[[no link]] ''plain'' &amp;</nowiki> b", "A [[no link]] ''plain'' & b"),
        ("A <math>x^2</math> b<br/>c", "A b\nc"),
        ("[https://example.org an example] and [https://example.org]", "an example and"),
        ("* one\n** two\n# three\n: four", "one\ntwo\nthree\nfour"),
        ("a\n{| class=x\n| cell {{t}}\n{| \n| inner\n|}\n|}\nb", "a"),
        ("5 &lt; 6&nbsp;km, <span style='x'>so</span>", "5 < 6 km, so"),
        ("__NOTOC__A [[File:a.png|thumb|A [[bee]] flies.]] b", "A b"),
        ("A [[:Category:Insects|insects]] b [[:de:Ameise]] c", "A insects b de:Ameise c"),
        ("A [[Category:Insects]] b [[de:Ameise]] c [[wikt:ant|ant]]", "A b c ant"),
        ("-{zh-hans:甲;zh-hant:乙}- 丙", "甲 丙"),
        ("[[a [[b]]", "[[a b".replace("[[", "")),
    ],
)
def test_wikitext_is_read_as_it_is_shown(source: str, text: str) -> None:
    assert wiki(source)[:1] == (text,)


def test_headings_head_what_follows_and_go_where_nothing_does() -> None:
    text = "In.\n\n== Life ==\n=== Food ===\nThey eat.\n\nAll.\n== Notes ==\n{{reflist}}\n== X =="
    assert wiki(text) == ("In.", "Life\nFood\nThey eat.", "All.")


def test_links_of_wikitext_are_titles_in_reading_order() -> None:
    names = Namespaces({"kategorie": 14, "datei": 6, "portal": 100})
    text = (
        "[[bee_fly#Life|a]] [[Kategorie:Käfer|x]] [[Datei:a.png|A [[hidden]].]] [[#Here]] "
        "[[Portal:Animals]] [[CSI: Miami]] [[en:Ant]] [[ant]] [[&Eacute;t&eacute;]] [[|]]"
    )
    found = read_wikitext(text, names)
    assert found.links == ("Bee fly", "CSI: Miami", "Ant", "Été")
    assert found.categories == ("Käfer",)
    exact = Namespaces({}, first_letter=False)
    assert read_wikitext("[[ant]]", exact).links == ("ant",)


def test_a_page_is_read_without_what_stands_around_its_text() -> None:
    found = page_text(
        "<html><head><title>T</title><style>p {}</style></head><body><nav><a href='m'>m</a></nav>"
        "<h1>Ant</h1><p>An <b>ant</b> &amp; a\n <a href='Bee'>bee</a>.<sup class='reference'>"
        "<a href='#n'>1</a></sup></p><table><tr><td><a href='t'>t</a></td></tr></table>"
        "<h2>Life</h2><ul><li>one<li>two <a href='./Wasp'>w</a></ul><p>x<br>y<h2>Notes</h2>"
        "<ol class='references'><li>n</ol><script>if (a < b) {}</script></body>",
        "Ant",
    )
    assert found.paragraphs == ("An ant & a bee.", "Life\none\ntwo w", "x\ny")
    assert found.links == ("Bee", "./Wasp")


def test_markdown_is_read_as_it_is_shown() -> None:
    found = read_markdown(
        'Ants\n====\n\nThey *do* **work** `hard`, see [bees](b.md "B"), [wasps][w], [[fly|flies]]'
        " and snake_case_names.\n\n## Life\n\n- one\n- [ ] two\n\n> said\n\n```python\nif x:\n"
        "    y = [a](b)\n```\n\n![pic](p.png)\n\n---\n\n## Empty\n\n[w]: wasp.md\n"
    )
    assert found.title == "Ants"
    assert found.paragraphs == (
        "They do work hard, see bees, wasps, flies and snake_case_names.",
        "Life\none\ntwo",
        "said",
        "if x:\n    y = [a](b)",
    )
    assert found.links == ("b.md", "wasp.md", "fly")


TOKENS = (
    "[[ ]] {{ }} {| |} | ' '' <ref> </ref> <ref/> <!-- --> = == * # : -{ }- [ ] ( ) < > <p> "
    "</p> <table> <a> & &amp; ` ``` ~~ ! a b"
)
MARKS = st.lists(st.sampled_from([*TOKENS.split(), " ", "\n", "\\"]), max_size=60).map("".join)


@given(MARKS)
def test_whatever_is_broken_is_read_to_its_end(text: str) -> None:
    for found in (read_wikitext(text, Namespaces()), page_text(text), read_markdown(text)):
        assert all(p.strip() for p in found.paragraphs)

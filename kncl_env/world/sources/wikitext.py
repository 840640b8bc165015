"""Wikitext as a reader sees it: paragraphs, links in reading order, categories. No templates.

A reader of our own rather than a parser's tree: it goes through a text a fixed number of times,
however it is nested or broken, and leaves out what needs a running wiki (templates, tables, notes,
formulas, galleries). Interwiki links and those of other namespaces are no links of the text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kncl_env.world.sources.paragraphs import headed, one_kind_of_break, one_line

CATEGORY, FILE, MEDIA = 14, 6, -2  # numbers that namespaces have in every language

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NO_WIKI = re.compile(r"<nowiki>(.*?)</nowiki>", re.DOTALL | re.IGNORECASE)
# What is dropped with all that it holds. One that is never closed is a mark without a meaning.
_DROPPED = (
    "ref|references|gallery|math|chem|ce|timeline|score|imagemap|graph|mapframe|maplink|hiero"
)
_EMPTY = re.compile(rf"<(?:{_DROPPED})(?:\s[^<>]*)?/>", re.IGNORECASE)
_TAG = re.compile(rf"<(/?)({_DROPPED})(?:\s[^<>]*)?>", re.IGNORECASE)
_BRACES = re.compile(r"\{\{|\}\}|^[ \t:]*(?:\{\|)|^[ \t]*\|\}(?!\})", re.MULTILINE)
_BRACKETS = re.compile(r"\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//[^\s\]\[]+[ \t]*([^\]\[\n]*)\]")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|'{2,5}|__[A-Z]+__")
_LINE_BREAK = re.compile(r"<br\s*/?>|</?(?:p|div|li|ul|ol|blockquote)(?:\s[^<>]*)?>", re.IGNORECASE)
_HEADING = re.compile(r"(={1,6})\s*(.+?)\s*\1\s*$")
_LIST = re.compile(r"[*#:;]+\s*")
_RULE = re.compile(r"-{4,}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,8})*$")
_ESCAPED = {ord(c): f"&#{ord(c)};" for c in "[]{}<>'|=*:"}


# The kind of a mark, and whether it opens.
_Kind: TypeAlias = "Callable[[re.Match[str]], tuple[str, bool]]"


@dataclass(frozen=True)
class Namespaces:
    """Names that a wiki has for its namespaces, in small letters, and their numbers.

    Attributes:
        first_letter: Whether a title's first letter is a capital, however it is written.
    """

    numbers: Mapping[str, int] = field(
        default_factory=lambda: {"category": CATEGORY, "file": FILE, "image": FILE, "media": MEDIA}
    )
    first_letter: bool = True

    def title(self, name: str) -> str:
        """A title as the wiki keeps it."""
        title = one_line(name.replace("_", " ")).lstrip(": ")
        # Unicode has capitals for Georgian letters, which titles do not begin with.
        plain = "\u10d0" <= title[:1] <= "\u10ff" or not self.first_letter
        return title if plain else title[:1].upper() + title[1:]

    def of(self, target: str) -> tuple[int | None, str]:
        """The namespace of a link's target, and its name there; (None, …) of another wiki's."""
        prefix, colon, name = target.partition(":")
        known = " ".join(prefix.replace("_", " ").split()).lower()
        if not colon or not known:
            return 0, target
        if known in self.numbers:
            return self.numbers[known], name
        # As written: `de:` is another wiki's, `CSI:` begins a title.
        return (None if _LANGUAGE.match(prefix.strip()) else 0), target


@dataclass(frozen=True)
class WikiText:
    """What stands in a page.

    Attributes:
        links: Titles of articles, in reading order.
        categories: Without their namespace.
    """

    paragraphs: tuple[str, ...]
    links: tuple[str, ...]
    categories: tuple[str, ...]


def read_wikitext(text: str, namespaces: Namespaces) -> WikiText:
    """Read the source of one page."""
    links: list[str] = []
    categories: list[str] = []
    text = _COMMENT.sub("", one_kind_of_break(text))
    text = _NO_WIKI.sub(lambda found: found[1].translate(_ESCAPED), text)
    text = _without(_EMPTY.sub("", text), _TAG, _of_tag)
    text = _without(text, _BRACES, _of_brace)
    text = _VARIANT.sub(_first_variant, text)
    text = _linked(text, namespaces, links, categories)
    text = _EXTERNAL.sub(r"\1", text)
    text = _MARKUP.sub("", _LINE_BREAK.sub("\n", text))
    return WikiText(tuple(headed(_blocks(text))), tuple(links), tuple(dict.fromkeys(categories)))


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        heading = _HEADING.match(line)
        if heading or not line.strip():
            yield False, "\n".join(lines)
            lines = []
            if heading:
                yield True, _plain(heading[2])
        elif plain := _plain(
            _RULE.sub("", _LIST.sub("", line, count=1) if line[0] in "*#:;" else line)
        ):
            lines.append(plain)


def _plain(line: str) -> str:
    return " ".join(html.unescape(line).split())


def _of_tag(found: re.Match[str]) -> tuple[str, bool]:
    return found[2].lower(), not found[1]


def _of_brace(found: re.Match[str]) -> tuple[str, bool]:
    mark = found[0].strip(" \t:")
    return ("{{" if mark in ("{{", "}}") else "{|"), mark in ("{{", "{|")


def _without(text: str, marks: re.Pattern[str], kind_of: _Kind) -> str:
    """A text without what stands between pairs of marks; marks without a partner are left out.

    One way through, whatever is nested in what or never closed.
    """
    opened: list[tuple[str, int]] = []
    waiting: dict[str, int] = {}
    dropped: list[tuple[int, int]] = []  # outermost ones, ascending
    for found in marks.finditer(text):
        kind, opens = kind_of(found)
        if opens:
            opened.append((kind, found.start()))
            waiting[kind] = waiting.get(kind, 0) + 1
            continue
        if not waiting.get(kind):
            dropped.append((found.start(), found.end()))
            continue
        while True:  # what is open inside has no partner
            other, start = opened.pop()
            waiting[other] -= 1
            if other == kind:
                break
        while dropped and dropped[-1][0] >= start:
            dropped.pop()
        dropped.append((start, found.end()))
    lonely = [(start, start + len(marks.match(text, start)[0])) for _, start in opened]  # type: ignore[index]
    kept, at = [], 0
    for start, end in sorted([*dropped, *lonely]):
        if start >= at:
            kept.append(text[at:start])
            at = end
    return "".join([*kept, text[at:]])


def _linked(text: str, namespaces: Namespaces, links: list[str], categories: list[str]) -> str:
    """A text with what its links show; their targets go to the lists."""
    opened: list[int] = []
    spans: list[tuple[int, int]] = []  # outermost ones, ascending
    for found in _BRACKETS.finditer(text):
        if found[0] == "[[":
            opened.append(found.start())
        elif opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, found.end()))
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at:start])
        at = end
        target, bar, label = text[start + 2 : end - 2].partition("|")
        number, name = namespaces.of(target.lstrip())
        if target.lstrip().startswith(":"):  # a link to a category or file, not its use
            number, name = namespaces.of(target.lstrip()[1:])
            if number != 0:
                kept.append(label if bar else target.strip()[1:])
                continue
        if number == 0:
            if title := namespaces.title(html.unescape(name.partition("#")[0])):
                links.append(title)
            kept.append(label if bar and label.strip() else target.strip().lstrip(":"))
        elif number == CATEGORY:
            categories.append(one_line(name.partition("|")[0].replace("_", " ")))
        elif number is not None and number not in (FILE, MEDIA):
            kept.append(label if bar else target.strip())
    return "".join([*kept, text[at:]]).replace("[[", "").replace("]]", "")


def _first_variant(found: re.Match[str]) -> str:
    """Of text in several scripts of one language, the first; rules for the wiki are no text."""
    own = found[1].rpartition("|")[2].split(";")[0]
    return own.partition(":")[2] if re.match(r"\s*zh[a-z-]*\s*:", own) else own

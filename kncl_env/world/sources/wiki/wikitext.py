"""Wikitext to plain paragraphs and links in reading order: enough for prose, no more.

Templates, tables, references, pictures and formulas are left out; what is bold, a label or a
heading stays as text. Every pass is linear in the text, however its brackets are nested.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_DROPPED = "ref|math|chem|gallery|timeline|syntaxhighlight|source|score|graph|imagemap|templatestyles"
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_EMPTY_TAG = re.compile(rf"<(?:{_DROPPED})\b[^<>]*/>", re.IGNORECASE)
_TAG = re.compile(rf"<(/?)({_DROPPED})\b[^<>]*>", re.IGNORECASE)
_ANY_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_BRACES = re.compile(r"\{\{|\}\}|\{\||\|\}")
_BRACKETS = re.compile(r"\[\[|\]\]")
_OUTWARD = re.compile(r"\[(?:https?:)?//[^\s\[\]]*\s*([^\[\]]*)\]")
_QUOTES = re.compile(r"'{2,5}")
_SWITCH = re.compile(r"__[A-Z]+__")
_HEADING = re.compile(r"^={1,6}\s*(.*?)\s*={1,6}$")
_MARKS = "*#:;"
_GEORGIAN = range(0x10D0, 0x1100)  # has capitals in Unicode, which titles do not use

DEEP = 8  # [links] one in another, as captions of pictures have them; more are none

IsOther = Callable[[str], bool]


def read_wikitext(
    text: str, is_other: IsOther, first_letter: bool = True
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paragraphs, and titles of the articles that are linked, each once, in reading order.

    Args:
        is_other: Whether what stands before the colon of a link leads out of the articles: a
            namespace, or another wiki. It is asked in lower case.
        first_letter: Whether the wiki's titles begin with a capital.
    """
    text = _COMMENT.sub("", text)
    text = _without_elements(_EMPTY_TAG.sub("", text))
    text = _without_braces(text)
    links: dict[str, None] = {}
    text = _without_links(text, is_other, first_letter, links)
    text = _OUTWARD.sub(r"\1", text)
    text = html.unescape(_ANY_TAG.sub("", _SWITCH.sub("", _QUOTES.sub("", text))))
    return _paragraphs(text), tuple(links)


def title_of_link(target: str, first_letter: bool) -> str:
    """How a wiki spells the title that a link names; empty where it names a part of the page."""
    title = html.unescape(target).partition("#")[0]
    title = " ".join(title.replace("_", " ").split())
    first = title[:1]
    if first_letter and len(first.upper()) == 1 and ord(first or " ") not in _GEORGIAN:
        title = first.upper() + title[1:]
    return title


def _without_elements(text: str) -> str:
    """Leave out what stands between the tags of elements that hold no prose; unclosed ones stay."""
    kept: list[str] = []
    end = 0
    opened: tuple[int, str] | None = None
    for tag in _TAG.finditer(text):
        closing, name = bool(tag[1]), tag[2].lower()
        if opened is None and not closing:
            opened = (tag.start(), name)
        elif opened is not None and closing and name == opened[1]:
            kept.append(text[end : opened[0]])
            end, opened = tag.end(), None
    kept.append(text[end:])
    return "".join(kept)


def _without_braces(text: str) -> str:
    """Leave out templates and tables, one within the other as they may be; unclosed marks go."""
    kept: list[str] = []
    opened: list[tuple[str, int]] = []  # what closes it, and how much was kept before it
    waiting = {"}}": 0, "|}": 0}  # how many of them each would close
    end = at = 0
    while (mark := _BRACES.search(text, at)) is not None:
        token, at = mark[0], mark.end()
        if token == "|}" and text.startswith("}}", mark.start() + 1) and _top(opened) == "}}":
            token, at = "}}", mark.start() + 3  # an empty last argument
            kept.append(text[end : mark.start() + 1])
        else:
            kept.append(text[end : mark.start()])
        end = at
        if token in ("{{", "{|"):
            opened.append(("}}" if token == "{{" else "|}", len(kept)))
            waiting[opened[-1][0]] += 1
        elif waiting[token]:
            # What was opened inside and never closed goes with it.
            while True:
                closes, place = opened.pop()
                waiting[closes] -= 1
                if closes == token:
                    break
            del kept[place:]
    kept.append(text[end:])
    return "".join(kept)


def _top(opened: list[tuple[str, int]]) -> str:
    return opened[-1][0] if opened else ""


def _without_links(
    text: str, is_other: IsOther, first_letter: bool, links: dict[str, None]
) -> str:
    """Labels in the place of links; pictures and categories go with all that is in them."""
    kept: list[str] = []
    found: list[list[str]] = [[]]  # links of each bracket that is open
    opened: list[int] = []
    end = 0
    for mark in _BRACKETS.finditer(text):
        kept.append(text[end : mark.start()])
        end = mark.end()
        if mark[0] == "[[" and len(opened) < DEEP:
            opened.append(len(kept))
            found.append([])
        elif mark[0] == "]]" and opened:
            place = opened.pop()
            inside = "".join(kept[place:])
            del kept[place:]
            within = found.pop()
            label, title, shown = _link(inside, is_other, first_letter)
            if shown:
                kept.append(label)
                found[-1] += [*([title] if title else []), *within]
    kept.append(text[end:])
    for some in found:  # an unclosed bracket takes no link with it
        links.update(dict.fromkeys(some))
    return "".join(kept)


def _link(inside: str, is_other: IsOther, first_letter: bool) -> tuple[str, str, bool]:
    """(label, title or '', whether it is shown) of what stands between brackets."""
    target, bar, rest = inside.partition("|")
    target = target.strip()
    named = target.startswith(":")
    target = target.removeprefix(":").strip()
    prefix, colon, _ = target.partition(":")
    other = bool(colon) and is_other(" ".join(prefix.replace("_", " ").split()).lower())
    label = rest.rpartition("|")[2] if bar else target.lstrip("#")
    if other:
        return label, "", named
    return label, title_of_link(target, first_letter), True


def _paragraphs(text: str) -> tuple[str, ...]:
    """Runs of lines; headings and items of lists stand alone."""
    found: list[str] = []
    run: list[str] = []
    for line in text.split("\n"):
        plain = line.strip()
        heading = _HEADING.match(plain)
        alone = heading[1] if heading else plain.lstrip(_MARKS).strip()
        if plain and not heading and plain[0] not in _MARKS:
            run.append(" ".join(plain.split()))
            continue
        found += [" ".join(run)] * bool(run)
        run = []
        if alone:
            found.append(" ".join(alone.split()))
    found += [" ".join(run)] * bool(run)
    return tuple(p for p in found if any(c.isalnum() for c in p))

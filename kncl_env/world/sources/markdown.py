"""Markdown as a reader sees it: paragraphs, headings, and the files that its links name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kncl_env.world.sources.paragraphs import headed, one_kind_of_break, one_line

_FRONT = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"[ ]{0,3}#{1,6}[ \t]+(.*?)[ \t#]*$")
_UNDERLINE = re.compile(r"[ ]{0,3}(?:=+|-{2,})[ \t]*$")
_LIST = re.compile(r"^(?:[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?|[ \t]*>[ \t]?)")
_RULE = re.compile(r"[ ]{0,3}(?:[-*_][ \t]*){3,}$")
_IMAGE = re.compile(r"!\[[^\]\n]*\](?:\([^()\n]*\)|\[[^\]\n]*\])|!\[\[[^\]\n]*\]\]")
_DEFINITION = re.compile(r"^[ ]{0,3}\[([^\]\n]+)\]:[ \t]*<?([^\s>]+)>?.*$", re.MULTILINE)
# [label](target "title"), [label][reference] or [label][], [[target|label]]
_LINK = re.compile(
    r"\[\[([^\]\[|\n]+)(?:\|([^\]\[\n]*))?\]\]"
    r"|\[([^\]\[\n]*)\]\(<?([^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:[ \t]+[\"'(][^\n]*?)?\)"
    r"|\[([^\]\[\n]+)\]\[([^\]\[\n]*)\]"
)
_EMPHASIS = re.compile(
    r"(?P<stars>\*{1,3}|~~)(?=[^\s*~])(?P<strong>[^*~\n]*[^*~\s])(?P=stars)"
    r"|(?<!\w)(?P<lines>_{1,3})(?=[^\s_])(?P<stressed>[^_\n]*[^_\s])(?P=lines)(?!\w)"
)
_CODE = re.compile(r"(`+)([^`\n]+)\1")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>")


@dataclass(frozen=True)
class MarkdownText:
    """What stands in a file.

    Attributes:
        title: Of its front matter, or its first heading of the first level; may be empty.
        links: As they are written: paths, addresses, names of notes.
    """

    title: str
    paragraphs: tuple[str, ...]
    links: tuple[str, ...]


def read_markdown(text: str) -> MarkdownText:
    """Read the source of one file."""
    text = one_kind_of_break(text)
    title = ""
    if front := _FRONT.match(text):
        text = text[front.end() :]
        if named := _FRONT_TITLE.search(front[1]):
            title = one_line(named[1].strip("\"'"))
    references = {name.lower(): target for name, target in _DEFINITION.findall(text)}
    links: list[str] = []
    text = _DEFINITION.sub("", _COMMENT.sub("", text))
    blocks = [block for block in _blocks(text, references, links) if block[1]]
    if blocks and blocks[0] == (True, title or blocks[0][1]):  # it is the title, and no text
        title, blocks = blocks[0][1], blocks[1:]
    return MarkdownText(title, tuple(headed(blocks)), tuple(links))


def links_of(text: str) -> tuple[str, ...]:
    """Targets of links in a text of any kind."""
    links: list[str] = []
    _linked(text, {}, links)
    return tuple(links)


def _blocks(text: str, references: dict[str, str], links: list[str]) -> Iterator[tuple[bool, str]]:
    lines: list[str] = []
    fence = ""
    for line in [*text.split("\n"), ""]:
        if found := _FENCE.match(line):
            if not fence:
                fence = found[1]
            elif found[1].startswith(fence):
                fence = ""
            continue
        if fence:  # code is text as it stands
            if line.strip():
                lines.append(line.rstrip())
            continue
        if not line.strip() or (_RULE.match(line) and not lines):
            yield False, "\n".join(lines).strip()
            lines = []
        elif heading := _HEADING.match(line):
            yield False, "\n".join(lines).strip()
            lines = []
            yield True, _inline(heading[1], references, links)
        elif len(lines) == 1 and _UNDERLINE.match(line):
            yield True, lines.pop()
        elif plain := _inline(_LIST.sub("", line), references, links):
            lines.append(plain)
    yield False, "\n".join(lines).strip()


def _inline(line: str, references: dict[str, str], links: list[str]) -> str:
    line = _linked(_IMAGE.sub("", line), references, links)
    line = _EMPHASIS.sub(lambda found: found["strong"] or found["stressed"], line)
    return " ".join(_TAG.sub("", _CODE.sub(r"\2", line)).split())


def _linked(text: str, references: dict[str, str], links: list[str]) -> str:
    def shown(found: re.Match[str]) -> str:
        note, note_label, label, target, reference_label, reference = found.groups()
        if note is not None:
            links.append(note.partition("#")[0].strip())
            return note_label or note
        if target is not None:
            links.append(target)
            return label or ""
        known = references.get((reference or reference_label).lower())
        if known is None:
            return found[0]
        links.append(known)
        return reference_label or ""

    return _LINK.sub(shown, text)

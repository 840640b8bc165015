"""The text and the links of a page, as a reader sees them: no menus, tables, notes or pictures.

Nothing of a page is run or fetched. It knows no file format and no wiki.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

from kncl_env.world.sources.paragraphs import headed

HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
BLOCKS = HEADINGS | set(
    "p div section article main header aside blockquote pre ul ol dl details summary hr".split()  # noqa: SIM905
)
LINES = frozenset(("li", "dt", "dd", "br"))
VOID = frozenset(
    "area base br col embed hr img input link meta source track wbr".split()  # noqa: SIM905
)
# Formulas and tables are no running text; `rt` and `rp` say a second time what stands below them.
SKIPPED = frozenset(
    "head script style template noscript nav table figure math svg audio video object select "  # noqa: SIM905
    "button form footer rt rp".split()
)
# MediaWiki's own marks of what is no text of the article.
SKIPPED_CLASSES = frozenset(
    "reference references reflist mw-references-wrap mw-editsection mw-cite-backlink navbox "  # noqa: SIM905
    "infobox metadata toc noprint hatnote catlinks mw-empty-elt zim-footer".split()
)


@dataclass(frozen=True)
class PageText:
    """A page's paragraphs, headings before what they head, and where its text links to."""

    paragraphs: tuple[str, ...]
    links: tuple[str, ...]


def page_text(html: str, title: str = "") -> PageText:
    """Read a page.

    Args:
        title: A heading that repeats it is left out.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.end_block()
    blocks = (block for block in reader.blocks if block != (True, title))
    return PageText(tuple(headed(blocks)), tuple(reader.links))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[tuple[bool, str]] = []
        self.links: list[str] = []
        self._lines: list[list[str]] = [[]]
        self._is_heading = False
        self._skipped = ""  # the tag that is skipped, and how often it is open inside
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
            return
        found = dict(attrs)
        if tag not in VOID and (
            tag in SKIPPED or not SKIPPED_CLASSES.isdisjoint((found.get("class") or "").split())
        ):
            self._skipped, self._depth = tag, 1
            if tag in SKIPPED - {"math", "svg", "rt", "rp"}:
                self.end_block()
        elif tag in BLOCKS:
            self.end_block()
            self._is_heading = tag in HEADINGS
        elif tag in LINES:
            self._lines.append([])
        elif tag == "a" and (target := found.get("href")):
            self.links.append(target)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = ""
        elif tag in BLOCKS:
            self.end_block()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._lines[-1].append(data)

    def end_block(self) -> None:
        self.blocks.append((self._is_heading, "\n".join(self._read_lines())))
        self._lines, self._is_heading = [[]], False

    def _read_lines(self) -> Iterator[str]:
        for parts in self._lines:
            if line := " ".join("".join(parts).split()):
                yield line

"""Foreign text made harmless wherever it leaves the program: titles, names, licences, errors.

What comes from a file or a server may hold anything: escapes that drive a terminal, a mark that
turns text around, markup, a formula. What arrives is its own visible characters and nothing else.
Everything here is the standard library's, so that every package can use it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

# Persian, Hindi and families of emoji need them; they are invisible, so between other letters they
# would only make two names look alike.
JOINERS = "\u200c\u200d"
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute instead of show
LONGEST_FILE_NAME = 150  # [bytes] of a part of one; file systems take 255 in all
NOT_IN_FILE_NAMES = frozenset('/\\:*?"<>|')


def counted(n: int, what: str) -> str:
    """`1 seed`, `2,000 seeds`: of nouns that take an s."""
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def visible(text: object, at_most: int | None = None) -> str:
    """Text as one line of its own visible characters; white space of any kind is a space.

    Args:
        at_most: Characters; an ellipsis stands for what is cut.
    """
    line = str(text)
    if not line.isprintable():  # control and format characters, halves of pairs, any other space
        line = "".join(c if c.isprintable() or c in JOINERS else _seen(c) for c in line)
        line = "".join(map(_joined, " " + line, line, line[1:] + " "))
    return line if at_most is None or len(line) <= at_most else f"{line[: at_most - 1]}…"


def _seen(unprintable: str) -> str:
    return " " if unprintable.isspace() else ""


def _joined(before: str, own: str, after: str) -> str:
    needed = own not in JOINERS or not (before.isascii() or after.isascii())
    return own if needed else ""


def visible_lines(text: object) -> str:
    """As `visible`, of text whose lines are its own: a passage, say."""
    return "\n".join(map(visible, str(text).split("\n")))


def in_html(text: object) -> str:
    """Text for a page or an attribute of one."""
    return html.escape(visible_lines(text), quote=True)


def content_policy(style_sheet: str) -> str:
    """A page's own rule for the browser: this style sheet, and nothing else; no request, no script.

    Args:
        style_sheet: All that stands in its one `<style>`; the page has no `style` attributes.
    """
    digest = base64.b64encode(hashlib.sha256(style_sheet.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def in_csv(text: object) -> str:
    """Text for a cell of a table: a quotation mark keeps a spreadsheet from computing it."""
    cell = visible(text)
    return f"'{cell}" if cell.lstrip().startswith(FORMULA) else cell


def in_markdown(text: object) -> str:
    """Text as a block of code: no link, no picture, no markup."""
    return f"    {visible(text)}"


def in_json(value: Any, indent: int | None = 1) -> str:
    """JSON that reads as it was and shows no character that drives a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def in_file_name(text: object) -> str:
    """Text as a part of a file's name; a digest keeps apart what had to be changed."""
    found = str(text)
    plain = "".join("_" if c in NOT_IN_FILE_NAMES else c for c in visible(found)).strip()
    plain = plain.encode("utf-8", "replace")[:LONGEST_FILE_NAME].decode("utf-8", "ignore")
    if plain.startswith("."):
        plain = f"_{plain[1:]}"
    if plain == found and plain:
        return plain
    return f"{plain or '_'}-{hashlib.sha256(found.encode('utf-8', 'replace')).hexdigest()[:8]}"

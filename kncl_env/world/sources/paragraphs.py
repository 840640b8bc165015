"""Foreign text as paragraphs, in one form whatever file it came in, so that equal texts are equal.

A byte order mark and carriage returns are no text. Paragraphs stand between blank lines; line
breaks and spaces inside of them stay as they are, except at the ends of lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MARK = "\ufeff"  # of the byte order, which some editors put before a text


def paragraphs_of(text: str) -> tuple[str, ...]:
    """Paragraphs of plain text; empty where it holds none."""
    return tuple(part for part in _parted(text) if part)


def _parted(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in one_kind_of_break(text).split("\n"):
        if line := line.rstrip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines).strip()
            lines = []
    yield "\n".join(lines).strip()


def one_kind_of_break(text: str) -> str:
    return text.removeprefix(MARK).replace("\r\n", "\n").replace("\r", "\n")


def whole(text: str) -> str:
    """Text that UTF-8 can spell: halves of pairs, as JSON may hold, become the replacement mark."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def one_line(text: str) -> str:
    """A title or a label: every white space, at its ends or inside, is one space or none."""
    return " ".join(whole(text.removeprefix(MARK)).split())


def headed(blocks: Iterable[tuple[bool, str]]) -> Iterator[str]:
    """Paragraphs, each with the headings right before it; a heading without text is left out.

    Args:
        blocks: Whether it is a heading, and its text, in reading order.
    """
    headings: list[str] = []
    for is_heading, text in blocks:
        if not text:
            continue
        if is_heading:
            # Of headings in a row, only the last ones say what follows.
            headings = [*headings[-1:], text]
        else:
            yield "\n".join([*headings, text])
            headings = []

"""The rows of a clickstream file, whatever wrote it.

Wikimedia's files are TSV without a header: `prev curr type n`; those of 2015 have a header and
`prev_id curr_id n prev_title curr_title type`. People save parts of them with a csv writer: with
another delimiter, an index column, a header, quotes. Where there is a header, columns are found by
name. It counts nothing.

**Quotes.** Titles may hold quotation marks, and Wikimedia quotes nothing: `"Heroes"` is a title
with its marks. A csv writer either quotes every text, so the type (or the header) stands in quotes
as well, or it quotes what needs it: a text with marks in it, which it doubles, or with a delimiter.
So quotes are read as a csv writer's

- in files whose delimiter is no tab: Wikimedia writes no such;
- in files whose header or types stand in quotes;
- in any other file, for a text in quotes that holds further marks, all of them doubled.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from rabbit_holes.imports.lines import read_lines
from rabbit_holes.imports.tally import Tally

TYPES = ("link", "external", "other", "redlink")
DELIMITERS = "\t,;|"
# By the name that is used here: as files call it, in small letters.
COLUMNS = {
    "prev": ("prev", "prev_title"),
    "curr": ("curr", "curr_title"),
    "type": ("type",),
    "n": ("n",),
}
LOOKED_AT = 20  # [lines] from which the form of a file is told


@dataclass(frozen=True)
class ClickRow:
    """One pair of pages, as a file names them."""

    line: int
    text: str
    previous: str
    current: str
    kind: str  # "" where the file has no such column, as that of January 2015
    count: str


@dataclass(frozen=True)
class _Form:
    """How a file is written.

    Attributes:
        delimiter: Between the cells of a line.
        quoting: Whether a csv writer wrote the quotes; see the top of this file.
        width: Cells of a line.
        columns: Place of each of `COLUMNS`, None where the file lacks it.
        has_header: Whether the first line names the columns.
    """

    delimiter: str
    quoting: bool
    width: int
    columns: tuple[int | None, ...]
    has_header: bool

    def row(self, line: int, text: str) -> ClickRow:
        """Raises ValueError where the line has another shape."""
        cells = _cells(text, self.delimiter, self.quoting)
        if len(cells) != self.width:
            raise ValueError(f"expected {self.width} columns, got {len(cells)}")
        return ClickRow(line, text, *("" if at is None else cells[at] for at in self.columns))


def read_rows(file: pathlib.Path, tally: Tally) -> Iterator[ClickRow]:
    """Stream the rows of a file, plain or `.gz`; lines of another shape go to the tally."""
    lines = read_lines(file, tally)
    first = list(islice(lines, LOOKED_AT))
    form = _form_of([text for _, text in first])
    for line, text in islice(chain(first, lines), form.has_header, None):
        try:
            yield form.row(line, text)
        except ValueError as error:
            tally.drop_line(file, line, str(error), text)


def _form_of(texts: Sequence[str]) -> _Form:
    for delimiter in DELIMITERS:
        for header in texts[:1]:
            names = [name.strip().casefold() for name in _lenient(header, delimiter)]
            columns = [_place(names, wanted) for wanted in COLUMNS.values()]
            if None in (columns[0], columns[1], columns[3]):  # all but the type are needed
                continue
            quoting = delimiter != "\t" or '"' in header
            width = len(names)
            # Some writers number their rows and leave the numbers' column without a name.
            unnamed = [len(_lenient(text, delimiter)) for text in texts[1:2]] == [width + 1]
            moved = tuple(None if at is None else at + unnamed for at in columns)
            return _Form(delimiter, quoting, width + unnamed, moved, True)
    ends = {delimiter: [_end(text, delimiter) for text in texts] for delimiter in DELIMITERS}
    # The first of equals is the tab.
    delimiter = max(DELIMITERS, key=lambda own: sum(end is not None for end in ends[own]))
    quoting = delimiter != "\t" or '"' in "".join(end or "" for end in ends[delimiter])
    return _Form(delimiter, quoting, 4, (0, 1, 2, 3), False)


def _place(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _end(text: str, delimiter: str) -> str | None:
    """The type of a line without a header, with its quotes; None where it does not end in one."""
    cells = text.split(delimiter)
    if len(cells) < 4 or not cells[-1].strip('"').isdigit() or cells[-2].strip('"') not in TYPES:
        return None
    return cells[-2]


def _lenient(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return []


def _cells(text: str, delimiter: str, quoting: bool) -> list[str]:
    if not quoting:
        cells = text.split(delimiter)
        return list(map(_unquoted, cells)) if '""' in text else cells
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"expected quotes as a csv writer sets them, got {error}") from None


def _unquoted(cell: str) -> str:
    """What a csv writer was given that quotes only what needs it; see the top of this file."""
    if len(cell) > 2 and cell[0] == cell[-1] == '"':
        inner = cell[1:-1]
        if '"' in inner and '"' not in inner.replace('""', ""):
            return inner.replace('""', '"')
    return cell

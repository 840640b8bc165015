"""Rows with named columns as documents: what JSON Lines, Parquet and data sets have in common.

Rows that follow one another with the same id (or title, where there is no id) and have a section
are one document: each section's name heads its text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, groupby
from typing import NamedTuple, Protocol

from kncl_env.world.corpus import Tally
from kncl_env.world.sources.documents import Document, Moved
from kncl_env.world.sources.names import Head, Place
from kncl_env.world.sources.paragraphs import one_line, paragraphs_of, whole
from train_lm.checked.records import shown

NEEDED = ("title", "text")

Row = Mapping[str, object]


class Rows(Protocol):
    """A table in some format."""

    @property
    def size(self) -> int | None:
        """Bytes of its files."""

    @property
    def is_loose(self) -> bool:
        """Whether later rows may have columns that the first lacks."""

    def columns(self) -> Sequence[str]:
        """Names of the columns; of a loose table, those of the first row."""

    def rows(
        self, wanted: Sequence[str], tally: Tally, moved: Moved
    ) -> Iterator[tuple[Place, Row]]:
        """Every row, in order, with at least the wanted columns where it has them."""


@dataclass(frozen=True)
class Columns:
    """Names that a table has for what is read of it; None: the usual name, where it is there."""

    id: str | None = None
    title: str | None = None
    text: str | None = None
    links: str | None = None
    section: str | None = None
    labels: str | None = None

    def found_in(
        self, columns: Sequence[str], place: object, is_loose: bool = False
    ) -> dict[str, str]:
        """The name of each column that the table has, and an empty one for what it lacks.

        Raises:
            ValueError: A column that is named, or needed, is not there.
        """
        found = {}
        for part in fields(self):
            asked = getattr(self, part.name)
            name = part.name if asked is None else asked
            if name not in columns:
                if asked is not None or part.name in NEEDED:
                    there = ", ".join(columns) or "none"
                    raise ValueError(
                        f"expected a column {name!r} in {place}, got {there}: say which holds the "
                        f"{part.name} with --{part.name}-column"
                    )
                name = name if is_loose else ""
            found[part.name] = name
        return found


class RowShelf:
    """The documents of a table.

    Raises:
        ValueError: A column is missing.
    """

    def __init__(self, table: Rows, columns: Columns, place: object) -> None:
        self.size = table.size
        self._table = table
        self._columns = columns.found_in(table.columns(), place, table.is_loose)

    def heads(self, moved: Moved) -> Iterator[Head]:
        own = self._columns
        for name, title, rows in self._grouped(
            (own["id"], own["title"], own["section"]), Tally(), moved
        ):
            yield Head(title, next(iter(rows))[0], name)

    def documents(self, tally: Tally, moved: Moved) -> Iterator[Document]:
        own = self._columns
        wanted = (own["id"], own["title"], own["section"], own["text"], own["links"], own["labels"])
        for _, title, rows in self._grouped(wanted, tally, moved):
            yield self._document(title, rows)

    def _document(self, title: str, rows: Iterable[tuple[Place, Row]]) -> Document:
        own = self._columns
        first: Place | None = None
        paragraphs: list[str] = []
        links: list[str] = []
        labels: list[str] = []
        for place, row in rows:
            first = first or place
            text = paragraphs_of(whole(_text(row, own["text"], place)))
            section = one_line(_text(row, own["section"], place))
            if section and text:
                text = (f"{section}\n{text[0]}", *text[1:])
            paragraphs += text
            links += _texts(row, own["links"], place)
            labels += _texts(row, own["labels"], place)
        assert first is not None, "a group has rows"
        return Document(title, first, tuple(paragraphs), links, labels)

    def _grouped(
        self, wanted: Sequence[str], tally: Tally, moved: Moved
    ) -> Iterator[tuple[str, str, Iterator[tuple[Place, Row]]]]:
        """(id, title, rows) of each document; rows without a title are dropped."""
        own = self._columns
        names = [name for name in wanted if name]

        def called() -> Iterator[_Called]:
            for n, (place, row) in enumerate(self._table.rows(names, tally, moved), start=1):
                title = one_line(_text(row, own["title"], place))
                if title:
                    has_section = bool(_text(row, own["section"], place))
                    name = _text(row, own["id"], place)
                    yield _Called(name, title, 0 if has_section else n, place, row)
                else:
                    tally.drop("documents_without_title_dropped", shown(dict(row)), str(place))

        for _, rows in groupby(called(), lambda own: (own.id or own.title, own.alone)):
            first = next(rows)
            yield first.id, first.title, ((own.place, own.row) for own in chain([first], rows))


class _Called(NamedTuple):
    id: str
    title: str
    alone: int  # 0 where rows of the same name go together
    place: Place
    row: Row


def _text(row: Row, column: str, place: Place) -> str:
    """Text, or a number as text; empty where there is none."""
    value = row.get(column) if column else None
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value) if value == int(value) else value)
    raise ValueError(
        f"expected text as {column} at {place}, got {shown(value)}: name another column, or mend it"
    )


def _texts(row: Row, column: str, place: Place) -> list[str]:
    """A list of texts or numbers, or one of them."""
    value = row.get(column) if column else None
    parts = value if isinstance(value, list | tuple) else [value]
    found = [one_line(_text({column: part}, column, place)) for part in parts]
    return [part for part in found if part]

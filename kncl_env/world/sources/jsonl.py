"""JSON Lines: one object a line, plain or packed, in a file or a folder of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import (
    Moved,
    Origin,
    Wanted,
    Watch,
    corpus_of,
    moved_on,
)
from kncl_env.world.sources.names import Place
from kncl_env.world.sources.packed import LONGEST, files_of, lines_of
from kncl_env.world.sources.rows import Columns, Row, RowShelf
from train_lm.checked.records import parse_json, shown
from train_lm.files import replacing

ENDINGS = (".jsonl", ".ndjson", ".json")


def read_jsonl(place: Path, columns: Columns, wanted: Wanted, watch: Watch | None = None) -> Corpus:
    """Articles of JSON Lines.

    Raises:
        ValueError: There is no file, or the first line lacks a column; later, while reading: a line
            is no JSON object, no UTF-8, or has something else than text, or a file is cut short.
    """
    table = JsonLines(place)
    return corpus_of(
        RowShelf(table, columns, table.files[0]), Origin("jsonl", place), wanted, watch
    )


class JsonLines:
    """The objects of JSON Lines as rows."""

    is_loose = True

    def __init__(self, place: Path) -> None:
        self.files = files_of(place, ENDINGS, "JSON Lines")
        self.size = sum(file.stat().st_size for file in self.files)

    def columns(self) -> Sequence[str]:
        for _, row in self.rows((), Tally(), lambda _: None):
            return list(row)
        raise ValueError(f"expected lines of JSON in {self.files[0]}, got none: it is empty")

    def rows(self, _: Sequence[str], tally: Tally, moved: Moved) -> Iterator[tuple[Place, Row]]:
        before = 0
        for file in self.files:
            for number, line in lines_of(file, partial(moved_on, moved, before)):
                place = Place(str(file), number)
                if line is None:
                    reason = f"lines_of_more_than_{LONGEST / 1e6:.0f}_MB_dropped"
                    tally.drop(reason, "", str(place))
                elif line.strip():
                    row = parse_json(line, place)
                    if not isinstance(row, dict):
                        raise ValueError(
                            f"expected an object in {place}, got {shown(row)}: JSON Lines have "
                            "one object a line"
                        )
                    yield place, row
            before += file.stat().st_size


def write_jsonl(corpus: Corpus, file: Path, *, links: bool = True) -> int:
    """Write a corpus as JSON Lines, for other tools, or to build it without its links.

    Returns:
        The number of articles.
    """
    n = 0
    with replacing(file) as part, part.open("w", encoding="utf-8") as stream:
        for n, article in enumerate(corpus.articles, start=1):  # noqa: B007
            row: dict[str, object] = {
                "title": article.title,
                "text": "\n\n".join(article.paragraphs),
                "labels": article.labels,
            }
            if links:
                row["links"] = [title for title, _ in article.links]
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return n

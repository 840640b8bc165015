"""A file of links beside a corpus: a clickstream, a citation graph. Two columns, from and to.

Cells stand between tabs, commas or semicolons; what follows the second (a type, a count) is passed
over. A first line that names no document is a header.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from kncl_env.world.corpus import Tally
from kncl_env.world.sources.names import Names, Place
from kncl_env.world.sources.packed import decoded, lines_of
from train_lm.inputs import note_file

DELIMITERS = "\t,;"
TOGETHER = 4096  # [links] looked up at a time


def links_of(file: Path, names: Names, tally: Tally) -> Callable[[int], Sequence[int]]:
    """Reads the links once; gives the numbers that a document links to, in the order of the file.

    Raises:
        ValueError: A line has no two columns or is no UTF-8, or the file is cut short.
    """
    sources, targets = array("q"), array("q")
    rows = _rows(file)
    while some := list(islice(rows, TOGETHER)):
        begins = names.find([row[1] for row in some]).tolist()
        ends = names.find([row[2] for row in some]).tolist()
        for (number, *cells), source, target in zip(some, begins, ends, strict=True):
            if number == 1 and source < 0 and target < 0:
                continue
            tally["links_of_the_file_read"] += 1
            if source < 0 or target < 0:
                reason = "links_of_the_file_between_unknown_documents_dropped"
                tally.drop(reason, " to ".join(cells), str(Place(str(file), number)))
            else:
                sources.append(source)
                targets.append(target)
    note_file(file, f"{len(sources):,} links")
    order = np.argsort(np.array(sources), kind="stable")
    ordered = np.array(targets)[order]
    starts = np.searchsorted(np.array(sources)[order], np.arange(len(names) + 1))
    return lambda number: ordered[starts[number] : starts[number + 1]].tolist()


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    delimiter = ""
    for number, line in lines_of(file, lambda _: None):
        place = Place(str(file), number)
        text = "" if line is None else decoded(line, place)
        if not text.strip():
            continue
        delimiter = delimiter or next((d for d in DELIMITERS if d in text), "\t")
        # In a table with tabs, as Wikimedia writes them, marks of quotation are a title's own.
        cells = (
            text.split("\t") if delimiter == "\t" else next(csv.reader([text], delimiter=delimiter))
        )
        if len(cells) < 2:
            raise ValueError(
                f"expected two columns, from and to, at {place}, got one: put a tab or a comma "
                "between them"
            )
        yield number, cells[0].strip(), cells[1].strip()

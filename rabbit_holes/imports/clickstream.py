"""How often readers went from one page to another, and walks drawn from those counts.

Wikimedia publishes monthly counts of (previous page, page) pairs, CC0; pairs seen fewer than ten
times are left out there. `TransitionCounts` is a first-order Markov model of readers: it has no
memory and no goal. It can be counted from recorded paths as well. It knows no wiki and no world.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.imports.click_rows import TYPES, ClickRow, read_rows
from rabbit_holes.imports.tally import Tally
from rabbit_holes.path import Path, StrPath, Visit
from train_lm.inputs import note_file

SOURCE = "clickstream"
LICENCE = "CC0 1.0 (Wikimedia Clickstream)"
# What stands for a page where a visit began outside; a title has a capital letter.
REFERRERS = {"other"} | {
    f"other-{place}"
    for place in (
        *("bing", "empty", "external", "facebook", "google", "internal"),
        *("other", "search", "twitter", "wikipedia", "yahoo"),
    )
}


class TransitionCounts:
    """Counts of clicks between pages, and of visits that began at a page.

    Args:
        clicks: Count by page clicked from and page reached.
        entries: Count of visits that began at a page. Pages that were never clicked on from are
            left out, since no walk can begin there; if none remains, every page that was clicked
            on from begins equally often.

    Raises:
        ValueError: If a count is not positive, or there is no click at all.
    """

    def __init__(
        self,
        clicks: Mapping[str, Mapping[str, int]],
        entries: Mapping[str, int] | None = None,
    ) -> None:
        entries = entries or {}
        if not any(clicks.values()):
            raise ValueError(
                "expected counts of clicks, got none: the source holds no click between pages"
            )
        lowest = min(min(row.values(), default=1) for row in (*clicks.values(), entries))
        if lowest <= 0:
            raise ValueError(f"expected counts > 0, got {lowest}")
        self._clicks = {source: row for source, row in clicks.items() if row}
        starts = {title: count for title, count in entries.items() if title in self._clicks}
        starts = starts or dict.fromkeys(self._clicks, 1)
        self._starts = tuple(starts)
        self._start_totals = np.cumsum(list(starts.values()), dtype=np.float64)

    @classmethod
    def from_paths(cls, paths: Iterable[Path]) -> TransitionCounts:
        """Count the clicks and the roots of recorded paths."""
        clicks: dict[str, dict[str, int]] = {}
        entries: dict[str, int] = {}
        for path in paths:
            titles = path.titles
            entries[titles[0]] = entries.get(titles[0], 0) + 1
            for parent, child in path.clicks():
                row = clicks.setdefault(titles[parent], {})
                row[titles[child]] = row.get(titles[child], 0) + 1
        return cls(clicks, entries)

    @property
    def n_pairs(self) -> int:
        return sum(map(len, self._clicks.values()))

    def counts_from(self, source: str) -> dict[str, int]:
        """Counts of every page reached from `source`; empty for a page never clicked on from."""
        return dict(self._clicks.get(source, {}))

    def draw_start(self, rng: np.random.Generator) -> str:
        """A page to begin at, in proportion to entries."""
        return self._starts[_draw(self._start_totals, rng)]

    def draw_next(
        self, source: str, rng: np.random.Generator, offered: Collection[str] | None = None
    ) -> str | None:
        """The next page, in proportion to counts.

        Args:
            offered: Draw among these only.

        Returns:
            None where no count speaks for any page: a dead end.
        """
        row = self._clicks.get(source, {})
        targets = [title for title in row if offered is None or title in offered]
        if not targets:
            return None
        totals = np.cumsum([row[title] for title in targets], dtype=np.float64)
        return targets[_draw(totals, rng)]


def _draw(totals: NDArray[np.float64], rng: np.random.Generator) -> int:
    """An index in proportion to the steps of running totals."""
    return int(np.searchsorted(totals, rng.random() * totals[-1], side="right"))


def sample_walks(
    counts: TransitionCounts,
    walks: int,
    depth: int,
    seed: int,
    offered: Callable[[str], Collection[str]] | None = None,
) -> Iterator[Path]:
    """Chains of at most `depth` clicks drawn from counts; the same seed gives the same walks.

    A walk that stopped earlier has the status `dead end`. Each walk has its own stream of random
    numbers, so a longer file begins with a shorter one.

    Args:
        offered: Links of a page; other pages are then out of reach, whatever the counts say.
    """
    if walks < 1 or depth < 1:
        raise ValueError(f"expected at least 1 walk of at least 1 click, got {walks} of {depth}")
    for number in range(walks):
        rng = np.random.default_rng([seed, number])
        titles = [counts.draw_start(rng)]
        while len(titles) <= depth:
            here = titles[-1]
            title = counts.draw_next(here, rng, offered(here) if offered else None)
            if title is None:
                break
            titles.append(title)
        yield Path(
            id=f"{SOURCE}-{seed}-{number}",
            visits=tuple(Visit(title, i - 1 if i else None) for i, title in enumerate(titles)),
            source=SOURCE,
            walker="markov",
            licence=LICENCE,
            status="finished" if len(titles) > depth else "dead end",
            meta={"seed": seed},
        )


def read_clickstream(
    file: StrPath, tally: Tally, titles: Collection[str] | None = None
) -> TransitionCounts:
    """Stream a clickstream file, plain or `.gz`, into counts.

    Args:
        file: Wikimedia's own form, of 2015 or of today, or a table with a header that names those
            columns; see `click_rows.py`.
        tally: Is filled on the way.
        titles: Keep only these pages; a whole language edition then fits in little memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If not one click between pages is left; it quotes the first line that was
            dropped for the most frequent reason.
    """
    file = pathlib.Path(file)
    note_file(file)
    clicks: dict[str, dict[str, int]] = {}
    entries: dict[str, int] = {}
    known: dict[str, str] = {}  # one string per title: a language edition names each very often
    for row in read_rows(file, tally):
        try:
            n, kind = _parse_count(row.count), _kind(row)
            if not row.previous.strip() or not row.current.strip():
                raise ValueError("expected a title, got an empty one")
        except ValueError as error:
            tally.drop_line(file, row.line, str(error), row.text)
            continue
        tally.read["pairs"] += 1
        source, target = (
            known.setdefault(title, title)
            for title in (row.previous.replace("_", " "), row.current.replace("_", " "))
        )
        if titles is not None and target not in titles:
            unwanted = "pairs that lead to a page unknown to the world"
        elif kind == "external":
            entries[target] = entries.get(target, 0) + n
            tally.read["entries from outside"] += n
            continue
        elif kind == "other":
            unwanted = "pairs of type other: not a click on a link"
        elif kind == "redlink":
            unwanted = "pairs of type redlink: the page does not exist"
        elif titles is not None and source not in titles:
            unwanted = "pairs that come from a page unknown to the world"
        else:
            counts = clicks.setdefault(source, {})
            counts[target] = counts.get(target, 0) + n
            tally.read["clicks on links"] += n
            if not row.kind:
                tally.noted["pairs without a type, taken for clicks on links"] += 1
            continue
        tally.leave_out(file, row.line, unwanted, row.text)
    try:
        return TransitionCounts(clicks, entries)
    except ValueError as error:
        raise ValueError(f"{file}: {error}{tally.why()}") from None


def _kind(row: ClickRow) -> str:
    """One of `TYPES`. In 2015, entries from outside were of type other, or of none."""
    if row.kind and row.kind not in TYPES:
        raise ValueError(f"expected a type among {TYPES}, got {row.kind!r}")
    if row.kind in ("", "other") and row.previous in REFERRERS:
        return "external"
    return row.kind or "link"


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16 and int(text) > 0):
        raise ValueError(f"expected a count > 0, got {text!r}")
    return int(text)

"""How the documents of a source are called: ids, titles and redirects, in a few bytes each.

It answers which document a link means. A name takes 8 bytes and a number, so that all of an
encyclopaedia's fit into memory; only the titles are kept as they are written. Two names of equal
hash, once in 10^19 pairs, would be taken for one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.corpus import Tally
from train_lm.checked.records import shown

CHAIN = 10  # [redirects] that are followed, one after another; none needs more unless they circle

Hashes = NDArray[np.int64]


class Place(NamedTuple):
    """Where something stands in a source."""

    file: str
    line: int = 0  # 0: the file as a whole
    unit: str = ""  # what `line` counts, if not lines

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return (
            f"{self.file}, {self.unit} {self.line:,}" if self.unit else f"{self.file}:{self.line}"
        )


@dataclass(frozen=True)
class Head:
    """How a document is called, or where a redirect leads.

    Attributes:
        title: One line, not empty; of a redirect, the name that it redirects.
        id: Unique in its source; empty where the source has none.
        redirects_to: Name of what is meant; None for a document.
    """

    title: str
    place: Place
    id: str = ""
    redirects_to: str | None = None


class Names:
    """Numbers of documents, in the order of the source, by id, title or redirect.

    Args:
        heads: Gives every head, in order; called again where a message needs one of them.
        tally: Told which titles were made unique, and which redirects lead nowhere.

    Raises:
        ValueError: An id is there twice.
    """

    def __init__(self, heads: Callable[[], Iterable[Head]], tally: Tally) -> None:
        self._heads, self._tally = heads, tally
        self._text, self._ends = bytearray(), array("q", [0])
        titles, ids, with_id = array("q"), array("q"), array("q")
        sources, targets = array("q"), array("q")
        for head in heads():
            if head.redirects_to is not None:
                sources.append(hash(head.title))
                targets.append(hash(head.redirects_to))
                continue
            if head.id:
                ids.append(hash(head.id))
                with_id.append(len(self))
            titles.append(hash(head.title))
            self._text += head.title.encode()
            self._ends.append(len(self._text))
        self._ids = self._table_of_ids(_ints(ids), _ints(with_id))
        numbers = np.arange(len(self), dtype=np.int64)
        self._renamed: dict[int, str] = {}
        self._new_titles: dict[str, int] = {}
        by_title = _Table(_ints(titles), numbers)
        self._make_unique(by_title)
        redirected = self._followed(_ints(sources), _ints(targets), by_title)
        there = redirected >= 0
        # Titles come first: where an article and a redirect share a name, the article has it.
        self._names = _Table(
            np.concatenate([_ints(titles), _ints(sources)[there]]),
            np.concatenate([numbers, redirected[there]]),
        )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def title(self, number: int) -> str:
        """The title of a document, unique among all."""
        new = self._renamed.get(number)
        return self.written(number) if new is None else new

    def find(self, names: Sequence[str]) -> Hashes:
        """(n,) number of the document that each name means, -1 where it means none.

        An id wins over a title, a title over a redirect. Underscores may stand for spaces.
        """
        found = self._find(names)
        for i in np.flatnonzero(found < 0).tolist():
            if names[i] in self._new_titles:
                found[i] = self._new_titles[names[i]]
            else:
                plain = plain_name(names[i])
                if plain != names[i]:
                    found[i] = self._find([plain])[0]
        return found

    def _find(self, names: Sequence[str]) -> Hashes:
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        by_id = self._ids[hashes]
        return np.where(by_id >= 0, by_id, self._names[hashes])

    def written(self, number: int) -> str:
        """The title as the source has it."""
        return self._text[self._ends[number] : self._ends[number + 1]].decode()

    def _table_of_ids(self, ids: Hashes, numbers: Hashes) -> _Table:
        table = _Table(ids, numbers)
        twice = table.repeated()
        if len(twice):
            second = int(twice.min())
            first = int(table[ids[numbers == second]][0])
            one, other = (self._head(n, redirect=False) for n in (first, second))
            raise ValueError(
                f"expected each id once, got {shown(one.id)} at {one.place} and at {other.place}: "
                "give them ids of their own, or leave one out"
            )
        return table

    def _make_unique(self, by_title: _Table) -> None:
        """The second of equal titles gets ` (2)`, and so on; the first keeps the plain one."""
        for number in np.sort(by_title.repeated()).tolist():
            title, n = self.written(number), 2
            while (new := f"{title} ({n})") in self._new_titles or by_title.has(hash(new)):
                n += 1
            self._renamed[number], self._new_titles[new] = new, number
            if not self._tally["titles_made_unique"]:
                place = str(self._head(number, redirect=False).place)
                self._tally.drop("titles_made_unique", f"{title} is now {new}", place)
            else:
                self._tally["titles_made_unique"] += 1

    def _followed(self, sources: Hashes, targets: Hashes, by_title: _Table) -> Hashes:
        """(redirects,) number of the document at the end of each, -1 where there is none."""
        table = _Table(sources, np.arange(len(sources), dtype=np.int64))
        targets = targets.copy()
        found = self._documents(targets, by_title)
        for _ in range(CHAIN):
            open_ = np.flatnonzero(found < 0)
            onward = table[targets[open_]]
            open_, onward = open_[onward >= 0], onward[onward >= 0]
            if not len(open_):
                break
            targets[open_] = targets[onward]
            found[open_] = self._documents(targets[open_], by_title)
        lost = np.flatnonzero(found < 0)
        if len(lost):
            head = self._head(int(lost[0]), redirect=True)
            text = f"{head.title} to {head.redirects_to}"
            self._tally.drop("redirects_to_nowhere_dropped", text, str(head.place))
            self._tally["redirects_to_nowhere_dropped"] = len(lost)
        return found

    def _documents(self, hashes: Hashes, by_title: _Table) -> Hashes:
        by_id = self._ids[hashes]
        return np.where(by_id >= 0, by_id, by_title[hashes])

    def _head(self, number: int, redirect: bool) -> Head:
        """The head of a document, or a redirect, which is not kept: it is read again."""
        own = (h for h in self._heads() if (h.redirects_to is not None) == redirect)
        return next(islice(own, number, None))


def plain_name(name: str) -> str:
    """A name as titles are written: underscores may stand for spaces."""
    return " ".join(name.replace("_", " ").split())


class _Table:
    """Numbers by hash; of equal hashes the first one counts."""

    def __init__(self, hashes: Hashes, numbers: Hashes) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]

    def __getitem__(self, hashes: Hashes) -> Hashes:
        """Number of each, -1 where there is none."""
        if not len(self._hashes):
            return np.full(len(hashes), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._numbers[at], -1)

    def has(self, own: int) -> bool:
        return bool(self[np.array([own], dtype=np.int64)][0] >= 0)

    def repeated(self) -> Hashes:
        """Numbers whose hash an earlier one has."""
        return self._numbers[1:][self._hashes[1:] == self._hashes[:-1]]


def _ints(values: array[int]) -> Hashes:
    return np.array(values, dtype=np.int64)

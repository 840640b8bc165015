"""What a build keeps of a corpus while it works: its topics, and its text in passages, on disk.

    articles.jsonl   title, labels, noise and links of each topic
    cut.txt          the text of all passages, one after another, as UTF-8
    cut.npz          topic, split and end of each passage

Both are read from the first to the last; a passage can be asked for by its number, too.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.corpus import Article
from kncl_env.world.splits import SPLITS, Passage

ARTICLES, TEXT, TABLE = "articles.jsonl", "cut.txt", "cut.npz"
BLOCK = 2**22  # [bytes] of text that are read together, about


@dataclass(frozen=True)
class TopicRow:
    """A topic before its links have numbers.

    Attributes:
        links: `(title of the target, link type)` in reading order.
    """

    title: str
    labels: tuple[str, ...]
    is_noise: bool
    links: tuple[tuple[str, str], ...]


def read_topic_rows(file: Path) -> Iterator[TopicRow]:
    """The topics of `articles.jsonl`, in order."""
    with file.open(encoding="ascii") as lines:
        for line in lines:
            title, labels, is_noise, links = json.loads(line)
            yield TopicRow(title, tuple(labels), is_noise, tuple((t, k) for t, k in links))


class CutWriter:
    """Writes topics and passages; they are whole once its context ends without error.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._topic, self._split, self._ends = array("i"), array("b"), array("q")
        self._end = 0
        self.n_topics = 0

    def __enter__(self) -> CutWriter:
        self._articles = (self.folder / ARTICLES).open("w", encoding="ascii")
        self._text = (self.folder / TEXT).open("wb", buffering=2**20)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._articles, self._text:
            pass
        if kind is None:
            table = {
                "topic": np.frombuffer(self._topic, dtype=np.int32),
                "split": np.frombuffer(self._split, dtype=np.int8),
                "ends": np.frombuffer(self._ends, dtype=np.int64),
            }
            np.savez(self.folder / TABLE, **table)  # type: ignore[arg-type]

    def add(self, article: Article, texts: Sequence[str], splits: Sequence[str]) -> None:
        """Add an article, and its passages with their splits."""
        row = (article.title, article.labels, article.is_noise, article.links)
        self._articles.write(json.dumps(row) + "\n")
        for text, split in zip(texts, splits, strict=True):
            raw = text.encode()
            self._text.write(raw)
            self._end += len(raw)
            self._topic.append(self.n_topics)
            self._split.append(SPLITS.index(split))
            self._ends.append(self._end)
        self.n_topics += 1


class Cut:
    """Passages on disk: their places in memory, their texts where they are asked for.

    Args:
        folder: Where the files are.
        split: (P,) split of each passage, where it is another than the one it was written with.

    Attributes:
        topic: (P,) number of each passage's topic, ascending.
        split: (P,) index into `SPLITS`.
    """

    def __init__(self, folder: Path, split: NDArray[np.int64] | None = None) -> None:
        self._file = folder / TEXT
        with np.load(folder / TABLE) as table:
            self.topic: NDArray[np.int64] = table["topic"].astype(np.int64)
            own: NDArray[np.int64] = table["split"].astype(np.int64)
            self.split = own if split is None else split
            self._ends: NDArray[np.int64] = table["ends"]

    def __len__(self) -> int:
        return len(self._ends)

    def sizes(self) -> NDArray[np.int64]:
        """(P,) bytes of each text."""
        return np.diff(self._ends, prepend=0)

    def texts(self, passages: NDArray[np.int64] | None = None) -> Iterator[str]:
        """Texts of the given passages, which ascend; of all, if none are named."""
        chosen = np.arange(len(self)) if passages is None else passages
        begins, ends = self._ends - self.sizes(), self._ends
        with self._file.open("rb", buffering=BLOCK) as stream:
            for i in chosen.tolist():
                begin = int(begins[i])
                if stream.tell() != begin:
                    stream.seek(begin)
                yield stream.read(int(ends[i]) - begin).decode()

    def text(self, passage: int) -> str:
        return next(self.texts(np.array([passage])))


class TextsOf(Sequence[tuple[int, str]]):
    """Some passages of a cut as `(topic, text)`, each read when it is asked for."""

    def __init__(self, cut: Cut, passages: NDArray[np.int64]) -> None:
        self._cut, self._passages = cut, passages

    def __len__(self) -> int:
        return len(self._passages)

    @overload
    def __getitem__(self, i: int) -> tuple[int, str]: ...
    @overload
    def __getitem__(self, i: slice) -> TextsOf: ...
    def __getitem__(self, i: int | slice) -> tuple[int, str] | TextsOf:
        if isinstance(i, slice):
            return TextsOf(self._cut, self._passages[i])
        passage = int(self._passages[i])
        return int(self._cut.topic[passage]), self._cut.text(passage)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        topics = self._cut.topic[self._passages].tolist()
        return zip(topics, self._cut.texts(self._passages), strict=True)


class JunkFile:
    """Junk on disk: kept as it is drawn, read by topic. In memory is its place, 13 bytes for each.

    Args:
        file: Where its texts go, one after another.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._topic, self._kind, self._ends = array("i"), array("b"), array("q", [0])
        self._kinds: list[str] = []

    def __enter__(self) -> JunkFile:
        self._stream = self._file.open("wb", buffering=2**20)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def keep(self, topic: int, text: str, kind: str) -> None:
        if kind not in self._kinds:
            self._kinds.append(kind)
        raw = text.encode()
        self._stream.write(raw)
        self._topic.append(topic)
        self._kind.append(self._kinds.index(kind))
        self._ends.append(self._ends[-1] + len(raw))

    def by_topic(self) -> Iterator[Passage]:
        """All of it, topics ascending, each in the order in which it was drawn."""
        order = np.argsort(np.frombuffer(self._topic, dtype=np.int32), kind="stable")
        with self._file.open("rb") as stream:
            for i in order.tolist():
                stream.seek(self._ends[i])
                text = stream.read(self._ends[i + 1] - self._ends[i]).decode()
                yield Passage(self._topic[i], "train", text, self._kinds[self._kind[i]])


def together(rows: Iterable[str], n: int, size: int) -> Iterator[list[str]]:
    """Texts in groups of at most n, that end at about `size` characters."""
    group: list[str] = []
    filled = 0
    for text in rows:
        group.append(text)
        filled += len(text)
        if len(group) == n or filled >= size:
            yield group
            group, filled = [], 0
    if group:
        yield group


def first_of(file: Path, topic: int) -> TopicRow:
    """One topic's row; reads the file up to there."""
    return next(islice(read_topic_rows(file), topic, None))

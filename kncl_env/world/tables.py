"""The two tables of a world on disk, topics and passages: checked where they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.splits import SPLITS, Passage
from train_lm.files import replacing

# Column and type of each, as Arrow writes them.
TOPICS = {"title": "string", "labels": "list<string>", "noise": "bool"}
PASSAGES = {"topic": "int32", "split": "int8", "text": "string", "noise": "string"}

# Passages are written in groups of so many rows, or of so many bytes of text.
GROUP_ROWS, GROUP_BYTES = 2**20, 2**28
PIECE = 2**13  # [rows] that stand in memory as objects of Python

ROWS_PER_BYTE = 8  # of a file, at most: a column of one value takes next to nothing
PACKED = 1000  # times that a table can be larger than its file, at most


def read_topics(file: Path) -> dict[str, list[Any]]:
    """Columns of `topics.parquet`.

    Raises:
        ValueError, OSError, or what pyarrow raises: It is damaged.
    """
    columns: dict[str, list[Any]] = _read(file, TOPICS, tuple(TOPICS)).to_pydict()
    titles = columns["title"]
    if not all(title.strip() for title in titles) or len(set(titles)) != len(titles):
        raise ValueError("expected a title of its own for each topic, got an empty or a second one")
    if not all(label is not None for labels in columns["labels"] for label in labels):
        raise ValueError("expected labels as text, got none")
    return columns


def write_topics(
    file: Path,
    titles: Sequence[str],
    labels: Sequence[Sequence[str]],
    is_noise: Sequence[bool],
) -> None:
    """Write `topics.parquet`, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "title": pa.array(titles, pa.string()),
            "labels": pa.array(labels, pa.list_(pa.string())),
            "noise": pa.array(is_noise, pa.bool_()),
        }
    )
    with replacing(file, durable=False) as part:
        pq.write_table(table, part)


class PassageTable:
    """The passages of a world: their places in memory, their texts where they are asked for.

    Attributes:
        topic: (P,) number of each passage's topic, ascending.
        split: (P,) index into `SPLITS`.
        is_noise: (P,) whether a passage is junk among real ones.
    """

    def __init__(self, file: Path, n_topics: int) -> None:
        """Raises: ValueError, OSError, or what pyarrow raises: The file is damaged."""
        import pyarrow.compute as pc

        table = _read(file, PASSAGES, ("topic", "split", "noise"))
        self._file = file
        self.topic, self.split = (
            table[name].to_numpy().astype(np.int64) for name in ("topic", "split")
        )
        kinds = table["noise"].cast("string")
        self.is_noise: NDArray[np.bool_] = pc.not_equal(kinds, "").to_numpy()
        if (np.diff(self.topic) < 0).any() or not 0 <= self.topic[0] <= self.topic[-1] < n_topics:
            raise ValueError(f"expected passages by topic, from 0 to {n_topics - 1}, got others")
        if not 0 <= self.split.min() <= self.split.max() < len(SPLITS):
            raise ValueError(f"expected splits from 0 to {len(SPLITS) - 1}, got others")
        self._group: tuple[int, Any] = (-1, None)  # the group of rows that a text was asked of last

    def text(self, passage: int) -> str:
        """Raises: as the table does; it reads the texts of the passage's group."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._file, read_dictionary=["text"]) as opened:
            sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
            first = np.concatenate([[0], np.cumsum(sizes)])
            group = int(np.searchsorted(first, passage, side="right")) - 1
            if self._group[0] != group:
                self._group = (group, opened.read_row_group(group, columns=["text"])["text"])
        return str(self._group[1][passage - int(first[group])].as_py())

    def rows(self, passages: NDArray[np.int64] | None = None) -> Iterator[Passage]:
        """The given passages, whose numbers ascend, or all of them; never many at once."""
        import pyarrow.parquet as pq

        chosen = np.arange(len(self.topic)) if passages is None else passages
        first, left = 0, PACKED * self._file.stat().st_size
        columns = ["text", "noise"]
        with pq.ParquetFile(self._file, read_dictionary=columns) as opened:
            for batch in opened.iter_batches(PIECE, columns=columns):
                left -= sum(map(_size_of, batch.columns))
                if left < 0:
                    raise _too_large(self._file)
                low, high = np.searchsorted(chosen, [first, first + batch.num_rows])
                here = chosen[low:high]
                texts, kinds = (batch.column(i).take(here - first).to_pylist() for i in (0, 1))
                for i, text, kind in zip(here.tolist(), texts, kinds, strict=True):
                    if text is None:
                        raise ValueError(f"expected a text in passage {i}, got none")
                    yield Passage(int(self.topic[i]), SPLITS[self.split[i]], text, kind)
                first += batch.num_rows


class PassageWriter:
    """Writes `passages.parquet` by groups of rows; it is whole once its context ends without error.

    Args:
        file: Where it goes.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._rows: list[Passage] = []
        self._pieces: list[Any] = []
        self._n = self._bytes = 0  # of the pieces

    def __enter__(self) -> PassageWriter:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"int32": pa.int32(), "int8": pa.int8(), "string": pa.string()}
        self._schema = pa.schema([(name, kinds[kind]) for name, kind in PASSAGES.items()])
        self._writer = pq.ParquetWriter(self.file, self._schema)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write_group()
        self._writer.close()

    def add(self, passage: Passage) -> None:
        """Add a passage after those before."""
        self._rows.append(passage)
        self._n += 1
        self._bytes += len(
            passage.text
        )  # characters; of bytes there are four times as many at most
        if len(self._rows) == PIECE:
            self._pack()
        if self._n == GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._write_group()

    def _pack(self) -> None:
        import pyarrow as pa

        rows, self._rows = self._rows, []
        columns = {
            "topic": [p.topic for p in rows],
            "split": [SPLITS.index(p.split) for p in rows],
            "text": [p.text for p in rows],
            "noise": [p.noise for p in rows],
        }
        self._pieces.append(pa.table(columns, schema=self._schema))

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._pack()
        if self._pieces:
            # In one piece: where a group's pages end must not depend on how it was put together.
            self._writer.write_table(pa.concat_tables(self._pieces).combine_chunks(), GROUP_ROWS)
        self._pieces, self._n, self._bytes = [], 0, 0


def read_places(file: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Topic and split, (P,) each, of a `passages.parquet` that this process wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["topic", "split"])
    return tuple(table[name].to_numpy().astype(np.int64) for name in ("topic", "split"))


def read_texts(
    file: Path, wanted: NDArray[np.bool_] | None = None, size: int = 4096
) -> Iterator[list[str]]:
    """Texts of a `passages.parquet`, in groups of at most `size` rows.

    Args:
        wanted: (P,) which passages; all, if None.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 0
    with pq.ParquetFile(file) as opened:
        for batch in opened.iter_batches(size, columns=["text"]):
            texts, n = batch.column(0), batch.num_rows
            if wanted is not None:
                texts = texts.filter(pa.array(wanted[first : first + n]))
            first += n
            if len(texts):
                yield texts.to_pylist()


def _read(file: Path, columns: dict[str, str], wanted: Sequence[str]) -> Any:
    """Some columns of a table that has these, with a value in every row."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        head = opened.metadata
        size = file.stat().st_size
        groups = [head.row_group(i) for i in range(head.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if head.num_rows < 1:
            raise ValueError("expected a row or more, got none")
        if head.num_rows > ROWS_PER_BYTE * size or unpacked > PACKED * size:
            raise _too_large(file)
        # The name of a list's elements differs between versions of Arrow.
        found = {f.name: re.sub(r"<\w+: ", "<", str(f.type)) for f in opened.schema_arrow}
        if found != columns:
            raise ValueError(f"expected columns {columns}, got {found}")
        leaves = [opened.schema.column(i) for i in range(len(opened.schema))]
    # A text that is repeated stands there once, and so it stays until its size is known.
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(file, read_dictionary=texts) as opened:
        table = opened.read(columns=list(wanted))
    if sum(_size_of(chunk) for name in wanted for chunk in table[name].chunks) > PACKED * size:
        raise _too_large(file)
    for name in wanted:
        if table[name].null_count:
            raise ValueError(f"expected a value in every row of {name}, got none in one")
    return table


def _size_of(column: Any) -> int:
    """Bytes that a column takes where each row has a text of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_list(column.type):
        column = column.flatten()
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pc.fill_null(pc.binary_length(column.dictionary), 0).to_numpy()
    return int(lengths[column.indices.drop_null().to_numpy()].sum())


def _too_large(file: Path) -> ValueError:
    return ValueError(
        f"expected rows of at most {PACKED} times the {file.stat().st_size:,} bytes of their file, "
        "and fewer than one for each bit, got more"
    )

"""The two tables of a world on disk, topics and passages: checked where they are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from kncl_env.world.splits import SPLITS

# Column and type of each, as Arrow writes them.
TOPICS = {"title": "string", "labels": "list<string>", "noise": "bool"}
PASSAGES = {"topic": "int32", "split": "int8", "text": "string", "noise": "string"}

ROWS_PER_BYTE = 8  # of a file, at most: a column of one value takes next to nothing
PACKED = 1000  # times that a table can be larger than its file, at most


def read_topics(file: Path) -> dict[str, list[Any]]:
    """Columns of `topics.parquet`.

    Raises:
        ValueError, OSError, or what pyarrow raises: It is damaged.
    """
    columns: dict[str, list[Any]] = _read(file, TOPICS).to_pydict()
    titles = columns["title"]
    if not all(title.strip() for title in titles) or len(set(titles)) != len(titles):
        raise ValueError("expected a title of its own for each topic, got an empty or a second one")
    if not all(label is not None for labels in columns["labels"] for label in labels):
        raise ValueError("expected labels as text, got none")
    return columns


def read_passages(file: Path, n_topics: int) -> Any:
    """The table of `passages.parquet`.

    Raises:
        ValueError, OSError, or what pyarrow raises: It is damaged.
    """
    table = _read(file, PASSAGES)
    topic, split = (table[name].to_numpy() for name in ("topic", "split"))
    if (np.diff(topic) < 0).any() or not 0 <= topic[0] <= topic[-1] < n_topics:
        raise ValueError(f"expected passages by topic, from 0 to {n_topics - 1}, got others")
    if not 0 <= split.min() <= split.max() < len(SPLITS):
        raise ValueError(f"expected splits from 0 to {len(SPLITS) - 1}, got others")
    return table


def _read(file: Path, columns: dict[str, str]) -> Any:
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    head = opened.metadata
    size = file.stat().st_size
    unpacked = sum(head.row_group(i).total_byte_size for i in range(head.num_row_groups))
    if head.num_rows < 1 or head.num_rows > ROWS_PER_BYTE * size or unpacked > PACKED * size:
        raise ValueError(
            f"expected the rows of a file of {size:,} bytes, got {head.num_rows:,} rows of "
            f"{unpacked:,} bytes"
        )
    table = opened.read()
    # The name of a list's elements differs between versions of Arrow.
    found = {f.name: re.sub(r"<\w+: ", "<", str(f.type)) for f in table.schema}
    if found != columns:
        raise ValueError(f"expected columns {columns}, got {found}")
    for name in columns:
        if table[name].null_count:
            raise ValueError(f"expected a value in every row of {name}, got none in one")
    return table

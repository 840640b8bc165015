"""Parquet: columns by name, read some rows at a time, in a file or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import Moved, Origin, Wanted, Watch, corpus_of
from kncl_env.world.sources.names import Place
from kncl_env.world.sources.packed import files_of
from kncl_env.world.sources.rows import Columns, Row, RowShelf

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

TOGETHER = 2**22  # [bytes] of rows that are unpacked at a time, about
MOST_ROWS = 1024  # [rows] unpacked at a time
BUFFER = 2**20  # [bytes] of each column that are read at a time


def read_parquet(
    place: Path, columns: Columns, wanted: Wanted, watch: Watch | None = None
) -> Corpus:
    """Articles of Parquet files, which all have the columns of the first.

    Raises:
        ValueError: There is no file, it is no Parquet, or lacks a column; later, while reading: it
            is damaged, or a value is no text.
    """
    table = ParquetRows(place)
    return corpus_of(
        RowShelf(table, columns, table.files[0]), Origin("parquet", place), wanted, watch
    )


class ParquetRows:
    """The rows of Parquet files; never more than a few megabytes of them in memory."""

    is_loose = False

    def __init__(self, place: Path) -> None:
        self.files = files_of(place, (".parquet",), "Parquet files")
        self.size = sum(file.stat().st_size for file in self.files)

    def columns(self) -> Sequence[str]:
        with _opened(self.files[0]) as table:
            return list(table.schema_arrow.names)

    def rows(self, wanted: Sequence[str], _: Tally, moved: Moved) -> Iterator[tuple[Place, Row]]:
        before = 0
        for file in self.files:
            with _opened(file) as table:
                missing = [name for name in wanted if name not in table.schema_arrow.names]
                if missing:
                    raise ValueError(
                        f"expected a column {missing[0]!r} in {file}, got "
                        f"{', '.join(table.schema_arrow.names)}: it stands in {self.files[0]}"
                    )
                number, n_rows = 0, max(1, table.metadata.num_rows)
                size = file.stat().st_size
                batches = table.iter_batches(_rows_at_a_time(table), columns=list(wanted))
                for batch in batches:
                    for row in _python(batch, f"{file} after row {number:,}"):
                        number += 1
                        yield Place(str(file), number, "row"), row
                    moved(before + size * number // n_rows)
            before += size


def _rows_at_a_time(table: ParquetFile) -> int:
    head = table.metadata
    size = sum(head.row_group(i).total_byte_size for i in range(head.num_row_groups))
    return max(1, min(MOST_ROWS, TOGETHER * head.num_rows // max(1, size)))


def _python(batch: RecordBatch, place: str) -> list[Row]:
    """Raises: ValueError where a value is none that Python has, such as text that is no UTF-8."""
    try:
        found: list[Row] = batch.to_pylist()
    except Exception as error:  # each type's conversion has its own
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"expected values that can be read in {place}, got {why}: the file is damaged, fetch "
            "it again"
        ) from None
    return found


@contextmanager
def _opened(file: Path) -> Iterator[ParquetFile]:
    """Raises: ValueError that names the file, where it is no Parquet or is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without the buffers, a row group of a gigabyte would be read as a whole.
        table = pq.ParquetFile(
            file, pre_buffer=False, buffer_size=BUFFER, page_checksum_verification=True
        )
        with table:
            yield table
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join(str(error).split())[:120]
        raise ValueError(
            f"expected Parquet in {file}, got what its reader does not take ({why}): the file is "
            "damaged or cut short, fetch it again"
        ) from None

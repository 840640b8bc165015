"""A data set of Hugging Face's `datasets`: a local folder, or one of the hub, streamed.

It is the one door to that library. Nothing is copied into its cache: what `save_to_disk` wrote is
mapped into memory, and everything else is streamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import Moved, Origin, Wanted, Watch, corpus_of
from kncl_env.world.sources.names import Place
from kncl_env.world.sources.parquet import damage_of
from kncl_env.world.sources.rows import Columns, Row, RowShelf
from train_lm.checked.records import shown

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

SPLIT = "train"
SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # what `save_to_disk` leaves
NO_SCRIPTS = 4  # the first version of the library that runs no code of a data set
_HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
TOGETHER = 64  # [rows] that are unpacked at a time


def read_hf(
    name: str,
    columns: Columns,
    wanted: Wanted,
    watch: Watch | None = None,
    *,
    split: str | None = None,
    subset: str | None = None,
) -> Corpus:
    """Articles of a data set.

    Args:
        name: A folder, or an id of the hub.
        split: `train`, if not stated.
        subset: Its configuration, where it has several.

    Raises:
        ValueError: The library is missing, there is no such data set, split, subset or column.
    """
    table = HfRows(name, split or SPLIT, subset)
    origin = Origin("hf", name, table.licence, table.citation)
    return corpus_of(RowShelf(table, columns, name), origin, wanted, watch)


class HfRows:
    """The rows of a data set.

    Attributes:
        licence: As the data set states it; may be empty.
        citation: As the data set asks for it; may be empty.
    """

    is_loose = False

    def __init__(self, name: str, split: str, subset: str | None) -> None:
        self._name = name
        self._data = _opened(name, split, subset)
        info = self._data.info
        self.licence, self.citation = (_line(part, name) for part in (info.license, info.citation))
        self._rows = getattr(self._data, "num_rows", None)
        part = (info.splits or {}).get(split)
        if self._rows is None and part is not None and part.num_examples:
            self._rows = part.num_examples
        size = getattr(getattr(self._data, "data", None), "nbytes", None)
        self.size: int | None = size or (part.num_bytes if part is not None else None) or None

    def columns(self) -> Sequence[str]:
        if self._data.column_names is not None:
            return list(self._data.column_names)
        return list(next(iter(self._data), {}))  # a stream may not know before it is read

    def rows(self, wanted: Sequence[str], _: Tally, moved: Moved) -> Iterator[tuple[Place, Row]]:
        number = 0
        try:
            for batch in self._data.select_columns(list(wanted)).iter(TOGETHER):
                for row in _unbundled(batch):
                    number += 1
                    yield Place(self._name, number, "row"), row
                if self.size and self._rows:
                    moved(self.size * number // self._rows)
        except Exception as error:  # each format's reader has its own
            raise _unreadable(f"{self._name} after row {number:,}", error) from None


def _line(said: object, name: str) -> str:
    """What a data set says of itself. Raises: ValueError where that is no text."""
    if said is not None and not isinstance(said, str):
        raise ValueError(
            f"expected text as licence and citation of the data set {name}, got {shown(said)}: "
            "mend its dataset_info.json"
        )
    return " ".join((said or "").split())


def _unbundled(batch: Mapping[str, Sequence[object]]) -> Iterator[Row]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


def _opened(name: str, split: str, subset: str | None) -> Dataset | IterableDataset:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "expected the library datasets for the source hf, found none: pip install 'kncl[hf]'"
        ) from None
    if int(datasets.__version__.split(".")[0]) < NO_SCRIPTS:
        raise ValueError(
            f"expected datasets {NO_SCRIPTS} or later, got {datasets.__version__}, which may run "
            "code of a data set: pip install 'kncl[hf]'"
        )
    folder = Path(name)
    # What looks like a path, or begins like one of this machine, is never asked for at the hub.
    if not folder.exists() and (not _HUB_ID.fullmatch(name) or Path(folder.parts[0]).exists()):
        raise ValueError(f"expected a data set's folder at {name}, found nothing there")
    if folder.is_file():
        raise ValueError(
            f"expected a data set's folder at {name}, got a file: name the folder that it lies in, "
            "or see the sources jsonl and parquet"
        )
    datasets.disable_progress_bars()
    _check_arrow(folder)
    try:
        if any((folder / saved).is_file() for saved in SAVED):
            found = datasets.load_from_disk(name)
            if not isinstance(found, datasets.DatasetDict):
                return found
            if split not in found:
                raise ValueError(f"Unknown split, there are {', '.join(found)}")
            return found[split]
        return datasets.load_dataset(name, subset, split=split, streaming=True)
    except Exception as error:  # ConnectionError, DatasetNotFoundError, FileNotFoundError and more
        raise _unreadable(f"{name} (split {split})", error) from None


def _check_arrow(folder: Path) -> None:
    """Look through the folder's Arrow files, which are read by offsets that nobody else checks.

    Raises:
        ValueError: One is damaged: reading it could end the process, or show other memory.
    """
    for file in sorted(folder.rglob("*.arrow")) if folder.is_dir() else ():
        if why := damage_of(file):
            raise _unreadable(str(file), ValueError(why))


def _unreadable(what: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"expected a data set at {what}, got {why}: name a folder or an id of the hub, and see "
        "--split and --subset"
    )

"""Files that `kncl-env build` reads, in every format that it knows, and what reads each of them."""

from __future__ import annotations

import bz2
import gzip
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import corpus_files as files
from mutations import FORMS, Kind, Rng, identity

if TYPE_CHECKING:
    from kncl_env.world.corpus import Article, Corpus

WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "élan", "zürich", "東京", "consectetur", "elit")
NAMES = ("Ant", "Bee", "Cat", "Dog", "Elk", "Fox")


def articles() -> list[Article]:
    """A few that link to each other."""
    from kncl_env.world.corpus import Article

    found = []
    for i, name in enumerate(NAMES):
        text = [" ".join(WORDS[(i + j + k) % len(WORDS)] for k in range(12)) for j in range(3)]
        links = tuple((NAMES[(i + step) % len(NAMES)], "link") for step in (1, 2))
        found.append(Article(name, tuple(text), links))
    return found


# --- mutations of formats -------------------------------------------------------------------------


def _inside(form: str, unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes]) -> Any:
    """A file that is packed again, whole, around something mutated."""

    def packed(data: bytes, rng: Rng) -> bytes:
        from mutations import mutate

        return pack(mutate(unpack(data), form, rng)[1])

    return packed


def _tag(data: bytes, rng: Rng) -> bytes:
    """An element renamed, closed twice, or given what no dump has."""
    tags = list(re.finditer(rb"<(/?)([a-z]+)", data))
    one = tags[int(rng.integers(len(tags)))]
    other = (b"page", b"title", b"text", b"redirect title='x'", b"\x1b", b"x:y", b"a" * 10**6)
    name = other[int(rng.integers(len(other)))]
    return data[: one.start(2)] + name + data[one.end(2) :]


def _entities(data: bytes, rng: Rng) -> bytes:
    """A document type whose entities stand for any number of bytes, or for a file."""
    kind = int(rng.integers(3))
    if kind == 0:
        steps = "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12))
        head = f"<!DOCTYPE m [<!ENTITY a0 'aaaaaaaaaa'>{steps}]>"
    elif kind == 1:
        head = "<!DOCTYPE m [<!ENTITY a11 SYSTEM 'file:///etc/passwd'>]>"
    else:
        head = ""
    return head.encode() + data.replace(b"dolor", b"&a11;", 3)


def _deep(data: bytes, rng: Rng) -> bytes:
    """Elements in elements, or braces in braces."""
    n = int(10 ** rng.uniform(3, 5.5))
    inner = (b"<b>" * n, b"{{" * n, b"[[" * n, b"<!--" * n)[int(rng.integers(4))]
    at = data.find(b"lorem")
    return data[:at] + inner + data[at:]


FORMS["xml"] = [_tag] * 3 + [_entities, _deep]
FORMS["xml.bz2"] = [_inside("xml", bz2.decompress, bz2.compress)] * 6
FORMS["jsonl.gz"] = [
    _inside("jsonl", gzip.decompress, lambda data: gzip.compress(data, mtime=0))
] * 6


def _columns(data: bytes, rng: Rng) -> bytes:
    """A table with a column of another kind, renamed, lost, doubled or without values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    i = int(rng.integers(table.num_columns))
    n = table.num_rows
    others: tuple[Any, ...] = (
        pa.array(range(n)),
        pa.array([None] * n, pa.string()),
        pa.array([float("nan")] * n),
        pa.array([b"\xff\xfe"] * n, pa.binary()),
        pa.array([b"\xff\xfe"] * n, pa.binary()).view(pa.string()),
        pa.array([-(2**62)] * n, pa.int64()).view(pa.timestamp("us")),
        pa.array([[["x"]]] * n),
        pa.array([{"a": 1}] * n),
        pa.array([""] * n),
        pa.array(["\x1b[2J" + "y" * 10**5] * n),
    )
    what = int(rng.integers(len(others) + 3))
    name = table.column_names[i]
    if what < len(others):
        table = table.set_column(i, name, others[what])
    elif what == len(others):
        table = table.remove_column(i)
    elif what == len(others) + 1:
        table = table.append_column(name, table.column(i))
    else:
        table = table.slice(0, 0)
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


FORMS["parquet"] = [_columns] * 6


# --- readers --------------------------------------------------------------------------------------


def _of(read: Callable[[Path], Corpus]) -> Callable[[Path], str]:
    """What stands in a world of it; what was left out is told as `build` tells it."""

    def found(place: Path) -> str:
        import logging

        corpus = read(place)
        told = identity(list(corpus.read()), corpus.licence, corpus.citation, corpus.source)
        for line in corpus.losses():
            logging.getLogger("build").warning(line)
        return told

    return found


def _jsonl(name: str) -> Callable[[Path], Corpus]:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.jsonl import read_jsonl
    from kncl_env.world.sources.rows import Columns

    return lambda place: read_jsonl(place / name, Columns(), Wanted())


def _read_linked(place: Path) -> Corpus:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.jsonl import read_jsonl
    from kncl_env.world.sources.rows import Columns

    return read_jsonl(place / "a.jsonl", Columns(), Wanted(links=place / "links.tsv"))


def _read_target(place: Path) -> Corpus:
    from argparse import Namespace

    from kncl_env.world.sources.registry import OF_TABLES, open_target

    none = {name[2:].replace("-", "_"): None for name in OF_TABLES}
    found = open_target(Namespace(**none, target=str(place / "mine.jsonl")))
    assert found is not None
    return found


def _read_parquet(place: Path) -> Corpus:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.parquet import read_parquet
    from kncl_env.world.sources.rows import Columns

    return read_parquet(place / "a.parquet", Columns(), Wanted())


def _read_hf(place: Path) -> Corpus:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.hf import read_hf
    from kncl_env.world.sources.rows import Columns

    return read_hf(str(place / "saved"), Columns(), Wanted())


def _read_zim(place: Path) -> Corpus:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.zim import read_zim

    return read_zim(place / "a.zim", Wanted())


def _dump(name: str) -> Callable[[Path], Corpus]:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.mediawiki import read_mediawiki

    return lambda place: read_mediawiki(place / name, Wanted())


def _read_folder(place: Path) -> Corpus:
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.folder import read_folder

    return read_folder(place / "notes", Wanted())


def make_sources(folder: Path) -> None:
    """Honest files of every format, each in a folder of its own."""
    corpus = articles()
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in files.rows_of(corpus)]
    for name in ("jsonl", "jsonl.gz", "links", "target", "parquet", "hf", "zim", "xml", "folder"):
        (folder / name).mkdir(parents=True)
    files.write_jsonl(folder / "jsonl" / "a.jsonl", rows)
    lines = files.write_jsonl(folder / "links" / "a.jsonl", rows).read_bytes()
    (folder / "jsonl.gz" / "a.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    ends = [f"{NAMES[i]}\t{NAMES[(i + 3) % len(NAMES)]}\n" for i in range(len(NAMES))]
    (folder / "links" / "links.tsv").write_text("from\tto\n" + "".join(ends))
    files.write_jsonl(folder / "target" / "mine.jsonl", rows)
    files.write_parquet(folder / "parquet" / "a.parquet", rows)
    _save_data_set(folder / "hf" / "saved", rows)
    files.write_zim(
        folder / "zim" / "a.zim",
        {a.title: (a.title, f"<h1>{a.title}</h1>{_html(a)}") for a in corpus},
        {"Insect": "Ant"},
    )
    pages = [files.page(a.title, "\n\n".join(_wiki(a))) for a in corpus]
    files.write_dump(folder / "xml" / "a.xml", pages)
    files.write_dump(folder / "xml" / "b.xml.bz2", pages)
    notes = folder / "folder" / "notes"
    notes.mkdir()
    for a in corpus:
        text = files.with_links(a, lambda t, w: f"[{w}]({t}.md)")
        (notes / f"{a.title}.md").write_text(f"# {a.title}\n\n" + "\n\n".join(text) + "\n")


def _save_data_set(place: Path, rows: Any) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(place))


def _html(article: Article) -> str:
    paragraphs = files.with_links(article, lambda t, w: f"<a href='{t}'>{w}</a>")
    return "".join(f"<p>{p}</p>" for p in paragraphs)


def _wiki(article: Article) -> list[str]:
    return files.with_links(article, lambda t, w: f"[[{t}|{w}]]")


def kinds_of_sources(folder: Path) -> Iterator[Kind]:
    """One of every format, and of what may stand beside it."""
    for name, place, file, read, form in (
        ("jsonl", "jsonl", "a.jsonl", _jsonl("a.jsonl"), "jsonl"),
        ("jsonl, packed", "jsonl.gz", "a.jsonl.gz", _jsonl("a.jsonl.gz"), "jsonl.gz"),
        ("links", "links", "links.tsv", _read_linked, "text"),
        ("target", "target", "mine.jsonl", _read_target, "jsonl"),
        ("parquet", "parquet", "a.parquet", _read_parquet, "parquet"),
        ("zim", "zim", "a.zim", _read_zim, "bytes"),
        ("mediawiki", "xml", "a.xml", _dump("a.xml"), "xml"),
        ("mediawiki, packed", "xml", "b.xml.bz2", _dump("b.xml.bz2"), "xml.bz2"),
        ("a page of a folder", "folder", "notes/Bee.md", _read_folder, "text"),
    ):
        yield Kind(f"corpus: {name}", folder / place, file, _of(read), form)
    saved = folder / "hf" / "saved"
    for found in sorted(file.name for file in saved.iterdir()):
        form = "json" if found.endswith(".json") else "bytes"
        name = found.split("-")[0].split(".")[0]
        yield Kind(f"corpus: hf, {name}", folder / "hf", f"saved/{found}", _of(_read_hf), form)

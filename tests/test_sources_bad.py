"""Input that is damaged, empty or not what it was said to be: one line each, no half of a world."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from corpus_files import page, write_dump, write_jsonl, write_parquet, write_zim

from kncl_env.cli import main
from kncl_env.world.corpus import Corpus
from kncl_env.world.sources import documents, jsonl, packed
from kncl_env.world.sources.documents import Wanted
from kncl_env.world.sources.jsonl import read_jsonl
from kncl_env.world.sources.rows import Columns
from kncl_env.world.sources.zim import read_zim
from train_lm.files import hash_file
from train_lm.inputs import forget_inputs, inputs, told_inputs

ROWS = [
    {"id": f"n{i}", "title": f"T{i}", "text": f"Text {i} " * (200 + i), "links": ["n1"]}
    for i in range(40)
]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: object) -> str:
    """The one line that a build ends with; nothing is left of it."""
    out = tmp_path / "world"
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["build", *map(str, words), "--out", str(out), "--vocab-size", "300"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    told = capsys.readouterr().err.strip().split("\n")
    assert "Traceback" not in told[-1]
    assert told[-1].startswith("error: ")
    return told[-1].replace(str(tmp_path), "")


def read(file: Path) -> Corpus:
    return read_jsonl(file, Columns(), Wanted())


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b'{"title": "A", "text": "x"}\n{"title": "B",\n', "JSON in /a.jsonl:2, got"),
        (b'{"title": "A", "text": "\xff"}\n', "UTF-8 in /a.jsonl:1, got byte 0xff"),
        (b'{"title": "A", "text": "x"}\n[1]\n', "an object in /a.jsonl:2, got a list"),
        (b'{"title": "A", "text": ["x"]}\n', "text as text at /a.jsonl:1, got a list"),
        (b'{"title": "A", "text": "x", "links": [{}]}\n', "text as links at /a.jsonl:1"),
        (b'{"title": NaN, "text": "x"}\n', "text as title at /a.jsonl:1, got nan"),
        (b'{"title": "A", "text": 1e999}\n', "text as text at /a.jsonl:1, got inf"),
        (b'{"name": "A", "body": "x"}\n', "column 'title' in /a.jsonl, got name, body: say which"),
        (b"\n\n", "lines of JSON in /a.jsonl, got none"),
        (b"", "lines of JSON in /a.jsonl, got none"),
        ('{"title": "A"}'.encode("utf-16"), "UTF-8 in /a.jsonl:1"),
        (
            b'{"id": 1, "title": "A", "text": "x"}\n\n{"id": "2", "title": "B", "text": "y"}\n'
            b'{"id": "1", "title": "C", "text": "z"}\n',
            "each id once, got '1' at /a.jsonl:1 and at /a.jsonl:4",
        ),
        (
            b'{"id": "%s", "title": "A", "text": "x"}\n' % (b"y" * 999)
            + b'{"title": "B", "text": "x"}\n'
            + b'{"id": "%s", "title": "C", "text": "x"}\n' % (b"y" * 999),
            f"each id once, got '{'y' * 59}… at /a.jsonl:1 and at /a.jsonl:3",
        ),
        (
            b'{"title": "A", "text": ""}\n',
            "1 documents without text dropped, the first: /a.jsonl:1",
        ),
        (b'{"title": " ", "text": "x"}\n', "1 documents without title dropped, the first"),
    ],
)
def test_json_lines_are_refused_with_file_and_line(
    lines: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert expected in refused(capsys, tmp_path, "jsonl", tmp_path / "a.jsonl")


def packed_as(ending: str, data: bytes) -> bytes:
    import zstandard

    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.compress,
    }
    return pack[ending](data)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_packed_file_that_was_cut_short_or_damaged_names_its_line(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = packed_as(ending, TEXT)
    file = tmp_path / f"a.jsonl{ending}"
    file.write_bytes(whole)
    assert len(list(read(file).articles)) == 40
    for left in (len(whole) - 1, len(whole) * 2 // 3, 30):
        file.write_bytes(whole[:left])
        told = refused(capsys, tmp_path, "jsonl", file)
        assert f"/a.jsonl{ending} whole, got an end in the middle" in told
        assert "after line " in told
    file.write_bytes(whole[: len(whole) // 2] + b"\x00\xff" * 20 + whole[len(whole) // 2 + 40 :])
    assert f"/a.jsonl{ending} whole, got" in refused(capsys, tmp_path, "jsonl", file)


def test_what_unpacks_to_no_text_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "LOOKED_AT", 2**18)
    for ending in (".gz", ".zst"):
        file = tmp_path / f"a.jsonl{ending}"
        file.write_bytes(packed_as(ending, b" " * 2**22))
        with pytest.raises(ValueError, match="unpacks to more than 200 times its size"):
            list(read(file).articles)


def test_an_archive_of_files_is_told_from_packed_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(30))
    with pytest.raises(ValueError, match="unpack it first"):
        read(tmp_path / "a.jsonl")


def test_a_document_that_is_too_large_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "LARGEST", 2**16)
    monkeypatch.setattr(packed, "LONGEST", 2**17)
    monkeypatch.setattr(jsonl, "LONGEST", 2**17)
    rows = [{"title": t, "text": "x" * n} for t, n in (("A", 9), ("B", 2**16 + 1), ("C", 2**18))]
    corpus = read(write_jsonl(tmp_path / "a.jsonl", [*rows, {"title": "D", "text": "y"}]))
    assert [a.title for a in corpus.articles] == ["A", "D"]
    place = tmp_path / "a.jsonl"
    assert set(corpus.losses()) == {
        f"1 documents of more than 0 million characters dropped, the first: {place}:2: 'B'",
        f"1 lines of more than 0 MB dropped, the first: {place}:3: ''",
    }


def test_half_a_letter_becomes_the_mark_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"title": "A\\ud800", "text": "x \\udc00 y"}\n')
    (article,) = read(tmp_path / "a.jsonl").articles
    assert article.title.startswith("A\ufffd")
    assert article.paragraphs[0].encode()


def test_a_parquet_file_that_is_damaged_or_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_parquet(tmp_path / "a.parquet", ROWS)
    whole = file.read_bytes()
    for data in (whole[:-20], whole[: len(whole) // 2], b"PAR1" * 9, b"", TEXT):
        file.write_bytes(data)
        told = refused(capsys, tmp_path, "parquet", file)
        assert "expected Parquet in /a.parquet, got" in told
    damaged = bytearray(whole)
    damaged[20:200] = b"\xff" * 180
    file.write_bytes(damaged)
    assert "/a.parquet" in refused(capsys, tmp_path, "parquet", file)
    file.write_bytes(whole)
    told = refused(capsys, tmp_path, "parquet", file, "--text-column", "body")
    assert "column 'body' in /a.parquet, got id, title, text, links" in told
    write_parquet(tmp_path / "b.parquet", [{"id": "x", "title": "x", "links": ["x"]}])
    told = refused(capsys, tmp_path, "parquet", tmp_path)
    assert "column 'text' in /b.parquet, got id, title, links: it stands in /a.parquet" in told


def test_text_of_a_parquet_file_that_is_no_utf_8_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    letters = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"title": ["A", "B"], "text": letters}), tmp_path / "p.parquet")
    told = refused(capsys, tmp_path, "parquet", tmp_path / "p.parquet")
    assert "expected values that can be read in /p.parquet after row 0, got 'utf-8' codec" in told


def test_duplicate_ids_of_a_table_name_both_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_parquet(tmp_path / "a.parquet", [*ROWS, {**ROWS[3], "title": "other"}])
    told = refused(capsys, tmp_path, "parquet", file)
    assert "got 'n3' at /a.parquet, row 4 and at /a.parquet, row 41" in told


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (lambda d: d[: len(d) * 2 // 3], "a whole XML dump in /d.xml, got"),
        (lambda d: d.replace(b"</title>", b"</titel>", 1), "mismatched tag at line 2"),
        (lambda d: b"<html><body/></html>", "a dump of MediaWiki in /d.xml, got XML of 'html'"),
        (lambda d: b"", "got no element found at line 1"),
        (
            lambda d: d.replace(b"Text 3", b"Text \xff", 1),
            "not well-formed (invalid token) at line",
        ),
        (
            lambda d: b'<!DOCTYPE m [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>' + d,
            "a document type at line 1",
        ),
    ],
)
def test_a_dump_that_is_none_or_cut_short_is_refused_with_its_line(
    cut: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_dump(tmp_path / "d.xml", [page(str(r["title"]), str(r["text"])) for r in ROWS])
    file.write_bytes(cut(file.read_bytes()))
    assert expected in refused(capsys, tmp_path, "mediawiki", file)


def test_a_packed_dump_that_was_cut_short_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_dump(tmp_path / "d.xml.bz2", [page(str(r["title"]), str(r["text"])) for r in ROWS])
    file.write_bytes(file.read_bytes()[:-9])
    told = refused(capsys, tmp_path, "mediawiki", file)
    assert "/d.xml.bz2 whole, got an end in the middle" in told


def test_an_archive_without_pages_or_cut_short_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_zim(tmp_path / "a.zim", {"s.css": ("", "p {}")}, kind="text/css")
    told = refused(capsys, tmp_path, "zim", file)
    assert "articles, got none from /a.zim: 1 entries that are no pages dropped" in told
    file.write_bytes(file.read_bytes()[:-50])
    assert "a ZIM archive at /a.zim, got" in refused(capsys, tmp_path, "zim", file)
    file.write_bytes(TEXT)
    assert "a ZIM archive at /a.zim, got" in refused(capsys, tmp_path, "zim", file)


def test_any_damage_of_an_archive_is_one_error_that_names_it(tmp_path: Path) -> None:
    pages = {f"p{i}": (f"P{i}", f"<p>{'some text ' * 30}</p>") for i in range(4)}
    file = write_zim(tmp_path / "a.zim", pages)
    whole, told = file.read_bytes(), []
    full = [at for at in range(len(whole)) if whole[at]]
    for at in full[-150::2]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with suppress(ValueError):
            list(read_zim(file, Wanted()).read())
            continue
        with pytest.raises(ValueError, match=str(file)) as refusal:
            list(read_zim(file, Wanted()).read())
        told.append(str(refusal.value))
    for wanted in ("what it says as License is damaged", "can't decode byte"):
        assert any(wanted in line for line in told), wanted


def test_a_file_of_a_folder_that_is_no_utf_8_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    assert (
        "text or Markdown files in /notes (.md, .markdown, .txt, .text), got an empty"
        in refused(capsys, tmp_path, "folder", notes)
    )
    (notes / "a.md").write_bytes(b"\xef\xbb\xbf# A\r\n\r\nfine\r\n\xe4 not\r\n")
    assert "UTF-8 in /notes/a.md:4, got byte 0xe4" in refused(capsys, tmp_path, "folder", notes)
    (notes / "a.md").unlink()
    (notes / "a.md").symlink_to("/etc/hostname")
    assert "expected /notes/a.md to lie in /notes, got a link" in refused(
        capsys, tmp_path, "folder", notes
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n1\n", "two columns, from and to, at /l.tsv:1"),
        ("n1\tn2\nn3\n", "two columns, from and to, at /l.tsv:2"),
        (b"n1\tn2\nn\xff\tn1\n", "UTF-8 in /l.tsv:2"),
    ],
)
def test_a_file_of_links_is_refused_with_its_line(
    text: str | bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "l.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    told = refused(capsys, tmp_path, "jsonl", file, "--links", tmp_path / "l.tsv")
    assert expected in told


def test_a_file_of_links_is_named_with_its_digest(tmp_path: Path) -> None:
    forget_inputs()
    (tmp_path / "l.tsv").write_text("n1\tn2\nn3\tn4\n")
    file = write_jsonl(tmp_path / "a.jsonl", ROWS)
    for _ in read_jsonl(file, Columns(), Wanted(links=tmp_path / "l.tsv")).read():
        pass
    assert inputs()["l.tsv"] == hash_file(tmp_path / "l.tsv")


def test_a_licence_is_told_with_what_was_read(tmp_path: Path) -> None:
    forget_inputs()
    file = write_jsonl(tmp_path / "a.jsonl", ROWS)
    for _ in read_jsonl(file, Columns(), Wanted(licence="CC0 " * 100)).read():
        pass
    (line,) = told_inputs()
    assert line.endswith(f"; licence: {('CC0 ' * 100)[:200]}…")


@pytest.mark.parametrize("part", ["license", "citation"])
def test_a_data_set_whose_licence_is_no_text_is_refused(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    info = tmp_path / "saved" / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), part: ["x"]}))
    told = refused(capsys, tmp_path, "hf", tmp_path / "saved")
    assert "text as licence and citation of the data set /saved, got a list" in told


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jsonl"], "a .jsonl file or a folder of them as PLACE after jsonl, got none"),
        (["jsonl", "nowhere.jsonl"], "JSON Lines at nowhere.jsonl, found nothing there"),
        (["zim", "x", "--title-column", "t"], "no --title-column with zim, got t"),
        (["jsonl", "x", "--split", "train"], "no --split with jsonl"),
        (["pydoc", "--limit", "3"], "no --limit with pydoc, got 3"),
        (["jsonl", "x", "--limit", "0"], "--limit of at least 1"),
        (["folder", "x", "--links", "none.tsv"], "a file of links at none.tsv, found none"),
        (["hf", "nobody/nothing"], "a data set at nobody/nothing (split train), got"),
        (["hf", "./nowhere"], "a data set's folder at ./nowhere, found nothing there"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, tmp_path, *words)


@pytest.mark.parametrize(
    ("library", "extra", "source"),
    [("libzim", "zim", "zim"), ("datasets", "hf", "hf"), ("zstandard", "zst", "jsonl")],
)
def test_a_library_that_is_missing_is_told_with_how_to_get_it(
    library: str,
    extra: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "a.zst"
    file.write_bytes(packed_as(".zst", TEXT))
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    told = refused(capsys, tmp_path, source, file)
    assert f"the library {library} " in told
    assert f"pip install 'kncl[{extra}]'" in told


def test_a_full_disk_ends_in_one_line_and_leaves_no_world(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ROWS)

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = ["build", "jsonl", str(file), "--out", str(tmp_path / "world"), "--vocab-size", "300"]
    child = subprocess.run(
        [sys.executable, "-m", "kncl_env", *words],
        capture_output=True,
        text=True,
        preexec_fn=narrow,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert child.returncode == 2, child.stderr
    last = child.stderr.strip().split("\n")[-1]
    assert "error: expected to use" in last
    assert "file too large" in last
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize("source", ["jsonl", "parquet", "mediawiki", "folder"])
def test_a_corpus_of_which_nothing_stays_names_its_file_and_why(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"title": "One", "text": " "}, {"title": "Two", "text": ""}]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.md").write_text("\n")
    files = {
        "jsonl": lambda: write_jsonl(tmp_path / "a.jsonl", rows),
        "parquet": lambda: write_parquet(tmp_path / "a.parquet", rows),
        "mediawiki": lambda: write_dump(tmp_path / "a.xml", [page("One", ""), page("Two", " ")]),
        "folder": lambda: tmp_path / "notes",
    }
    place = files[source]()
    told = refused(capsys, tmp_path, source, place)
    assert f"expected a corpus with articles, got none from /{place.name}: " in told
    assert "documents without text dropped, the first: " in told


def test_what_a_worker_says_of_a_broken_file_comes_home_as_it_was_said() -> None:
    told = packed.BrokenError(Path("a.gz"), "a cut", "fetch it again").at(7)
    again = pickle.loads(pickle.dumps(told))
    assert (type(again), str(again)) == (packed.BrokenError, str(told))
    assert str(again.at(9)) == "expected a.gz whole, got a cut after line 9: fetch it again"

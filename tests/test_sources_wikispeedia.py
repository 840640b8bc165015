"""Wikispeedia: reading the unpacked archives, refusing damaged ones, and fetching them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kncl_env.world.corpus import Tally
from kncl_env.world.sources.archive import Archive, fetch
from kncl_env.world.sources.wikispeedia import (
    CHARITY_PAGES,
    GRAPH_DIR,
    LICENCE_PAGES,
    TEXT_DIR,
    download_wikispeedia,
    paragraphs_of,
    read_wikispeedia,
)

FOOTER = """   Retrieved from " http://en.wikipedia.org/wiki/X"
   This reference article is mainly selected from the English Wikipedia
   with only minor checks and changes (see www.wikipedia.org for details
   of authors and sources) and is available under the GNU Free
   Documentation License. See also our Disclaimer.
"""
BODY = """   The zebra is a part of the horse family and is native to central and
   southern Africa. It is most well known for its distinctive stripes.

Stripes

   They are white with black stripes, which are typically vertical on the
   head, neck and main body.
"""


def page(body: str, title: str = "X", subjects: str = "Mammals") -> str:
    header = f"2007 Schools Wikipedia Selection. Related subjects: {subjects}"
    return f"   #copyright\n\n{title}\n\n{header}\n\n{body}{FOOTER}"


def unpacked(directory: Path) -> Path:
    """Four articles, a charity page and the licence, laid out as SNAP's archives unpack."""
    graph, texts = directory / GRAPH_DIR, directory / TEXT_DIR
    graph.mkdir(parents=True)
    texts.mkdir()
    names = ["%C3%85land", "Zebra", "Pigeon", "Dove", "Donation", *LICENCE_PAGES]
    comment = "# Article names are URL-encoded.\n# FORMAT:\n\n"
    (graph / "articles.tsv").write_text(comment + "".join(f"{n}\n" for n in names))
    links = [
        ("Zebra", "Pigeon"),
        ("Zebra", "%C3%85land"),
        ("Zebra", "Zebra"),
        ("Zebra", "Donation"),
        ("%C3%85land", "Zebra"),
    ]
    (graph / "links.tsv").write_text(comment + "".join(f"{a}\t{b}\n" for a, b in links))
    (graph / "categories.tsv").write_text(
        comment
        + "Zebra\tsubject.Science.Biology.Mammals\nZebra\tsubject.Geography\n"
        + "Donation\tsubject.Money\n"
    )
    for name in names:
        (texts / f"{name}.txt").write_text(page(BODY.replace("zebra", name)), encoding="utf-8")
    (texts / "Dove.txt").write_text(page(BODY), encoding="utf-8")
    (texts / "Pigeon.txt").write_text(page(BODY), encoding="utf-8")
    (texts / "Donation.txt").write_text("Make a Donation\n\n   Title: ____\n")
    return directory


def test_titles_links_and_labels_come_decoded_and_in_the_order_of_the_files(
    tmp_path: Path,
) -> None:
    corpus = read_wikispeedia(unpacked(tmp_path))
    assert [a.title for a in corpus.articles] == ["Åland", "Zebra", "Pigeon", "Dove"]
    zebra = corpus.articles[1]
    assert zebra.links == (("Pigeon", "link"), ("Åland", "link"))
    assert zebra.labels == ("subject.Science.Biology.Mammals", "subject.Geography")
    assert "GNU" in corpus.licence
    assert "West" in corpus.citation


def test_everything_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    counts = read_wikispeedia(unpacked(tmp_path)).counts
    assert counts["titles_read"] == 6
    assert counts["charity_pages_dropped"] == 1
    assert counts["licence_texts_dropped"] == 1
    assert counts["links_read"] == 5
    assert counts["links_to_self_dropped"] == 1
    assert counts["links_of_dropped_articles_dropped"] == 1
    assert counts["categories_of_dropped_articles_dropped"] == 1
    assert counts["articles_same_as_earlier"] == 1
    assert counts["articles"] == 4


def test_the_first_that_was_dropped_is_quoted_with_its_file_and_line(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    corpus = read_wikispeedia(directory)
    graph = directory / GRAPH_DIR
    assert corpus.first_dropped == {
        "charity_pages_dropped": f"{graph / 'articles.tsv'}:8: 'Donation'",
        "licence_texts_dropped": f"{graph / 'articles.tsv'}:9: '{min(LICENCE_PAGES)}'",
        "links_to_self_dropped": f"{graph / 'links.tsv'}:6: 'Zebra Zebra'",
        "links_of_dropped_articles_dropped": f"{graph / 'links.tsv'}:7: 'Zebra Donation'",
        "categories_of_dropped_articles_dropped": (
            f"{graph / 'categories.tsv'}:6: 'Donation subject.Money'"
        ),
    }
    assert next(iter(corpus.losses())).startswith("1 charity pages dropped, the first: ")
    notes = Tally()
    notes.place = "Zebra.txt"
    paragraphs_of(page("   Spoiler warning: Plot follows.\n   ____\n\n" + BODY), notes)
    assert notes.first["boilerplate_lines_dropped"] == "Zebra.txt: 'Spoiler warning: Plot follows.'"
    assert notes.first["rules_dropped"] == "Zebra.txt: '____'"


def test_a_text_without_the_selections_header_is_an_article(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    plain = (
        "A zebra is a striped horse that lives on the plains of Africa and has never been\n"
        "tamed by anyone at all.\n\nStripes\n\nThey are white with black stripes, which are "
        "typically vertical on the\nhead, neck and main body.\n"
    )
    (directory / TEXT_DIR / "Zebra.txt").write_text(plain, encoding="utf-8")
    (directory / TEXT_DIR / "Dove.txt").write_text(BODY, encoding="utf-8")
    corpus = read_wikispeedia(directory)
    articles = {article.title: article for article in corpus.articles}
    assert articles["Zebra"].paragraphs == (
        "A zebra is a striped horse that lives on the plains of Africa and has never been tamed by "
        "anyone at all.",
        "Stripes\nThey are white with black stripes, which are typically vertical on the head, "
        "neck and main body.",
    )
    assert articles["Dove"].paragraphs == articles["Pigeon"].paragraphs
    assert corpus.counts["articles_without_header"] == 2


def test_a_corpus_of_nothing_but_empty_texts_says_which_was_the_first(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    for file in (directory / TEXT_DIR).iterdir():
        file.write_text("   ____\n")
    message = (
        r"got none from source 'wikispeedia'.*4 articles without text dropped.*land\.txt.*____"
    )
    with pytest.raises(ValueError, match=message):
        list(read_wikispeedia(directory).read())


def test_a_mark_that_an_editor_puts_before_the_text_is_no_text(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    expected = read_wikispeedia(directory).sha256
    for file in [*(directory / TEXT_DIR).iterdir(), *(directory / GRAPH_DIR).iterdir()]:
        body = file.read_text(encoding="utf-8").removeprefix("# Article names are URL-encoded.\n")
        file.write_text(body.replace("# FORMAT:\n\n", ""), encoding="utf-8-sig")
    assert read_wikispeedia(directory).sha256 == expected
    path = directory / TEXT_DIR / "Zebra.txt"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff")
    with pytest.raises(ValueError, match=f"got byte 0xff at offset {len(whole)}"):
        read_wikispeedia(directory)


def test_the_later_of_two_identical_texts_says_whom_it_equals(tmp_path: Path) -> None:
    corpus = read_wikispeedia(unpacked(tmp_path))
    assert [a.same_as for a in corpus.articles] == [None, None, None, "Pigeon"]


def test_hard_wraps_are_undone_and_a_heading_heads_its_paragraph() -> None:
    assert paragraphs_of(page(BODY)) == (
        "The zebra is a part of the horse family and is native to central and southern Africa. "
        "It is most well known for its distinctive stripes.",
        "Stripes\nThey are white with black stripes, which are typically vertical on the head, "
        "neck and main body.",
    )


def test_header_with_its_categories_and_footer_are_left_out() -> None:
    text = page(BODY, "Title of the page", "British History 1500 and\nbefore; Figures")
    joined = "\n".join(paragraphs_of(text))
    for gone in ("copyright", "Title of", "Related", "History", "Figures", "Retrieved", "GNU"):
        assert gone not in joined


@pytest.mark.parametrize(
    "second",
    [
        "   View over Paris from the Eiffel Tower, with the river that\n   runs by in grey.",
        "   View over Paris from the ( Eiffel) Tower, with the river\n   that runs by in gray.",
    ],
)
def test_a_caption_that_stands_twice_is_kept_once(second: str) -> None:
    first = "   View over Paris from the Eiffel Tower, with the river that\n   runs by in grey."
    before = "   A paragraph of the article, of some length, ends right above it here."
    counts = Tally()
    paragraphs = paragraphs_of(page(f"{before}\n{first}\n   Enlarge\n{second}\n\n{BODY}"), counts)
    assert paragraphs[0] == before.strip()
    assert "\n".join(paragraphs).count("View over Paris") == 1
    assert "Enlarge" not in "\n".join(paragraphs)
    assert counts["captions_undoubled"] == 1


def test_a_caption_without_its_double_loses_only_the_debris() -> None:
    counts = Tally()
    body = f"   Eleocharis dulcis, the water chestnut, in a garden\n   Enlarge\n\n{BODY}"
    paragraphs = paragraphs_of(page(body), counts)
    assert paragraphs[0].startswith("Eleocharis dulcis, the water chestnut, in a garden\n")
    assert counts["captions_unpaired"] == 1


def test_items_of_lists_keep_their_lines_and_continue_over_the_wrap() -> None:
    body = (
        "   It has many forms, of which some are named in the list that is here:\n"
        "     * Pig iron has some per cent carbon and contains varying amounts of\n"
        "       contaminants such as sulfur.\n"
        "     * Cast iron.\n"
        "   Then the paragraph goes on.\n"
    )
    assert paragraphs_of(page(body))[0].split("\n") == [
        "It has many forms, of which some are named in the list that is here:",
        "* Pig iron has some per cent carbon and contains varying amounts of contaminants such as "
        "sulfur.",
        "* Cast iron.",
        "Then the paragraph goes on.",
    ]


def test_notes_to_the_reader_rules_and_images_are_dropped_and_counted() -> None:
    counts = Tally()
    notes = (
        "   This is a featured article. Click here for more information.\n"
        "   ______________\n   [1x1.gif] [1x1.gif]\n"
        "   Spoiler warning: Plot and/or ending details follow.\n\n"
    )
    assert paragraphs_of(page(notes + BODY), counts) == paragraphs_of(page(BODY))
    assert counts["boilerplate_lines_dropped"] == 2
    assert counts["rules_dropped"] == 1
    assert counts["image_lines_dropped"] == 1


def test_a_missing_directory_or_file_says_what_is_expected_and_how_to_get_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"expected .*articles\.tsv in .*nowhere.*--download"):
        read_wikispeedia(tmp_path / "nowhere")
    directory = unpacked(tmp_path)
    (directory / GRAPH_DIR / "categories.tsv").unlink()
    with pytest.raises(ValueError, match=r"expected .*categories\.tsv"):
        read_wikispeedia(directory)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    (directory / TEXT_DIR / "Zebra.txt").unlink()
    with pytest.raises(ValueError, match=r"got no .*Zebra\.txt"):
        read_wikispeedia(directory)


def test_a_truncated_line_is_named_by_file_line_and_columns(tmp_path: Path) -> None:
    directory = unpacked(tmp_path)
    links = directory / GRAPH_DIR / "links.tsv"
    links.write_text(links.read_text().removesuffix("\tZebra\n"))
    message = r"expected 2 columns in .*links\.tsv, line 8, got 1"
    with pytest.raises(ValueError, match=message):
        read_wikispeedia(directory)


@pytest.mark.parametrize("name", ["links", "categories"])
def test_a_title_cut_short_is_named_by_file_and_line(tmp_path: Path, name: str) -> None:
    directory = unpacked(tmp_path)
    path = directory / GRAPH_DIR / f"{name}.tsv"
    path.write_text(path.read_text() + "Zeb\tDove\n")
    with pytest.raises(ValueError, match=rf"expected a title .*{name}\.tsv, line \d+, got 'Zeb'"):
        read_wikispeedia(directory)


@pytest.mark.parametrize("name", [f"{TEXT_DIR}/Zebra.txt", f"{GRAPH_DIR}/links.tsv"])
def test_bytes_that_are_not_utf8_are_named_by_file_and_offset(tmp_path: Path, name: str) -> None:
    directory = unpacked(tmp_path)
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff\n")
    with pytest.raises(ValueError, match=rf"UTF-8 in .*got byte 0xff at offset {len(whole)}"):
        read_wikispeedia(directory)


@pytest.mark.shared_data
def test_the_real_files_hold_what_their_distributor_states(wikispeedia_dir: Path) -> None:
    corpus = read_wikispeedia(wikispeedia_dir)
    counts = corpus.counts
    assert counts["titles_read"] == 4_604
    assert counts["links_read"] == 119_882
    assert counts["links_to_self_dropped"] == 110
    assert counts["categories_read"] == 5_204
    assert counts["charity_pages_dropped"] == len(CHARITY_PAGES)
    assert counts["licence_texts_dropped"] == 1
    assert counts["articles"] == 4_598 == len(corpus.articles)
    same = {a.title: a.same_as for a in corpus.articles if a.same_as}
    assert same["Pigeon"] == "Dove"
    assert same["Ceres (dwarf planet)"] == "1 Ceres"
    assert 7 <= len(same) <= 8
    assert counts["captions_undoubled"] > 50 * counts["captions_unpaired"]
    by_title = {article.title: article for article in corpus.articles}
    assert "Áedán mac Gabráin" in by_title
    assert by_title["Zebra"].labels == ("subject.Science.Biology.Mammals",)
    for article in corpus.articles:
        text = "\n".join(article.paragraphs)
        assert "\nEnlarge\n" not in f"\n{text}\n"
        assert "This reference article is mainly selected" not in text
        assert "2007 Schools Wikipedia Selection" not in text
        assert "#copyright" not in text


# --- fetching ---------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`; answers ranges; `breaks` holds how many bytes to send before hanging up."""

    files: dict[str, bytes]
    breaks: list[int]
    asked: list[str | None]
    ranges = True

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range"))
        body = self.files.get(self.path.lstrip("/"))
        if body is None:
            self.send_error(404)
            return
        start = 0
        if self.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.breaks.pop() if self.breaks else None])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Snap:
    """A loopback server with SNAP's two archives, of four articles."""

    def __init__(self, source: Path) -> None:
        self.files = {
            "graph.tar.gz": self.packed(source / GRAPH_DIR),
            "texts.tar.gz": self.packed(source / TEXT_DIR),
        }
        self.handler: type[Handler] = type(
            "SnapHandler", (Handler,), {"files": self.files, "breaks": [], "asked": []}
        )
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @staticmethod
    def packed(folder: Path) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.add(folder, folder.name)
        return buffer.getvalue()

    @property
    def archives(self) -> tuple[Archive, Archive]:
        address = f"http://127.0.0.1:{self.server.server_port}"
        return (
            Archive(f"{address}/graph.tar.gz", GRAPH_DIR),
            Archive(f"{address}/texts.tar.gz", TEXT_DIR),
        )

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def snap(tmp_path: Path) -> Iterator[Snap]:
    server = Snap(unpacked(tmp_path / "source"))
    yield server
    server.close()


download = functools.partial(download_wikispeedia, n_titles=6, n_links=5)


def test_a_downloaded_directory_is_ready_to_read(snap: Snap, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    into = download(tmp_path / "new", snap.archives, progress=lambda *now: seen.append(now))
    assert read_wikispeedia(into).sha256 == read_wikispeedia(tmp_path / "source").sha256
    size = len(snap.files["graph.tar.gz"])
    assert ("graph.tar.gz", size, size) in seen
    assert sorted(p.name for p in into.iterdir()) == ["downloads.json", TEXT_DIR, GRAPH_DIR]


def test_what_came_is_recorded_with_what_was_checked(snap: Snap, tmp_path: Path) -> None:
    graph, texts = snap.archives
    body = snap.files["graph.tar.gz"]
    digest = hashlib.sha256(body).hexdigest()
    into = download(tmp_path / "new", (replace(graph, sha256=digest, size=len(body)), texts))
    record = json.loads((into / "downloads.json").read_text())
    assert record["graph.tar.gz"] == {
        "url": graph.url,
        "size": len(body),
        "sha256": digest,
        "checked": ["sha256", "size"],
    }
    assert record["texts.tar.gz"]["checked"] == []


def test_a_second_call_fetches_nothing(snap: Snap, tmp_path: Path) -> None:
    into = download(tmp_path / "new", snap.archives)
    asked = len(snap.handler.asked)
    download(into, snap.archives)
    assert len(snap.handler.asked) == asked


def test_a_broken_download_is_resumed_where_it_stopped(snap: Snap, tmp_path: Path) -> None:
    snap.handler.breaks.append(100)
    with pytest.raises(ValueError, match=r"got 100: the connection broke; .* resumes there"):
        download(tmp_path / "new", snap.archives)
    into = download(tmp_path / "new", snap.archives)
    assert snap.handler.asked == [None, "bytes=100-", None]
    assert len(read_wikispeedia(into).articles) == 4


def test_a_part_that_is_whole_already_is_only_unpacked(snap: Snap, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "graph.tar.gz.part").write_bytes(snap.files["graph.tar.gz"])
    assert read_wikispeedia(download(tmp_path / "new", snap.archives))


def test_a_server_without_ranges_is_asked_for_the_whole_again(snap: Snap, tmp_path: Path) -> None:
    snap.handler.ranges = False
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "graph.tar.gz.part").write_bytes(b"stale")
    assert read_wikispeedia(download(tmp_path / "new", snap.archives))


@pytest.mark.parametrize("wrong", [{"size": 7}, {"sha256": "0" * 64}])
def test_a_file_that_differs_from_what_is_known_is_refused_and_removed(
    snap: Snap, tmp_path: Path, wrong: dict[str, object]
) -> None:
    graph, texts = snap.archives
    with pytest.raises(ValueError, match=r"expected (size 7|sha256 0+) of http"):
        download(tmp_path / "new", (replace(graph, **wrong), texts))  # type: ignore[arg-type]
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("body", [b"<html>not an archive</html>", None])
def test_a_damaged_archive_is_refused_and_leaves_nothing_behind(
    snap: Snap, tmp_path: Path, body: bytes | None
) -> None:
    whole = snap.files["texts.tar.gz"]
    snap.files["texts.tar.gz"] = body or whole[: len(whole) // 2]
    with pytest.raises(ValueError, match="expected an archive with plaintext_articles"):
        download(tmp_path / "new", snap.archives)
    names = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert names == ["downloads.json", GRAPH_DIR]


@pytest.mark.parametrize(
    ("names", "kind", "told"),
    [
        (["../../evil.txt"], tarfile.REGTYPE, "outside the destination"),
        (["evil.txt"], tarfile.SYMTYPE, "no plain file or folder"),
        (["evil.txt"], tarfile.LNKTYPE, "no plain file or folder"),
        (["evil.txt"], tarfile.FIFOTYPE, "no plain file or folder"),
        (["evil\0.txt"], tarfile.REGTYPE, "no plain file or folder"),
        (["evil.txt", "evil.txt/x"], tarfile.REGTYPE, "both a file and a folder"),
        (["evil.txt/x", "evil.txt"], tarfile.REGTYPE, "both a file and a folder"),
    ],
)
def test_an_archive_of_more_than_plain_files_in_its_directory_is_refused_and_removed(
    snap: Snap, tmp_path: Path, names: list[str], kind: bytes, told: str
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.pax_headers = kind, "/etc/passwd", {"path": name}
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    snap.files["graph.tar.gz"] = buffer.getvalue()
    with pytest.raises(ValueError, match=told):
        download(tmp_path / "new", snap.archives)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list((tmp_path / "new").glob("*.tar.gz*"))


def test_a_missing_file_and_a_dead_server_give_one_clear_line(snap: Snap, tmp_path: Path) -> None:
    archives = snap.archives
    del snap.files["graph.tar.gz"]
    with pytest.raises(ValueError, match=r"expected http.*graph\.tar\.gz, got HTTP Error 404"):
        download(tmp_path / "new", archives)
    snap.server.shutdown()
    snap.server.server_close()
    with pytest.raises(ValueError, match="check the network"):
        download(tmp_path / "new", archives)


def test_other_numbers_of_titles_or_links_than_expected_are_refused(
    snap: Snap, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"expected 4,604 rows in .*articles\.tsv, got 6"):
        download_wikispeedia(tmp_path / "new", snap.archives)


def test_an_archive_needs_a_sensible_address_and_checksum() -> None:
    with pytest.raises(ValueError, match=r"expected the http\(s\) address of a \.tar\.gz"):
        Archive("http://example.org/page.html", "x")
    with pytest.raises(ValueError, match=r"expected the http\(s\) address"):
        Archive("file:///etc/x.tar.gz", "x")
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits"):
        Archive("http://example.org/x.tar.gz", "x", sha256="abc")


def test_a_damaged_list_of_downloads_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    archive = Archive("http://127.0.0.1:9/words.tar.gz", "words")
    for text in ("{", "[]", '{"words.tar.gz": 3}'):
        (tmp_path / "downloads.json").write_text(text)
        with pytest.raises(ValueError, match=r"downloads\.json"):
            fetch(archive, tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["downloads.json"]

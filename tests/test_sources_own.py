"""Corpora of one's own, in any format: the same texts are the same articles, links and worlds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpus_files import (
    every_format,
    page,
    rows_of,
    write_dump,
    write_jsonl,
    write_parquet,
    write_zim,
)
from fakes import corpus_of

from kncl_env.cli import main
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.corpus import Article, Corpus, Tally
from kncl_env.world.sources import parquet
from kncl_env.world.sources.documents import Wanted
from kncl_env.world.sources.folder import read_folder
from kncl_env.world.sources.hf import read_hf
from kncl_env.world.sources.jsonl import read_jsonl
from kncl_env.world.sources.jsonl import write_jsonl as export
from kncl_env.world.sources.mediawiki import read_mediawiki
from kncl_env.world.sources.parquet import ParquetRows, read_parquet
from kncl_env.world.sources.rows import Columns
from kncl_env.world.sources.zim import read_zim

SMALL = BuildConfig(vocab_size=300, passage_bytes=200)


def unlabelled(n: int) -> list[Article]:
    """Articles whose titles ascend, so that a folder and an archive keep their order."""

    def name(title: str) -> str:
        return f"Topic {int(title.split()[1]):02d}"

    return [
        replace(a, title=name(a.title), labels=(), links=tuple((name(t), k) for t, k in a.links))
        for a in corpus_of(n).articles
    ]


def read(tmp_path: Path, rows: Sequence[dict[str, Any]], **wanted: Any) -> Corpus:
    return read_jsonl(write_jsonl(tmp_path / "rows.jsonl", rows), Columns(), Wanted(**wanted))


def row(title: str, **more: Any) -> dict[str, Any]:
    return {"title": title, "text": f"{title} is a thing.", **more}


def links(corpus: Corpus) -> dict[str, list[str]]:
    return {a.title: [title for title, _ in a.links] for a in corpus.articles}


def test_the_same_texts_in_every_format_are_the_same_articles_and_the_same_world(
    tmp_path: Path,
) -> None:
    articles = unlabelled(24)
    corpora = every_format(tmp_path, articles)
    for name, corpus in corpora.items():
        assert list(corpus.articles) == articles, name
        assert corpus.source == name
    worlds = [
        build_world(corpora[name], tmp_path / name, SMALL) for name in ("jsonl", "zim", "mediawiki")
    ]
    assert len({world.hash for world in worlds}) == 1
    assert [w.card["source"] for w in worlds] == ["jsonl", "zim", "mediawiki"]
    assert worlds[1].card["licence"] == "CC BY-SA"


def test_a_corpus_is_read_anew_and_its_counts_are_of_one_reading(tmp_path: Path) -> None:
    corpus = read(tmp_path, [row("A", links=["B", "C"]), row("B"), {"title": "E", "text": " "}])
    first, again = list(corpus.articles), list(corpus.articles)
    assert first == again
    assert [a.title for a in first] == ["A", "B"]
    expected = {"documents_read": 3, "articles": 2, "links_read": 2, "links_to_nowhere_dropped": 1}
    assert {name: corpus.counts[name] for name in expected} == expected
    assert list(corpus.losses()) == [
        f"1 links to nowhere dropped, the first: {tmp_path}/rows.jsonl:1: 'C'",
        f"1 documents without text dropped, the first: {tmp_path}/rows.jsonl:3: 'E'",
    ]


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    corpus = read(tmp_path, [row("A"), row("B")])
    list(corpus.articles)
    write_jsonl(tmp_path / "rows.jsonl", [row("A"), row("C")])
    with pytest.raises(ValueError, match=r"rows\.jsonl:2 as it was before.*changed while"):
        list(corpus.articles)


def test_an_id_wins_over_a_title_and_underscores_may_stand_for_spaces(tmp_path: Path) -> None:
    rows = [
        row("New York", id="1", links=[3, "2", "New_York", "Ant"]),
        row("3", id="2"),  # a title that is another's id
        row("Ant", id=3),
    ]
    corpus = read(tmp_path, rows)
    assert links(corpus)["New York"] == ["Ant", "3"]
    assert corpus.counts["links_to_self_dropped"] == 1


def test_equal_titles_are_made_unique_and_the_first_keeps_its_own(tmp_path: Path) -> None:
    rows = [
        row("Letters", id="a", links=["c"]),
        row("Letters (2)", id="b", links=["Letters"]),
        row("Letters", id="c"),
        row("Letters", id="d"),
    ]
    corpus = read(tmp_path, rows)
    titles = [a.title for a in corpus.articles]
    assert titles == ["Letters", "Letters (2)", "Letters (3)", "Letters (4)"]
    assert links(corpus)["Letters"] == ["Letters (3)"]
    assert links(corpus)["Letters (2)"] == ["Letters"]
    assert corpus.counts["titles_made_unique"] == 2
    assert (
        "rows.jsonl:3: 'Letters is now Letters (3)'" in corpus.first_dropped["titles_made_unique"]
    )


def test_equal_texts_are_twins(tmp_path: Path) -> None:
    rows = [{"title": t, "text": text} for t, text in (("A", "x y"), ("B", "z"), ("C", "x y"))]
    assert [a.same_as for a in read(tmp_path, rows).articles] == [None, None, "A"]


def test_rows_with_sections_that_follow_one_another_are_one_article(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "title": "Ant", "text": "It crawls.", "section": "", "links": ["2"]},
        {"id": "1", "title": "Ant", "text": "It eats.\n\nA lot.", "section": "Food"},
        {"id": "2", "title": "Bee", "text": "It flies.", "section": "Flight", "labels": "Insects"},
        {"id": "2", "title": "Bee", "text": "It stings.", "section": "Sting", "links": ["1"]},
    ]
    rows[0]["section"] = "Start"
    ant, bee = read(tmp_path, rows).articles
    assert ant.paragraphs == ("Start\nIt crawls.", "Food\nIt eats.", "A lot.")
    assert (bee.links, bee.labels) == ((("Ant", "link"),), ("Insects",))


def test_columns_go_by_the_names_that_are_given(tmp_path: Path) -> None:
    rows = [
        {"url": "u1", "headline": "A", "body": "x", "out": ["u2"]},
        {"url": "u2", "headline": "B", "body": "y", "out": []},
    ]
    columns = Columns(id="url", title="headline", text="body", links="out")
    for corpus in (
        read_jsonl(write_jsonl(tmp_path / "r.jsonl", rows), columns, Wanted()),
        read_parquet(write_parquet(tmp_path / "r.parquet", rows), columns, Wanted()),
    ):
        assert links(corpus) == {"A": ["B"], "B": []}


def test_a_folder_of_packed_files_is_one_corpus_in_the_order_of_their_names(tmp_path: Path) -> None:
    import zstandard

    lines = [json.dumps(row(title)).encode() + b"\r\n" for title in "ABCD"]
    mark = b"\xef\xbb\xbf"
    (tmp_path / "1.jsonl").write_bytes(mark + lines[0])
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(lines[1]))
    frames = [zstandard.compress(part) for part in (lines[2][:9], lines[2][9:])]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "3.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / ".hidden.jsonl").write_bytes(b"{")
    corpus = read_jsonl(tmp_path, Columns(), Wanted())
    assert [a.title for a in corpus.articles] == ["A", "B", "C"]
    assert corpus.articles.shelf.size == sum(  # type: ignore[attr-defined]
        f.stat().st_size for f in tmp_path.rglob("[0-9]*.jsonl*")
    )


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    rows = [row("A", links=["B", "C"]), row("B"), row("C")]
    file = write_jsonl(tmp_path / "r.jsonl", rows)
    file.write_bytes(file.read_bytes() + b"{ damaged")
    corpus = read_jsonl(file, Columns(), Wanted(limit=2))
    assert links(corpus) == {"A": ["B"], "B": []}
    with pytest.raises(ValueError, match="--limit of at least 1"):
        Wanted(limit=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "l.tsv",
            "prev\tcurr\ttype\tn\nA\tBig_B\tlink\t9\nother-search\tA\texternal\t5\n7\tA\tx\t1\n",
        ),
        ("l.csv", 'A,"Big B"\nother-search,A\n"7",A\n'),
    ],
)
def test_links_of_a_file_come_after_those_of_the_text(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    rows = [row("A", links=["C"]), row("Big B", id="7"), row("C")]
    corpus = read(tmp_path, rows, links=tmp_path / name)
    assert links(corpus) == {"A": ["C", "Big B"], "Big B": ["A"], "C": []}
    reason = "links_of_the_file_between_unknown_documents_dropped"
    line = 3 if name == "l.tsv" else 2
    assert corpus.counts[reason] == 1
    assert f"{name}:{line}: 'other-search to A'" in corpus.first_dropped[reason]


def test_redirects_of_a_dump_are_followed_and_other_namespaces_dropped(tmp_path: Path) -> None:
    to = "<redirect title='{}' />".format
    pages = [
        page("Ant", "The ant met a [[bees#Life|bee]], a [[wasp]] and [[nobody]]."),
        page("Bees", "", more=to("Honey bee")),
        page("Wasp", "", more=to("Vespid")),
        page("Honey bee", "A [[Vespid]]? No. [[Category:Insects of the air]] {{stub}}"),
        page("Vespid", "", more=to("Yellow jacket")),
        page("Talk:Ant", "It is said that ants talk.", space=1),
        page("Yellow jacket", "It stings an [[Ant|ant]]."),
        page("Loop", "", more=to("Loop")),
    ]
    corpus = read_mediawiki(write_dump(tmp_path / "d.xml", pages), Wanted())
    assert links(corpus) == {
        "Ant": ["Honey bee", "Yellow jacket"],
        "Honey bee": ["Yellow jacket"],
        "Yellow jacket": ["Ant"],
    }
    assert [a.labels for a in corpus.articles][1] == ("category.Insects of the air",)
    assert corpus.counts["redirects_to_nowhere_dropped"] == 1
    assert corpus.counts["pages_of_other_namespaces_dropped"] == 1
    assert corpus.citation == "Made up, https://wiki.example.org/Main"


def test_redirects_of_an_archive_are_followed_and_links_are_relative(tmp_path: Path) -> None:
    pages = {
        "Ant": (
            "Ant",
            "<p>See <a href='sub/Bee%20fly#x'>it</a>, <a href='Wasp'>one</a>, "
            "<a href='https://example.org/Ant'>away</a>.</p>",
        ),
        "sub/Bee fly": (
            "Bee fly",
            "<p>Back to <a href='../Ant'>ants</a> or <a href='/Ant'>so</a>.</p>",
        ),
        "Vespid": ("Vespid", "<p>It stings.</p>"),
    }
    corpus = read_zim(write_zim(tmp_path / "a.zim", pages, {"Wasp": "Vespid"}), Wanted())
    assert links(corpus) == {"Ant": ["Bee fly", "Vespid"], "Vespid": [], "Bee fly": ["Ant"]}


def test_a_folder_has_regions_and_notes_name_each_other(tmp_path: Path) -> None:
    (tmp_path / "air" / "fast").mkdir(parents=True)
    (tmp_path / "ant.md").write_text(
        "---\ntitle: The ant\n---\nSee [[bee]] and [it](air/fast/fly.txt)."
    )
    (tmp_path / "air" / "bee.md").write_text(
        "# Bee\n\nBack: [ant](../ant.md#top), ![x](p.png) or [web](https://a.b/)."
    )
    (tmp_path / "air" / "fast" / "fly.txt").write_text("A fly, see [bee](../bee).")
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    corpus = read_folder(tmp_path, Wanted())
    assert links(corpus) == {"Bee": ["The ant"], "fly": ["Bee"], "The ant": ["Bee", "fly"]}
    assert [a.labels for a in corpus.articles] == [("air",), ("air.fast",), ()]
    assert next(a.paragraphs for a in corpus.articles) == ("Back: ant, or web.",)


def test_a_data_set_of_a_folder_is_streamed_and_its_split_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [row("A", links=["B"]), row("B", links=[])])
    corpus = read_hf(str(tmp_path), Columns(), Wanted())
    assert links(corpus) == {"A": ["B"], "B": []}
    with pytest.raises(ValueError, match=r"--split and --subset"):
        read_hf(str(tmp_path), Columns(), Wanted(), split="nonesuch")


def test_a_table_is_read_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "TOGETHER", 2_000)
    rows = [{"title": str(i), "text": f"word {i} " * 100} for i in range(50)]
    table = ParquetRows(write_parquet(tmp_path / "t.parquet", rows, row_group_size=20))
    told: list[int] = []
    found = [r["title"] for _, r in table.rows(["title"], Tally(), told.append)]
    assert found == [str(i) for i in range(50)]
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1] == table.size


def test_a_corpus_goes_out_as_json_lines_and_comes_back(tmp_path: Path) -> None:
    articles = unlabelled(12)
    file = tmp_path / "out.jsonl"
    assert export(Corpus(articles, "made up", "none"), file) == 12
    assert list(read_jsonl(file, Columns(), Wanted()).articles) == articles
    export(Corpus(articles, "made up", "none"), file, links=False)
    assert not any(links(read_jsonl(file, Columns(), Wanted())).values())


def test_the_command_builds_a_world_and_its_card_states_licence_and_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*rows_of(corpus_of(12).articles), {"title": "Empty", "text": ""}]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    words = ["build", "jsonl", str(file), "--out", str(tmp_path / "w"), "--licence", "CC0"]
    assert main([*words, "--passage-bytes", "200", "--vocab-size", "300"]) == 0
    told = capsys.readouterr()
    assert "1 documents without text dropped, the first" in told.err
    assert main(["show", str(tmp_path / "w")]) == 0
    assert "licence: CC0" in capsys.readouterr().out
    card = json.loads((tmp_path / "w" / "world.json").read_text())
    assert card["source_counts"]["documents_without_text_dropped"] == 1
    assert str(tmp_path) not in json.dumps(card)

"""Counts of clicks, from Wikimedia's files or from paths, and walks drawn from them."""

import csv
import gzip
import io
import itertools

import numpy as np
import pytest
from rabbit_hole_fakes import walk_of

from rabbit_holes.imports.clickstream import TransitionCounts, read_clickstream, sample_walks
from rabbit_holes.imports.tally import Tally

TSV = """other-empty\tAnt_hill\texternal\t70
Ant_hill\tBee\tlink\t30
Ant_hill\tCat\tlink\t10
Bee\tCat\tother\t12
Bee\tAnt_hill\tlink\t20
other-search\tHen "red"\texternal\t15
Bee\tHen "red"\tlink\t11
"Heroes"\tBee\tlink\t5
"""
CSV = ",prev,curr,type,n\n" + "".join(
    f'{i},"{a}","{b}",{kind},{n}\n'
    for i, (a, b, kind, n) in enumerate(
        line.replace('"', '""').split("\t") for line in TSV.splitlines()
    )
)


def read(file, **options) -> tuple[TransitionCounts, Tally]:
    tally = Tally()
    return read_clickstream(file, tally, **options), tally


ROWS = [line.split("\t") for line in TSV.splitlines()]
HEADER = ["prev", "curr", "type", "n"]


def table(rows: list[list[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    """Rows as Python's csv writer saves them, numbers as numbers."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows([[int(cell) if cell.isdigit() else cell for cell in row] for row in rows])
    return stream.getvalue()


def numbered(rows: list[list[str]]) -> list[list[str]]:
    return [[str(i - 1) if i else "", *row] for i, row in enumerate(rows)]


def of_2015(header: list[str]) -> list[list[str]]:
    """Visits from outside are of type other there, and come from a page without an id."""
    rows = [header]
    for before, page, kind, n in ROWS:
        outside = before.startswith("other-")
        cells = {
            "prev_id": "" if outside else "12", "curr_id": "34", "n": n, "prev_title": before,
            "curr_title": page, "type": "other" if outside else kind,
        }  # fmt: skip
        rows.append([cells[name] for name in header])
    return rows


SIX = ["prev_id", "curr_id", "n", "prev_title", "curr_title", "type"]
FORMS = {
    "plain": TSV,
    "packed": TSV,
    "table": CSV,
    "with a byte order mark": "\ufeff" + TSV,
    "a header": table([HEADER, *ROWS], "\t"),
    "a header behind a byte order mark": "\ufeff" + table([HEADER, *ROWS], ","),
    "semicolons": table([HEADER, *ROWS], ";"),
    "semicolons, no header": table(ROWS, ";"),
    "an index": table(numbered([HEADER, *ROWS]), "\t"),
    "an index and semicolons": table(numbered([HEADER, *ROWS]), ";"),
    "an index without a name": "\n".join(
        ["\t".join(HEADER), *(f"{i}\t{line}" for i, line in enumerate(TSV.splitlines()))]
    ),
    "other order": table([[n, b, k, a] for a, b, k, n in [HEADER, *ROWS]], "\t"),
    "Windows lines": TSV.replace("\n", "\r\n"),
    "quotes where needed": table(ROWS, "\t"),
    "quotes around texts": table(ROWS, "\t", csv.QUOTE_NONNUMERIC),
    "quotes around all": table(ROWS, "\t", csv.QUOTE_ALL),
    "quotes around all, and a header": table([HEADER, *ROWS], "\t", csv.QUOTE_ALL),
    "2015": "\n".join("\t".join(row) for row in of_2015(SIX)),
    "2015, saved with commas": table(of_2015(SIX), ","),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_file_gives_the_same_counts(tmp_path, form: str) -> None:
    file = tmp_path / "clicks"
    content = FORMS[form].encode()
    file.write_bytes(gzip.compress(content) if form == "packed" else content)

    counts, tally = read(file)

    assert counts.counts_from("Ant hill") == {"Bee": 30, "Cat": 10}
    assert counts.counts_from("Bee") == {"Ant hill": 20, 'Hen "red"': 11}, "a search is no click"
    assert counts.counts_from('"Heroes"') == {"Bee": 5}
    assert counts.counts_from("Nowhere") == {}
    assert counts.n_pairs == 5
    assert tally.read == {"pairs": 8, "entries from outside": 85, "clicks on links": 76}
    assert tally.dropped == {"pairs of type other: not a click on a link": 1}
    assert not tally.problems


def test_pairs_of_january_2015_have_no_type_and_count_as_clicks(tmp_path) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_text("\n".join("\t".join(row) for row in of_2015(SIX[:-1])))
    counts, tally = read(file)
    assert counts.counts_from("Bee") == {"Cat": 12, "Ant hill": 20, 'Hen "red"': 11}
    assert tally.read["entries from outside"] == 85
    assert tally.noted == {"pairs without a type, taken for clicks on links": 6}


def test_links_to_pages_that_do_not_exist_are_counted_as_such(tmp_path) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_text(TSV + "Ant_hill\tNo_such_page\tredlink\t11\n")
    _, tally = read(file)
    assert tally.dropped["pairs of type redlink: the page does not exist"] == 1


@pytest.mark.parametrize(
    "title",
    ['"Heroes"', '"Heroes"_(album)', 'The_"Heroes"', '"', '""', '"A"_and_"B"', '""Heroes""', "'A'"],
)
def test_quotation_marks_of_a_title_stay_in_wikimedias_form_and_come_back_from_a_writer(
    tmp_path, title: str
) -> None:
    file = tmp_path / "clicks.tsv"
    rows = [[title, "Bee", "link", "5"], ["Bee", "Ant", "link", "5"]]
    file.write_text("\n".join("\t".join(row) for row in rows))
    assert read(file)[0].counts_from(title.replace("_", " ")) == {"Bee": 5}
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        for header in ([], [HEADER]):
            file.write_text(table([*header, *rows], "\t", quoting))
            assert read(file)[0].counts_from(title.replace("_", " ")) == {"Bee": 5}


def test_quotes_that_no_csv_writer_sets_are_named_and_no_title_is_guessed(tmp_path) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_text('"A"\t"B"\t"link"\t5\n"Hen \\"red\\""\t"B"\t"link"\t5\n')
    counts, tally = read(file)
    assert counts.n_pairs == 1
    assert tally.problems[0].startswith(f"{file}:2: expected quotes as a csv writer sets them")


@pytest.mark.parametrize(
    "line",
    [
        b"Ant\tBee\tlink",
        b"Ant\tBee\tlink\t5\t5",
        b"Ant\tBee\tlink\tmany",
        b"Ant\tBee\tlink\t0",
        b"Ant\tBee\tlink\t-5",
        b"Ant\tBee\tlink\t\xd9\xa5",
        b"Ant\tBee\tjump\t5",
        b"Ant\t\tlink\t5",
        b"\t_\tlink\t5",
        b"Ant\xff\tBee\tlink\t5",
    ],
)
def test_a_malformed_line_is_counted_and_named(tmp_path, line: bytes) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_bytes(b"A\tB\tlink\t10\n" + line + b"\n" + b"B\tA\tlink\t10\n")
    counts, tally = read(file)
    assert counts.n_pairs == 2
    assert tally.dropped == {"malformed lines": 1}
    assert tally.problems[0].startswith(f"{file}:2: expected ")


def test_a_short_row_of_a_table_is_named(tmp_path) -> None:
    file = tmp_path / "clicks.csv"
    file.write_text(CSV + "8,Ant\n")
    _, tally = read(file)
    assert "clicks.csv:10: expected 5 columns, got 2" in tally.problems[0]


def test_an_archive_that_breaks_off_keeps_what_came_before(tmp_path) -> None:
    file = tmp_path / "clicks.tsv.gz"
    rows = "".join(f"P{i}\tQ{i * i % 97}\tlink\t{10 + i}\n" for i in range(3000))
    packed = gzip.compress(rows.encode())
    file.write_bytes(packed[: len(packed) // 2])
    counts, tally = read(file)
    assert 0 < counts.n_pairs < 3000
    assert "the archive is damaged from here on" in tally.problems[-1]


def test_pages_that_a_world_lacks_are_left_out_and_counted(tmp_path) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_text(TSV)
    counts, tally = read(file, titles={"Ant hill", "Bee"})
    assert counts.n_pairs == 2
    assert tally.dropped["pairs that lead to a page unknown to the world"] == 4


@pytest.mark.parametrize("content", ["", "other-empty\tAnt\texternal\t5\n", "nonsense\n"])
def test_a_file_without_a_click_is_refused_by_name(tmp_path, content: str) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"clicks\.tsv: expected counts of clicks, got none"):
        read(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            "A\tB\nC\tD\n",
            "2 malformed lines; the first of them: FILE:1: expected 4 columns, got 2: 'A\\tB'",
        ),
        (
            "A\tB\tother\t12\nC\n",
            "first of them: FILE:1: pairs of type other: not a click on a link: 'A\\tB\\tother",
        ),
        ("A\tX\tlink\t12\n", "FILE:1: pairs that lead to a page unknown to the world: 'A\\tX"),
        ("A\xff\n", "FILE:1: expected UTF-8, got 0xff: 'A\\\\xff"),
        ("x" * 500, f"got 1: '{'x' * 120}' …"),
    ],
)
def test_where_all_was_dropped_the_error_quotes_the_first_line_its_place_and_the_reason(
    tmp_path, content: str, why: str
) -> None:
    file = tmp_path / "clicks.tsv"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="expected counts of clicks, got none") as refusal:
        read(file, titles={"A", "B"})
    assert why.replace("FILE", str(file)) in str(refusal.value)


def test_paths_are_counted_along_their_tree() -> None:
    walks = [walk_of("A", "B", "C", parents=[0, 0]), walk_of("A", "B", "A", "C")]
    counts = TransitionCounts.from_paths(walks)
    assert counts.counts_from("A") == {"B": 2, "C": 2}
    assert counts.counts_from("B") == {"A": 1}
    assert {counts.draw_start(np.random.default_rng(i)) for i in range(20)} == {"A"}


@pytest.mark.parametrize(
    ("clicks", "entries"), [({"A": {"B": 0}}, {}), ({"A": {"B": 1}}, {"A": -1}), ({}, {"A": 1})]
)
def test_counts_that_count_nothing_are_refused(clicks, entries) -> None:
    with pytest.raises(ValueError, match="expected counts"):
        TransitionCounts(clicks, entries)


def test_draws_follow_the_counts() -> None:
    counts = TransitionCounts({"A": {"B": 30, "C": 10}, "B": {"A": 1}}, {"A": 3, "B": 1, "Z": 99})
    rng = np.random.default_rng(0)
    starts = [counts.draw_start(rng) for _ in range(4000)]
    nexts = [counts.draw_next("A", rng) for _ in range(4000)]
    # Standard deviation of such a share: 0.007.
    assert abs(starts.count("A") / 4000 - 0.75) < 0.035
    assert abs(nexts.count("B") / 4000 - 0.75) < 0.035
    assert "Z" not in starts, "no walk can begin where no link was clicked"
    assert counts.draw_next("A", rng, offered={"C", "X"}) == "C"
    assert counts.draw_next("A", rng, offered={"X"}) is None
    assert counts.draw_next("Z", rng) is None


def test_walks_are_chains_along_counted_clicks_and_stop_at_dead_ends() -> None:
    counts = TransitionCounts({"A": {"B": 5, "C": 5}, "B": {"A": 5}})
    walks = list(sample_walks(counts, walks=60, depth=4, seed=0))
    assert {walk.status for walk in walks} == {"finished", "dead end"}
    for walk in walks:
        assert (len(walk) == 5) == (walk.status == "finished")
        for before, after in itertools.pairwise(walk.titles):
            assert counts.counts_from(before)[after] > 0
    offered = {"A": {"B"}, "B": {"A"}}
    kept_to = sample_walks(counts, walks=20, depth=4, seed=0, offered=offered.__getitem__)
    assert all(walk.status == "finished" for walk in kept_to)


def test_the_same_seed_gives_the_same_walks_and_more_walks_begin_with_the_same() -> None:
    counts = TransitionCounts({"A": {"B": 5, "C": 5}, "B": {"A": 5}, "C": {"A": 1, "B": 1}})
    ten = list(sample_walks(counts, walks=10, depth=6, seed=1))
    assert list(sample_walks(counts, walks=30, depth=6, seed=1))[:10] == ten
    assert list(sample_walks(counts, walks=10, depth=6, seed=2)) != ten
    with pytest.raises(ValueError, match="at least 1 walk"):
        next(sample_walks(counts, walks=0, depth=6, seed=1))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "rows"),
    [("clickstream-enwiki-sample.tsv", 1_039), ("enwiki_2024-10_sample_lderr4.csv", 9_936)],
)
def test_every_row_of_the_real_samples_is_read(shared_data, name: str, rows: int) -> None:
    counts, tally = read(shared_data / "clickstream" / name)
    assert tally.read["pairs"] == rows
    assert not tally.problems
    assert counts.n_pairs > rows / 2

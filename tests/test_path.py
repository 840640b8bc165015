"""Paths: what they refuse, and that no kill and no bad line loses or doubles one."""

import json
import logging
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabbit_holes.path import Path, PathWriter, Visit, read_paths, write_paths


def make_path(name: str = "p", parents: tuple[int, ...] = (0, 0, 2), **changes: object) -> Path:
    visits = (Visit("A", None), *(Visit(f"T{i}", parent) for i, parent in enumerate(parents)))
    fields = {"source": "test", "walker": "person", "licence": "CC0", **changes}
    return Path(name, visits, **fields)  # type: ignore[arg-type]


def read_all(file) -> tuple[list[Path], list[str]]:
    errors: list[str] = []
    return list(read_paths(file, on_error=errors.append)), errors


@st.composite
def paths(draw: st.DrawFn) -> Path:
    title = st.text(min_size=1, max_size=9).filter(str.strip)
    size = draw(st.integers(1, 6))
    times = sorted(draw(st.lists(st.floats(0, 1e9), min_size=size, max_size=size)))
    visits = tuple(
        Visit(
            draw(title),
            None if i == 0 else draw(st.integers(0, i - 1)),
            time=draw(st.sampled_from([None, times[i]])),
            page_id=draw(st.none() | st.integers(0, 2**40)),
            revision_id=draw(st.none() | st.integers(0, 2**40)),
            offered=tuple(draw(st.lists(title, max_size=3))),
            text=draw(st.none() | st.text(max_size=9)),
        )
        for i in range(size)
    )
    meta = draw(st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text()))
    return Path(
        draw(title), visits, draw(title), draw(title), draw(title), draw(st.none() | title),
        draw(title), meta,
    )  # fmt: skip


@given(paths())
@settings(max_examples=60, deadline=None)
def test_a_path_survives_json_whatever_its_titles(path: Path) -> None:
    assert Path.from_json(json.loads(json.dumps(path.to_json()))) == path


@given(paths())
@settings(max_examples=30, deadline=None)
def test_a_path_survives_a_file_whatever_its_titles(
    tmp_path_factory: pytest.TempPathFactory, path: Path
) -> None:
    file = tmp_path_factory.mktemp("paths") / "a.jsonl"
    write_paths(file, [path])
    assert read_all(file) == ([path], [])


def test_clicks_and_depths_follow_the_tree() -> None:
    path = make_path(parents=(0, 1, 0, 3))
    assert list(path.clicks()) == [(0, 1), (1, 2), (0, 3), (3, 4)]
    assert path.depths() == [0, 1, 2, 1, 2]
    assert len(path) == 5
    assert path.titles == ("A", "T0", "T1", "T2", "T3")


@pytest.mark.parametrize(
    ("visits", "complaint"),
    [
        ((), "at least one visit"),
        ((Visit("A", 0),), "visit 0 to be the root"),
        ((Visit("A", None), Visit("B", None)), "second root"),
        ((Visit("A", None), Visit("B", 1)), "cycle"),
        ((Visit("A", None), Visit("B", 2), Visit("C", 1)), "cycle"),
        ((Visit("A", None, time=5.0), Visit("B", 0, time=4.0)), "order of time"),
        (["A"], "at least one visit"),
    ],
)
def test_a_path_that_is_no_tree_in_order_of_time_is_refused(
    visits: tuple[Visit, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=f"path 'p': .*{complaint}"):
        Path("p", visits, "test", "person", "CC0")


@pytest.mark.parametrize(
    "changes",
    [
        {"title": " "},
        {"title": 3},
        {"parent": -1},
        {"parent": True},
        {"parent": 0.0},
        {"time": -1.0},
        {"time": float("nan")},
        {"time": float("inf")},
        {"time": "5"},
        {"page_id": "7"},
        {"revision_id": -7},
        {"offered": ["B"]},
        {"offered": ("B", 3)},
        {"text": 5},
    ],
)
def test_a_visit_with_a_bad_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Visit(**{"title": "A", "parent": 0, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": " "},
        {"source": ""},
        {"walker": None},
        {"licence": ""},
        {"status": 3},
        {"goal": ""},
        {"meta": {"a": [1]}},
        {"meta": {"a": float("nan")}},
        {"meta": {"a": True}},
        {"meta": [1]},
    ],
)
def test_a_path_with_a_bad_field_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        make_path(**changes)  # type: ignore[arg-type]


GOOD = make_path().to_json()


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ([], "JSON object, got list"),
        ({k: v for k, v in GOOD.items() if k != "licence"}, "field 'licence'"),
        ({**GOOD, "colour": 1}, "got 'colour'"),
        ({**GOOD, "visits": 3}, "visits as a list"),
        ({**GOOD, "visits": [{"title": "A", "colour": 1}]}, "visit 0: .*'colour'"),
        ({**GOOD, "visits": [{"parent": 0}]}, "visit 0: .*'title'"),
        ({**GOOD, "visits": [{"title": "A", "offered": "B"}]}, "visit 0: .*offered"),
        ({**GOOD, "visits": [{"title": "A"}, {"title": "B", "parent": 5}]}, "cycle"),
        ({**GOOD, "visits": ["A"]}, "a visit as a JSON object, got str"),
    ],
)
def test_json_that_holds_no_path_is_refused_by_the_name_of_its_field(
    record: object, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Path.from_json(record)


def test_every_bad_line_is_named_and_the_others_are_read(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    good = json.dumps(GOOD).encode()
    twice = json.dumps({**GOOD, "id": "q"}).encode()
    cycle = json.dumps({**GOOD, "visits": [{"title": "A", "parent": 0}]}).encode()
    lines = [good, b"{", b"\xff\xfe", b"", cycle, b"3", b"[" * 99999, good, twice, good[:40]]
    file.write_bytes(b"\n".join(lines))

    paths, errors = read_all(file)

    assert [path.id for path in paths] == ["p", "q"]
    numbers = [int(error.removeprefix(f"{file}:").split(":")[0]) for error in errors]
    assert numbers == [2, 3, 5, 6, 7, 8, 10]
    assert "UTF-8" in errors[1]
    assert "unique ids" in errors[5]


def test_writing_refuses_an_existing_file_without_force(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    assert write_paths(file, [make_path("a")]) == 1
    with pytest.raises(FileExistsError, match="--force"):
        write_paths(file, [make_path("b")])
    assert write_paths(file, [make_path("b")], force=True) == 1
    assert [path.id for path in read_all(file)[0]] == ["b"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path) -> None:
    with pytest.raises(ValueError, match="twice"):
        write_paths(tmp_path / "a.jsonl", [make_path("a"), make_path("a")])
    assert list(tmp_path.iterdir()) == []


def test_a_writer_resumes_without_doubling(tmp_path) -> None:
    file = tmp_path / "deep" / "a.jsonl"
    with PathWriter(file) as writer:
        writer.write(make_path("a"))
    with PathWriter(file) as writer:
        assert writer.ids == {"a"}
        with pytest.raises(ValueError, match="'a' again"):
            writer.write(make_path("a"))
        writer.write(make_path("b"))
    assert [path.id for path in read_all(file)[0]] == ["a", "b"]


def test_a_file_cut_at_any_byte_is_mended_to_its_whole_lines(tmp_path, caplog) -> None:
    file = tmp_path / "a.jsonl"
    originals = [make_path("a"), make_path("bé", parents=(0,)), make_path("c", parents=())]
    write_paths(file, originals)
    whole = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        with caplog.at_level(logging.WARNING), PathWriter(file) as writer:
            # A line that lacks its newline alone is whole.
            kept = sum(end - 1 <= cut for end in ends)
            assert writer.ids == {path.id for path in originals[:kept]}
            for path in originals[kept:]:
                writer.write(path)
        assert file.read_bytes() == whole
    assert "unfinished last line" in caplog.text


def test_a_whole_last_line_without_its_newline_stays_whatever_came_before(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, [make_path("a"), make_path("b")])
    first, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"no path\n" + last.rstrip(b"\n"))
    with PathWriter(file) as writer:
        assert writer.ids == {"a", "b"}
        writer.write(make_path("c"))
    paths, problems = read_all(file)
    assert [path.id for path in paths] == ["a", "b", "c"]
    assert len(problems) == 1


def test_a_second_writer_of_the_same_file_is_refused(tmp_path) -> None:
    pytest.importorskip("fcntl", reason="no advisory locks on this system")
    with (
        PathWriter(tmp_path / "a.jsonl"),
        pytest.raises(BlockingIOError, match=f"another process that writes it, {os.getpid()} "),
    ):
        PathWriter(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", [b"# Read me", b"# Read me\n", b"{}\n", b"a\nb", b"\n{"])
def test_a_foreign_file_is_refused_and_left_as_it_was(tmp_path, content: bytes) -> None:
    file = tmp_path / "README.md"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="file of paths"):
        PathWriter(file)
    assert file.read_bytes() == content


def test_bad_lines_of_a_file_that_is_continued_are_named(tmp_path, caplog) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, [make_path("a")])
    file.write_bytes(file.read_bytes() + b"{}\n")
    with caplog.at_level(logging.WARNING), PathWriter(file) as writer:
        assert writer.ids == {"a"}
    assert f"{file}:2: " in caplog.text


def test_a_file_with_a_byte_order_mark_is_read_and_appended_to(tmp_path) -> None:
    file = tmp_path / "marked.jsonl"
    write_paths(file, [make_path("a")])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    errors: list[str] = []
    with PathWriter(file) as writer:
        assert writer.ids == {"a"}
        writer.write(make_path("b"))
    assert [path.id for path in read_paths(file, on_error=errors.append)] == ["a", "b"]
    assert not errors

"""What comes from elsewhere is named, on the terminal and in what was made of it."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rabbit_hole_fakes import walk_of

from kncl_env.world.world import World
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from rabbit_holes.cli import main
from rabbit_holes.path import Path as Walk
from rabbit_holes.path import PathWriter, read_paths, write_paths
from train_lm.curriculum import read_curriculum, write_curriculum
from train_lm.inputs import forget_inputs, inputs, note_file, note_files, read_inputs, told_inputs


@pytest.fixture(autouse=True)
def nothing_read() -> None:
    forget_inputs()


def walks(n: int) -> list[Walk]:
    return [walk_of("Ant", "Bee", "Cat", id=f"w{i}") for i in range(n)]


def read(file: Path) -> tuple[list[str], list[str], list[str]]:
    """Ids, what is wrong with lines, and what is told of the file."""
    forget_inputs()
    problems: list[str] = []
    ids = [walk.id for walk in read_paths(file, on_error=problems.append)]
    return ids, problems, list(told_inputs())


def test_own_walks_are_checked_line_by_line_and_not_told_of(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, walks(3))
    assert read(file) == (["w0", "w1", "w2"], [], [])
    assert inputs() == {"a.jsonl": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["w0", "w1", "w2"]


def test_every_flipped_bit_of_an_own_line_is_named_with_it(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, walks(3))
    data = file.read_bytes()
    first = data.index(b"\n") + 1
    second = data.index(b"\n", first)
    for at in range(first, second):
        damaged = bytearray(data)
        damaged[at] ^= 1
        file.write_bytes(damaged)
        ids, problems, told = read(file)
        assert "w1" not in ids or told, at
        assert told or any(p.startswith(f"{file}:2: ") for p in problems), at


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_line_is_missed(lost: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, walks(4))
    lines = file.read_bytes().splitlines(keepends=True)
    del lines[lost]
    file.write_bytes(b"".join(lines))
    _, problems, (told,) = read(file)
    assert problems == []
    assert told.endswith(f"; lines are missing or moved before line {lost + 1}")


def test_lines_of_anybodys_may_stand_among_own_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_paths(file, walks(2))
    with file.open("a") as stream:
        stream.write(json.dumps(walk_of("Ant", "Bee", id="mine").to_json()) + "\n")
    with PathWriter(file) as writer:
        writer.write(walk_of("Cat", id="after"))
    ids, problems, (told,) = read(file)
    assert ids == ["w0", "w1", "mine", "after"]
    assert problems == []
    assert "4 walks (1 lines without a seal), sha256 " in told
    assert told.endswith("nothing to check it against")
    # Joined files follow one another, and a file written anew by another program has no seals.
    (tmp_path / "b.jsonl").write_bytes(2 * b"" + file.read_bytes())
    anew = [json.loads(line) for line in file.read_text().splitlines()]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(x, indent=None) + "\n" for x in anew))
    ids, problems, _ = read(tmp_path / "c.jsonl")
    assert (ids, problems) == (["w0", "w1", "mine", "after"], [])


def test_a_resumed_file_has_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_paths(whole, walks(3))
    with PathWriter(resumed) as writer:
        writer.write(walks(1)[0])
    resumed.write_bytes(whole.read_bytes()[: len(resumed.read_bytes()) + 20])  # cut short
    with PathWriter(resumed) as writer:
        for walk in walks(3)[1:]:
            writer.write(walk)
    assert resumed.read_bytes() == whole.read_bytes()


def test_names_and_digests_tell_two_inputs_apart(tmp_path: Path) -> None:
    for folder, text in (("a", "x"), ("b", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f").write_text(text)
        note_file(tmp_path / folder / "f")
    assert inputs() == {n: hashlib.sha256(t).hexdigest() for n, t in (("f", b"x"), ("f'", b"y"))}
    first = note_files(tmp_path / "a", ["f", "missing"])
    (tmp_path / "a" / "f").write_text("z")
    assert note_files(tmp_path / "a", ["f"]) != first
    note_file(tmp_path / "a" / "f")  # it changed meanwhile: both are named
    assert len(read_inputs()) == 5


def test_a_command_names_what_nobody_vouches_for_in_one_line_each(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    titles = small_world.titles
    write_paths(own, [walk_of(*titles[:2], id="a")])
    other.write_text(json.dumps(walk_of(*titles[:2], id="b").to_json()) + "\n")
    page = tmp_path / "s.html"
    assert main(["stats", str(own), str(other), "--html", str(page)]) == 0
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("read ")]
    digest = hashlib.sha256(other.read_bytes()).hexdigest()[:12]
    assert lines == [f"read {other}: 1 walks, sha256 {digest}…, nothing to check it against"]
    assert f"other.jsonl (sha256 {digest}…)" in page.read_text()


def test_a_card_or_curriculum_whose_seal_was_taken_out_is_named(tmp_path: Path) -> None:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16))).save(tmp_path / "policy")
    order, card = tmp_path / "c.jsonl", tmp_path / "policy" / "policy.json"
    write_curriculum(order, "0" * 64, 16, [2, 3], [[4], [5]])

    def told() -> list[str]:
        forget_inputs()
        read_curriculum(order)
        CuriosityPolicy.load(tmp_path / "policy")
        return list(told_inputs())

    assert told() == []
    first, *steps = order.read_text().splitlines()
    for file, head, kept in ((order, first, steps), (card, card.read_text(), [])):
        found = {k: v for k, v in json.loads(head).items() if k not in ("seal", "steps_sha256")}
        file.write_text("\n".join([json.dumps(found), *kept, ""]))
    assert [line.partition(", sha256")[0] for line in told()] == [
        f"read {order}: a curriculum",
        f"read {card}: a policy",
    ]


def test_two_files_of_one_name_have_a_digest_each_on_a_page(tmp_path: Path) -> None:
    files = [tmp_path / folder / "walks.jsonl" for folder in ("a", "b")]
    for n, file in enumerate(files, 1):
        file.parent.mkdir()
        write_paths(file, walks(n))
    page = tmp_path / "s.html"
    assert main(["stats", *map(str, files), "--html", str(page)]) == 0
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        assert f"walks.jsonl (sha256 {digest}…)" in page.read_text()


def test_a_file_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_paths(tmp_path / "none.jsonl", on_error=pytest.fail))
    assert list(told_inputs()) == []


def test_a_corpus_is_named_by_its_file(tmp_path: Path) -> None:
    from fakes import corpus_of

    corpus = replace(corpus_of(n_topics=5), place=str(tmp_path / "mine.jsonl"))
    assert len(list(corpus.read())) == 5
    (line,) = told_inputs()
    assert line.startswith(f"read {tmp_path / 'mine.jsonl'}: 5 articles, sha256 ")


def test_another_corpus_has_another_line(tmp_path: Path) -> None:
    from fakes import corpus_of

    for seed in (0, 1):
        assert len(list(corpus_of(n_topics=5, seed=seed).read())) == 5
    assert len({one.sha256 for one in read_inputs()}) == 2


def test_a_world_and_a_policy_are_recorded_and_not_told_of(
    small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        World.open(shutil.copytree(small_world.path, tmp_path / "w"))
    card = hashlib.sha256((small_world.path / "world.json").read_bytes()).hexdigest()
    assert inputs() == {"w": card}
    assert list(told_inputs()) == []

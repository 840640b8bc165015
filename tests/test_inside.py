"""What a folder or an archive names stays inside it: paths, links, archives and their sizes."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rabbit_hole_fakes import finished, write_snap
from test_sources_wikispeedia import Snap, unpacked

from kncl_env.cli import main as kncl_env
from kncl_env.world.sources import archive
from kncl_env.world.sources.archive import Archive, fetch
from kncl_env.world.sources.wikispeedia import GRAPH_DIR, TEXT_DIR, read_wikispeedia
from kncl_env.world.world import World
from policies.learn.ppo import _load_checkpoint
from rabbit_holes.cli import main as rabbit_holes
from rabbit_holes.export import minari_name
from rabbit_holes.imports import lines
from rabbit_holes.imports.lines import read_lines
from rabbit_holes.imports.tally import Tally
from train_lm.checked.inside import inside
from train_lm.checkpoint import claim_run, restore_checkpoint
from train_lm.cli import main as train_lm
from train_lm.files import write_json

OUTSIDE = ["../x", "..", ".", "", "/etc/passwd", "a/../../x", "a/b", "..\\x", "x\0", None, 7, ["x"]]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_no_plain_one_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(
        ValueError, match=r"expected the plain name of a file in .* from card\.json"
    ):
        inside(tmp_path, name, "card.json")


@pytest.mark.parametrize("name", ["x", "...", "a b", "Åland", "..x", "C:x"])
def test_a_plain_name_stays_as_it_is(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name, "card.json") == tmp_path / name


def test_a_link_within_a_folder_is_followed_and_one_that_leaves_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "here").symlink_to("there")
    (folder / "away").symlink_to("../secret")
    assert inside(folder, "here", "card.json") == folder / "here"
    with pytest.raises(ValueError, match=r"folder/away to lie in .*, got a link to .*secret"):
        inside(folder, "away", "card.json")
    (tmp_path / "linked").symlink_to(folder)  # how a user calls the folder is the user's affair
    assert inside(tmp_path / "linked", "here", "card.json")


# -- a folder of Wikispeedia ---------------------------------------------------------------------


def into_the_secret(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / GRAPH_DIR / "articles.tsv"
        file.write_text(file.read_text() + f"{name}\n")

    return spoil


def a_link_to_the_secret(folder: Path) -> None:
    into_the_secret("Secret")(folder)
    (folder / TEXT_DIR / "Secret.txt").symlink_to("../../secret.txt")


def a_table_elsewhere(folder: Path) -> None:
    (folder / GRAPH_DIR / "categories.tsv").unlink()
    (folder / GRAPH_DIR / "categories.tsv").symlink_to("../../secret.txt")


def texts_elsewhere(folder: Path) -> None:
    shutil.move(folder / TEXT_DIR, folder.parent / "elsewhere")
    (folder / TEXT_DIR).symlink_to("../elsewhere")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (into_the_secret("../../secret"), "'../../secret.txt' from"),
        (into_the_secret("/{}/secret"), "/secret.txt' from"),
        (into_the_secret("x/../../../secret"), "'x/../../../secret.txt' from"),
        (a_link_to_the_secret, "Secret.txt to lie in"),
        (a_table_elsewhere, "categories.tsv to lie in"),
        (texts_elsewhere, f"{TEXT_DIR} to lie in"),
    ],
)
def test_a_line_or_a_link_that_leaves_the_folder_of_wikispeedia_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, complaint: str
) -> None:
    (tmp_path / "secret.txt").write_text(
        " Nobody else may read this sentence, which is long.\n" * 9
    )
    folder = unpacked(tmp_path / "wikispeedia")
    spoil(folder)
    table = folder / GRAPH_DIR / "articles.tsv"
    table.write_text(table.read_text().replace("{}", str(tmp_path)))
    out = tmp_path / "world"
    assert kncl_env(["build", "wikispeedia", str(folder), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert complaint in told.err
    assert "Nobody else" not in told.out + told.err
    assert not out.exists()


def test_a_text_that_is_far_too_large_is_refused_before_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unpacked(tmp_path / "wikispeedia")
    file = next((folder / TEXT_DIR).glob("*.txt"))
    os.truncate(file, 2**40)  # all holes
    out = tmp_path / "world"
    assert kncl_env(["build", "wikispeedia", str(folder), "--out", str(out)]) == 2
    assert f"bytes in {file}, got 1,099,511,627,776" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_text_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "wikispeedia")
    file = next((folder / TEXT_DIR).glob("*.txt"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=f"expected a file at {file}, got something else"):
        read_wikispeedia(folder)


# -- archives ------------------------------------------------------------------------------------


@pytest.fixture
def snap(tmp_path: Path):
    server = Snap(unpacked(tmp_path / "source"))
    yield server
    server.close()


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members:
            if member.isfile():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=to), b""


SLIPS = {
    "up": packed((member(f"{GRAPH_DIR}/../../evil"), b"evil")),
    "link": packed(link(f"{GRAPH_DIR}/evil", "../../evil")),
    "link and through it": packed(
        link(f"{GRAPH_DIR}/out", "../.."), (member(f"{GRAPH_DIR}/out/evil"), b"evil")
    ),
    "absolute link": packed(link(f"{GRAPH_DIR}/evil", "/etc/passwd")),
    "hard link": packed(link(f"{GRAPH_DIR}/evil", "../evil", tarfile.LNKTYPE)),
    "device": packed((member(f"{GRAPH_DIR}/evil", type=tarfile.CHRTYPE), b"")),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_an_archive_that_reaches_out_is_refused_and_removed(
    snap: Snap, tmp_path: Path, slip: str
) -> None:
    (tmp_path / "evil").write_text("mine")
    snap.files["graph.tar.gz"] = SLIPS[slip]
    with pytest.raises(ValueError, match=f"expected an archive with {GRAPH_DIR} from .*, got"):
        fetch(snap.archives[0], tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    assert (tmp_path / "evil").read_text() == "mine"


def test_an_absolute_name_in_an_archive_lands_inside(snap: Snap, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    snap.files["graph.tar.gz"] = packed((member(str(evil)), b"evil"))
    with pytest.raises(ValueError, match="got no folder"):
        fetch(snap.archives[0], tmp_path / "new")
    assert not evil.exists()


def sparse() -> bytes:
    """An archive whose one file has 2^40 bytes, all of them holes."""
    header = member(f"{GRAPH_DIR}/articles.tsv")
    header.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": header.name,
        "GNU.sparse.realsize": str(2**40),
    }  # fmt: skip
    return packed((header, b"0\n".ljust(512, b"\0")))


BOMBS = {
    "zeros": packed((member(f"{GRAPH_DIR}/articles.tsv"), b"\0" * 3_000_000)),
    "holes": sparse(),
    "many": packed(*((member(f"{GRAPH_DIR}/{i}"), b"") for i in range(200))),
    "large name": packed((member(f"{GRAPH_DIR}/" + "x" * 3_000_000), b"")),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_archive_that_unpacks_to_too_much_is_refused_without_unpacking(
    snap: Snap, tmp_path: Path, bomb: str
) -> None:
    snap.files["graph.tar.gz"] = BOMBS[bomb]
    small = replace(snap.archives[0], largest=2_000_000, most_files=100)
    with pytest.raises(ValueError, match="got more than"):
        fetch(small, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_server_that_sends_more_than_an_archive_has_is_cut_off(
    snap: Snap, tmp_path: Path
) -> None:
    snap.files["graph.tar.gz"] = os.urandom(2**20)
    with pytest.raises(ValueError, match="expected at most 5,000 bytes of"):
        fetch(replace(snap.archives[0], largest=5_000), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "followed"),
    [
        ("http://127.0.0.1:{port}/x.tar.gz", True),
        ("http://localhost:{port}/x.tar.gz", False),
        ("http://127.0.0.1:1/x.tar.gz", False),
        ("ftp://127.0.0.1/x.tar.gz", False),
        ("file:///etc/x.tar.gz", False),
    ],
)
def test_a_redirect_is_followed_on_its_host_alone(sent: str, followed: bool) -> None:
    request = archive.urllib.request.Request("http://127.0.0.1:9/graph.tar.gz")
    sent = sent.format(port=9)
    rule = archive._SameHost()
    if followed:
        found = rule.redirect_request(request, io.BytesIO(), 302, "", {}, sent)  # type: ignore[arg-type]
        assert found is not None
        assert found.full_url == sent
    else:
        with pytest.raises(OSError, match="not followed"):
            rule.redirect_request(request, io.BytesIO(), 302, "", {}, sent)  # type: ignore[arg-type]


def test_a_server_that_sends_elsewhere_is_not_followed(snap: Snap, tmp_path: Path) -> None:
    address = snap.archives[0].url.replace("127.0.0.1", "localhost")

    def elsewhere(handler) -> None:  # type: ignore[no-untyped-def]
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.end_headers()

    before, snap.handler.do_GET = snap.handler.do_GET, elsewhere
    try:
        with pytest.raises(ValueError, match=r"redirect to another host.*not followed"):
            fetch(snap.archives[0], tmp_path / "new")
    finally:
        snap.handler.do_GET = before


@pytest.mark.parametrize("address", ["file:///etc/x.tar.gz", "ftp://host/x.tar.gz", "/x.tar.gz"])
def test_an_archive_comes_over_http(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected the http\(s\) address"):
        Archive(address, "x")


# -- packed lines --------------------------------------------------------------------------------


def test_packed_lines_that_are_a_bomb_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lines, "LOOKED_AT", 2**20)
    bomb = tmp_path / "clicks.gz"
    bomb.write_bytes(gzip.compress(b"\n" * 2**24))
    out = tmp_path / "out.jsonl"
    argv = ["import", "clickstream", str(bomb), "--walks", "3", "--out", str(out)]
    assert rabbit_holes(argv) == 2
    assert f"in {bomb}, got what unpacks to more than 100 times" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_a_line_that_is_far_too_long_is_dropped_and_never_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(lines, "LONGEST", 2**12)
    monkeypatch.setattr(lines, "MOST", 10**6)
    file = tmp_path / "lines"
    file.write_bytes(pack(b"one\n" + b"x" * 2**25 + b"\nthree\n" + b"y" * 2**12 + b"\n"))
    tally = Tally()
    tracemalloc.start()
    found = list(read_lines(file, tally))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(1, "one"), (3, "three")]
    assert [p.split(":")[-2:] for p in tally.problems] == [
        [line, " expected at most 4,096 bytes, got more"] for line in ("2", "4")
    ]
    assert peak < 2**22


# -- worlds and runs -----------------------------------------------------------------------------


@pytest.fixture
def world(small_world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_world.path, tmp_path / "world"))


@pytest.mark.parametrize("name", ["world.json", "passages.parquet", "tokens.npy", "more.txt"])
def test_a_link_that_leaves_a_world_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    secret = tmp_path / "secret"
    (world / "more.txt").write_text("")
    (world / name).rename(secret)
    (world / name).symlink_to("../secret")
    assert kncl_env(["show", str(world)]) == 2
    assert f"expected {world / name} to lie in {world}, got a link to" in capsys.readouterr().err
    curriculum = tmp_path / "c.jsonl"
    curriculum.write_text(
        f'{{"format": "kncl-curriculum", "version": 1, "world": "{"0" * 64}"}}\n'
        '{"topics": [0], "passages": [0], "tokens": 300}\n'
    )
    argv = ["run", "--world", str(world), "--curriculum", str(curriculum), "--cpu"]
    assert train_lm([*argv, "--out", str(tmp_path / "run")]) == 2
    assert f"expected {world / name} to lie in {world}" in capsys.readouterr().err


def test_a_world_that_is_itself_called_by_a_link_opens(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(world)
    assert World.open(tmp_path / "mine").n_topics == 40


def test_the_card_of_a_world_names_no_file_outside(world: Path) -> None:
    card = json.loads((world / "world.json").read_text())
    card["files"]["../../../dev/zero"] = "0" * 64
    (world / "world.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"expected plain names of files .+/dev/zero"):
        World.open(world)


@pytest.mark.parametrize("restore", [restore_checkpoint, _load_checkpoint])
def test_a_card_names_no_checkpoint_outside_its_run(tmp_path: Path, restore) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "other.safetensors").write_bytes(b"")
    card = {"updates": 3, "iteration": 3, "file": "../other.safetensors"}
    write_json(run / "checkpoint.json", card)
    with pytest.raises(ValueError, match=r"'\.\./other\.safetensors' from checkpoint\.json"):
        restore(run, None, None)


def test_a_run_that_was_prepared_to_write_elsewhere_is_not_gone_on_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        claim_run(run, {}, made_by="a test")
    (tmp_path / "mine").write_text("mine")
    (run / "metrics.jsonl").symlink_to("../mine")
    with pytest.raises(ValueError, match=f"expected {run / 'metrics.jsonl'} to lie in {run}"):
        claim_run(run, {}, made_by="a test")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("table", ["articles", "links", "paths_finished", "paths_unfinished"])
def test_recorded_games_are_not_read_through_a_link_that_leaves_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    snap = write_snap(tmp_path / "snap", [finished("Ant;Bee")], [])
    (file,) = snap.rglob(f"{table}.tsv")
    file.rename(tmp_path / "secret")
    file.symlink_to(tmp_path / "secret")
    out = tmp_path / "out.jsonl"
    assert rabbit_holes(["import", "wikispeedia", str(snap), "--out", str(out)]) == 2
    assert f"expected {file} to lie in {snap}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x-v0", "/x-v0", "a/../../x-v0", "-v0", "a//b-v0"])
def test_a_data_set_is_not_named_out_of_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="expected a Minari name"):
        minari_name(name, "train")
    assert minari_name("me/people-v0", "train") == "me/people-train-v0"

"""Damage is found where a file is read: caches are made again, everything else is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.world.card import world_hash
from kncl_env.world.world import World
from policies.play.journal import Journal, read_lines
from train_lm.checked.arrays import load_array, load_arrays
from train_lm.checked.digests import sealed
from train_lm.checked.tensors import load_tensors
from train_lm.files import hash_file, read_json, write_json
from train_lm.training_text import open_text

SETTINGS = Settings.of(
    nucleus_topics=6,
    nucleus_updates=30,
    steps=4,
    updates_per_step=2,
    batch=4,
    breadth=16,
    slots=6,
    model="xxs",
)


def flip(file: Path, place: int = -3) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


# --- arrays -----------------------------------------------------------------------------------


def test_no_memory_is_taken_for_more_than_a_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.zeros(8))
    data = file.read_bytes()
    file.write_bytes(data.replace(b"(8,), }            ", b"(1099511627776,), }"))
    with pytest.raises(ValueError, match=r"a\.npy whole, got 64 bytes .* says 8,796,093,022,208"):
        load_array(file, "f", (None,))
    file.write_bytes(data + bytes(8))
    with pytest.raises(ValueError, match="got 72 bytes of data where its head says 64"):
        load_array(file, "f", (None,))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1.0, -np.inf]), "not finite"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.zeros(3, dtype=np.int64), "int64"),
        (np.array([{}, []], dtype=object), "object"),
    ],
)
def test_arrays_of_another_kind_are_refused(wrong: np.ndarray, reason: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", wrong)
    with pytest.raises(ValueError, match=rf"a\.npy whole, got .*{reason}.*make it again"):
        load_array(tmp_path / "a.npy", "f", (None,), advice="make it again")
    np.savez(tmp_path / "a.npz", x=wrong)
    with pytest.raises(ValueError, match=rf"a\.npz whole, got .*{reason}"):
        load_arrays(tmp_path / "a.npz", {"x": ("f", (None,))})


def test_what_is_no_archive_and_no_tensors_is_one_error(tmp_path: Path) -> None:
    for content in (b"", b"PK\x05\x06" + bytes(18), b"\xff" * 100, (2**40).to_bytes(8, "little")):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match="/a whole"):
            load_arrays(tmp_path / "a", {"x": ("f", (None,))})
        with pytest.raises(ValueError, match="/a whole"):
            load_tensors(tmp_path / "a")


# --- worlds -----------------------------------------------------------------------------------


@pytest.fixture
def copied(small_world: World, tmp_path: Path) -> Path:
    shutil.copytree(small_world.path, tmp_path / "w")
    return tmp_path / "w"


def use(world: Path) -> None:
    w = World.open(world)
    _ = (
        w.titles,
        w.passage_topic,
        w.graph,
        w.topic_vectors,
        w.embedder,
        w.index,
        w.tokens(),
        w.tokenizer,
    )


def test_a_flipped_bit_in_any_file_of_a_world_is_named(copied: Path) -> None:
    use(copied)
    (copied / "build.json").unlink()  # how long the build took: nobody reads it
    for name in sorted(f.name for f in copied.iterdir()):
        whole = (copied / name).read_bytes()
        flip(copied / name, len(whole) // 2)
        with pytest.raises(ValueError, match=name):
            use(copied)
        (copied / name).write_bytes(whole)
    use(copied)


def test_what_was_found_sound_is_looked_at_again_only_where_it_changed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kncl_env.world import index

    monkeypatch.setenv("KNCL_CACHE", str(tmp_path / "marks"))
    looked: list[bool] = []
    check = index.check_index_file

    def counted(file: Path, every_byte: bool = True) -> object:
        looked.append(every_byte)
        return check(file, every_byte)

    monkeypatch.setattr(index, "check_index_file", counted)
    first = World.open(copied).index.passages
    assert (World.open(copied).index.passages == first).all()
    assert looked == [True, False]
    tokens = np.load(copied / "tokens.npy")
    World.open(copied).tokens()
    tokens[5] = np.iinfo(tokens.dtype).max  # no id of this tokenizer
    np.save(copied / "tokens.npy", tokens)
    reseal(copied)
    for _ in range(2):  # that it was refused is not remembered as that it was sound
        with pytest.raises(ValueError, match="token ids below"):
            World.open(copied).tokens()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"licence": "public domain"}, "as it was written"),
        ({"counts": {"topics": True}}, "a count of 0 or more"),
        ({"scenario": {"name": "broad", "region": 3, "transfer_regions": []}}, "text as region"),
        ({"files": {"../../x": "00"}}, "leads elsewhere"),
        ({"hash": 5}, "text as hash"),
        ({"settings": []}, "an object as settings"),
    ],
)
def test_an_edited_card_of_a_world_is_refused(
    change: dict[str, object], reason: str, copied: Path
) -> None:
    card = read_json(copied / "world.json")
    write_json(copied / "world.json", {**card, **change})
    with pytest.raises(ValueError, match=rf"{reason}|world\.json {reason}"):
        World.open(copied)


def reseal(world: Path) -> None:
    card = read_json(world / "world.json")
    card["files"] = {name: hash_file(world / name) for name in card["files"]}
    card["hash"] = world_hash(card)
    write_json(world / "world.json", sealed(card))


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("starts.npy", lambda a: np.where(a == a[5], 2**32, a), "one after another"),
        ("starts.npy", lambda a: a[:-1], "tokens by the table"),
        ("tokens.npy", lambda a: np.full_like(a, 65535), "token ids below"),
        ("topic_vectors.npy", lambda a: a * np.nan, "not finite"),
        ("topic_vectors.npy", lambda a: a * 2, "vectors of length 1"),
        ("topic_vectors.npy", lambda a: a[1:], r"float32 and shape \(39, "),
    ],
)
def test_content_is_checked_whatever_the_digests_say(
    name: str, make: object, reason: str, copied: Path
) -> None:
    array = np.load(copied / name)
    np.save(copied / name, make(array))  # type: ignore[operator]
    reseal(copied)
    with pytest.raises(ValueError, match=reason):
        use(copied)


@pytest.mark.parametrize(
    ("name", "column"),
    [("passages.parquet", "text"), ("passages.parquet", "noise"), ("topics.parquet", "labels")],
)
def test_a_text_that_a_packed_column_repeats_takes_no_memory_for_each_row(
    name: str, column: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kncl_env.world.tables.PACKED", 10)  # of 1,000, so that this is small
    table = pq.read_table(copied / name)
    place = table.schema.get_field_index(column)
    kind = table.schema.field(column).type
    long = "x" * (20_000_000 // table.num_rows)
    text = pa.array([[long] if pa.types.is_list(kind) else long], kind)
    repeated = pa.concat_arrays([text] * table.num_rows)
    pq.write_table(table.set_column(place, table.schema.field(column), repeated), copied / name)
    reseal(copied)
    world = World.open(copied)
    with pytest.raises(ValueError, match=rf"expected {name} .* whole, got .* 10 times"):
        _ = world.titles, world.passage_is_noise, world.passages()


# --- caches -----------------------------------------------------------------------------------


def learnt(stage: Stage) -> list[bytes]:
    assert stage.nucleated is not None
    weights = [v.cpu().numpy().tobytes() for _, v in sorted(stage.nucleated.items())]
    return [*weights, stage.reading_list.times_read.tobytes(), repr(stage.reducible).encode()]


def test_a_damaged_nucleus_phase_is_made_again_and_never_used(
    small_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    honest = learnt(open_stage(small_world, SETTINGS, progress=False))
    (folder,) = tmp_path.glob("nucleus-*")
    names = sorted(f.name for f in folder.iterdir())
    assert len(names) == 4
    for name in names:
        flip(folder / name)
        caplog.clear()
        assert learnt(open_stage(small_world, SETTINGS, progress=False)) == honest
        assert "made again" in caplog.text
        caplog.clear()
        assert learnt(open_stage(small_world, SETTINGS, progress=False)) == honest
        assert caplog.text == ""
    # A card of another phase in this one's place.
    card = read_json(folder / "card.json")
    write_json(folder / "card.json", sealed({**card, "learner_seed": 1}))
    assert learnt(open_stage(small_world, SETTINGS, progress=False)) == honest
    assert "learner_seed" in caplog.text


def test_a_damaged_training_text_is_made_again_and_never_used(
    small_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    honest = open_text(small_world.path, small_world.hash, None)
    (folder,) = tmp_path.glob("text-*")
    for name in sorted(f.name for f in folder.iterdir()):
        flip(folder / name)
        caplog.clear()
        again = open_text(small_world.path, small_world.hash, None)
        assert np.array_equal(again.tokens, honest.tokens)
        assert np.array_equal(again.row_of, honest.row_of)
        assert "made again" in caplog.text


# --- journals ---------------------------------------------------------------------------------

HEADER = {"format": "kncl-test"}


def episode(seed: int) -> dict[str, object]:
    return {"arm": "a", "digest": "d", "seed": seed, "learner_seed": 0, "loss": seed / 7}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    kept = Journal(tmp_path / "j.jsonl", HEADER)
    for seed in range(3):
        kept.append(episode(seed))
    return tmp_path / "j.jsonl"


def test_a_changed_line_of_a_journal_is_named(journal: Path) -> None:
    whole = journal.read_text()
    assert len(Journal(journal, HEADER).lines) == 3
    journal.write_text(whole.replace('"seed": 1', '"seed": 7'))
    for read in (lambda: Journal(journal, HEADER), lambda: read_lines(journal, "kncl-test")):
        with pytest.raises(ValueError, match=r"j\.jsonl:3 as it was written.*remove the line"):
            read()
    journal.write_text(whole.replace('"arm": "a"', '"arm": "\\ud800' + "[" * 9))
    with pytest.raises(ValueError, match=r"j\.jsonl:2"):
        Journal(journal, HEADER)


def test_a_line_lost_or_moved_is_told_and_mended_by_who_writes(
    journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = journal.read_text()
    head, one, two, three = whole.splitlines(keepends=True)
    for wrong in (head + one + three, head + two + one + three, head + one + one + two + three):
        journal.write_text(wrong)
        with pytest.raises(ValueError, match="a line was lost, doubled or moved"):
            read_lines(journal, "kncl-test")
        caplog.clear()
        kept = Journal(journal, HEADER)
        assert "numbered anew" in caplog.text
        assert len(read_lines(journal, "kncl-test")[1]) == len(kept.lines)


def test_a_line_that_lost_its_seal_alone_is_refused_by_name(journal: Path) -> None:
    head, one, *rest = journal.read_text().splitlines()
    bare = json.dumps({k: v for k, v in json.loads(one).items() if k != "seal"})
    journal.write_text("".join(line + "\n" for line in (head, bare, *rest)))
    for read in (lambda: Journal(journal, HEADER), lambda: read_lines(journal, "kncl-test")):
        with pytest.raises(ValueError, match=r"expected a seal in .*j\.jsonl:2.*remove the line"):
            read()


def test_a_journal_of_before_there_were_seals_is_read_and_gone_on_with(journal: Path) -> None:
    def older(line: str) -> str:
        return json.dumps({k: v for k, v in json.loads(line).items() if k not in ("seal", "line")})

    whole = journal.read_text()
    journal.write_text("".join(older(line) + "\n" for line in whole.splitlines()[:3]))
    kept = Journal(journal, HEADER)
    assert len(kept.lines) == 2
    kept.append(episode(2))
    assert [line["seed"] for line in read_lines(journal, "kncl-test")[1]] == [0, 1, 2]

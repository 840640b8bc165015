"""One writer at a time, nothing replaced but what the same command made, one door for writing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kncl_env.cli import main as kncl_env
from kncl_env.passage_traits import LEVELS, TRAITS
from kncl_env.taste import TASTE_FORMAT, Taste
from kncl_env.world.world import World
from policies.cli.main import main as kncl_policy
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from rabbit_holes.cli import main as rabbit_holes
from train_lm.checked.digests import sealed
from train_lm.cli import main as train_lm
from train_lm.files import (
    append_line,
    move_folder,
    replacing,
    replacing_folder,
    sweep,
    write_json,
)
from train_lm.model import PRESETS, build_model, save_model
from train_lm.outputs import Hold, alone, interrupted, told_command
from train_lm.tokenizer import as_transformers

ROOT = Path(__file__).parents[1]
MAINS = {
    "kncl-env": kncl_env,
    "kncl-policy": kncl_policy,
    "rabbit-holes": rabbit_holes,
    "train-lm": train_lm,
}
TINY = (
    *("--nucleus-topics", "6", "--nucleus-updates", "3", "--steps", "3", "--updates-per-step", "1"),
    *("--batch", "2", "--breadth", "16", "--slots", "6", "--model", "xxs"),
)


def bytes_below(folder: Path) -> dict[str, bytes]:
    if folder.is_file():
        return {"": folder.read_bytes()}
    files = (f for f in sorted(folder.rglob("*")) if f.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


@pytest.fixture(scope="module")
def inputs(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read: walks, a policy, a model and an order of reading."""
    folder = tmp_path_factory.mktemp("inputs")
    world = str(small_world.path)
    (folder / "world").symlink_to(world)
    walk = ["walk", "--world", world, "--walks", "30", "--out", str(folder / "holes.jsonl")]
    assert rabbit_holes(walk) == 0
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=8))).save(folder / "policy")
    tokenizer = small_world.tokenizer
    model = build_model(PRESETS["xxs"], tokenizer.get_vocab_size())
    save_model(folder / "model", model, as_transformers(tokenizer))
    passages = [int(p) for p in small_world.passages_of(0)]
    header = {"format": "kncl-curriculum", "version": 1, "world": small_world.hash}
    step = {"topics": [0], "passages": passages, "tokens": 300}
    lines = [json.dumps(header), *[json.dumps(step)] * 3]
    (folder / "curriculum.jsonl").write_text("\n".join(lines) + "\n")
    return folder


WIKI = ("--api-url", "http://127.0.0.1:9/w/api.php", "--contact", "you@example.org", "--seed", "A")
IN_WORLD = ("--world", "IN/world")

# Every command that writes, and what its output is called.
WRITERS: dict[str, list[str]] = {
    "build": ["kncl-env", "build", "synthetic", "--out", "OUT"],
    "rewire": ["kncl-env", "rewire", "IN/world", "--out", "OUT"],
    "grow": ["kncl-env", "grow", "IN/world", "--run", "IN/policy", "--out", "OUT"],
    "tabulate": ["kncl-env", "tabulate", "--out", "OUT"],
    "knowledge": ["kncl-env", "knowledge", "IN/world", "--model", "IN/model", "--out", "OUT"],
    "collect": ["rabbit-holes", "collect", *WIKI, "--out", "OUT"],
    "import": ["rabbit-holes", "import", "jsonl", "IN/holes.jsonl", "--out", "OUT"],
    "walk": ["rabbit-holes", "walk", *IN_WORLD, "--walks", "5", "--out", "OUT"],
    "generate": [
        *("rabbit-holes", "generate", *IN_WORLD, "--model", "IN/model"),
        *("--device", "cpu", "--out", "OUT"),
    ],
    "export": ["rabbit-holes", "export", "IN/holes.jsonl", *IN_WORLD, "--out", "OUT"],
    "stats": ["rabbit-holes", "stats", "IN/holes.jsonl", "--html", "OUT"],
    "pretrain": [
        *("kncl-policy", "pretrain", *IN_WORLD, "--holes", "IN/holes.jsonl"),
        *("--epochs", "1", "--width", "8", "--out", "OUT"),
    ],
    "policy walk": ["kncl-policy", "walk", "--policy", "IN/policy", *WIKI, "--out", "OUT"],
    "record": [
        *("kncl-policy", "record", *IN_WORLD, "--policies", "uniform", "--out", "OUT", *TINY)
    ],
    "surrogate": [
        *("kncl-policy", "surrogate", *IN_WORLD, "--episodes", "IN/episodes.jsonl", "--out", "OUT")
    ],
    "taste": [
        *("kncl-policy", "taste", *IN_WORLD, "--episodes", "4", "--trials", "1"),
        *("--learners", "2", "--out", "OUT", *TINY),
    ],
    "train": [
        *("kncl-policy", "train", *IN_WORLD, "--iterations", "1", "--episodes", "2"),
        *("--learners", "2", "--out", "OUT", *TINY),
    ],
    "evaluate": [
        *("kncl-policy", "evaluate", *IN_WORLD, "--policies", "uniform,random"),
        *("--seeds", "1", "--learners", "2", "--out", "OUT", *TINY),
    ],
    "run": [
        *("kncl-policy", "run", *IN_WORLD, "--policy", "rule", "--threads", "1"),
        *("--out", "OUT", *TINY),
    ],
    "stream": ["kncl-policy", "stream", *IN_WORLD, "--methods", "none", "--out", "OUT"],
    "neighbourhoods": ["kncl-policy", "neighbourhoods", *IN_WORLD, "--out", "OUT"],
    "benchmark": ["kncl-policy", "benchmark", "--cells", "synthetic-broad", "--out", "OUT"],
    "train-lm": [
        *("train-lm", "run", *IN_WORLD, "--curriculum", "IN/curriculum.jsonl"),
        *("--model", "xxs", "--batch", "2", "--cpu", "--out", "OUT"),
    ],
}
UNFORCED = ("record", "benchmark")  # they only ever go on


def call(words: list[str], out: Path, inputs: Path, *more: str) -> int:
    places = {"OUT": str(out), "IN/": f"{inputs}/"}
    told = [w.replace("OUT", places["OUT"]).replace("IN/", places["IN/"]) for w in words]
    return MAINS[told[0]]([*told[1:], *more])


def foreign_places(folder: Path, inputs: Path) -> dict[str, Path]:
    """What nobody wants to lose, each fresh."""
    shutil.copytree(inputs / "policy", folder / "a policy")
    shutil.copytree(inputs / "world", folder / "a world")
    (folder / "a world" / "notes.txt").write_text("mine")
    model = folder / "a model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama", "architectures": []}')
    (model / "model.safetensors").write_bytes(b"weights")
    (folder / "a letter").write_text("dear all\n")
    shutil.copy(inputs / "curriculum.jsonl", folder / "an order")
    known = folder / "notes on links"
    known.mkdir()
    (known / "knowledge.json").write_text("{}")
    (known / "links.graphml").write_text("<graphml/>")
    run = folder / "a run"
    run.mkdir()
    (run / "config.json").write_text('{"command": "kncl-policy something else"}')
    return {p.name: p for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("writer", WRITERS)
def test_force_replaces_nothing_that_another_made(
    writer: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, place in foreign_places(tmp_path, inputs).items():
        before = bytes_below(place)
        for more in ([],) if writer in UNFORCED else ([], ["--force"]):
            assert call(WRITERS[writer], place, inputs, *more) == 2, name
            last = capsys.readouterr().err.strip().splitlines()[-1]
            assert last.startswith("error: expected "), last
        assert bytes_below(place) == before, name
    assert not [f.name for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_a_world_is_replaced_by_the_command_that_made_it_alone(
    small_world: World, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built, rewired = tmp_path / "built", tmp_path / "rewired"
    shutil.copytree(small_world.path, built)
    rewire, build = WRITERS["rewire"], WRITERS["build"]
    assert call(rewire, rewired, inputs) == 0
    assert call(rewire, rewired, inputs, "--force") == 0
    for words, place in ((rewire, built), (build, rewired)):
        before = bytes_below(place)
        assert call(words, place, inputs, "--force") == 2
        assert "something that this command made" in capsys.readouterr().err
        assert bytes_below(place) == before


@pytest.mark.parametrize(
    ("writer", "input_of_it"),
    [
        ("import", "holes.jsonl"),
        ("walk", "world"),
        ("grow", "world"),
        ("grow", "policy"),
        ("rewire", "world"),
        ("knowledge", "world"),
        ("knowledge", "model"),
        ("generate", "model"),
        ("policy walk", "policy"),
        ("stream", "world"),
        ("neighbourhoods", "world"),
        ("run", "world"),
        ("taste", "world"),
        ("export", "world"),
        ("export", "holes.jsonl"),
        ("stats", "holes.jsonl"),
        ("pretrain", "holes.jsonl"),
        ("train", "world"),
        ("evaluate", "world"),
        ("train-lm", "curriculum.jsonl"),
    ],
)
def test_force_replaces_no_input(
    writer: str, input_of_it: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_below(inputs / input_of_it)
    assert call(WRITERS[writer], inputs / input_of_it, inputs, "--force") == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: expected ")
    assert bytes_below(inputs / input_of_it) == before


def test_a_taste_that_an_arm_reads_with_is_an_input_too(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "taste.json"
    taste = Taste.of(np.zeros((len(TRAITS), LEVELS)), 0.5)
    write_json(out, sealed({"format": TASTE_FORMAT, "taste": taste.to_json()}))
    before = bytes_below(out)
    words = ("--policy", f"random+{out}", "--force")
    assert call(WRITERS["taste"], out, inputs, *words) == 2
    assert "expected inputs outside of" in capsys.readouterr().err
    assert bytes_below(out) == before


def test_a_file_that_a_command_reads_is_not_replaced_though_it_made_it(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.jsonl"
    shutil.copy(inputs / "holes.jsonl", out)
    assert rabbit_holes(["import", "jsonl", str(out), "--out", str(out), "--force"]) == 2
    assert "expected inputs outside of" in capsys.readouterr().err
    assert out.read_bytes() == (inputs / "holes.jsonl").read_bytes()


@contextmanager
def paused_with_its_lock(words: list[str], out: Path, inputs: Path) -> Iterator[int]:
    """The process of a command that stands still from the moment that it holds its output."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        take = Hold.take

        def paused(hold: Hold) -> None:
            take(hold)
            os.write(tell, str(hold.out).encode())
            time.sleep(600)

        try:
            Hold.take = paused  # type: ignore[method-assign]
            call(words, out, inputs)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(told, 4096).decode() == str(out)
        yield pid
    finally:
        os.close(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("first", WRITERS)
def test_whoever_comes_second_is_told_who_holds_the_output(
    first: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with paused_with_its_lock(WRITERS[first], out, inputs) as pid:
        for second, words in WRITERS.items():
            capsys.readouterr()
            assert call(words, out, inputs) == 2, second
            said = capsys.readouterr().err.strip().splitlines()[-1]
            holder = f"got another process that writes it, {pid} ({' '.join(words_of(first))} "
            assert holder in said, second
            assert not out.exists(), second
    with alone(out):  # it was killed: the system has set its output free
        pass
    assert not out.with_name(".out.lock").exists()


def test_whoever_waits_for_a_place_gets_it_when_the_others_are_done(tmp_path: Path) -> None:
    out = tmp_path / "cache" / "made"
    out.parent.mkdir()
    together: list[int] = []

    def make(number: int) -> None:
        for _ in range(40):
            with alone(out, wait=True):
                out.write_text(str(number))
                together.append(out.read_text() != str(number))

    with ThreadPoolExecutor(6) as pool, alone(out) as hold:
        done = [pool.submit(make, n) for n in range(6)]
        assert not any(future.done() for future in done)
        assert not together
        hold.release()
        for future in done:
            future.result()
    assert together == 240 * [False]
    assert [f.name for f in out.parent.iterdir()] == ["made"]


def words_of(writer: str) -> list[str]:
    """What a lock says of a command: its program and verb."""
    return WRITERS[writer][:2]


def test_only_a_command_s_own_output_keeps_a_note_that_it_was_stopped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told_command(["benchmark"])
    try:
        with alone(out) as hold:
            hold.go_on()
            with alone(out / "part") as inner:
                inner.go_on()
                (out / "part").write_text("whole")
        interrupted()
        assert sorted(file.name for file in tmp_path.rglob("*.lock")) == [".out.lock"]
        with alone(out) as hold:
            hold.begin_anew(False, Path.is_dir)
        assert not list(tmp_path.rglob("*.lock"))
    finally:
        told_command([])


@pytest.mark.parametrize("left", [b"[" * 60_000, b"\xff", b"[1]", b'{"pid": {}}'])
def test_whatever_stands_in_a_lock_that_nobody_holds_it_is_free(
    tmp_path: Path, left: bytes
) -> None:
    (tmp_path / ".out.lock").write_bytes(left)
    with alone(tmp_path / "out"):
        assert (tmp_path / ".out.lock").is_file()
    assert not (tmp_path / ".out.lock").exists()


def test_what_the_same_command_left_when_it_was_killed_needs_no_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from train_lm.outputs import Hold, alone, told_command\n"
        "told_command(['walk', '--seed', '1']); out = Path(sys.argv[1])\n"
        "with alone(out) as hold:\n"
        "    hold.begin_anew(False, Path.is_file); out.write_text('whole')\n"
        "    os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(out)], env=env, check=False)
    assert (tmp_path / ".out.lock").is_file()
    try:
        told_command(["walk", "--seed", "2"])
        with pytest.raises(FileExistsError, match="add --force"), alone(out) as hold:
            hold.begin_anew(False, Path.is_file)
        subprocess.run([sys.executable, "-c", code, str(out)], env=env, check=False)
        assert out.read_text() == "whole"
    finally:
        told_command([])
    assert not (tmp_path / ".out.lock").exists()


def test_a_folder_is_replaced_in_one_step_and_what_was_there_is_gone(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "a", over=True) as part:
            (part / text).write_text(text)
    assert bytes_below(tmp_path) == {"a/new": b"new"}
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "b").mkdir()
    move_folder(tmp_path / "room" / "b", tmp_path / "a", over=True)
    assert bytes_below(tmp_path) == {"room/b/new": b"new"}, "they have changed places"


def test_litter_of_the_living_is_not_swept(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as part:
        sweep(tmp_path)
        part.write_text("whole")
    assert bytes_below(tmp_path) == {"a": b"whole"}
    (tmp_path / ".a.1x.part").mkdir()
    (tmp_path / ".a.1x.part" / ".tmpZ").write_text("half")
    with replacing(tmp_path / "a") as part:
        part.write_text("again")
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError, match="No space left") as full:
        append_line(Path("/dev/full"), {"a": 1}, durable=False)
    assert full.value.filename == "/dev/full"
    for said in (
        "I/O error: No space left on device (os error 28)",
        "error: No space left on device",
    ):
        with pytest.raises(OSError, match="No space left") as told, replacing(tmp_path / "b"):
            raise RuntimeError(said)
        assert told.value.filename == str(tmp_path / "b")
    with pytest.raises(OSError, match="No space left"), replacing(tmp_path / "b"):
        raise OSError("4096 requested and 0 written")
    assert list(tmp_path.iterdir()) == []


# -- one door -------------------------------------------------------------------------------------

# Calls that change a place by its name.
OPENS = ("write_text", "write_bytes", "touch", "unlink", "rename", "replace", "rmtree", "rmdir")
SAVES = (
    "save",
    "savez",
    "savez_compressed",
    "write_table",
    "save_file",
    "write_index",
    "symlink_to",
)
DOORS = {
    "train_lm/files.py": "the door itself",
    "train_lm/outputs.py": "the lock, and the room it holds",
    # What only ever writes where it is told to, inside of a folder that is not yet in its place:
    "train_lm/token_files.py": "drafts",
    "kncl_env/world/index.py": "drafts",
    "kncl_env/world/build.py": "drafts, in the folder of a build",
    "kncl_env/world/drafting.py": "drafts, in the folder of a build",
    "kncl_env/world/cut.py": "drafts, in the folder of a build",
    "train_lm/checked/rows.py": "drafts",
    "train_lm/training_text.py": "drafts, below `folder`",
    # Append-only files with a lock of their own, and what goes when it is begun anew:
    "rabbit_holes/path.py": "PathWriter",
    "rabbit_holes/live/journal.py": "the journal of a collection",
    "rabbit_holes/live/collector.py": "an old journal goes",
    "kncl_env/world/sources/wiki/page_cache.py": "SQLite",
    # Downloads go on where they were, under a name that is not the final one:
    "kncl_env/world/sources/archive.py": "a download",
}
# Removing what is out of date, in files that write nothing by themselves.
REMOVALS = {
    "kncl_env/world/stages.py": {
        "unlink",
        "rmtree",
        "write_text",
    },  # its drafts; a file of the system
    "train_lm/checkpoint.py": {"unlink"},
    "kncl_env/stage.py": {"unlink"},
    "rabbit_holes/cli.py": {"unlink"},
    "rabbit_holes/export.py": {"replace"},
    "policies/benchmark/playing.py": {"unlink"},
}


def opened_for_writing(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name != "open":
        return False
    words = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
    modes = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
    return any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)


def writes(tree: ast.AST, drafts: frozenset[str] = frozenset()) -> Iterator[tuple[str, int]]:
    """Calls that write, but to a name that a `with replacing(...)` around them gave."""
    if isinstance(tree, ast.With):
        given = {
            item.optional_vars.id
            for item in tree.items
            if isinstance(item.context_expr, ast.Call)
            and getattr(item.context_expr.func, "id", "")
            in ("replacing", "replacing_folder", "beside")
            and isinstance(item.optional_vars, ast.Name)
        }
        # A stream that was opened on a draft is one, too.
        given |= {
            item.optional_vars.id
            for item in tree.items
            if isinstance(item.optional_vars, ast.Name)
            and (given or drafts & {n.id for n in ast.walk(item) if isinstance(n, ast.Name)})
        }
        drafts |= given
    if isinstance(tree, ast.Call):
        named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        word = tree.func.attr if isinstance(tree.func, ast.Attribute) else ""
        # str.replace and dataclasses.replace are no renames.
        on_text = word == "replace" and not ast.unparse(tree.func).startswith("os.")
        if not named & drafts and not on_text:
            if opened_for_writing(tree):
                yield "open", tree.lineno
            elif word in OPENS or (
                word in SAVES and ast.unparse(tree.func).split(".")[0] in LIBRARIES
            ):
                yield word, tree.lineno
    for inside in ast.iter_child_nodes(tree):
        yield from writes(inside, drafts)


LIBRARIES = ("np", "numpy", "pq", "torch", "faiss")


def undoored(files: Mapping[str, str]) -> list[str]:
    return [
        f"{name}:{line}: {word}"
        for name, text in files.items()
        if name not in DOORS
        for word, line in writes(ast.parse(text))
        if word not in REMOVALS.get(name, ())
    ]


def test_nothing_but_the_doors_opens_a_final_name_for_writing() -> None:
    packages = ("train_lm", "kncl_env", "rabbit_holes", "policies")
    files = [f for package in packages for f in (ROOT / package).rglob("*.py")]
    named = {f.relative_to(ROOT).as_posix(): f.read_text() for f in files}
    assert set(DOORS) | set(REMOVALS) <= set(named)
    assert undoored(named) == []


@pytest.mark.parametrize(
    "line",
    [
        "open(file, 'w')",
        "file.open('ab')",
        "file.write_text('x')",
        "np.save(file, x)",
        "shutil.rmtree(folder)",
        "os.replace(a, b)",
        "with replacing(a) as part:\n    other.write_text('x')",
    ],
)
def test_a_write_beside_the_doors_is_found(line: str) -> None:
    assert undoored({"policies/new.py": line})
    inside = "with replacing(a) as part, part.open('wb') as s:\n    np.save(s, x)\n    part.touch()"
    assert not undoored({"policies/new.py": inside})
    inside = inside.replace(", part", ":\n  with part").replace("    ", "   ")
    assert not undoored({"policies/new.py": inside})


# -- signals --------------------------------------------------------------------------------------


def started(*words: str) -> subprocess.Popen[str]:
    # Where the tests run in the background, children inherit that interrupts are ignored.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from train_lm.command_line import program; sys.argv = {list(words)!r}\n"
        f"program({ {'kncl-env': 'kncl_env.cli', 'kncl-policy': 'policies.cli.main'}[words[0]]!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KNCL_CACHE": os.environ["KNCL_CACHE"]},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.5, 5.0])
def test_a_signal_is_one_line_at_any_moment(
    number: signal.Signals, code: int, word: str, delay: float, inputs: Path, tmp_path: Path
) -> None:
    words = ["evaluate", "--world", str(inputs / "world"), "--policies", "uniform,random"]
    long = [*TINY, "--nucleus-updates", "100000"]
    process = started("kncl-policy", *words, "--out", str(tmp_path / "r"), *long)
    while not _catches(process.pid, signal.SIGTERM):  # before that, Python itself starts up
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(number)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 15  # on idle cores it is forced after three
    assert process.returncode == code, said
    assert said.strip().splitlines()[-1].startswith(f"{word}: "), said
    assert "Traceback" not in said


def _catches(pid: int, number: signal.Signals) -> bool:
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def test_a_command_that_begins_anew_does_not_promise_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kncl_env.world import build

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_world", stopped)
    assert kncl_env(["build", "synthetic", "--topics", "20", "--out", str(tmp_path / "w")]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "interrupted: the same command begins anew"


# -- processes ------------------------------------------------------------------------------------


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "import os, time\nfrom train_lm.processes import worker_pool, without_interrupts\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(2) as pool:\n"
        "        with without_interrupts():\n"
        "            pids = pool.map(os.getpid.__call__ and time.sleep, [0.0, 60, 60])\n"
        "        next(pids)\n"
        "        import multiprocessing\n"
        "        print(*[p.pid for p in multiprocessing.active_children()], flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while any(_lives(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_was_stopped_as_it_ended_begins_anew_without_force(tmp_path: Path) -> None:

    out = tmp_path / "out"
    try:
        told_command(["walk", "--seed", "1"])
        with alone(out) as hold:
            hold.begin_anew(False, Path.is_file)
            out.write_text("whole")
        assert [f.name for f in tmp_path.iterdir()] == ["out"]
        interrupted()  # after the last file operation, before the command has ended
        with alone(out) as hold:
            hold.begin_anew(False, Path.is_file)
        told_command(["walk", "--seed", "1"])
        with pytest.raises(FileExistsError, match="add --force"), alone(out) as hold:
            hold.begin_anew(False, Path.is_file)
    finally:
        told_command([])

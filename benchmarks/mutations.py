"""What becomes of damaged and edited files: seeded mutations of every kind, each read.

    python benchmarks/mutations.py --inputs 10000 --out mutations.json

Honest files of every kind are made on a tiny world (`honest.py`). Each input is a copy of one of
them with a mutation, read in a process of its own with bounded memory and time. What comes of it:

    same      the undamaged result
    again     the undamaged result, and a line in the log: a cache that was made again, say
    error     one line that names the file, as `run` of a command prints it
    named     another result, and a line that says so: of the log, of the tally, or that which names
              the file with another digest than the honest one's (`train_lm/inputs.py`)
    earlier   a journal as an honest command, killed earlier, leaves it, which then goes on there
    unnamed   an error that does not name its file, or not on one line
    silent    another result, and not a word
    raw       any other exception: a traceback
    abort     the process was killed by a signal
    hang      no end within 20 s, waiting for a core not counted
    memory    more than 64 MiB and twice what the honest file takes, or its absence or first line,
              which have some made (again)
    outside   a file made or changed beside the copy and the cache

The first five are sound.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import logging
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for whoever imports this file as a module

SOUND = ("same", "again", "error", "named", "earlier")
UNSOUND = ("unnamed", "silent", "raw", "abort", "hang", "memory", "outside")
LIMIT = 20.0  # [s]
ROOM = 8 * 2**30  # [bytes] of address space beyond what the process has
SLACK = 64 * 2**20  # [bytes] that a reader may take beyond twice what the honest file takes

Rng = np.random.Generator
Read = Callable[[Path], str]


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and their reader.

    Attributes:
        name: In the table.
        root: Folder that is copied for each input.
        file: The file of it that is mutated.
        read: Reads the copy; returns what identifies the result.
        form: json, jsonl, npy, npz, safetensors or text.
        reseal: Makes digests agree with the mutated copy, as somebody hostile would.
        called: What it is read as, where that is no name of a file.
        grows: Whether it is only ever appended to: any whole lines of it that follow from the first
            are an honest file, too.
        every: Of how many rounds over the kinds it is in one: 1, 2, 4 or 8, as it is dear to read.
    """

    name: str
    root: Path
    file: str
    read: Read
    form: str
    reseal: Callable[[Path], None] | None = None
    called: str = ""
    grows: bool = False
    every: int = 1


def identity(*parts: object) -> str:
    """What tells one result from another."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        elif hasattr(part, "numpy"):
            digest.update(identity(part.numpy()).encode())
        elif isinstance(part, dict):
            digest.update(identity(*[x for item in sorted(part.items()) for x in item]).encode())
        elif isinstance(part, list | tuple):
            digest.update(identity(type(part).__name__, *part).encode())
        else:
            digest.update(repr(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# --- mutations --------------------------------------------------------------------------------


def mutate(data: bytes, form: str, rng: Rng) -> tuple[str, bytes]:
    """A mutation's name, and what it makes of a file."""
    ways = [*BYTES, *FORMS.get(form, [])]
    for _ in range(20):
        way = ways[int(rng.integers(len(ways)))]
        try:
            found = way(data, rng)
        except (ValueError, KeyError, IndexError):  # the file has nothing of that kind
            continue
        if found != data:
            return way.__name__.strip("_"), found
    return "emptied", b""


def _flip(data: bytes, rng: Rng) -> bytes:
    found = bytearray(data)
    found[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(found)


def _flips(data: bytes, rng: Rng) -> bytes:
    for _ in range(8):
        data = _flip(data, rng)
    return data


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _hole(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(rng.integers(len(data), size=2).tolist())
    return data[:first] + data[last:]


def _zeros(data: bytes, rng: Rng) -> bytes:
    first = int(rng.integers(len(data)))
    n = min(len(data) - first, int(rng.integers(1, 64)))
    return data[:first] + bytes(n) + data[first + n :]


def _swap(data: bytes, rng: Rng) -> bytes:
    found = bytearray(data)
    i, j = rng.integers(len(data), size=2).tolist()
    found[i], found[j] = found[j], found[i]
    return bytes(found)


def _more(data: bytes, rng: Rng) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 64)))


BYTES: list[Callable[[bytes, Rng], bytes]] = [
    _flip,
    _flip,
    _flips,
    _cut,
    _hole,
    _zeros,
    _swap,
    _more,
]

RAW = "@raw@"
VALUES = (
    *("null", "true", "false", "-1", "0", "1", "1.5", "1e999", "NaN", "-Infinity", '""', '"x"'),
    *("[]", "{}", "[null]", "[[1]]", '{"a": 1}', "10000000000000000000000", "9" * 5000),
    *('"\\ud800"', '"../../x"', "1e-320", "4294967296", "[" * 100_000, '"\\u001b[31m"'),
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def edited(text: str, rng: Rng) -> str:
    """A JSON text with one value changed, removed or doubled."""
    value = json.loads(text)
    places = list(_places(value))
    # Few are near the top, but they matter most.
    near = [(v, k) for v, k in places if v is value]
    among = near if near and rng.random() < 0.3 else places
    holder, key = among[int(rng.integers(len(among)))]
    return _edit(value, holder, key, rng)


def _edit(value: Any, holder: Any, key: Any, rng: Rng) -> str:
    what = rng.random()
    if what < 0.15:
        del holder[key]
        return json.dumps(value)
    raw = VALUES[int(rng.integers(len(VALUES)))]
    if what < 0.25 and isinstance(holder, dict):
        holder[RAW] = RAW + RAW
        name = json.dumps(key)
        return json.dumps(value).replace(f'"{RAW + RAW}"', raw).replace(f'"{RAW}"', name)
    if what < 0.35 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * 2 + 1
        return json.dumps(value)
    holder[key] = RAW
    return json.dumps(value).replace(f'"{RAW}"', raw)


def _json(data: bytes, rng: Rng) -> bytes:
    return edited(data.decode(), rng).encode("utf-8", "surrogatepass")


def _jsonl(data: bytes, rng: Rng) -> bytes:
    lines = data.decode().splitlines()
    i = int(rng.integers(len(lines)))
    lines[i] = edited(lines[i], rng)
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _lines(data: bytes, rng: Rng) -> bytes:
    """A line lost, doubled, moved or cut."""
    lines = data.splitlines(keepends=True)
    i, j = rng.integers(len(lines), size=2).tolist()
    what = int(rng.integers(4))
    if what == 0:
        del lines[i]
    elif what == 1:
        lines.insert(j, lines[i])
    elif what == 2:
        lines[i], lines[j] = lines[j], lines[i]
    else:
        lines[i] = lines[i][: len(lines[i]) // 2] + b"\n"
    return b"".join(lines)


HEADS = (
    *("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", "{", "", "[" * 9000),
    *("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "{'descr': 1}", "(1, 2)"),
    *("{'descr': '<f8', 'fortran_order': True, 'shape': (-1, 2), }", "__import__('os')"),
    *("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",),
)


def _head(data: bytes, rng: Rng) -> bytes:
    size = int.from_bytes(data[8:10], "little")
    head = HEADS[int(rng.integers(len(HEADS)))].encode().ljust(size - 1) + b"\n"
    return data[:8] + len(head).to_bytes(2, "little") + head + data[10 + size :]


def _numbers(data: bytes, rng: Rng) -> bytes:
    """An array with a number that is none, huge or negative, or of another shape or kind."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    stream = io.BytesIO()
    np.save(stream, _other_numbers(array, rng))
    return stream.getvalue()


def _other_numbers(array: Any, rng: Rng) -> Any:
    what = int(rng.integers(7))
    if what == 0:
        return array[:-1]
    if what == 1:
        return array.reshape(1, *array.shape)
    if what == 2:
        return array.astype("U8") if array.size < 10**5 else array.astype(complex)
    if what == 3 and array.dtype.kind in "iuf":
        return array.astype(np.float64) + 0.5
    if what == 4:
        return array[:0]
    found = array.copy()
    if array.dtype.kind == "f":
        found.flat[int(rng.integers(found.size))] = (np.nan, np.inf, 1e30)[int(rng.integers(3))]
    elif array.dtype.kind in "iu":
        found.flat[int(rng.integers(found.size))] = (
            np.iinfo(array.dtype).max if rng.random() < 0.5 else np.iinfo(array.dtype).min
        )
    return found


def _member(data: bytes, rng: Rng) -> bytes:
    """An archive with a member changed, lost or claimed to be another."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(rng.integers(len(members)))]
    what = int(rng.integers(4))
    if what == 0:
        del members[name]
    elif what == 1:
        members[name] = _head(members[name], rng)
    elif what == 2:
        members[name] = _cut(members[name], rng)
    else:
        members[name] = _numbers(members[name], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _tensor_head(data: bytes, rng: Rng) -> bytes:
    size = int.from_bytes(data[:8], "little")
    head = edited(data[8 : 8 + size].decode(), rng).encode("utf-8", "surrogatepass")
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def _tensor_numbers(data: bytes, rng: Rng) -> bytes:
    size = 8 + int.from_bytes(data[:8], "little")
    place = size + int(rng.integers((len(data) - size) // 4)) * 4
    wrong = np.array([(np.nan, np.inf, 1e30)[int(rng.integers(3))]], dtype="<f4").tobytes()
    return data[:place] + wrong + data[place + 4 :]


def _claimed_size(data: bytes, rng: Rng) -> bytes:
    return int(2 ** rng.integers(1, 63)).to_bytes(8, "little") + data[8:]


FORMS: dict[str, list[Callable[[bytes, Rng], bytes]]] = {
    "json": [_json] * 6,
    "jsonl": [_jsonl] * 5 + [_lines] * 2,
    "npy": [_head, _head, _numbers, _numbers, _numbers],
    "npz": [_member] * 5,
    "safetensors": [_tensor_head, _tensor_head, _tensor_numbers, _tensor_numbers, _claimed_size],
    "text": [_lines] * 3,
}


# --- one input --------------------------------------------------------------------------------


def judged(kind: Kind, place: Path, honest: dict[str, Any]) -> tuple[str, str]:
    """What becomes of a copy at `place`, and what was said."""
    told = in_a_child(lambda: kind.read(place), LIMIT)
    if told["how"] in ("hang", "abort"):
        return str(told["how"]), str(told.get("said", ""))
    if told["grown"] > 2 * honest["grown"] + SLACK:
        return "memory", f"{told['grown'] / 1e6:.0f} MB, honest {honest['grown'] / 1e6:.0f} MB"
    if told["how"] == "value":
        said = str(told["warned"])
        if told["value"] == honest["value"]:
            return ("again" if said else "same"), said
        return ("named" if said or _tells(kind, place, told, honest) else "silent"), said
    said, what = str(told["said"]), str(told["type"])
    if what == "MemoryError" or "Unable to allocate" in said:
        return "memory", f"{what}: {said}"
    if not told["clear"]:
        return "raw", f"{what}: {said}"
    names = (Path(kind.file).name, str(place), kind.called or str(place))
    clear = "\n" not in said and any(name in said for name in names)
    return ("error" if clear else "unnamed"), f"{what}: {said}"


def _tells(kind: Kind, place: Path, told: dict[str, Any], honest: dict[str, Any]) -> bool:
    """Whether what a command would print, and its record, name the file with another digest."""
    named = {one["name"] for one in told["inputs"] if _line_of(one) not in _lines_of(honest)}
    # The file itself, the folder that is read as one, or the server.
    mine = {
        str(place),
        kind.called,
        *(str(place / part) for part in [kind.file, *Path(kind.file).parents]),
    }
    mine |= {str(place / one.name) for one in place.iterdir() if one.is_dir()}
    return any(name in mine or "://" in name for name in named)


def _lines_of(told: dict[str, Any]) -> set[tuple[str, str]]:
    return {_line_of(one) for one in told["inputs"]}


def _line_of(one: dict[str, Any]) -> tuple[str, str]:
    """What a line on the terminal tells one input from another by, its place aside."""
    return one["sha256"], one.get("said", "")


class _Heard(logging.Handler):
    """Keeps what was logged as a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def in_a_child(action: Callable[[], str], limit: float) -> dict[str, Any]:
    """What an action returns or raises in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_the_child(action, writer)
    os.close(writer)
    began, chunks, late = time.monotonic(), [], False
    while True:
        ready, _, _ = select.select([reader], [], [], 0.5)
        if not ready:
            if time.monotonic() - began - _waited(child) < limit:
                continue
            os.kill(child, signal.SIGKILL)
            late = True
            break
        chunk = os.read(reader, 65536)
        if not chunk:
            break
        chunks.append(chunk)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if late:
        return {"how": "hang"}
    if os.WIFSIGNALED(status) or not chunks:
        return {"how": "abort", "said": f"signal {os.WTERMSIG(status)}"}
    told: dict[str, Any] = json.loads(b"".join(chunks))
    return told


def _waited(process: int) -> float:
    """How long a process was ready and no core was free [s]; other work is no fault of its own."""
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # not every system tells
        return 0.0


def _in_the_child(action: Callable[[], str], writer: int) -> None:
    gc.disable()  # it would touch, and so copy, every page of the parent
    from train_lm.inputs import forget_inputs, read_inputs

    forget_inputs()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    heard = _Heard()
    logging.getLogger().addHandler(heard)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    before = _resident()
    told: dict[str, Any]
    try:
        value = action()
        told = {"how": "value", "value": value, "warned": " | ".join(heard.lines)[:300]}
        told["inputs"] = [vars(one) for one in read_inputs()]
    except BaseException as error:  # whatever it is, it is what is asked for
        told = {
            "how": "error",
            "type": type(error).__name__,
            "said": str(error)[:600],
            "clear": isinstance(error, ValueError | OSError | FloatingPointError),
        }
    told["grown"] = max(0, _resident() - before)
    with os.fdopen(writer, "wb") as stream:
        stream.write(json.dumps(told).encode())
    os._exit(0)


def _resident() -> int:
    """The most memory that the process has had at a time [bytes]."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def _honest(kind: Kind, place: Path) -> dict[str, Any]:
    """What the honest file gives, and the most memory that it or less of it takes [bytes].

    Less of it is its absence, or its first line: what a command that is killed at once leaves, and
    all that it then does.
    """
    shutil.copytree(kind.root, place)
    told = in_a_child(lambda: kind.read(place), 10 * LIMIT)
    if told["how"] != "value":
        raise RuntimeError(f"an honest {kind.name} cannot be read: {told}")
    shutil.rmtree(place)
    grown = [told["grown"]]
    for lines in (0, 1) if kind.form == "jsonl" else (0,):
        shutil.copytree(kind.root, place)
        file = place / kind.file
        head = b"".join(file.read_bytes().splitlines(keepends=True)[:lines])
        file.unlink()
        if lines:
            file.write_bytes(head)
        grown.append(in_a_child(lambda: kind.read(place), 10 * LIMIT).get("grown", 0))
        shutil.rmtree(place)
    return {**told, "grown": max(grown)}


def _damaged(kind: Kind, place: Path, data: bytes) -> None:
    """A copy at `place`, of which one file is `data`."""
    shutil.copytree(kind.root, place)
    (place / kind.file).write_bytes(data)
    if kind.reseal is not None:
        kind.reseal(place)


def try_out(
    kinds: list[Kind], inputs: range, seed: int, minutes: float, keep: Path | None = None
) -> dict[str, Any]:
    """Mutations spread evenly over the kinds; counts by kind, and examples of what is unsound."""
    until = time.monotonic() + 60 * minutes
    counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in kinds}
    examples: list[dict[str, object]] = []
    turns = [kind for turn in range(8) for kind in kinds if turn % kind.every == 0]
    with tempfile.TemporaryDirectory() as folder:
        honest: dict[str, dict[str, Any]] = {}
        os.chdir(folder)
        before = _files(kinds, Path(folder))
        for n in inputs:
            if time.monotonic() > until:
                break
            kind = turns[n % len(turns)]
            rng = np.random.default_rng([seed, n])
            place = Path(folder) / "copy"
            if kind.name not in honest:
                honest[kind.name] = _honest(kind, place)
            way, data = mutate((kind.root / kind.file).read_bytes(), kind.form, rng)
            _damaged(kind, place, data)
            outcome, said = judged(kind, place, honest[kind.name])
            shutil.rmtree(place)
            if outcome == "memory":
                # What this process has let go of in between, a child takes without growing: both
                # are measured at one moment.
                honest[kind.name] = _honest(kind, place)
                _damaged(kind, place, data)
                outcome, said = judged(kind, place, honest[kind.name])
                shutil.rmtree(place)
            after = _files(kinds, Path(folder))
            if after != before:
                outcome, said = "outside", str(sorted({*after.items()} ^ {*before.items()})[:3])
                before = after
            whole = (kind.root / kind.file).read_bytes()
            if outcome == "silent" and kind.grows and whole.startswith(data) and data[-1:] == b"\n":
                outcome = "earlier"
            counts[kind.name][outcome] += 1
            if outcome in UNSOUND:
                said = re.sub(r"\s+", " ", said.replace(folder, ""))[:300]
                examples.append(
                    {"kind": kind.name, "n": n, "way": way, "what": outcome, "said": said}
                )
                if keep is not None:
                    (keep / f"{n}-{outcome}-{Path(kind.file).name}").write_bytes(data)
    return {"counts": {name: dict(c) for name, c in counts.items()}, "examples": examples}


def side_by_side(
    kinds: list[Kind],
    inputs: range,
    seed: int,
    minutes: float,
    keep: Path | None,
    processes: int,
) -> dict[str, Any]:
    """`try_out` of every Nth input in each of N processes, together."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.json" for i in range(processes)]
        children = []
        for i, file in enumerate(files):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    found = try_out(kinds, inputs[i::processes], seed, minutes, keep)
                    file.write_text(json.dumps(found))
                    status = 0
                finally:
                    sys.excepthook(*sys.exc_info()) if status else None  # type: ignore[arg-type]
                    os._exit(status)
            children.append(child)
        for child in children:
            if os.waitpid(child, 0)[1]:
                raise RuntimeError("a process of the harness failed")
        parts = [json.loads(file.read_text()) for file in files]
    counts = {k.name: Counter[str]() for k in kinds}
    for part in parts:
        for name, own in part["counts"].items():
            counts[name].update(own)
    examples = sorted((e for part in parts for e in part["examples"]), key=lambda e: int(e["n"]))
    return {"counts": {name: dict(c) for name, c in counts.items()}, "examples": examples}


def _files(kinds: list[Kind], here: Path) -> dict[str, tuple[int, int]]:
    """Size and time of whatever must stay as it is: the honest files, and where the harness is."""
    found = {}
    for root in {here, *(kind.root for kind in kinds if kind.root.name != "cache")}:
        for folder, _, names in os.walk(root):
            for name in names:
                status = os.lstat(os.path.join(folder, name))
                found[os.path.join(folder, name)] = (status.st_size, status.st_mtime_ns)
    return found


def table(counts: dict[str, dict[str, int]]) -> str:
    """By kind, how many of each outcome; Markdown."""
    columns = [*SOUND, *UNSOUND]
    lines = [
        f"| {'kind':28} | inputs | " + " | ".join(f"{c:>8}" for c in columns) + " |",
        "|" + "---|" * (len(columns) + 2),
    ]
    total: Counter[str] = Counter()
    for name, found in counts.items():
        total.update(found)
        lines.append(_row(name, found, columns))
    return "\n".join([*lines, _row("all", dict(total), columns)])


def _row(name: str, found: dict[str, int], columns: list[str]) -> str:
    cells = " | ".join(f"{found.get(c, 0) or '':>8}" for c in columns)
    return f"| {name:28} | {sum(found.values()):6d} | {cells} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="mutated files (default: 10000)")
    parser.add_argument(
        "--processes", type=int, default=1, help="that read side by side (default: 1)"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: 0)")
    parser.add_argument("--minutes", type=float, default=600, help="at most (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument(
        "--quick", action="store_true", help="only kinds that take a moment (default: all)"
    )
    parser.add_argument(
        "--only", default="", help="kinds whose name holds this pattern (default: all)"
    )
    parser.add_argument("--out", type=Path, help="JSON to write (default: none)")
    parser.add_argument("--keep", type=Path, help="folder for what is unsound (default: none)")
    args = parser.parse_args()
    from honest import kinds_in

    with tempfile.TemporaryDirectory() as folder:
        kinds = [
            kind for kind in kinds_in(Path(folder), args.quick) if re.search(args.only, kind.name)
        ]
        if args.keep is not None:
            args.keep.mkdir(parents=True, exist_ok=True)
        inputs = range(args.first, args.first + args.inputs)
        found = side_by_side(
            kinds, inputs, args.seed, args.minutes, args.keep, max(1, args.processes)
        )
    print(table(found["counts"]))
    for example in found["examples"][:40]:
        print(example)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["examples"] else 0


if __name__ == "__main__":
    from mutations import main as of_the_module  # which `honest.py` adds kinds and ways to

    sys.exit(of_the_module())

"""What survives where every command is killed at each k-th thing that it does to a disk.

    python benchmarks/faults.py --every 3 --out faults.json
    python benchmarks/faults.py --how full --every 5

`faults.c` counts what a process does to files below a folder and makes one operation fail: SIGKILL
in its place, after half of it where it is a write, or no room from then on. The same command then
runs again, undisturbed, and what it leaves is compared byte for byte with what one that was never
disturbed leaves. Every trial is a process of its own, forked from one that has imported everything.

Columns: points tried; reruns that were refused; results that differ; results with litter; and, of
a full disk, ends that were no single line naming a file.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent)]
import disturbed  # noqa: E402
from disturbed import PROGRAMS, Case, cases  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
from train_lm import outputs  # noqa: E402

SHIM = Path(__file__).with_suffix(".c")
SKIP = "/tensorboard/"  # written by a thread of its own; no result depends on it
MARKS = "/cache/whole/"  # of files that were found whole, by the time of each
COUNT, KILL, FULL, TELL = range(4)  # as in faults.c
GONE = 5.0  # [s] after which nothing that a command has started may be left
WRONG = ("refused", "different", "litter", "unclear", "alive")
MODES = {"kill": (KILL,), "full": (FULL,), "both": (KILL, FULL)}

# Modules that commands import as they run; a fork that finds them there starts at once.
NEEDED = (
    *("policies.play.evaluation", "policies.play.closed_loop", "policies.play.recording"),
    *("policies.learn.training", "policies.learn.tasting", "policies.learn.cloning"),
    *("policies.learn.surrogate_fit", "policies.verdict.report", "train_lm.curriculum_run"),
    *("kncl_env.world.build", "kncl_env.world.sources.synthetic", "rabbit_holes.export"),
    *("rabbit_holes.describe.page", "rabbit_holes.live.collector"),
    *("kncl_env.world.sources.wiki.wikipedia", "kncl_env.world.sources.jsonl"),
    *("kncl_env.open_world.saved", "kncl_env.table_world.measuring", "kncl_env.knowledge.export"),
    *("kncl_env.knowledge.reading", "kncl_env.world.rewiring", "kncl_env.world.target.aside"),
    *("policies.stream.runs", "policies.stream.parallel_run", "policies.benchmark.runs"),
    *("policies.stream.page", "policies.play.controls_made", "train_lm.adapters", "peft"),
    *("rabbit_holes.walkers.generative", "rabbit_holes.walkers.over_world", "faiss", "sklearn.svm"),
    *("torch.utils.tensorboard", "transformers.models.llama.modeling_llama", "accelerate"),
    *("sklearn.feature_extraction.text", "sklearn.decomposition", "sklearn.cluster", "pyarrow"),
    *("pyarrow.parquet", "matplotlib.figure", "rich.progress", "safetensors.torch", "tokenizers"),
)


def chosen_cases(api: str, only: str, cold: bool) -> list[tuple[Case, bool, str]]:
    """Commands whose name holds a pattern, whether with a full cache, and that name."""
    found = []
    for case in cases(api):
        for warm in (False,) if cold else case.variants:
            name = f"{case.title}, warm" if warm else case.title
            if re.search(only, name):
                found.append((case, warm, name))
    return found


@dataclass
class Row:
    """What came of one case."""

    command: str
    operations: int
    points: int = 0
    refused: int = 0
    different: int = 0
    litter: int = 0
    unclear: int = 0
    alive: int = 0  # something that it had started was still there 5 s later
    told: list[str] = field(default_factory=list)

    def note(self, point: int, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.told.append(f"{self.command} at {point}: {what}")


class Bench:
    """Runs commands as forks, disturbed or not, in one folder that is made anew each time."""

    def __init__(self, base: Path) -> None:
        self.inputs, self.trial = base / "in", base / "trial"
        self.kept, self.said = base / "warm", base / "said"
        self.any_order = False
        self.orphans = False  # the last command left a process behind
        self.inputs.mkdir(parents=True)
        self.lib = ctypes.CDLL(None)

    def prepare(self, case: Case, warm: bool) -> None:
        """An empty place to write to, or what lay there before."""
        self.any_order = case.has_workers
        shutil.rmtree(self.trial, ignore_errors=True)
        (self.trial / "out").mkdir(parents=True)
        if case.before:
            shutil.copytree(self.inputs / case.before, self.trial / "out" / "w")
        if warm:
            shutil.copytree(self.kept / case.title, self.trial / "cache")

    def run(self, case: Case, mode: int = COUNT, nth: int = 0, half: int = 0) -> int:
        """Exit status, minus the signal's number; `self.said` holds what it printed."""
        return self.wait(case, self.start(case, mode, nth, half))

    def start(self, case: Case, mode: int = COUNT, nth: int = 0, half: int = 0) -> int:
        """Number of the process.

        Args:
            half: Whether a write is halved before the kill; of `TELL`, the signal.
        """
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if case.has_workers:
                self._fork_workers()
            self._suffer(case, mode, nth, half)
        return pid

    def wait(self, case: Case, pid: int) -> int:
        """Exit status of a process that was started."""
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.orphans = case.has_workers and not gone(pid)
        return status

    def _fork_workers(self) -> None:
        """Its workers need no new Python, and suffer nothing themselves."""
        import multiprocessing

        quick = multiprocessing.get_context("fork")
        multiprocessing.get_context = lambda _=None: quick  # type: ignore[assignment]
        os.register_at_fork(after_in_child=self._as_if_new)

    def _as_if_new(self) -> None:
        self.lib.faults_arm(b"", b"", COUNT, ctypes.c_long(0), 0)
        for hold in outputs._HELD.values():  # a new Python would inherit no lock
            os.close(hold._stream)
        outputs._HELD.clear()

    def _suffer(self, case: Case, mode: int, nth: int, half: int) -> None:
        try:
            said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.environ["KNCL_CACHE"] = str(self.trial / "cache")
            words = self.words(case)
            main = sys.modules[case.program].main
            exec(case.first, {})
            self.lib.faults_arm(
                str(self.trial).encode(), SKIP.encode(), mode, ctypes.c_long(nth), int(half)
            )
            code = main(words) if mode != TELL else self._told(case, words)
            sys.stdout.flush()
            counted = [int(self.lib.faults_count()), int(self.lib.faults_writes())]
            self.said.with_suffix(".count").write_text(json.dumps(counted))
            os._exit(code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)

    def _told(self, case: Case, words: list[str]) -> int:
        """As `main`, and all that a command's process has around it for signals."""
        from train_lm.command_line import program

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = [words[0], *words]
        try:
            program(case.program)
        except SystemExit as end:
            return int(end.code or 0)

    def words(self, case: Case) -> list[str]:
        """Its arguments, with the places of this bench."""
        places = {"OUT": str(self.trial / "out"), "IN": str(self.inputs)}
        return re.sub(r"\b(OUT|IN)\b", lambda m: places[m[1]], case.words).split()[1:]

    def counted(self) -> list[int]:
        found: list[int] = json.loads(self.said.with_suffix(".count").read_text())
        return found

    def left(self) -> tuple[dict[str, bytes], list[str]]:
        """Files by name as far as they must agree, and litter."""
        files, litter = {}, []
        for file in sorted(self.trial.rglob("*")):
            name = str(file.relative_to(self.trial))
            if re.search(r"\.part\b|\.lock$|\.tmp|-journal$", name):
                litter.append(name)
            elif file.is_file() and not _of_no_matter(f"/{name}"):
                files[name] = _timeless(name, file.read_bytes(), self.any_order)
        return files, litter


def of_session(session: int) -> list[int]:
    """Processes of a session that are left."""
    found = []
    for place in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            state, _, _, own, *_ = (place / "stat").read_text().rpartition(")")[2].split()
            if int(own) == session and state not in "ZX":
                found.append(int(place.name))
    return found


def gone(session: int, patience: float = GONE) -> bool:
    """Whether all processes of a session end within a time [s]; those that do not are killed."""
    until = time.monotonic() + patience
    while left := of_session(session):
        if time.monotonic() > until:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.01)
    return True


def _of_no_matter(name: str) -> bool:
    # `build.json`: time and memory of a build.
    return SKIP in name or MARKS in name or name.endswith((".sqlite", "/build.json"))


def _timeless(name: str, data: bytes, any_order: bool) -> bytes:
    """Without what tells the time: clocks differ, whatever happens.

    Args:
        any_order: Whether lines are written as workers finish, in one order or another.
    """
    if name.endswith("metrics.jsonl"):
        return _lines_without(data, "seconds", "steps_per_second", "learner_share")
    if name.startswith("out/n/") and name.endswith(".jsonl"):  # of neighbourhoods
        data = _lines_without(data, "seconds", "began", "ended", "seal")
    if name.startswith("out/n/") and name.endswith(".html"):
        data = re.sub(rb"<td data-label='tokens/s'>.*?</td>", b"", data)
    if name.startswith("out/c"):  # a collection: when its pages came
        return re.sub(rb'"(time|began|started|ended|seconds|seal)":[^,}]*', b"", data)
    if any_order and name.endswith(".jsonl"):
        return b"\n".join(sorted(_lines_without(data, "line", "seal").splitlines()))
    return data


def _lines_without(data: bytes, *keys: str) -> bytes:
    lines = (json.loads(line) for line in data.splitlines())
    kept = ({k: v for k, v in line.items() if k not in keys} for line in lines)
    return b"\n".join(json.dumps(line).encode() for line in kept)


def check_rerun(bench: Bench, case: Case, point: int, row: Row, wanted: dict[str, bytes]) -> None:
    """The same command again: it ends with the files of an undisturbed run, and no others."""
    if bench.run(case) != 0:
        row.note(point, "refused")
        row.told.append(bench.said.read_text(errors="replace")[-600:])
        return
    found, litter = bench.left()
    if found != wanted:
        row.note(point, "different")
        names = {n for n in {*found, *wanted} if found.get(n) != wanted.get(n)}
        row.told.append(", ".join(sorted(names)[:5]))
    if litter:
        row.note(point, "litter")
        row.told.append(", ".join(litter[:5]))


def disturb(bench: Bench, case: Case, points: list[int], mode: int, row: Row, warm: bool) -> None:
    wanted, _ = undisturbed(bench, case, warm)
    for point in points:
        bench.prepare(case, warm)
        before, _ = bench.left()
        status = bench.run(case, mode, point, half=int(point % 2 == 0))
        row.points += 1
        said = bench.said.read_text(errors="replace")
        if bench.orphans:
            row.note(point, "alive")
        if mode == FULL and status != 0:
            *_, last = said.strip().splitlines() or [""]
            lines = re.findall(r"^(?:error: |Traceback|Exception).*", said, re.MULTILINE)
            if status != 2 or lines != [last] or str(bench.trial) not in last:
                row.note(point, "unclear")
                row.told.append(said[-600:])
        if mode == FULL:
            after, _ = bench.left()
            if any(after.get(name) != data for name, data in before.items()):
                row.note(point, "different")
        check_rerun(bench, case, point, row, wanted)


def undisturbed(bench: Bench, case: Case, warm: bool) -> tuple[dict[str, bytes], list[int]]:
    """What an undisturbed run leaves, and its operations and writes."""
    bench.prepare(case, warm)
    if bench.run(case) != 0:
        raise RuntimeError(f"{case.title} fails undisturbed: {bench.said.read_text()[-2000:]}")
    found, litter = bench.left()
    assert not litter, litter
    if case.cache and not warm:
        shutil.rmtree(bench.kept / case.title, ignore_errors=True)
        shutil.copytree(bench.trial / "cache", bench.kept / case.title)
    return found, bench.counted()


def make_inputs(bench: Bench, chosen: list[Case]) -> None:
    """What these commands read."""

    def run(words: str) -> None:
        if bench.run(Case(words)) != 0:
            raise RuntimeError(bench.said.read_text())

    disturbed.make_inputs(bench.inputs, chosen, run)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    found.add_argument("--every", type=int, default=3, help="disturb each k-th operation (3)")
    found.add_argument("--points", type=int, help="at most so many of a case, drawn evenly (all)")
    found.add_argument("--only", default="", help="cases whose name holds this pattern (all)")
    found.add_argument("--how", choices=MODES, default="kill", help="kill, fill the disk (kill)")
    found.add_argument("--cold", action="store_true", help="with an empty cache only")
    found.add_argument("--seed", type=int, default=0, help="of which operations come first (0)")
    found.add_argument("--seconds", type=float, default=1e9, help="begin no case later (any time)")
    found.add_argument("--out", type=Path, help="write the table as JSON (print it only)")
    return found


def main() -> int:
    args = parser().parse_args()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        return with_shim()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import_everything()
    began = time.monotonic()
    rows: list[Row] = []
    rng = np.random.default_rng(args.seed)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kncl-faults-")))
        bench = Bench(base)
        chosen = chosen_cases(wiki(stack), args.only, args.cold)
        make_inputs(bench, [case for case, _, _ in chosen])
        for case, warm, name in chosen:
            if time.monotonic() - began > args.seconds:
                continue
            if warm:
                undisturbed(bench, case, warm=False)  # fills the cache
            counts = undisturbed(bench, case, warm)[1]
            for mode in MODES[args.how]:
                operations = counts[mode == FULL]
                points = np.arange(int(rng.integers(args.every)), operations, args.every) + 1
                if args.points is not None and len(points) > args.points:
                    points = points[np.linspace(0, len(points) - 1, args.points).astype(int)]
                rows.append(Row(f"{name}: full" if mode == FULL else name, operations))
                disturb(bench, case, points.tolist(), mode, rows[-1], warm)
                print(line(rows[-1]), flush=True)
                for told in rows[-1].told[:12]:
                    print(f"    {told}", file=sys.stderr, flush=True)
                _write(args.out, rows)
    total = Row("all", sum(r.operations for r in rows))
    for what in ("points", *WRONG):
        setattr(total, what, sum(getattr(r, what) for r in rows))
    print(line(total))
    return int(any(getattr(total, what) for what in WRONG))


def _write(out: Path | None, rows: list[Row]) -> None:
    if out is not None:
        out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


def line(row: Row) -> str:
    return (
        f"{row.command:22s} {row.operations:5d} operations, {row.points:4d} points: "
        f"{row.refused} refused, {row.different} different, {row.litter} litter, "
        f"{row.unclear} unclear, {row.alive} alive"
    )


def wiki(stack: ExitStack) -> str:
    """A wiki on this machine, where the tests have one; returns the address of its API."""
    from misbehaving_server import MisbehavingServer

    graph = {f"P{i}": [f"P{(i + j) % 9}" for j in (1, 2, 4)] for i in range(9)}
    return stack.enter_context(MisbehavingServer(graph).running()).api


def with_shim() -> int:
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder, "faults.so")
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(SHIM), "-ldl"], check=True
        )
        env = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        env |= {"HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=env, check=False).returncode


def import_everything() -> None:
    import importlib

    with redirect_stdout(io.StringIO()):
        for name in (*PROGRAMS.values(), *NEEDED):
            importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())

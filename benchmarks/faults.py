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
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SHIM = Path(__file__).with_suffix(".c")
SKIP = "/tensorboard/"  # written by a thread of its own; no result depends on it
MARKS = "/cache/whole/"  # of files that were found whole, by the time of each
COUNT, KILL, FULL = range(3)  # as in faults.c
MODES = {"kill": (KILL,), "full": (FULL,), "both": (KILL, FULL)}

# Modules that commands import as they run; a fork that finds them there starts at once.
NEEDED = (
    *("policies.play.evaluation", "policies.play.closed_loop", "policies.play.recording"),
    *("policies.learn.training", "policies.learn.tasting", "policies.learn.cloning"),
    *("policies.learn.surrogate_fit", "policies.verdict.report", "train_lm.curriculum_run"),
    *("kncl_env.world.build", "kncl_env.world.sources.synthetic", "rabbit_holes.export"),
    *("rabbit_holes.describe.page", "rabbit_holes.live.collector"),
    "kncl_env.world.sources.wiki.wikipedia",
    *("rabbit_holes.walkers.generative", "rabbit_holes.walkers.over_world", "faiss", "sklearn.svm"),
    *("torch.utils.tensorboard", "transformers.models.llama.modeling_llama", "accelerate"),
    *("sklearn.feature_extraction.text", "sklearn.decomposition", "sklearn.cluster", "pyarrow"),
    *("pyarrow.parquet", "matplotlib.figure", "rich.progress", "safetensors.torch", "tokenizers"),
)

# An environment that takes a fraction of a second.
TINY = (
    "--nucleus-topics 4 --nucleus-updates 3 --steps 3 --updates-per-step 1 --batch 2 --breadth 8 "
    "--slots 4 --model xxs"
)


@dataclass(frozen=True)
class Case:
    """A command to disturb.

    Attributes:
        words: The command; below `OUT` it writes, below `IN` lies what was made beforehand.
        name: In the table, if not the command's verb.
        cache: Whether it fills a cache, so that a full one is another case.
        before: Name of what of `IN` lies at its output beforehand, if anything.
    """

    words: str
    name: str = ""
    cache: bool = False
    before: str = ""

    @property
    def title(self) -> str:
        return self.name or self.words.split()[1]

    @property
    def variants(self) -> tuple[bool, ...]:
        """With an empty cache, and with a full one where it fills one."""
        return (False, True) if self.cache else (False,)

    @property
    def program(self) -> str:
        """Module with the `main` of its first word."""
        return PROGRAMS[self.words.split()[0]]


PROGRAMS = {
    "kncl-env": "kncl_env.cli",
    "kncl-policy": "policies.cli.main",
    "rabbit-holes": "rabbit_holes.cli",
    "train-lm": "train_lm.cli",
}


def cases(api: str) -> list[Case]:
    build = "kncl-env build synthetic --topics 30 --vocab-size 300 --out OUT/w"
    world, few = "--world IN/world", f"--learners 2 {TINY}"
    train = f"kncl-policy train {world} --episodes 2 --out OUT/l {few}"
    wiki = f"--api-url {api} --contact you@example.org --rate 10000"
    return [
        Case(build),
        Case(f"{build} --force", name="build --force", before="world"),
        Case("rabbit-holes import jsonl IN/damaged.jsonl --out OUT/i"),
        Case(f"rabbit-holes walk {world} --walks 20 --out OUT/h"),
        Case(
            f"rabbit-holes generate {world} --model IN/model --walks 4 --depth 2 --device cpu "
            "--out OUT/g"
        ),
        Case(f"rabbit-holes collect --seed P0 --walks 3 --depth 3 {wiki} --out OUT/c"),
        Case(f"rabbit-holes export IN/holes.jsonl {world} --out OUT/e"),
        Case("rabbit-holes stats IN/holes.jsonl --html OUT/s.html"),
        Case(
            f"kncl-policy pretrain {world} --holes IN/holes.jsonl --epochs 1 --width 8 --slots 8 "
            "--out OUT/p"
        ),
        Case(
            f"kncl-policy record {world} --policies uniform,random --episodes 1 --out OUT/r {few}",
            cache=True,
        ),
        Case(f"kncl-policy surrogate {world} --episodes IN/episodes.jsonl --out OUT/s.json"),
        Case(
            f"kncl-policy taste {world} --episodes 4 --trials 1 --out OUT/t.json {few}", cache=True
        ),
        Case(f"{train} --iterations 2", cache=True),
        Case(
            f"{train} --iterations 1 --practice IN/surrogate.json --practice-iterations 2",
            name="train --practice",
            cache=True,
        ),
        Case(
            f"kncl-policy evaluate {world} --policies uniform,random --seeds 2 --out OUT/r {few}",
            cache=True,
        ),
        Case(
            f"kncl-policy run {world} --policy rule --save-every 1 --threads 1 --out OUT/r {TINY}",
            cache=True,
        ),
        Case(
            f"train-lm run {world} --curriculum IN/curriculum.jsonl --model xxs --batch 2 "
            "--save-every 1 --cpu --out OUT/m",
            name="train-lm run",
            cache=True,
        ),
    ]


# What some inputs are made of, besides the world.
MADE_OF = {
    "surrogate": "episodes",
    "model": "loop",
    "curriculum": "loop",
    "damaged": "holes",
}


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
    told: list[str] = field(default_factory=list)

    def note(self, point: int, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.told.append(f"{self.command} at {point}: {what}")


class Bench:
    """Runs commands as forks, disturbed or not, in one folder that is made anew each time."""

    def __init__(self, base: Path) -> None:
        self.inputs, self.trial = base / "in", base / "trial"
        self.kept, self.said = base / "warm", base / "said"
        self.inputs.mkdir(parents=True)
        self.lib = ctypes.CDLL(None)

    def prepare(self, case: Case, warm: bool) -> None:
        """An empty place to write to, or what lay there before."""
        shutil.rmtree(self.trial, ignore_errors=True)
        (self.trial / "out").mkdir(parents=True)
        if case.before:
            shutil.copytree(self.inputs / case.before, self.trial / "out" / "w")
        if warm:
            shutil.copytree(self.kept / case.title, self.trial / "cache")

    def run(self, case: Case, mode: int = COUNT, nth: int = 0, half: bool = False) -> int:
        """Exit status, minus the signal's number; `self.said` holds what it printed."""
        pid = os.fork()
        if pid == 0:
            self._suffer(case, mode, nth, half)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status

    def _suffer(self, case: Case, mode: int, nth: int, half: bool) -> None:
        try:
            said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.environ["KNCL_CACHE"] = str(self.trial / "cache")
            words = self.words(case)
            main = sys.modules[case.program].main
            self.lib.faults_arm(
                str(self.trial).encode(), SKIP.encode(), mode, ctypes.c_long(nth), int(half)
            )
            code = main(words)
            sys.stdout.flush()
            counted = [int(self.lib.faults_count()), int(self.lib.faults_writes())]
            self.said.with_suffix(".count").write_text(json.dumps(counted))
            os._exit(code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)

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
                files[name] = _timeless(name, file.read_bytes())
        return files, litter


def _of_no_matter(name: str) -> bool:
    # `build.json`: time and memory of a build.
    return SKIP in name or MARKS in name or name.endswith((".sqlite", "/build.json"))


def _timeless(name: str, data: bytes) -> bytes:
    """Without what tells the time: clocks differ, whatever happens."""
    if name.endswith("metrics.jsonl"):
        kept = [json.loads(line) for line in data.splitlines()]
        clocks = ("seconds", "steps_per_second", "learner_share")
        return json.dumps([{k: v for k, v in x.items() if k not in clocks} for x in kept]).encode()
    if name.endswith("build.json"):  # how long each stage of a build took, and its memory
        return b"".join(re.findall(rb'"stage": "[^"]*"', data))
    if name.startswith("out/c"):  # a collection: when its pages came
        return re.sub(rb'"(time|began|started|ended|seconds|seal)":[^,}]*', b"", data)
    return data


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
        status = bench.run(case, mode, point, half=point % 2 == 0)
        row.points += 1
        said = bench.said.read_text(errors="replace")
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
    """What these commands read: a world, walks, a model, an order of reading, episodes and so on.

    All of it by our own commands.
    """
    needs = {name for case in chosen for name in re.findall(r"\bIN/(\w+)", case.words)} | {"world"}
    for name, of in MADE_OF.items():
        needs |= {of} if name in needs else set()
    world = "--world IN/world"
    few = f"--policies uniform,random --episodes 4 --learners 2 {TINY}"
    for name, words in {
        "world": "kncl-env build synthetic --topics 30 --vocab-size 300 --seed 1",
        "holes.jsonl": f"rabbit-holes walk {world} --walks 60",
        "episodes.jsonl": f"kncl-policy record {world} {few}",
        "surrogate.json": f"kncl-policy surrogate {world} --episodes IN/episodes.jsonl",
        "loop": f"kncl-policy run {world} --policy random --threads 1 {TINY}",
    }.items():
        if name.split(".")[0] in needs and bench.run(Case(f"{words} --out IN/{name}")) != 0:
            raise RuntimeError(bench.said.read_text())
    if "loop" in needs:
        shutil.copytree(bench.inputs / "loop" / "model", bench.inputs / "model")
        shutil.copy(bench.inputs / "loop" / "curriculum.jsonl", bench.inputs / "curriculum.jsonl")
    if "damaged" in needs:
        lines = (bench.inputs / "holes.jsonl").read_text().splitlines(keepends=True)
        lines[3] = "{\n"  # so that an import has something to complain about
        (bench.inputs / "damaged.jsonl").write_text("".join(lines[:20]))


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
    for what in ("points", "refused", "different", "litter", "unclear"):
        setattr(total, what, sum(getattr(r, what) for r in rows))
    print(line(total))
    return int(bool(total.refused or total.different or total.litter or total.unclear))


def _write(out: Path | None, rows: list[Row]) -> None:
    if out is not None:
        out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


def line(row: Row) -> str:
    return (
        f"{row.command:22s} {row.operations:5d} operations, {row.points:4d} points: "
        f"{row.refused} refused, {row.different} different, {row.litter} litter, "
        f"{row.unclear} unclear"
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

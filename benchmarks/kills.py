"""SIGKILL at moments drawn from a seed: builds of files, runs with a queue, runs in an open world.

A trial is one command, killed up to three times in a row at moments drawn evenly from its steps, or
from the time that it takes undisturbed, and begun again each time by the same words; then it may
finish. What it
leaves is compared, byte for byte, with what an undisturbed one left. Of an open world, too: the
wiki, a process that nobody kills, was asked for nothing that the run had kept; the run keeps each
article once; and without the wiki, from its articles alone, it ends in the same bytes again.
`faults.py` does the like at operations on the disk.

    python benchmarks/kills.py --points 40 --seed 1

Columns: kills that met a running command; commands that were refused; results that differ; results
with litter; titles asked for that were kept before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fork_server import ForkServer  # noqa: E402
from text_wiki import TextWiki  # noqa: E402

IN_A_ROW = 3  # kills of one trial, at most
# Written by a thread of its own, or telling the time; what was asked for ahead is told apart.
NO_MATTER = re.compile(r"/tensorboard/|/build\.json$|articles\.jsonl$|/\.|^\.|\.lock$")
LITTER = re.compile(r"\.part\b|\.lock$|\.tmp|-journal$|\.building/")
LITTLE = (
    "--model xxs --nucleus-topics 4 --nucleus-updates 10 --updates-per-step 2 --batch 4 --slots 4 "
    "--breadth 16 --threads 1 --save-every 1 --steps"
)
MANNERS = "--contact reader@kncl.invalid --rate 1000"
NEEDS = {
    "kncl_env.cli": (
        *("kncl_env.world.build", "kncl_env.world.sources.wiki.live", "faiss", "pyarrow.parquet"),
        *("sklearn.feature_extraction.text", "sklearn.decomposition", "tokenizers", "libzim"),
        *("kncl_env.world.sources.parquet", "kncl_env.world.sources.mediawiki"),
    ),
    "policies.cli.main": (
        *("policies.play.closed_loop", "policies.cli.settings", "torch.utils.tensorboard"),
        *("transformers.models.llama.modeling_llama", "kncl_env.open_world.game", "faiss"),
        "kncl_env.world.sources.wiki.articles",
    ),
}
Moment = tuple[int, float]
PROGRAMS = {"kncl-env": "kncl_env.cli", "kncl-policy": "policies.cli.main"}


@dataclass(frozen=True)
class Case:
    """A command to kill.

    Attributes:
        steps: That it has; each is a line of `OUT/r/metrics.jsonl`, and tells a moment better than
            a clock does where the machine is busy. 0 where it has none.
        words: The command; below `OUT` it writes, below `IN` lies what was made beforehand.
        also: A look at what a trial left, given its folder: what is wrong, a line each.
    """

    name: str
    words: str
    steps: int = 0
    also: Callable[[Path], list[str]] = lambda _: []

    @property
    def program(self) -> str:
        return PROGRAMS[self.words.split()[0]]


@dataclass
class Row:
    """What came of one case."""

    case: str
    kills: int = 0
    trials: int = 0
    refused: int = 0
    different: int = 0
    litter: int = 0
    asked_again: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not (self.refused or self.different or self.litter or self.asked_again)

    def note(self, what: str, told: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.told.append(f"{self.case}, trial {self.trials}: {what}: {told}")

    def line(self) -> str:
        return (
            f"{self.case:14s} {self.kills:4d} kills in {self.trials:3d} trials: {self.refused} "
            f"refused, {self.different} different, {self.litter} litter, {self.asked_again} asked "
            "again"
        )


class Bench:
    """Runs cases in one folder; every command is a process of its own."""

    def __init__(self, base: Path, wiki: TextWiki) -> None:
        self.base, self.wiki = base, wiki
        self.inputs = base / "in"
        self.inputs.mkdir(parents=True)
        self._forks: dict[str, ForkServer] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, words: str, out: Path) -> tuple[ForkServer, int]:
        first, *rest = words.split()
        program = PROGRAMS[first]
        if program not in self._forks:
            server = ForkServer(program, *NEEDS[program])
            self._forks[program] = self._stack.enter_context(server)
        places = {"OUT": str(out), "IN": str(self.inputs), "API": self.wiki.api}
        given = [re.sub(r"\b(OUT|IN|API)\b", lambda m: places[m[1]], word) for word in rest]
        cache = {"KNCL_CACHE": str(out.parent / "cache")}
        return self._forks[program], self._forks[program].start(given, cache)

    def run(self, words: str, out: Path) -> int:
        forks, pid = self.start(words, out)
        return forks.wait(pid)

    def room(self, name: str, warm: Path | None = None) -> Path:
        """An empty place to write to, beside a cache that knows the nucleus and no retrieval."""
        folder = self.base / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        if warm is not None and (warm / "cache").is_dir():
            no_queue = shutil.ignore_patterns("queue-*")
            shutil.copytree(warm / "cache", folder / "cache", ignore=no_queue)
        return folder / "out"

    def undisturbed(self, case: Case) -> tuple[dict[str, bytes], float]:
        """What it leaves, and how long it takes [s] where its cache is full."""
        out = self.room("whole")
        if self.run(case.words, out) != 0:
            raise RuntimeError(f"{case.name} fails undisturbed")
        again = self.room("warm", out.parent)
        began = time.monotonic()
        if self.run(case.words, again) != 0:
            raise RuntimeError(f"{case.name} fails undisturbed")
        seconds = time.monotonic() - began
        found, litter = left(out)
        assert not litter, litter
        assert left(again)[0] == found, f"{case.name}: two undisturbed runs differ"
        return found, seconds


def left(out: Path) -> tuple[dict[str, bytes], list[str]]:
    """Files by name as far as they must agree, and litter."""
    files, litter = {}, []
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if LITTER.search(name):
            litter.append(name)
        elif file.is_file() and not NO_MATTER.search(f"/{name}"):
            files[name] = file.read_bytes()
    return files, litter


def kept(out: Path) -> list[str]:
    """Titles that a run, or a build, has kept, in their order; an unfinished line is none."""
    found = []
    for file in sorted(out.rglob("*articles.jsonl")):
        head, *lines = file.read_bytes().splitlines(keepends=True) or [b""]
        if b"kncl-articles" in head:
            found += [str(json.loads(line)["asked"]) for line in lines if line.endswith(b"\n")]
    return found


def drawn(case: Case, seconds: float, rng: random.Random) -> Moment:
    """A moment of a command that takes so long [s]: steps that are done by then, and [s] since."""
    if not case.steps:
        return 0, rng.uniform(0, seconds)
    return rng.randrange(case.steps), rng.uniform(0, seconds / case.steps)


def trial(
    bench: Bench, case: Case, row: Row, wanted: Mapping[str, bytes], moments: Sequence[Moment]
) -> None:
    """Kill a command at moments of its lives, let it finish, and look at what is there."""
    out = bench.room("trial", bench.base / "whole")
    row.trials += 1
    for moment in (*moments, None):
        before = set(kept(out))
        n = len(bench.wiki.asked)
        forks, pid = bench.start(case.words, out)
        if moment is not None:
            forks.kill_at(pid, out / "r/metrics.jsonl", *moment)
        status = forks.wait(pid)
        row.kills += status == -signal.SIGKILL
        for title in before & {title for asked in bench.wiki.asked[n:] for title in asked}:
            row.note("asked_again", title)
        if status == 0:
            break
        if status != -signal.SIGKILL:
            row.note("refused", f"status {status}")
            return
    files, litter = left(out)
    if differ := [name for name in {*files, *wanted} if files.get(name) != wanted.get(name)]:
        row.note("different", ", ".join(sorted(differ)[:5]))
    if litter:
        row.note("litter", ", ".join(litter[:5]))
    titles = kept(out)
    for title in {title for title in titles if titles.count(title) > 1}:
        row.note("different", f"{title!r} is kept twice")
    for told in case.also(out):
        row.note("different", told)
    if "--live" in case.words:
        replay(bench, case, row, wanted, out)


def replay(bench: Bench, case: Case, row: Row, wanted: Mapping[str, bytes], out: Path) -> None:
    """Without the wiki, from what the killed run kept."""
    words = re.sub(rf"--live {MANNERS}", f"--articles {out}/r/articles.jsonl", case.words)
    again = bench.room("again", bench.base / "whole")
    n = len(bench.wiki.asked)
    if bench.run(words, again) != 0:
        row.note("refused", "the replay")
    elif left(again)[0] != wanted:
        row.note("different", "the replay")
    if len(bench.wiki.asked) > n:
        row.note("asked_again", "by the replay")


def queue_is_done(out: Path) -> list[str]:
    """Whether a queue left jobs undone, or kept other passages than a search finds."""
    from kncl_env.queue import JobStore
    from kncl_env.retrieval import NeighbourhoodRetriever
    from kncl_env.world.world import World

    told: list[str] = []
    files = sorted((out.parent / "cache").glob("queue-*.sqlite"))
    if len(files) != 1:
        return [f"{len(files)} stores of jobs"]
    store = JobStore(files[0])
    world = World.open(out.parent.parent / "in" / "world")
    retriever = NeighbourhoodRetriever(world, 16)
    if undone := store.unfinished():
        told.append(f"jobs undone: {undone}")
    done = 0
    for topic in range(world.n_topics):
        found = store.get(topic, "", len(world.passage_topic))
        if found is not None:
            done += 1
            if found.tolist() != retriever.retrieve(topic, None).tolist():
                told.append(f"other passages of topic {topic}")
    store.close()
    return told if done else [*told, "no job was kept"]


def cases() -> list[Case]:
    small = "--passage-bytes 200 --vocab-size 300 --out OUT/w"
    live = f"kncl-policy run --world IN/live --live {MANNERS} --reach 5 --policy random --out OUT/r"
    return [
        *(
            Case(f"build {kind}", f"kncl-env build {kind} IN/formats/{name} {small}")
            for kind, name in (
                *(("parquet", "a.parquet"), ("jsonl", "a.jsonl"), ("zim", "a.zim")),
                *(("mediawiki", "a.xml.bz2"), ("folder", "notes")),
            )
        ),
        Case(
            "build live",
            f"kncl-env build live --titles Prose_0 --articles 60 --api-url API {MANNERS} {small}",
        ),
        Case(
            "queue 4",
            f"kncl-policy run --world IN/world --queue 4 --policy random --out OUT/r {LITTLE} 12",
            12,
            queue_is_done,
        ),
        *(Case(f"live, queue {n}", f"{live} --queue {n} {LITTLE} 8", 8) for n in (0, 1, 4)),
    ]


def make_inputs(bench: Bench, chosen: Sequence[Case]) -> None:
    """A corpus in every format that a case reads, and the worlds that it plays in."""
    from corpus_files import every_format

    from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic

    needed = " ".join(case.words for case in chosen)
    if "IN/formats" in needed:
        (bench.inputs / "formats").mkdir()
        articles = read_synthetic(SyntheticConfig(n_topics=60, n_communities=4)).articles
        every_format(bench.inputs / "formats", [replace(a, labels=()) for a in articles])
    small = "--passage-bytes 200 --vocab-size 300"
    for name, words in {
        "world": "kncl-env build synthetic --topics 60 --vocab-size 300 --out "
        f"{bench.inputs}/world",
        "live": f"kncl-env build live --titles Prose_0 --articles 30 --api-url API {MANNERS} "
        f"{small} --out {bench.inputs}/live",
    }.items():
        if f"IN/{name} " in needed and bench.run(words, bench.room("made")) != 0:
            raise RuntimeError(f"cannot make {name}")


def measure(
    chosen: Sequence[Case],
    points: int,
    seed: int,
    base: Path,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """What came of each case."""
    from mediawiki import prose

    rows = []
    with TextWiki(prose(), latency=0.01).running() as wiki, Bench(base, wiki) as bench:
        make_inputs(bench, chosen)
        for case in chosen:
            rng = random.Random(f"{seed} {case.name}")
            wanted, seconds = bench.undisturbed(case)
            row = Row(case.name)
            while row.kills < points and row.trials < 4 * points and row.is_sound:
                moments = [drawn(case, seconds, rng) for _ in range(rng.randint(1, IN_A_ROW))]
                trial(bench, case, row, wanted, moments)
            rows.append(row)
            say(f"{row.line()}; {seconds:.1f} s undisturbed")
            for told in row.told:
                say(f"    {told}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=20, help="kills of each case, at least (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--only", default="", help="cases whose name holds this pattern (all)")
    parser.add_argument("--out", type=Path, help="write the table as JSON (print it only)")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    with tempfile.TemporaryDirectory(prefix="kncl-kills-") as base:
        os.dup2(os.open(Path(base, "said"), os.O_WRONLY | os.O_CREAT), 2)  # what commands say
        chosen = [case for case in cases() if re.search(args.only, case.name)]
        rows = measure(chosen, args.points, args.seed, Path(base, "work"))
    if args.out is not None:
        args.out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")
    return int(not all(row.is_sound for row in rows))


if __name__ == "__main__":
    sys.exit(main())

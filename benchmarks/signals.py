"""What becomes of real commands that are stopped, by Ctrl-C, SIGTERM or SIGKILL.

    python benchmarks/signals.py --how stop --out stop.json
    python benchmarks/signals.py --how kill --points 100 --seed 1

Every trial is a process of its own, in a session of its own. `stop` sends Ctrl-C and SIGTERM to
every command: in its start-up, at a random moment of its imports and first looks, started as
everybody starts it; in the middle, at half of its file operations; at the end, at its last one
(`faults.c` counts them), in a process that is forked where everything is imported already, unless
it starts workers.
`kill` sends SIGKILL at random moments, spread evenly over the commands, between the first thing
that each does to a disk and its end. The same command then runs again, as in `faults.py`.

Columns: signals sent; ends with a traceback or more than one line; other exit statuses than the
signal's; processes still there 5 s later; the longest time that the last of them took to go; and
reruns that were refused, whose results differ, or that left litter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent)]
import faults  # noqa: E402
from disturbed import Case  # noqa: E402
from faults import GONE, ROOT, Bench, Row, check_rerun, make_inputs, of_session  # noqa: E402

PACKAGES = {
    "kncl-env": "kncl_env",
    "kncl-policy": "policies",
    "rabbit-holes": "rabbit_holes",
    "train-lm": "train_lm",
}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # as a shell tells a signal's end, too
MOMENTS = ("start-up", "middle", "end")


@dataclass
class Stopped(Row):
    """What came of stopping one command."""

    told_more: int = 0  # a traceback, or more than one line
    status: int = 0  # another exit status
    longest: float = 0.0  # [s] until the last process was gone
    too_late: int = 0  # it had ended before the signal came; not counted as a point


class Running:
    """A command in a session of its own."""

    def __init__(self, bench: Bench, pid: int) -> None:
        self.bench, self.pid, self.began = bench, pid, time.monotonic()
        self.status: int | None = None  # once it has ended; of a signal, minus its number
        self._python = False  # Python has set its own handler of Ctrl-C

    @property
    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    @property
    def age(self) -> float:
        return time.monotonic() - self.began

    def until(self, reached: Callable[[], bool]) -> bool:
        """Wait for something to become true; False where the command ended before."""
        while not self.ended:
            if reached():
                return True
            time.sleep(0.003)
        return False

    @property
    def listens(self) -> bool:
        """Whether Python itself has started and our first line has run."""
        with suppress(OSError, TypeError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
            both = (1 << signal.SIGINT - 1, 1 << signal.SIGTERM - 1)
            self._python |= bool(caught & both[0])
            return bool(caught & both[1]) or (self._python and not caught & both[0])
        return False

    @property
    def writes(self) -> bool:
        out, cache = self.bench.trial / "out", self.bench.trial / "cache"
        return any(out.iterdir()) or (cache.is_dir() and any(cache.iterdir()))

    def gone_after(self, since: float, patience: float) -> float | None:
        """How long after `since` the last process was gone [s]; None where one was not."""
        while not self.ended or of_session(self.pid):
            if time.monotonic() - since > patience:
                for pid in of_session(self.pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.wait()
                return None
            time.sleep(0.01)
        return time.monotonic() - since


def forked(bench: Bench, case: Case, mode: int = faults.COUNT, *at: int) -> Running:
    """From a process that has imported everything."""
    return Running(bench, bench.start(case, mode, *at))


def real(bench: Bench, case: Case, **more: str) -> Running:
    """As everybody starts it."""
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD" or "FAULTS_AT" in more}
    paths = {"PYTHONPATH": str(ROOT), "KNCL_CACHE": str(bench.trial / "cache")}
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from {PACKAGES[case.words.split()[0]]}.__main__ import command\n{case.first}\n"
        "command()"
    )
    with bench.said.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *bench.words(case)],
            env={**env, **paths, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    process.returncode = 0  # we wait for it ourselves
    return Running(bench, process.pid)


Start = Callable[[Bench, Case], Running]


def measured(bench: Bench, case: Case, warm: bool, start: Start) -> tuple[float, float]:
    """How long an undisturbed process takes to its first file, and in all [s]."""
    bench.prepare(case, warm)
    running = start(bench, case)
    running.until(lambda: running.writes)
    first = running.age
    if running.wait() != 0:
        raise RuntimeError(f"{case.title} fails undisturbed: {bench.said.read_text()[-2000:]}")
    return first, running.age


def kill(bench: Bench, todo: list[tuple[Case, bool, Row]], points: int, seed: int) -> None:
    """SIGKILL at random moments, the commands in turn.

    Workers start as they do for everybody; else a fork that has imported everything is killed,
    since there is nothing to lose in the imports.
    """
    rng = np.random.default_rng(seed)
    known = {}
    for n in range(points):
        case, warm, row = todo[n % len(todo)]
        start = real if case.has_workers else forked
        if row.command not in known:
            if warm:
                faults.undisturbed(bench, case, warm=False)  # fills the cache
            wanted, _ = faults.undisturbed(bench, case, warm)
            known[row.command] = (wanted, *measured(bench, case, warm, start))
        wanted, first, whole = known[row.command]
        for _ in range(10):  # on a machine of uneven speed it may have ended before
            bench.prepare(case, warm)
            running = start(bench, case)
            running.until(lambda running=running: running.writes)
            time.sleep(rng.uniform(0, max(whole - first, 0.05)))
            late = running.ended
            if not late:
                os.kill(running.pid, signal.SIGKILL)  # its workers are to notice by themselves
            if running.gone_after(time.monotonic(), GONE) is None:
                row.note(n, "alive")
            # Between its last word to the disk and its end there was nothing left to do.
            if not late and bench.left() != (wanted, []):
                row.points += 1
                check_rerun(bench, case, n, row, wanted)
                break
        print(f"{n + 1} {faults.line(row)}", flush=True)


def stop(bench: Bench, case: Case, warm: bool, row: Stopped, rng: np.random.Generator) -> None:
    """Both signals at each of three moments."""
    if warm:
        faults.undisturbed(bench, case, warm=False)  # fills the cache
    wanted, (operations, _) = faults.undisturbed(bench, case, warm)
    row.operations = operations
    first, _ = measured(bench, case, warm, real)
    at = {"middle": max(1, operations // 2), "end": operations}
    for moment in MOMENTS:
        for number in STATUS:
            bench.prepare(case, warm)
            sent = bench.trial.with_suffix(".told")
            sent.unlink(missing_ok=True)
            if moment == "start-up":
                running = real(bench, case)
                came = running.until(lambda running=running: running.listens)
                time.sleep(rng.uniform(0, max(0.0, first - running.age)))
                came = came and not running.ended
                if came:
                    os.killpg(running.pid, number)
            else:
                if case.has_workers:
                    when = {"FAULTS_AT": f"{int(number)}:{at[moment]}"}
                    running = real(bench, case, **when, FAULTS_BELOW=str(bench.trial))
                else:
                    running = forked(bench, case, faults.TELL, at[moment], int(number))
                came = running.until(sent.exists) or sent.exists()
            since = time.monotonic()
            taken = running.gone_after(since, GONE if came else 600)
            if not came:
                row.too_late += 1
                continue
            row.points += 1
            _judge(bench, row, f"{moment} {number.name}", running, taken, number)
            check_rerun(bench, case, at.get(moment, 0), row, wanted)


def _judge(
    bench: Bench, row: Stopped, what: str, running: Running, taken: float | None, number: int
) -> None:
    said = bench.said.read_text(errors="replace")
    status = running.wait()
    ends = re.findall(r"^(?:interrupted|terminated): .*", said, re.MULTILINE)
    if "Traceback" in said or "Exception ignored" in said or len(ends) > 1:
        row.told_more += 1
        row.told.append(f"{row.command}, {what}: told more: {said[-1500:]}")
    if status not in (STATUS[signal.Signals(number)], -number):
        row.status += 1
        row.told.append(f"{row.command}, {what}: status {status}: {said[-300:]}")
    if taken is None:
        row.alive += 1
        row.told.append(f"{row.command}, {what}: still there after {GONE:g} s")
    row.longest = max(row.longest, round(taken or GONE, 2))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    found.add_argument("--how", choices=("stop", "kill"), default="stop", help="signals (stop)")
    found.add_argument("--points", type=int, default=100, help="kills in all (100)")
    found.add_argument("--only", default="", help="commands whose name holds this pattern (all)")
    found.add_argument("--cold", action="store_true", help="with an empty cache only")
    found.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    found.add_argument("--out", type=Path, help="write the table as JSON (print it only)")
    return found


def main() -> int:
    args = parser().parse_args()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        return faults.with_shim()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    faults.import_everything()
    rng = np.random.default_rng(args.seed)
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kncl-signals-")))
        bench = Bench(base)
        chosen = faults.chosen_cases(faults.wiki(stack), args.only, args.cold)
        make_inputs(bench, [case for case, _, _ in chosen])
        todo = [(case, warm, Stopped(name, 0)) for case, warm, name in chosen]
        rows = [row for _, _, row in todo]
        if args.how == "kill":
            kill(bench, [(c, w, r) for c, w, r in todo], args.points, args.seed)
        for case, warm, row in todo if args.how == "stop" else ():
            stop(bench, case, warm, row, rng)
            print(_line(row), *row.told[:6], sep="\n    ", flush=True)
            _write(args.out, rows)
    _write(args.out, rows)
    for row in rows:
        print(_line(row) if args.how == "stop" else faults.line(row))
    wrong = ("refused", "different", "litter", "told_more", "status", "alive")
    return int(any(getattr(row, name) for row in rows for name in wrong))


def _write(out: Path | None, rows: list[Stopped]) -> None:
    if out is not None:
        out.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


def _line(row: Stopped) -> str:
    return (
        f"{row.command:22s} {row.points:3d} signals: {row.told_more} told more, {row.status} other "
        f"statuses, {row.alive} alive after 5 s, {row.longest:.1f} s at most, {row.refused} "
        f"refused, {row.different} different, {row.litter} litter; {row.too_late} too late"
    )


if __name__ == "__main__":
    sys.exit(main())

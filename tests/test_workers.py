"""Tasks in processes of their own: every result once, whatever becomes of a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from killed_once import Square, square

from train_lm.crew.hands import Hands
from train_lm.crew.local import TRIES
from train_lm.crew.standing import Standing, WorkerDiedError
from train_lm.crew.under_way import AHEAD, SPAN, UnderWay
from train_lm.machine.launchers import check_launcher


def tasks(marks: Path, *deaths: int) -> list[Square]:
    return [Square(number, str(marks), n) for number, n in enumerate(deaths)]


def test_one_worker_plays_the_tasks_here_and_in_order(tmp_path: Path) -> None:
    assert list(Hands(1).played(tasks(tmp_path, 0, 0, 0), square)) == [(0, 0), (1, 1), (2, 4)]


def test_a_task_whose_worker_was_killed_is_tried_again(tmp_path: Path) -> None:
    found = sorted(Hands(2).played(tasks(tmp_path, 0, 1, 0, 0), square))
    assert found == [(0, 0), (1, 1), (2, 4), (3, 9)]
    assert [mark.name for mark in tmp_path.iterdir()] == ["1-0"]


def test_a_task_that_always_kills_its_worker_is_given_up_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=f"killed {TRIES} times in a row"):
        list(Hands(2).played(tasks(tmp_path, 9, 9), square))


DRIVER = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from killed_once import Square, square
from train_lm.command_line import program, run, say
from train_lm.crew.hands import Hands

def play():
    for _ in Hands(2).played([Square(number, sys.argv[1]) for number in range(8)], square):
        say("played", flush=True)
        time.sleep(600)

driver = sys.modules["driver"] = types.ModuleType("driver")
driver.main = lambda: run(play)
program("driver")  # as every command is run
"""


@pytest.mark.parametrize(
    ("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_command_that_is_stopped_beside_its_workers_says_one_line(
    kind: signal.Signals, status: int, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == "played"
        (os.killpg if kind == signal.SIGINT else os.kill)(driver.pid, kind)
        _, said = driver.communicate(timeout=60)  # until whatever has it open is gone
    finally:
        driver.kill()
    assert driver.returncode == status
    assert len(said.splitlines()) == 1, said


def test_no_worker_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected processes >= 1, got 0"):
        list(Hands(0).played(tasks(tmp_path, 0), square))


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_tasks_are_asked_for_as_there_is_room(
    tmp_path: Path, workers: int
) -> None:
    asked = 0

    def many() -> Iterator[Square]:
        nonlocal asked
        for asked in range(1, 61):
            yield Square(asked, str(tmp_path), int(asked == 3 and workers > 1))

    ahead = []
    for done, found in enumerate(Hands(workers).in_order(many(), square), 1):
        assert found == done**2
        ahead.append(asked - done)
    assert asked == 60
    assert max(ahead) < 2 * workers * (SPAN + 1)


def test_a_slow_task_holds_up_those_long_after_it_where_results_are_wanted_in_order() -> None:
    for in_order, expected in ((True, 2 * AHEAD * SPAN), (False, 100)):
        under_way = UnderWay(range(100), in_order)
        while new := [*under_way.more(cores=2)]:
            for number in new:
                if number:  # the first one is never done
                    under_way.done(number)
        assert under_way.begin(100) == 1 + 100 - expected


def test_no_worker_keeps_nothing() -> None:
    workers = Hands(2).standing(Tally, [])
    assert workers.each("begin", []) == []
    workers.close()


@dataclass
class Tally:
    """Keeps a sum; its worker is killed as it adds a 3 for the first time."""

    marks: str
    total: int = 0

    def begin(self, total: int) -> int:
        self.total = total
        return total

    def add(self, number: int) -> int:
        mark = Path(self.marks) / "killed"
        if number == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise ValueError("expected a number of 0 or more, got less")
        self.total += number
        return self.total


def test_a_standing_worker_that_is_killed_is_told_again_what_it_was_told(tmp_path: Path) -> None:
    workers = Hands(2).standing(Tally, [str(tmp_path)] * 2)
    try:
        workers.begin_anew()
        assert workers.each("begin", [(10,), (20,)]) == [10, 20]
        assert workers.each("add", [(1,), (2,)]) == [11, 22]
        assert workers.each("add", [(3,), (2,)]) == [14, 24]
        assert (tmp_path / "killed").exists()
        with pytest.raises(ValueError, match="expected a number of 0 or more"):
            workers.each("add", [(-1,), (0,)])
    finally:
        workers.close()


class Dead:
    """A worker that is killed whatever it is asked."""

    def ask(self, method: str, args: tuple[object, ...]) -> None: ...

    def answer(self) -> object:
        raise WorkerDiedError

    def close(self) -> None: ...


def test_a_standing_worker_that_is_killed_again_and_again_is_given_up_with_one_line() -> None:
    workers: Standing[object] = Standing(lambda i: Dead(), 1, lambda who, _: [*range(len(who))])
    with pytest.raises(ChildProcessError, match=r"worker 1 of 1 .* killed 5 times in a row: look"):
        workers.each("add", [(1,)])
    workers.ask(0, "add", (1,))
    with pytest.raises(ChildProcessError, match=r"worker 1 of 1 .* killed 5 times in a row: look"):
        _ = [workers.first([0], 0.0) for _ in range(9)]


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="expected processes of this machine or a Ray cluster"):
        Hands(2, "auto")


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install it with `pip install 'kncl\[ray\]'`"):
        list(Hands(ray="auto").played([1], square))  # type: ignore[list-item]


@pytest.mark.parametrize(
    "words",
    [
        ["/usr/bin/python", "/usr/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "x"],
        ["python", "-m", "accelerate.commands.launch", "launch", "--num-processes=2", "x"],
    ],
)
def test_a_launcher_that_started_too_few_is_told(words: list[str]) -> None:
    with pytest.raises(ValueError, match="expected the 2 processes that accelerate was asked for"):
        check_launcher(words)


@pytest.mark.parametrize(
    "words", [["accelerate", "launch", "x"], ["bash", "launch", "-n", "2"], []]
)
def test_other_parents_are_no_launchers(words: list[str]) -> None:
    check_launcher(words)

"""Tasks and environments on a Ray cluster of two nodes: the same bytes as in this process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import corpus_of
from killed_once import Square, square, tokenise_on_three
from test_evaluation import SETTINGS

from kncl_env.settings import Settings
from kncl_env.world import build, overlap
from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.world import World
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from policies.play.curves import CurveMeter
from policies.play.episodes import EpisodeTask, play_all
from policies.play.journal import Journal
from train_lm.crew.folders import Folder
from train_lm.crew.hands import Hands
from train_lm.token_files import TokenWriter

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kncl[ray]'")

from train_lm.crew.cluster import OF_RAY, connected, leave  # noqa: E402

STORE = 80 * 2**20  # [bytes] of a node's objects

# Under `--dist loadgroup` one worker of pytest-xdist alone starts a cluster; else each does.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[object]:
    """Two nodes of this machine, one core each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in OF_RAY.items():
            patch.setenv(name, value)
        # Workers import the tasks of these tests by the name of their file.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE}
        )
        found.add_node(num_cpus=1, object_store_memory=STORE)
        yield found
        leave()
        found.shutdown()


@pytest.fixture(scope="module")
def hands(nodes) -> Hands:  # type: ignore[no-untyped-def]
    return Hands(ray=nodes.address)


def test_an_evaluation_on_two_nodes_is_the_one_of_this_process(
    hands: Hands, small_world: World, tmp_path: Path
) -> None:
    settings = Settings.of(**SETTINGS)
    tasks = [
        EpisodeTask(str(small_world.path), settings, arm, seed, 7, CurveMeter())
        for seed in range(2)
        for arm in ("uniform", "random")
    ]
    found = []
    for name, who in (("here", Hands()), ("there", hands)):
        journal = Journal(tmp_path / name, {"format": "test"})
        found.append(play_all(small_world, tasks, journal, learners=2, hands=who))
    assert found[0] == found[1]


def test_a_training_that_loses_a_worker_and_a_node_is_the_one_of_this_process(
    nodes, hands: Hands, small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.of(**SETTINGS)
    lost: list[object] = []

    def lose(part: str, iterations: int, figures: object) -> None:
        """After the first rollout: the worker of one node, and the other node with its own."""
        if lost or not (workers := _workers()):
            return
        for node in nodes.worker_nodes:
            own = [worker for worker in workers if worker in _children(node)]
            if own:
                lost.append(node)
                for worker in {*workers} - {*own}:
                    os.kill(worker, signal.SIGKILL)
                nodes.remove_node(node, allow_graceful=False)
                return

    weights = []
    for name, who in (("here", Hands()), ("there", hands)):
        config = PPOConfig(iterations=2, episodes=2, learners=2, epochs=1, batch=8)
        plan = TrainingPlan(config, hands=who)
        train_policy(small_world, settings, plan, tmp_path / name, lose)
        weights.append((tmp_path / name / "policy.safetensors").read_bytes())
    nodes.add_node(num_cpus=1, object_store_memory=STORE)
    assert len(lost) == 1
    assert weights[0] == weights[1]
    assert caplog.text.count("it plays") == 2


def test_a_task_whose_worker_is_killed_is_played_again(hands: Hands, tmp_path: Path) -> None:
    tasks = [Square(number, str(tmp_path), deaths) for number, deaths in enumerate((0, 1, 0))]
    assert sorted(hands.played(tasks, square)) == [(0, 0), (1, 1), (2, 4)]


def test_a_build_that_loses_a_worker_and_a_node_is_the_one_of_this_process(
    nodes,
    hands: Hands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    here = build_world(corpus_of(12), tmp_path / "here" / "w", config)
    node = nodes.add_node(num_cpus=1, object_store_memory=STORE)
    for module, name in ((build, "TOKENISED"), (build, "EMBEDDED"), (overlap, "PASSAGES")):
        monkeypatch.setattr(module, name, 12)  # several blocks
    monkeypatch.setattr(build, "tokenise", tokenise_on_three)
    append = TokenWriter.append_all

    def append_and_lose(self: TokenWriter, *args: Any) -> None:
        nonlocal node
        append(self, *args)
        if node is not None:
            nodes.remove_node(node, allow_graceful=False)
            node = None

    monkeypatch.setattr(TokenWriter, "append_all", append_and_lose)
    capfd.readouterr()
    there = build_world(corpus_of(12), tmp_path / "there" / "w", config, hands=hands)
    end = time.monotonic() + 60
    while "a node is gone" not in caplog.text and time.monotonic() < end:
        list(hands.played([1], _noisy))
    assert "a node is gone, 2 of 3 cores are left" in caplog.text
    assert not capfd.readouterr().out
    assert (tmp_path / "there" / "killed").exists()
    assert len([*(tmp_path / "there" / "nodes").iterdir()]) == 3
    assert node is None
    for file in here.path.iterdir():
        if file.name != "build.json":
            assert (there.path / file.name).read_bytes() == file.read_bytes()


def test_an_error_of_a_task_is_the_error_of_the_command(hands: Hands) -> None:
    with pytest.raises(ValueError, match="expected a number, got one"):
        list(hands.played([1], _refuse))


def test_a_node_without_the_folder_fetches_it_once(
    hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a").write_text("what it says")
    folder = Folder.of(tmp_path / "text", "tests/text")
    gone = Folder(str(tmp_path / "elsewhere"), folder.kept_as, folder.content)
    monkeypatch.setattr(Folder, "pieces", lambda self: iter([("a", 0, b"what it says")]))
    found = list(hands.played([gone.path + "/a"], _read, [gone]))
    assert found == [(0, "what it says")]


def test_a_node_with_another_version_is_told(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_lm.crew.cluster.version", lambda: "9.9")
    with pytest.raises(ValueError, match=r"expected kncl 9\.9 of source .* on every node .* got"):
        list(hands.played([2], _double))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:port"])
def test_an_address_that_does_not_answer_is_told(address: str) -> None:
    leave()
    with pytest.raises(ConnectionError, match="expected the head of a Ray cluster at"):
        connected(address)


def _workers() -> list[int]:
    """Processes that keep environments; never those of another cluster of this machine."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()).startswith("ray::_Keeper"):
                found.append(process.pid)
    return sorted(found)


def _children(node: Any) -> set[int]:
    """Processes of a node."""
    import psutil

    found = set()
    for processes in node.all_processes.values():
        for info in processes:
            with suppress(psutil.NoSuchProcess):
                found |= {p.pid for p in psutil.Process(info.process.pid).children(recursive=True)}
    return found


def _double(number: int) -> int:
    return 2 * number


def _noisy(number: int) -> int:
    print("a worker says", number)
    print("and complains", number, file=sys.stderr)
    logging.getLogger("kncl").warning("and warns")
    return number


def _refuse(number: int) -> int:
    raise ValueError("expected a number, got one")


def _read(path: str) -> str:
    from train_lm.crew.folders import located

    return located(path).read_text()


def test_what_a_removed_node_was_playing_is_played_on_the_others(
    nodes, hands: Hands, small_world: World, tmp_path: Path
) -> None:
    node = nodes.add_node(num_cpus=1, object_store_memory=STORE)
    settings = Settings.of(**SETTINGS)
    tasks = [
        EpisodeTask(str(small_world.path), settings, "random", seed, 7, CurveMeter())
        for seed in range(4)
    ]

    def remove(record: object) -> None:
        nonlocal node
        if node is not None:
            nodes.remove_node(node, allow_graceful=False)
            node = None

    found = [
        play_all(
            small_world,
            tasks,
            Journal(tmp_path / name, {"format": "test"}),
            learners=1,
            hands=who,
            on_record=remove if who is hands else lambda record: None,
        )
        for name, who in (("here", Hands()), ("there", hands))
    ]
    assert node is None
    assert found[0] == found[1]


def test_a_training_played_ahead_by_workers_that_are_killed_is_the_one_of_local_processes(
    hands: Hands, small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill_one(part: str, iterations: int, figures: object) -> None:
        for worker in _workers()[:1]:
            os.kill(worker, signal.SIGKILL)

    config = PPOConfig(iterations=3, episodes=2, learners=2, epochs=1, batch=8, lag=1)
    weights = []
    for name, who in (("here", Hands()), ("there", hands)):
        plan = TrainingPlan(config, hands=who)
        train_policy(small_world, Settings.of(**SETTINGS), plan, tmp_path / name, kill_one)
        weights.append((tmp_path / name / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert "it plays its call again" in caplog.text


def _runs(process: Any) -> bool:
    """One that has ended and that nobody asked for its status is gone."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _until_gone(processes: list[Any], patience: float) -> None:
    end = time.monotonic() + patience
    while left := [one for one in processes if _runs(one)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


DRIVER = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from killed_once import Square, square
from train_lm.command_line import program, run, say
from train_lm.crew.hands import Hands

def play():
    list(Hands(ray="local").played([Square(2, sys.argv[1])], square))
    say("played", flush=True)
    time.sleep(int(sys.argv[2]))

driver = sys.modules["driver"] = types.ModuleType("driver")
driver.main = lambda: run(play)
program("driver")  # as every command is run
"""
SOON = 30.0  # [s] that the processes of a command that was stopped have to go, on any machine


def test_a_cluster_that_was_started_for_a_command_ends_with_it_whatever_ends_it(
    tmp_path: Path,
) -> None:
    """At its end, by Ctrl-C and SIGTERM, each sent to all of a group, and by SIGKILL of itself."""
    import psutil

    signals = (None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), "0" if kind is None else "600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        for kind in signals
    ]
    try:
        ended, killed = [], []
        for driver, kind in zip(drivers, signals, strict=True):
            assert driver.stdout is not None
            if kind is not None:
                assert driver.stdout.readline().strip() == "played"
                started = psutil.Process(driver.pid).children(recursive=True)
                assert len(started) >= 3  # the head's store, its raylet and a worker at least
                (killed if kind == signal.SIGKILL else ended).extend(started)
                (os.kill if kind == signal.SIGKILL else os.killpg)(driver.pid, kind)
        assert [driver.wait(120) for driver in drivers] == [0, 130, 143, -signal.SIGKILL]
        _until_gone(ended, SOON)
        _until_gone(killed, 180)  # Ray's agents of a killed head try for a minute to tell it
        for driver in drivers:  # what is left has it open
            assert driver.stdout is not None
            assert driver.stdout.read().replace("played", "").strip() == ""
    finally:
        for driver in drivers:
            driver.kill()

"""Tasks and environments on a Ray cluster of two nodes: the same bytes as in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_once import Square, square
from test_evaluation import SETTINGS

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.learn.ppo import PPOConfig
from policies.learn.training import TrainingPlan, train_policy
from policies.play.curves import CurveMeter
from policies.play.episodes import EpisodeTask, play_all
from policies.play.journal import Journal
from train_lm.crew.folders import Folder
from train_lm.crew.hands import Hands

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'kncl[ray]'")

from train_lm.crew.cluster import connected, leave  # noqa: E402

# One worker of pytest-xdist alone starts a cluster.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[object]:
    """Two nodes of this machine, one core each."""
    from ray.cluster_utils import Cluster

    store = 80 * 2**20
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers import the tasks of these tests by the name of their file.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store}
        )
        found.add_node(num_cpus=1, object_store_memory=store)
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


def test_a_training_whose_worker_is_killed_is_the_one_of_this_process(
    hands: Hands, small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.of(**SETTINGS)
    weights = []
    for name, who in (("here", Hands()), ("there", hands)):
        config = PPOConfig(iterations=2, episodes=2, learners=2, epochs=1, batch=8)
        plan = TrainingPlan(config, hands=who)
        train_policy(small_world, settings, plan, tmp_path / name, _kill_one)
        weights.append((tmp_path / name / "policy.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert "it plays" in caplog.text


def test_a_task_whose_worker_is_killed_is_played_again(hands: Hands, tmp_path: Path) -> None:
    tasks = [Square(number, str(tmp_path), deaths) for number, deaths in enumerate((0, 1, 0))]
    assert sorted(hands.played(tasks, square)) == [(0, 0), (1, 1), (2, 4)]


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
    """Processes that keep environments."""
    import psutil

    return sorted(
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "".join(process.info["cmdline"] or ()).startswith("ray::_Keeper")
    )


def _kill_one(part: str, iterations: int, figures: object) -> None:
    """After every rollout; where environments are played in this process, nobody is there."""
    for worker in _workers()[:1]:
        os.kill(worker, signal.SIGKILL)


def _double(number: int) -> int:
    return 2 * number


def _refuse(number: int) -> int:
    raise ValueError("expected a number, got one")


def _read(path: str) -> str:
    from train_lm.crew.folders import located

    return located(path).read_text()


def test_what_a_removed_node_was_playing_is_played_on_the_others(
    nodes, hands: Hands, small_world: World, tmp_path: Path
) -> None:
    node = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20)
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

"""The expansion queue: the same bytes on or off, nothing twice, no thread left behind."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from fakes import Ints, env_of, fake_env

from kncl_env.entry_points import topic_expansions
from kncl_env.env import TopicExpansionEnv
from kncl_env.queue import ExpansionQueue, JobStore
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.taste import Taste
from kncl_env.world.world import World

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 8,
    "nucleus_updates": 20,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "slots": 6,
    "breadth": 16,
}


class CountingQueue(ExpansionQueue):
    """Remembers which jobs it did itself."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.did: list[int] = []

    def retrieve(self, topic: int, taste: Taste | None) -> Ints:
        self.did.append(topic)
        return super().retrieve(topic, taste)

    def settle(self) -> None:
        """Wait until nothing is left to do."""
        while (worker := self._worker) is not None:
            worker.join()


def queue_of(world: World, file: Path, ahead: int = 64) -> CountingQueue:
    return CountingQueue(world, 16, ahead, kept=JobStore(file))


def played(env: TopicExpansionEnv) -> list[bytes]:
    seen, _ = env.reset(seed=3)
    found = [seen["candidates"].tobytes()]
    over = False
    while not over:
        seen, reward, terminated, over, info = env.step(len(found) % 3)
        found += [seen["candidates"].tobytes(), info["windows"].tobytes()]
        found.append(np.float64(reward).tobytes())
        over = over or terminated
    return found


def test_an_episode_has_the_same_bytes_with_the_queue_on_off_and_filled(
    small_world: World,
) -> None:
    without = played(env_of(small_world, **SETTINGS))
    env = env_of(small_world, queue=64, **SETTINGS)
    assert played(env) == without  # begun with an empty store
    assert played(env_of(small_world, queue=64, **SETTINGS)) == without  # and with what it left
    env.close()
    assert played(env_of(small_world, queue=1, **SETTINGS)) == without


def test_what_is_expected_is_found_done_and_a_later_process_finds_it_in_the_store(
    small_world: World, tmp_path: Path
) -> None:
    plain = NeighbourhoodRetriever(small_world, 16)
    queue = queue_of(small_world, tmp_path / "jobs.sqlite")
    queue.expect([5, 2, 9])
    queue.settle()
    assert queue.did == [5, 2, 9]
    for topic in (9, 2, 5, 7):
        assert np.array_equal(queue.neighbourhood(topic), plain.neighbourhood(topic))
    assert queue.did == [5, 2, 9, 7]
    queue.close()
    later = queue_of(small_world, tmp_path / "jobs.sqlite")
    later.expect([2, 7])
    later.settle()
    assert np.array_equal(later.neighbourhood(9), plain.neighbourhood(9))
    assert later.did == []


def test_the_likeliest_come_first_and_no_more_than_were_asked_for(
    small_world: World, tmp_path: Path
) -> None:
    queue = queue_of(small_world, tmp_path / "jobs.sqlite", ahead=3)
    held = threading.Event()

    def slow(topic: int, taste: Taste | None) -> Ints:
        assert held.wait(60)
        queue.did.append(topic)
        return np.zeros(0, dtype=np.int64)

    queue.retrieve = slow  # type: ignore[method-assign]
    queue.expect([1])  # is begun
    while not queue._at:
        pass
    queue.expect([2, 3, 4, 5])
    queue.expect([6, 3])
    assert [topic for topic, _ in queue._waiting] == [6, 3, 2]
    held.set()
    queue.settle()
    assert queue.did == [1, 6, 3, 2]


def test_a_job_that_a_killed_process_began_is_taken_up_once(
    small_world: World, tmp_path: Path
) -> None:
    killed = JobStore(tmp_path / "jobs.sqlite")
    killed.begin(11, "")
    killed.keep(12, "", NeighbourhoodRetriever(small_world, 16).neighbourhood(12))
    queue = queue_of(small_world, tmp_path / "jobs.sqlite")
    queue.expect([3])
    queue.settle()
    assert queue.did == [3, 11]
    assert JobStore(tmp_path / "jobs.sqlite").unfinished() == {}


def test_whoever_asks_waits_for_what_is_being_done_and_nothing_is_done_twice(
    small_world: World, tmp_path: Path
) -> None:
    queue = queue_of(small_world, tmp_path / "jobs.sqlite")
    begun, held = threading.Event(), threading.Event()
    honest = queue.retrieve

    def slow(topic: int, taste: Taste | None) -> Ints:
        begun.set()
        assert held.wait(60)
        return honest(topic, taste)

    queue.retrieve = slow  # type: ignore[method-assign]
    queue.expect([4])
    assert begun.wait(60)
    found: list[Ints] = []
    asking = threading.Thread(target=lambda: found.append(queue.neighbourhood(4)))
    asking.start()
    held.set()
    asking.join()
    queue.settle()
    assert np.array_equal(found[0], NeighbourhoodRetriever(small_world, 16).neighbourhood(4))
    assert queue.did == [4]


@pytest.mark.parametrize("damage", ["row", "file", "version"])
def test_a_damaged_store_costs_time_and_nothing_else(
    small_world: World, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jobs.sqlite"
    first = queue_of(small_world, file)
    expected = first.neighbourhood(4)
    first.close()
    if damage == "file":
        file.write_bytes(b"no database" * 400)
    else:
        with JobStore(file)._use() as base:
            assert base is not None
            wrong = (
                "UPDATE job SET passages = x'00'" if damage == "row" else "PRAGMA user_version=9"
            )
            base.execute(wrong)
            base.commit()
    caplog.set_level(logging.WARNING)
    second = queue_of(small_world, file)
    assert np.array_equal(second.neighbourhood(4), expected)
    assert second.did == [4]
    assert str(file) in caplog.text


def test_what_was_found_for_another_topic_is_not_taken(
    small_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "jobs.sqlite"
    first = queue_of(small_world, file)
    expected, other = first.neighbourhood(4), first.neighbourhood(5)
    assert not np.array_equal(expected, other)
    first.close()
    with JobStore(file)._use() as base:
        assert base is not None
        base.execute("DELETE FROM job WHERE topic = 4")
        base.execute("UPDATE job SET topic = 4 WHERE topic = 5")
        base.commit()
    caplog.set_level(logging.WARNING)
    second = queue_of(small_world, file)
    assert np.array_equal(second.neighbourhood(4), expected)
    assert "topic 4 is damaged there" in caplog.text


def test_a_worker_that_fails_tells_whoever_asks(small_world: World, tmp_path: Path) -> None:
    queue = queue_of(small_world, tmp_path / "jobs.sqlite")

    def broken(topic: int, taste: Taste | None) -> Ints:
        raise ValueError("expected an index, got none")

    queue.retrieve = broken  # type: ignore[method-assign]
    queue.expect([4])
    queue.settle()
    with pytest.raises(ValueError, match="expected an index"):
        queue.neighbourhood(4)


def queued_fake_env(file: Path) -> tuple[TopicExpansionEnv, ExpansionQueue]:
    """A fake environment with a real queue, whose neighbourhoods are the fake retriever's."""
    env = fake_env()
    honest = env.stage.retriever
    n = len(env.stage.table)
    world = SimpleNamespace(n_topics=n, hash="made up", passage_topic=np.arange(4 * n) // 4)
    queue = ExpansionQueue(cast(World, world), 16, 64, kept=JobStore(file))
    queue.retrieve = honest.neighbourhood  # type: ignore[method-assign]
    queue.own = honest.own  # type: ignore[method-assign]
    env.stage = replace(env.stage, retriever=queue)
    return env, queue


def test_no_thread_outlives_an_environment_after_a_thousand_resets(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    env, _ = queued_fake_env(tmp_path / "jobs.sqlite")
    for seed in range(1000):
        env.reset(seed=seed)
        if seed % 8 == 0:
            env.step(0)
        assert len(threading.enumerate()) <= len(before) + 1
    env.close()
    assert set(threading.enumerate()) <= before
    env.reset(seed=1)  # it may be used again
    env.step(0)
    env.close()
    assert set(threading.enumerate()) <= before


def test_the_next_slots_are_expected_while_the_learner_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, queue = queued_fake_env(tmp_path / "jobs.sqlite")
    expected: list[list[int]] = []
    monkeypatch.setattr(queue, "expect", lambda topics, taste: expected.append(list(topics)))
    env.reset(seed=0)
    kept = 0
    for _ in range(8):
        assert env.episode is not None
        solid = env.episode.nucleus.solid.sum()
        env.step(0)
        if env.episode.nucleus.solid.sum() == solid:
            n = len(env.episode.slots)
            assert expected[-1][:n] == env.episode.slots.tolist()
            assert sorted(expected[-1]) == env.episode.nucleus.frontier.tolist()
            kept += 1
    assert kept >= 1
    snapshot = env.snapshot()
    seen = env.step(0)[0]["candidates"]
    env.restore(snapshot)
    assert np.array_equal(env.step(0)[0]["candidates"], seen)


def test_info_tells_with_a_queue_how_long_the_learner_waited(small_world: World) -> None:
    env = env_of(small_world, queue=1, **SETTINGS)
    assert env.reset(seed=0)[1]["waited"] == 0
    info = env.step(0)[4]
    assert info["waited"] == env.waited > 0
    windows = env.stage.store.windows_of(env.stage.retriever.own(1))
    assert env.feed(np.resize(windows, env.settings.windows_per_step))[2]["waited"] == 0
    env.close()
    many = topic_expansions(small_world, 2, queue=8, **SETTINGS)
    many.reset(seed=0)
    assert many.step(np.zeros(2, dtype=np.int64))[4]["waited"].shape == (2,)
    many.close()
    assert not [t for t in threading.enumerate() if t.name == "expansion-queue"]


def test_without_a_queue_no_clock_is_in_info(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS)
    assert "waited" not in env.reset(seed=0)[1]
    assert "waited" not in env.step(0)[4]
    assert env.waited > 0

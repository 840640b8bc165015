"""Runs as real processes: killed at any moment, and several that train one model together."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fork_server import ForkServer
from test_curriculum_run import metrics, weights, write

from kncl_env.world.world import World

KILLS = 20
NEEDS = ("accelerate", "torch.utils.tensorboard", "transformers.models.llama.modeling_llama")


def names(out: Path) -> list[str]:
    return sorted(file.name for file in out.glob("*.safetensors"))


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer("train_lm.cli", "train_lm.curriculum_run", *NEEDS) as started:
        yield started


def command(world: World, folder: Path, out: Path, *options: str) -> list[str]:
    curriculum = folder / "c.jsonl"
    if not curriculum.is_file():
        write(curriculum, world, steps=12)
    argv = ["run", "--world", str(world.path), "--curriculum", str(curriculum), "--out", str(out)]
    return [*argv, "--model", "xxs", "--batch", "4", "--cpu", *options]


@pytest.mark.slow
def test_runs_killed_at_twenty_random_moments_end_with_the_same_bytes(
    server: ForkServer, small_world: World, tmp_path: Path
) -> None:
    def start(out: Path) -> int:
        return server.start(command(small_world, tmp_path, out, "--save-every", "2"))

    whole = tmp_path / "whole"
    assert server.wait(start(whole)) == 0
    rng = np.random.default_rng(0)
    reached: list[int] = []
    trial = 0
    while len(reached) < KILLS:
        trial += 1
        assert trial <= 5 * KILLS
        out = tmp_path / f"run {trial}"
        pid = start(out)
        updates = int(rng.integers(len(metrics(whole))))
        server.kill_at(pid, out / "metrics.jsonl", updates, delay=rng.uniform(0, 0.05))
        status = server.wait(pid)
        if status == 0:  # it was faster than its killer
            continue
        assert status == -signal.SIGKILL
        card = out / "checkpoint.json"
        reached.append(json.loads(card.read_text())["updates"] if card.is_file() else 0)
        assert server.wait(start(out)) == 0
        assert weights(out) == weights(whole)
        assert metrics(out) == metrics(whole)
        assert names(out) == names(whole)  # the last two checkpoints, nothing else
    # Moments of all kinds: before the first checkpoint and in the midst of training.
    assert len(set(reached)) >= 2, reached


def pair_of(server: ForkServer, argv: list[str]) -> list[int]:
    """Two processes that train one model, as a launcher would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [server.start(argv, {**env, "RANK": r, "LOCAL_RANK": r}) for r in "01"]


@pytest.mark.slow
def test_processes_end_with_a_launcher_that_is_killed(small_world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = command(small_world, tmp_path, out, "--save-every", "1")
    argv[argv.index("--batch") + 1] = "2"  # more updates than there is time for
    with ForkServer("train_lm.cli", "train_lm.curriculum_run", *NEEDS) as launcher:
        for _ in range(3):  # a port that was free may be taken when they want to meet there
            pids = pair_of(launcher, argv)
            while all(map(launcher.running, pids)) and not (out / "checkpoint.json").is_file():
                time.sleep(0.01)
            if all(map(launcher.running, pids)):
                break
        assert all(map(launcher.running, pids))
        launcher.kill(launcher.pid)
    deadline = time.monotonic() + 5
    while any(map(lives, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--shard", "--gradient-checkpointing")], ids=["ddp", "fsdp"]
)
def test_two_processes_train_what_one_does(
    server: ForkServer, small_world: World, tmp_path: Path, options: tuple[str, ...]
) -> None:
    from transformers import AutoModelForCausalLM

    def together(out: Path, *more: str) -> list[int]:
        return pair_of(server, command(small_world, tmp_path, out, *options, *more))

    alone, pair, cut = tmp_path / "alone", tmp_path / "pair", tmp_path / "cut"
    assert server.wait(server.start(command(small_world, tmp_path, alone))) == 0
    assert [server.wait(pid) for pid in together(pair, "--accumulate", "2")] == [0, 0]
    one, two = ([line["loss"] for line in metrics(out)] for out in (alone, pair))
    assert two == pytest.approx(one, rel=1e-5)
    models = [AutoModelForCausalLM.from_pretrained(out / "model") for out in (alone, pair)]
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert np.allclose(a.detach(), b.detach(), atol=1e-5)
    # Killed together, they go on together to the same bytes.
    reached = False
    for _ in range(
        3
    ):  # a port that was free a moment ago may be taken when they want to meet there
        pids = together(cut, "--accumulate", "2", "--save-every", "2")
        while all(map(server.running, pids)) and not reached:
            reached = (cut / "checkpoint.json").is_file()
            time.sleep(0.01)
        for pid in pids:
            server.kill(pid)
        codes = [server.wait(pid) for pid in pids]
        if reached:
            break
    assert reached, codes
    assert 0 not in codes  # one may go down with the other
    # One goes on where two were stopped, with the same text in the same order.
    fewer = shutil.copytree(cut, tmp_path / "fewer")
    done = json.loads((fewer / "checkpoint.json").read_text())["updates"]
    assert 0 < done < len(two)
    assert server.wait(server.start(command(small_world, tmp_path, fewer))) == 0
    assert metrics(fewer)[:done] == metrics(pair)[:done]
    assert [line["loss"] for line in metrics(fewer)] == pytest.approx(two, rel=1e-5)
    assert [server.wait(pid) for pid in together(cut, "--accumulate", "2")] == [0, 0]
    assert weights(cut) == weights(pair)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_stopped(
    server: ForkServer, small_world: World, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert server.wait(server.start(command(small_world, tmp_path, whole))) == 0
    status = 0
    while status != -signal.SIGKILL:  # it may be faster than its killer
        shutil.rmtree(cut, ignore_errors=True)
        pid = server.start(command(small_world, tmp_path, cut, "--save-every", "2"))
        server.kill_at(pid, cut / "metrics.jsonl", 5, delay=0)
        status = server.wait(pid)
    before = metrics(cut)
    pids = pair_of(server, command(small_world, tmp_path, cut))
    assert [server.wait(pid) for pid in pids] == [0, 0]
    one, both = metrics(whole), metrics(cut)
    assert both[:4] == before[:4] == one[:4]
    assert [line["loss"] for line in both] == pytest.approx([x["loss"] for x in one], rel=1e-5)
    assert [line["tokens"] for line in both] == [line["tokens"] for line in one]

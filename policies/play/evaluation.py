"""Plays arms against each other: same start, same budget, same schedule, paired seeds.

The `test` split is read here and nowhere else. Every finished episode is a file of its own, so an
interrupted evaluation goes on where it was.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.stage import NUCLEUS_VERSION, Setup
from kncl_env.taste import TRAITS_VERSION
from kncl_env.vector import side_by_side, worth_compiling
from kncl_env.world.world import World
from policies.arms.baselines import reader_of
from policies.verdict.growth_map import Growth
from policies.verdict.report import RunInfo, write_report
from policies.verdict.scores import ArmRun, summarise
from policies.verdict.summary import Summary
from train_lm.checkpoint import claim_run
from train_lm.curriculum import write_curriculum
from train_lm.files import read_json, write_json


def play(env: TopicExpansionEnv, world: World, arm: str, seed: int) -> dict[str, Any]:
    """One episode of one arm, as a JSON-able record.

    The environment's seed decides slots and the order of text; the arm's own choices have a
    generator of their own, so that arms with the same seed are paired.
    """
    reader = reader_of(arm)
    rng = np.random.default_rng([seed, 7])
    observation, info = env.reset(seed=seed, options=reader.options)
    before = env.learner.held_out_loss("test")
    # The curve is measured on `select`: a trained policy has been paid for `reward`.
    tokens, losses, topics = [0], [env.learner.held_out_loss("select")], []
    passages: list[list[int]] = []
    noise = 0
    store = env.reading_store
    over = False
    while not over:
        _, over, info, observation = reader.act(env, observation, rng)
        tokens.append(info["tokens"])
        losses.append(env.learner.held_out_loss("select"))
        topics.append(int(info["topic"]))
        passages.append(np.unique(store.document[info["windows"]]).tolist())
        noise += int(world.passage_is_noise[store.document[info["windows"]]].sum())
    windows = len(topics) * env.config.windows_per_step
    return {
        "arm": reader.name,
        "seed": seed,
        "tokens": tokens,
        "loss": losses,
        "topics": topics,
        "passages": passages,
        "test_before": before,
        "test_after": env.learner.held_out_loss("test"),
        "noise_share": noise / windows if world.passage_is_noise.any() else None,
        "flops_per_token": env.learner.trainer.flops_per_token,  # type: ignore[attr-defined]
    }


def check_arms(arms: Sequence[str]) -> list[str]:
    """Names of the arms, each checked before any work is spent.

    Raises:
        ValueError: An unknown arm, a damaged policy, no `uniform`, or one name twice.
    """
    if "uniform" not in arms:
        raise ValueError(f"expected uniform among the policies, the reference arm, got {arms}")
    names = [reader_of(arm).name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"expected arms with different names, got {names}")
    return names


def evaluate(
    world: World,
    settings: dict[str, Any],
    arms: Sequence[str],
    seeds: Iterable[int],
    out: Path,
    *,
    inits: int = 1,
    learners: int = 4,
    subject: str | None = None,
    on_episode: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Summary:
    """Evaluate arms; write `scores.json`, `curves.csv`, `report.html` and what each episode read.

    Args:
        settings: Fields of `Setup`, the same for all arms.
        arms: As `reader_of` takes them; `uniform` must be among them.
        inits: Different initialisations of the learner, spread over the seeds.
        learners: Episodes played side by side, their learners in one bank.
        subject: The arm that the report's first sentence is about.
        on_episode: Told each record as it is finished.

    Returns:
        The summary, as in `scores.json`.

    Raises:
        ValueError: An unknown arm, no `uniform`, or `out` holds an evaluation with other settings.
    """
    names = check_arms(arms)
    setup = Setup.from_settings(settings)
    if inits < 1 or learners < 1:
        raise ValueError(f"expected inits and learners >= 1, got {inits} and {learners}")
    seeds = list(seeds)
    settings = {k: v for k, v in vars(setup).items() if k != "context"}
    versions = {"nucleus": NUCLEUS_VERSION, "windows": MEASURED_WINDOWS, "traits": TRAITS_VERSION}
    plan = {"world": world.hash, "settings": settings, "inits": inits, "versions": versions}
    updates = len(arms) * len(seeds) * setup.steps * setup.updates_per_step
    # As it began: the last digits depend on it.
    begun = read_json(out / "config.json") if (out / "config.json").is_file() else {}
    compiled = bool(begun.get("compiled", worth_compiling(updates)))
    claim_run(out, {**plan, "compiled": compiled})
    records: list[dict[str, Any]] = []
    waiting: list[tuple[str, int, Path]] = []
    for arm, name in zip(arms, names, strict=True):
        digest = reader_of(arm).digest
        for seed in seeds:
            file = out / "episodes" / f"{name}-{digest}-{seed}.json"
            if file.is_file():
                records.append(read_json(file))
                on_episode(records[-1])
            else:
                waiting.append((arm, seed, file))
    for record, file in _episodes(world, settings, waiting, inits, learners, compiled):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
        records.append(record)
        on_episode(record)
    records.sort(key=lambda r: (names.index(r["arm"]), r["seed"]))
    return _write(world, settings, inits, records, names, out, subject)


def _episodes(
    world: World,
    settings: dict[str, Any],
    waiting: list[tuple[str, int, Path]],
    inits: int,
    learners: int,
    compiled: bool,
) -> Iterable[tuple[dict[str, Any], Path]]:
    # Initial learner by initial learner, as a bank is built for one; within, seed by seed, so that
    # a stopped evaluation has whole rows of arms to compare.
    waiting = sorted(waiting, key=lambda task: (task[1] % inits, task[1]))
    for init, same in groupby(waiting, key=lambda task: task[1] % inits):
        tasks = list(same)
        own = {**settings, "learner_seed": settings["learner_seed"] + init}
        together = side_by_side(world, min(learners, len(tasks)), compile=compiled, **own)
        for i in range(0, len(tasks), len(together)):
            wave = tasks[i : i + len(together)]
            played = together.run(
                [
                    partial(play, env, world, arm, seed)
                    for env, (arm, seed, _) in zip(together.envs, wave, strict=False)
                ]
            )
            yield from zip(played, [file for _, _, file in wave], strict=True)


def _write(
    world: World,
    settings: dict[str, Any],
    inits: int,
    records: list[dict[str, Any]],
    names: list[str],
    out: Path,
    subject: str | None,
) -> Summary:
    runs = [
        ArmRun(
            arm=r["arm"],
            seed=r["seed"],
            tokens=np.array(r["tokens"], dtype=float),
            loss=np.array(r["loss"]),
            test_before=r["test_before"],
            test_after=r["test_after"],
            noise_share=float("nan") if r["noise_share"] is None else r["noise_share"],
        )
        for r in records
    ]
    oracle = "oracle" if "oracle" in names else None
    rival = "random" if "random" in names else None
    summary = summarise(runs, "uniform", oracle, rival, rng=np.random.default_rng(0))
    setup = Setup.from_settings(settings)
    info = RunInfo(
        world=f"{world.card['source']} ({_scenario(world)})",
        source=str(world.card["source"]),
        licence=str(world.card["licence"]),
        world_hash=world.hash,
        learner=f"{setup.model} (Llama, {records[0]['flops_per_token'] / 6:,.0f} parameters)",
        commit=_commit(),
        curve_split="select",
        command=" ".join(["kncl-policy", *sys.argv[1:]]),
        details={
            "Learners": f"{inits} initial learner(s); seeds vary slots and the order of text",
            "Citation": str(world.card["citation"]) or "none asked for",
            "Settings": ", ".join(f"{k}={v}" for k, v in settings.items()),
        },
    )
    write_json(
        out / "scores.json",
        {
            **summary.to_json(),
            "world": world.hash,
            "settings": settings,
            "commit": info.commit,
            "command": info.command,
        },
    )
    _write_curves(records, out / "curves.csv")
    _write_curricula(world, setup, records, out / "curricula")
    write_report(
        out / "report.html",
        summary,
        runs,
        info,
        _growth(world, setup, records, names),
        subject=subject,
    )
    return summary


def _write_curves(records: list[dict[str, Any]], file: Path) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["arm", "seed", "step", "tokens", "select_bits_per_byte", "topic"])
        for r in records:
            topics = [-1, *r["topics"]]
            for step, row in enumerate(zip(r["tokens"], r["loss"], topics, strict=True)):
                writer.writerow([r["arm"], r["seed"], step, *row])


def _write_curricula(
    world: World, setup: Setup, records: list[dict[str, Any]], folder: Path
) -> None:
    """What each episode read, in order: what `train-lm run` trains a larger model on."""
    folder.mkdir(exist_ok=True)
    for r in records:
        file = folder / f"{r['arm']}-{r['seed']}.jsonl"
        write_curriculum(file, world.hash, setup.tokens_per_step, r["topics"], r["passages"])


def _growth(world: World, setup: Setup, records: list[dict[str, Any]], names: list[str]) -> Growth:
    """The first seed's episode of every arm that grew a nucleus."""
    from kncl_env.picture import positions, thinned_edges
    from kncl_env.stage import seed_topics

    first = min(r["seed"] for r in records)
    expansions = {
        r["arm"]: [t for t in r["topics"] if t >= 0]
        for r in records
        if r["seed"] == first and any(t >= 0 for t in r["topics"])
    }
    focused = setup.region is not None or world.target_region is not None
    return Growth(
        positions=positions(world.topic_vectors),
        nucleus=seed_topics(world, setup).tolist(),
        expansions={n: expansions[n] for n in names if n in expansions},
        target=world.target_topics(setup.region).tolist() if focused else (),
        edges=thinned_edges(world.graph, 1500),
        titles=world.titles,
    )


def _scenario(world: World) -> str:
    scenario = world.card["scenario"]
    return f"{scenario['name']}: {scenario['region']}" if scenario["region"] else scenario["name"]


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=os.path.dirname(__file__),
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() or "unknown"

"""Episodes on file: what was read at each step and what was measured of the learner after it.

A file is a line about the world and the untouched learner, then one line per episode. A surrogate
learner is fitted to them (`policies/learn/surrogate_fit.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Setup
from kncl_env.vector import SideBySide
from kncl_env.world.world import World
from policies.arms.baselines import Reader, reader_of

FORMAT = {"format": "kncl-episodes", "version": 1}

# Recorded episodes play seeds that neither a training nor an evaluation does.
RECORD_SEED = 2_000_000


def record(
    world: World,
    together: SideBySide,
    arms: Sequence[str],
    episodes: int,
    out: Path,
    probes: int = 32,
    first_seed: int = RECORD_SEED,
    on_episode: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Play the arms in turn and append each episode to `out`; goes on after those found there.

    Args:
        together: Environments that play side by side.
        arms: As `reader_of` takes them.
        episodes: Episodes of every arm.
        probes: Topics, drawn anew at each step, that are probed beside those of the environment.

    Raises:
        ValueError: An unknown arm, or `out` holds episodes of another world or other settings.
    """
    players = {arm: reader_of(arm) for arm in arms}
    env = together.envs[0]
    assert isinstance(env.config, Setup)
    (start,) = together.run([partial(_start, env, world.n_topics)])
    header = {
        **FORMAT,
        "world": world.hash,
        "settings": json.loads(json.dumps(asdict(env.config))),
        **start,
    }
    done = set()
    if out.is_file():
        found, known = read_episodes([out])
        if any(found[k] != header[k] for k in ("world", "settings")):
            raise ValueError(
                f"expected episodes of this world and these settings in {out}, got others: "
                "name another --out"
            )
        done = {(e["arm"], e.get("digest", "base"), e["seed"]) for e in known}
        # A line that a stopped run left unfinished must not run into the next one.
        lines = [found, *known]
    else:
        lines = [header]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    seeds = range(first_seed, first_seed + episodes)
    waiting = [
        (arm, seed)
        for seed in seeds
        for arm, reader in players.items()
        if (arm, reader.digest, seed) not in done
    ]
    for i in range(0, len(waiting), len(together)):
        wave = waiting[i : i + len(together)]
        played = together.run(
            [
                partial(_play, world, env, players[arm], seed, probes)
                for env, (arm, seed) in zip(together.envs, wave, strict=False)
            ]
        )
        for (arm, seed), steps in zip(wave, played, strict=True):
            episode = {"arm": arm, "digest": players[arm].digest, "seed": seed, "steps": steps}
            with out.open("a") as stream:
                stream.write(json.dumps(episode) + "\n")
            on_episode(episode)


def _start(env: TopicExpansionEnv, n_topics: int) -> dict[str, Any]:
    env.reset(seed=0)
    probes = env.learner.probe(np.arange(n_topics)).tolist()
    return {
        "held_out": env.learner.held_out_loss(),
        "probes": [None if np.isnan(x) else x for x in probes],
    }


def _play(
    world: World, env: TopicExpansionEnv, reader: Reader, seed: int, probes: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, 7])
    drawing = np.random.default_rng([seed, 8])  # of its own: probes must not change what is played
    topic_of_window = world.passage_topic[env.reading_store.document]
    observation, _ = env.reset(seed=seed, options=reader.options)
    steps = []
    over = False
    while not over:
        _, over, info, observation = reader.act(env, observation, rng)
        read, counts = np.unique(topic_of_window[info["windows"]], return_counts=True)
        assert env.episode is not None
        readings = env.episode.readings
        measured = np.flatnonzero(readings.measured_at == env.episode.steps)
        extra = np.setdiff1d(drawing.choice(world.n_topics, min(probes, world.n_topics)), measured)
        topics = np.concatenate([measured, extra])
        losses = np.concatenate([readings.probe[measured], env.learner.probe(extra)])
        steps.append(
            {
                "topic": info["topic"],
                "windows": dict(zip(read.tolist(), counts.tolist(), strict=True)),
                "held_out": info["held_out_loss"],
                "probes": {
                    t: x for t, x in zip(topics.tolist(), losses.tolist(), strict=True) if x == x
                },
            }
        )
    return steps


def read_episodes(files: Iterable[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and all episodes; an unfinished last line of a file is left out.

    Raises:
        ValueError: Not recorded episodes, or of different worlds or settings.
    """
    header: dict[str, Any] | None = None
    episodes: list[dict[str, Any]] = []
    for file in files:
        lines = file.read_text().split("\n")[:-1]
        try:
            first, *rest = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"expected recorded episodes in {file}, got {error}") from None
        if not isinstance(first, dict) or {k: first.get(k) for k in FORMAT} != FORMAT:
            raise ValueError(
                f"expected recorded episodes in {file}, got another kind of file: "
                "make one with `kncl-policy record`"
            )
        if header is not None and any(header[k] != first[k] for k in ("world", "settings")):
            raise ValueError(f"expected files of one world and its settings, got others in {file}")
        header = header or first
        episodes += rest
    if header is None:
        raise ValueError("expected at least one file of episodes, got none")
    return header, episodes

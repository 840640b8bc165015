"""A snapshot of an environment as one file: safetensors with a line of JSON in its head.

Nothing goes through pickle. What an environment was made from (world, rules) is not in the file:
a snapshot belongs to an environment of the same settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import EnvSnapshot, Episode, TopicExpansionEnv
from kncl_env.taste import Taste

if TYPE_CHECKING:
    from torch import Tensor

LEARNER = "learner."


def save_env_snapshot(file: Path, snapshot: EnvSnapshot, about: Mapping[str, Any]) -> None:
    """Write a snapshot, whole or not at all.

    Args:
        about: Anything JSON-able to keep beside it.
    """
    import torch

    from train_lm.trainer import save_snapshot

    tensors = {LEARNER + name: value for name, value in snapshot.learner.items()}
    tensors |= {n: torch.from_numpy(a) for n, a in _arrays(snapshot.episode).items()}
    save_snapshot(tensors, file, {"rng": json.dumps(snapshot.rng), "about": json.dumps(about)})


def load_env_snapshot(file: Path, env: TopicExpansionEnv) -> tuple[EnvSnapshot, dict[str, Any]]:
    """A snapshot of an environment that was reset, and what was kept beside it.

    Raises:
        ValueError: The file is damaged.
    """
    from safetensors import safe_open

    from train_lm.trainer import load_snapshot

    tensors = load_snapshot(file)
    with safe_open(file, "pt") as opened:
        head = opened.metadata()
    learner: dict[str, Tensor] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in tensors.items():
        if name.startswith(LEARNER):
            learner[name.removeprefix(LEARNER)] = value
        else:
            arrays[name] = value.numpy()
    snapshot = EnvSnapshot(learner, _episode(arrays, env), json.loads(head["rng"]))
    return snapshot, json.loads(head["about"])


def _arrays(episode: Episode) -> dict[str, NDArray[Any]]:
    nucleus, reading_list = episode.nucleus, episode.reading_list
    measured = episode.measurements
    taste = episode.taste
    likes = {} if taste is None else {"worth": taste.worth, "share": [taste.share]}
    return {
        **{f"taste_{name}": np.array(value, dtype=np.float64) for name, value in likes.items()},
        "expanded": np.array(nucleus.expanded, dtype=np.int64),
        "inside": nucleus.inside,
        "solid": nucleus.solid,
        "touched": nucleus._touched,
        "times_read": reading_list.times_read,
        "pools": np.concatenate([np.zeros(0, dtype=np.int64), *reading_list.pools]),
        "pool_sizes": np.array([len(pool) for pool in reading_list.pools], dtype=np.int64),
        "loss": np.array(measured.loss, dtype=np.float64),
        "rewards": np.array(measured.rewards, dtype=np.float64),
        "consolidations": np.array(measured.consolidations, dtype=np.float64),
        "measured_at": measured.measured_at,
        "probe": measured.probe,
        "fall": measured.fall,
        "first_drop_topics": np.array([*episode.first_drop], dtype=np.int64),
        "first_drops": np.array([*episode.first_drop.values()], dtype=np.float64),
        "steps": np.array([episode.steps], dtype=np.int64),
        "slots": np.asarray(episode.slots, dtype=np.int64),
    }


def _episode(arrays: Mapping[str, NDArray[Any]], env: TopicExpansionEnv) -> Episode:
    assert env.episode is not None, "an environment is reset before a snapshot is loaded"
    episode = env.episode.copy()
    nucleus, reading_list = episode.nucleus, episode.reading_list
    measured = episode.measurements
    nucleus.expanded = arrays["expanded"].tolist()
    nucleus.inside, nucleus.solid = arrays["inside"], arrays["solid"]
    nucleus._touched = arrays["touched"]
    reading_list.times_read = arrays["times_read"]
    ends = np.cumsum(arrays["pool_sizes"])
    reading_list.pools = np.split(arrays["pools"], ends[:-1]) if len(ends) else []
    for name in ("loss", "rewards", "consolidations"):
        setattr(measured, name, arrays[name].tolist())
    for name in ("measured_at", "probe", "fall"):
        setattr(measured, name, arrays[name])
    drops = zip(arrays["first_drop_topics"].tolist(), arrays["first_drops"].tolist(), strict=True)
    episode.first_drop = dict(drops)
    episode.taste = None
    if "taste_worth" in arrays:
        episode.taste = Taste.of(arrays["taste_worth"], arrays["taste_share"][0])
    episode.steps = int(arrays["steps"][0])
    episode.slots = arrays["slots"]
    return episode

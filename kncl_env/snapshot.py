"""A snapshot of an environment as tensors, with lines of JSON beside them.

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
from kncl_env.measurements import Watched
from kncl_env.taste import Taste
from train_lm.checked.arrays import check_array, reason, rng_state
from train_lm.checked.records import Fields, parse_json
from train_lm.files import Json

if TYPE_CHECKING:
    from torch import Tensor

LEARNER = "learner."
BESIDE = "beside"  # text in the head of the file


def packed(
    snapshot: EnvSnapshot, about: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and texts for the head of their file.

    Args:
        about: Anything JSON-able to keep beside it.

    Raises:
        ValueError: It is of an episode without rewards: what was not measured cannot be kept.
    """
    if not snapshot.episode.rewarded:
        raise ValueError(
            "expected the snapshot of an episode with rewards, got one without: reset without the "
            "option rewarded"
        )
    import torch

    tensors = {LEARNER + name: value for name, value in snapshot.learner.items()}
    tensors |= {n: torch.from_numpy(a) for n, a in _arrays(snapshot.episode).items()}
    # One text: safetensors puts several into an order of its own, another one each time.
    return tensors, {BESIDE: json.dumps({"rng": snapshot.rng, "about": dict(about)})}


def unpacked(
    tensors: Mapping[str, Tensor], head: Mapping[str, str], env: TopicExpansionEnv, file: Path
) -> tuple[EnvSnapshot, Json]:
    """A snapshot of an environment that was reset, and what was kept beside it.

    Args:
        file: Where it was read, for messages.

    Raises:
        ValueError: It is damaged, or of another environment.
    """
    learner: dict[str, Tensor] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in tensors.items():
        if not name.startswith(LEARNER):
            arrays[name] = value.numpy()
        elif value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"expected finite numbers as {name} in {file}, got others")
        else:
            learner[name.removeprefix(LEARNER)] = value
    advice = "the checkpoint is damaged"
    text = Fields.of(head, file, advice).text(BESIDE)
    beside = Fields.of(parse_json(text, file), file, advice)
    try:
        check_array(arrays["expanded"], "i", (None,), "expanded")
        env.return_to(arrays["expanded"].tolist())
        _check(arrays, env)
        snapshot = EnvSnapshot(learner, _episode(arrays, env), rng_state(beside.values.get("rng")))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"expected a snapshot of this environment in {file}, got {reason(error)}"
        ) from None
    return snapshot, dict(beside.inner("about").values)


# Kind of each array, and what its length is: topics (N), windows (W), 1, or anything (None).
_ARRAYS: dict[str, tuple[str, str | int | None]] = {
    "expanded": ("i", None),
    "inside": ("b", "N"),
    "solid": ("b", "N"),
    "touched": ("b", "N"),
    "times_read": ("i", "W"),
    "pools": ("i", None),
    "pool_sizes": ("i", None),
    "loss": ("f", None),
    "rewards": ("f", None),
    "consolidations": ("f", None),
    "measured_at": ("i", "N"),
    "probe": ("f", "N"),
    "fall": ("f", "N"),
    "first_drop_topics": ("i", None),
    "first_drops": ("f", None),
    "steps": ("i", 1),
    "slots": ("i", None),
}

# What an episode has only where its settings ask for it; topics (n), rows (S + 1), all numbers.
_WATCHED: dict[str, str] = {
    "watched_topics": "i",
    "watched_since": "i",
    "watched_sizes": "i",
    "watched_losses": "f",
}
LOT = "lot"  # of the reservoir: 64 bits without a sign, as two numbers of 32


def _check(arrays: Mapping[str, NDArray[Any]], env: TopicExpansionEnv) -> None:
    n_topics, n_windows = len(env.stage.table), len(env.stage.store)
    lengths = {"N": n_topics, "W": n_windows}
    for name, (kind, length) in _ARRAYS.items():
        wanted = lengths[length] if isinstance(length, str) else length
        check_array(arrays[name], kind, (wanted,), name, finite=name not in ("probe", "fall"))
    for name, end in (
        ("expanded", n_topics),
        ("first_drop_topics", n_topics),
        ("slots", n_topics),
        ("pools", n_windows),
        ("pool_sizes", n_windows + 1),
        ("steps", env.settings.rules.steps + 1),
    ):
        found = arrays[name]
        if len(found) and not 0 <= found.min() <= found.max() < end:
            raise ValueError(f"{name} from {found.min()} to {found.max()}, beyond 0 to {end - 1}")
    if arrays["pool_sizes"].sum() != len(arrays["pools"]):
        raise ValueError(f"{len(arrays['pools'])} windows in pools of other sizes")
    if env.settings.rules.watched:
        _check_watched(arrays, env)
    if _keeps_lot(env):
        check_array(arrays[LOT], "i", (2,), LOT)
        if not 0 <= arrays[LOT].min() <= arrays[LOT].max() < 2**32:
            raise ValueError("a lot that is no number of 64 bits")


def _check_watched(arrays: Mapping[str, NDArray[Any]], env: TopicExpansionEnv) -> None:
    for name, kind in _WATCHED.items():
        check_array(arrays[name], kind, (None,), name)
    topics, since, sizes = (arrays[f"watched_{name}"] for name in ("topics", "since", "sizes"))
    n, rows = len(topics), len(sizes)
    fits = rows == arrays["steps"][0] + 1 and len(since) == n <= env.settings.rules.watched
    fits = fits and sizes.sum() == len(arrays["watched_losses"]) and sizes[-1] == n
    fits = fits and bool((np.diff(sizes, prepend=0) >= 0).all())
    if not fits:
        raise ValueError(f"losses of {n} watched topics in rows of other sizes")
    for name, found, end in (
        ("watched_topics", topics, len(env.stage.table)),
        ("watched_since", since + 1, rows),
    ):
        if n and not 0 <= found.min() <= found.max() < end:
            raise ValueError(f"{name} beyond what there is")


def _keeps_lot(env: TopicExpansionEnv) -> bool:
    return env.settings.memory.choice == "reservoir"


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
        **_arrays_if_asked_for(episode),
    }


def _arrays_if_asked_for(episode: Episode) -> dict[str, NDArray[Any]]:
    """What a file holds only since there is a setting for it: others are as they always were."""
    found: dict[str, NDArray[Any]] = {}
    watched = episode.watched
    if watched.places:
        found["watched_topics"] = np.array(watched.topics, dtype=np.int64)
        found["watched_since"] = np.array(watched.since, dtype=np.int64)
        found["watched_sizes"] = np.array([len(row) for row in watched.rows], dtype=np.int64)
        found["watched_losses"] = np.array(
            [x for row in watched.rows for x in row], dtype=np.float64
        )
    if episode.lot:
        found[LOT] = np.array(divmod(episode.lot, 2**32), dtype=np.int64)
    return found


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
    if env.settings.rules.watched:
        ends = np.cumsum(arrays["watched_sizes"])[:-1]
        rows = [row.tolist() for row in np.split(arrays["watched_losses"], ends)]
        topics, since = arrays["watched_topics"].tolist(), arrays["watched_since"].tolist()
        episode.watched = Watched(env.settings.rules.watched, topics, since, rows)
    if _keeps_lot(env):
        high, low = arrays[LOT].tolist()
        episode.lot = high * 2**32 + low
    episode.steps = int(arrays["steps"][0])
    episode.slots = arrays["slots"]
    return episode

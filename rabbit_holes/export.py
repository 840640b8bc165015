"""Paths as trajectories for other people's learners.

`write_arrays` writes plain arrays, one `.npz` per split, that numpy alone reads:

    card.json         world, feature names and schema, sources, licences, counts
    SPLIT.npz         candidates (M, F) float32, candidates of all choices one after another
                      starts (n + 1,)  choice i has the candidates starts[i] to starts[i + 1]
                      context (n, G) float32, chosen (n,) which candidate was taken
                      episode (n,) which path a choice belongs to, ids (episodes,) their ids

`write_minari` writes Minari data sets (Farama), one per split, of padded observations with a mask,
as the environment gives them; that needs the `minari` library. Splits go by (start, goal) pair. No
reward is recorded in a path, so rewards are 0 there. All splits appear, or none does. It knows no
policy.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.observation import (
    CANDIDATE_FEATURES,
    CONTEXT_FEATURES,
    FEATURE_SCHEMA,
    State,
    observe,
)
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.world import World
from rabbit_holes.demonstrations import Showing, demonstrate, pair_split
from rabbit_holes.path import Path as Walk
from train_lm.checked.inside import is_plain
from train_lm.files import beside, move_folder, remove_folder, replacing_folder, write_json
from train_lm.outputs import holds_json

if TYPE_CHECKING:
    from minari import MinariDataset
    from minari.data_collector import EpisodeBuffer

SPLITS = ("train", "select", "test")
COMMAND = "rabbit-holes export"
ROOT_CARD = ".kncl.json"  # at the top of a folder of Minari data sets, tells who made it
NAMESPACE_CARD = "namespace_metadata.json"  # Minari's, which its users may have filled in
AT_ONCE = 500  # [episodes] in memory while a Minari data set is written


@dataclass(frozen=True)
class Trajectory:
    """A path as the environment would have seen it: T choices, T + 1 observations.

    Attributes:
        candidates: (T + 1, K, F) float32, rows of empty slots 0.
        context: (T + 1, G) float32.
        mask: (T + 1, K + 1) int8; the last slot, consolidation, is never open in a path.
        actions: (T,) slots that were taken.
        reached: Whether the last choice reached the goal: the episode terminated; any other was
            broken off.
    """

    id: str
    candidates: NDArray[np.float32]
    context: NDArray[np.float32]
    mask: NDArray[np.int8]
    actions: NDArray[np.int64]
    reached: bool

    def __post_init__(self) -> None:
        lengths = {len(self.candidates), len(self.context), len(self.mask)}
        if lengths != {len(self.actions) + 1}:
            raise ValueError(
                f"expected {len(self.actions) + 1} observations for {len(self.actions)} actions, "
                f"got {sorted(lengths)}: a trajectory records what its last action led to"
            )
        if not self.mask[np.arange(len(self.actions)), self.actions].all():
            raise ValueError(f"expected every action of {self.id!r} to be open in its mask")


def trajectories(
    paths: Sequence[Walk],
    world: World,
    table: TopicTable,
    rng: np.random.Generator,
    how: Showing,
    dropped: Counter[str],
) -> Iterator[Trajectory]:
    """Paths with at least one choice, each as a trajectory; see `demonstrations.demonstrate`.

    Args:
        dropped: Counts clicks that are no choice in this world, by reason.
    """
    slots = how.slots
    if slots is None:
        raise ValueError("expected a number of slots, got none: observations are padded to it")
    for path in paths:
        made = demonstrate([path], world, table, rng, how)
        dropped += made.dropped
        known = [world.topic_of(title) for title in path.titles if title in world]
        if not len(made):
            continue
        padded, context, chosen = made.batch(np.arange(len(made)))
        members = np.array([*(t for t in dict.fromkeys(known) if t != known[-1]), known[-1]])
        near = world.graph.out(known[-1])
        if how.frontier:
            near = np.concatenate([world.graph.around(int(t)) for t in members])
        near = np.setdiff1d(near, members) if how.frontier else np.unique(near)
        if len(near) > slots:
            near = np.sort(rng.choice(near, slots, replace=False))
        goal = None
        if path.goal is not None and path.goal in world:
            goal = Goal(table, np.array([world.topic_of(path.goal)]))
        state = State(members, n_seeds=1, slots=near, frontier_size=len(near), goal=goal)
        last = observe(table, state, slots)
        candidates = np.zeros((len(made) + 1, slots, padded.shape[2]), dtype=np.float32)
        candidates[:-1, : padded.shape[1]] = padded
        candidates[-1] = last["candidates"]
        counts = [*np.diff(made.starts), len(near)]
        mask = np.zeros((len(made) + 1, slots + 1), dtype=np.int8)
        mask[:, :-1] = np.arange(slots)[None, :] < np.array(counts)[:, None]
        yield Trajectory(
            id=path.id,
            candidates=candidates,
            context=np.concatenate([context, last["context"][None]]),
            mask=mask,
            actions=chosen,
            reached=path.goal is not None and path.titles[-1] == path.goal,
        )


def split_by_pair(paths: Iterable[Walk]) -> dict[str, list[Walk]]:
    """Paths by `SPLITS`, all of a (start, goal) pair on one side."""
    parts: dict[str, list[Walk]] = {split: [] for split in SPLITS}
    for path in paths:
        parts[pair_split(path)].append(path)
    return parts


@dataclass(frozen=True)
class Split:
    """What became of the paths of a split.

    Attributes:
        place: Its file or data set; None where it has no episode and so no data set was made.
    """

    split: str
    place: Path | None
    episodes: int
    choices: int


@dataclass(frozen=True)
class Export:
    """What was written, and the clicks that were left out, by reason."""

    splits: tuple[Split, ...]
    dropped: Counter[str]

    def __post_init__(self) -> None:
        if not any(own.choices for own in self.splits):
            why = ", ".join(f"{count:,} clicks: {reason}" for reason, count in self.dropped.items())
            raise ValueError(
                "expected paths with a choice in this world, got none"
                + (f"; dropped were {why}" if why else ": no path has a click")
            )


def write_arrays(
    out: Path,
    parts: Mapping[str, Sequence[Walk]],
    world: World,
    how: Showing,
    seed: int,
    read: Mapping[str, str] | None = None,
) -> Export:
    """Write `SPLIT.npz` and `card.json` into `out`.

    Args:
        read: Digests of what the paths came from, by name, for the card.
    """
    table, rng = TopicTable.of(world), np.random.default_rng(seed)
    splits: list[Split] = []
    dropped: Counter[str] = Counter()
    with replacing_folder(out, over=True) as folder:
        for split, paths in parts.items():
            made = demonstrate(paths, world, table, rng, how)
            dropped += made.dropped
            used, episode = np.unique(made.group, return_inverse=True)
            splits.append(Split(split, out / f"{split}.npz", len(used), len(made)))
            np.savez_compressed(
                folder / f"{split}.npz",
                candidates=made.rows,
                starts=made.starts,
                context=made.context,
                chosen=made.chosen,
                episode=episode,
                ids=np.array([paths[i].id for i in used], dtype=np.str_),
            )
        export = Export(tuple(splits), dropped)
        everyone = [path for paths in parts.values() for path in paths]
        write_json(
            folder / "card.json",
            {
                "format": 1,
                "made_by": COMMAND,
                "world": world.hash,
                **({"inputs": dict(read)} if read else {}),
                "feature_schema": FEATURE_SCHEMA,
                "candidate_features": list(CANDIDATE_FEATURES),
                "context_features": list(CONTEXT_FEATURES),
                "slots": how.slots,
                "frontier": how.frontier,
                "seed": seed,
                "splits": {
                    own.split: {
                        "paths": len(parts[own.split]),
                        "episodes": own.episodes,
                        "choices": own.choices,
                    }
                    for own in splits
                },
                "dropped_clicks": dict(dropped),
                "sources": dict(Counter(path.source for path in everyone)),
                "walkers": dict(Counter(path.walker for path in everyone)),
                "licences": sorted({path.licence for path in everyone}),
            },
        )
    return export


def is_arrays(folder: Path) -> bool:
    """Whether a folder is what `write_arrays` wrote, and nothing else."""
    names = {"card.json", *(f"{split}.npz" for split in SPLITS)}
    card = folder / "card.json"
    return holds_json(card, made_by=COMMAND) and {f.name for f in folder.iterdir()} <= names


def is_root(folder: Path) -> bool:
    """Whether `write_minari` made a folder; other data sets may stand in it, too."""
    return holds_json(folder / ROOT_CARD, made_by=COMMAND)


def _move(source: Path, target: Path) -> None:
    """Put a file or folder in its place; what else a folder of that name holds stays."""
    if source.is_dir() and target.is_dir() and not _is_data_set(source):
        # The card first: it tells whose all the others are.
        for child in sorted(source.iterdir(), key=lambda child: child.name != ROOT_CARD):
            _move(child, target / child.name)
    elif source.is_dir():
        move_folder(source, target, over=True)
    elif not (source.name == NAMESPACE_CARD and target.exists()):
        os.replace(source, target)


def _is_data_set(folder: Path) -> bool:
    """Whether it is one of Minari's."""
    return (folder / "data" / "metadata.json").is_file()


def minari_name(name: str, split: str) -> str:
    """`me/people-v0` -> `me/people-train-v0`."""
    stem, mark, version = name.rpartition("-v")
    if not (all(map(is_plain, stem.split("/"))) and mark and version.isdigit()):
        raise ValueError(
            f"expected a Minari name with a version, such as me/people-v0, got {name!r}"
        )
    return f"{stem}-{split}-v{version}"


def open_minari() -> Any:
    try:
        import minari
    except ImportError:
        raise ValueError(
            "expected the minari library for --minari: pip install 'minari[arrow]', or leave the "
            "option out"
        ) from None
    return minari


def write_minari(
    out: Path,
    name: str,
    parts: Mapping[str, Sequence[Walk]],
    world: World,
    how: Showing,
    seed: int,
    description: str,
) -> Export:
    """Write one data set per split below `out`, a root for `MINARI_DATASETS_PATH`.

    Other data sets there stay. A split without an episode has no data set.
    """
    table, rng = TopicTable.of(world), np.random.default_rng(seed)
    splits: list[Split] = []
    dropped: Counter[str] = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as root:
        root.mkdir()
        write_json(root / ROOT_CARD, {"made_by": COMMAND})
        with _minari_root(root):
            for split, paths in parts.items():
                own = minari_name(name, split)
                steps = trajectories(paths, world, table, rng, how, dropped)
                episodes, choices = _write_data_set(own, steps, description)
                splits.append(Split(split, out / own if episodes else None, episodes, choices))
        export = Export(tuple(splits), dropped)
        _move(root, out)
    for split in (own.split for own in splits if own.place is None):
        if _is_data_set(earlier := out / minari_name(name, split)):
            remove_folder(earlier)
    return export


@contextmanager
def _minari_root(root: Path) -> Iterator[None]:
    """Minari writes below an environment variable; it joins a relative one twice."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root.resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _write_data_set(name: str, steps: Iterator[Trajectory], description: str) -> tuple[int, int]:
    """Returns the numbers of episodes and of choices; none leaves no data set."""
    from minari.data_collector import EpisodeBuffer

    written = choices = 0
    dataset: MinariDataset | None = None
    while part := list(islice(steps, AT_ONCE)):
        buffers = [
            EpisodeBuffer(
                id=written + i,
                observations={
                    "candidates": step.candidates,
                    "context": step.context,
                    "mask": step.mask,
                },
                actions=step.actions,
                rewards=[0.0] * len(step.actions),
                terminations=_last_only(len(step.actions), step.reached),
                truncations=_last_only(len(step.actions), not step.reached),
            )
            for i, step in enumerate(part)
        ]
        written += len(part)
        choices += sum(len(step.actions) for step in part)
        if dataset is None:
            dataset = _new_data_set(name, buffers, part[0], description)
        else:
            dataset.update_dataset_from_buffer(buffers)
    return written, choices


def _new_data_set(
    name: str, buffers: list[EpisodeBuffer], example: Trajectory, description: str
) -> MinariDataset:
    from gymnasium import spaces

    _, k, f = example.candidates.shape
    g = example.context.shape[1]
    with warnings.catch_warnings():
        # It asks for an author, an environment and code to link to; paths have none.
        warnings.simplefilter("ignore", UserWarning)
        return open_minari().create_dataset_from_buffers(
            name,
            buffers,
            observation_space=spaces.Dict(
                {
                    "candidates": spaces.Box(-np.inf, np.inf, (k, f), np.float32),
                    "context": spaces.Box(-np.inf, np.inf, (g,), np.float32),
                    "mask": spaces.MultiBinary(k + 1),
                }
            ),
            action_space=spaces.Discrete(k + 1),
            description=description,
            data_format="arrow",
        )


def _last_only(length: int, value: bool) -> list[bool]:
    return [False] * (length - 1) + [value]

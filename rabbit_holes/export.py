"""The command `rabbit-holes export`: paths as trajectories for other people's learners.

Without an option it writes plain arrays, one `.npz` per split, that numpy alone reads:

    card.json         world, feature names and schema, sources, licences, counts
    SPLIT.npz         candidates (M, F) float32, candidates of all choices one after another
                      starts (n + 1,)  choice i has the candidates starts[i] to starts[i + 1]
                      context (n, G) float32, chosen (n,) which candidate was taken
                      episode (n,) which path a choice belongs to, ids (episodes,) their ids

With `--minari ID` it writes Minari data sets (Farama), one per split, of padded observations with a
mask, as the environment gives them; that needs the `minari` library. Splits go by (start, goal)
pair. No reward is recorded in a path, so rewards are 0 there. It knows no policy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.path import Path as Walk
from rabbit_holes.path import read_paths
from train_lm.command_line import claim_output

if TYPE_CHECKING:
    from kncl_env.topic_table import TopicTable
    from kncl_env.world.world import World

SPLITS = ("train", "select", "test")
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
    slots: int,
    frontier: bool = False,
) -> Iterator[Trajectory]:
    """Paths with at least one choice, each as a trajectory; see `demonstrations.demonstrate`."""
    from kncl_env.observation import State, observe
    from kncl_env.topic_table import Goal
    from rabbit_holes.demonstrations import demonstrate

    for path in paths:
        made = demonstrate([path], world, table, rng, slots=slots, frontier=frontier)
        known = [world.topic_of(title) for title in path.titles if title in world]
        if not len(made):
            continue
        padded, context, chosen = made.batch(np.arange(len(made)))
        members = np.array([*(t for t in dict.fromkeys(known) if t != known[-1]), known[-1]])
        near = world.graph.out(known[-1])
        if frontier:
            near = np.concatenate([world.graph.around(int(t)) for t in members])
        near = np.setdiff1d(near, members) if frontier else np.unique(near)
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


def add_export_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `export` to the sub-commands of `rabbit-holes`; `args.run(args)` runs it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export",
        help="write paths as trajectories for other learners",
        description="Writes paths as trajectories over a world, split by (start, goal) pair.",
        epilog="Example: rabbit-holes export walks.jsonl --world W --out DIR --minari me/walks-v0",
    )
    parser.add_argument("file", type=Path, metavar="F.jsonl")
    parser.add_argument("--world", type=Path, required=True, metavar="WORLD")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--minari", metavar="ID", help="write Minari data sets of this name, such as me/people-v0"
    )
    parser.add_argument("--slots", type=int, default=64, help="candidates at most (%(default)s)")
    parser.add_argument(
        "--frontier",
        action="store_true",
        help="offer everything next to the visited topics, as the environment does, not the links "
        "of the page alone",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="read this many paths at most")
    parser.add_argument("--seed", type=int, default=0, help="of drawn candidates (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.set_defaults(run=_run)
    return parser


def _run(args: argparse.Namespace) -> None:
    from kncl_env.topic_table import TopicTable
    from kncl_env.world.world import World
    from rabbit_holes.demonstrations import pair_split

    if args.slots < 2:
        raise ValueError(f"expected 2 slots or more, got {args.slots}: 1 is no choice")
    if not args.file.is_file():
        raise FileNotFoundError(f"expected a file of paths at {args.file}, found none")
    claim_output(args.out, args.force)
    if args.minari is not None:
        _minari_name(args.minari, SPLITS[0])
        _open_minari()
    world = World.open(args.world)
    table = TopicTable.of(world)
    parts: dict[str, list[Walk]] = {split: [] for split in SPLITS}
    problems: list[str] = []
    for number, path in enumerate(read_paths(args.file, on_error=problems.append)):
        if args.limit is not None and number >= args.limit:
            break
        parts[pair_split(path)].append(path)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not any(parts.values()):
        raise ValueError(f"expected paths in {args.file}, got none")
    rng = np.random.default_rng(args.seed)
    args.out.mkdir(exist_ok=True)
    if args.minari is not None:
        for split, paths in parts.items():
            steps = trajectories(paths, world, table, rng, args.slots, args.frontier)
            place, n = _write_minari(args.out, _minari_name(args.minari, split), steps, args)
            print(f"{place}: {n:,} episodes")
        print(f"read them with MINARI_DATASETS_PATH={args.out}")
    else:
        _write_arrays(args, parts, world, table, rng)
        print(f"{args.out}: arrays of {', '.join(SPLITS)}, and card.json")


def _write_arrays(
    args: argparse.Namespace,
    parts: dict[str, list[Walk]],
    world: World,
    table: TopicTable,
    rng: np.random.Generator,
) -> None:
    from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES, FEATURE_SCHEMA
    from rabbit_holes.demonstrations import demonstrate
    from train_lm.files import replacing, write_json

    counts: dict[str, dict[str, int]] = {}
    dropped: Counter[str] = Counter()
    for split, paths in parts.items():
        made = demonstrate(paths, world, table, rng, slots=args.slots, frontier=args.frontier)
        dropped += made.dropped
        used, episode = np.unique(made.group, return_inverse=True)
        counts[split] = {"paths": len(paths), "episodes": len(used), "choices": len(made)}
        print(f"{split}: {len(made):,} choices of {len(used):,} paths")
        with replacing(args.out / f"{split}.npz") as partial, open(partial, "wb") as stream:
            np.savez_compressed(
                stream,
                candidates=made.rows,
                starts=made.starts,
                context=made.context,
                chosen=made.chosen,
                episode=episode,
                ids=np.array([paths[i].id for i in used], dtype=np.str_),
            )
    for reason, count in dropped.items():
        print(f"dropped {count:,} clicks: {reason}")
    everyone = [path for paths in parts.values() for path in paths]
    write_json(
        args.out / "card.json",
        {
            "format": 1,
            "world": world.hash,
            "feature_schema": FEATURE_SCHEMA,
            "candidate_features": list(CANDIDATE_FEATURES),
            "context_features": list(CONTEXT_FEATURES),
            "slots": args.slots,
            "frontier": args.frontier,
            "seed": args.seed,
            "splits": counts,
            "dropped_clicks": dict(dropped),
            "sources": dict(Counter(path.source for path in everyone)),
            "walkers": dict(Counter(path.walker for path in everyone)),
            "licences": sorted({path.licence for path in everyone}),
        },
    )


def _minari_name(name: str, split: str) -> str:
    """`me/people-v0` -> `me/people-train-v0`."""
    stem, mark, version = name.rpartition("-v")
    if not (stem.strip("/") and mark and version.isdigit()):
        raise ValueError(
            f"expected a Minari name with a version, such as me/people-v0, got {name!r}"
        )
    return f"{stem}-{split}-v{version}"


def _open_minari() -> Any:
    try:
        import minari
    except ImportError:
        raise ValueError(
            "expected the minari library for --minari: pip install 'minari[arrow]', or leave the "
            "option out"
        ) from None
    return minari


def _write_minari(
    root: Path, name: str, steps: Iterator[Trajectory], args: argparse.Namespace
) -> tuple[Path, int]:
    """Write one data set and return its place and number of episodes; none leaves no data set."""
    minari = _open_minari()
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    place = root / name
    if (place / "data").is_dir():
        shutil.rmtree(place)
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    written, dataset = 0, None
    try:
        while part := [step for _, step in zip(range(AT_ONCE), steps, strict=False)]:
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
            if dataset is not None:
                dataset.update_dataset_from_buffer(buffers)
                continue
            _, k, f = part[0].candidates.shape
            g = part[0].context.shape[1]
            with warnings.catch_warnings():
                # It asks for an author, an environment and code to link to; paths have none.
                warnings.simplefilter("ignore", UserWarning)
                dataset = minari.create_dataset_from_buffers(
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
                    description=f"{args.file.name}: recorded paths as trajectories; rewards are 0.",
                    data_format="arrow",
                )
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
    return place, written


def _last_only(length: int, value: bool) -> list[bool]:
    return [False] * (length - 1) + [value]

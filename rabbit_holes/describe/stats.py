"""People, models and synthetic walkers side by side, each number with its interval.

It measures walks, gathers them into groups and estimates; what the numbers look like on a page is
`page.py`'s business. Walks of one group are taken as independent draws, and the intervals
are bootstrap intervals over walks: they say nothing about other people, models or worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.describe.estimates import RESAMPLES, Estimate, Statistic, estimate
from rabbit_holes.describe.styles import SHORTEST, STYLES, Landscape, WalkStyles, describe
from rabbit_holes.path import Path

Floats = NDArray[np.float64]

GROUPINGS = ("kind", "walker", "source", "status")
# A walker's name up to the colon -> what a reader calls such walkers.
KINDS = {
    "person": "people",
    "lm": "language models",
    "policy": "policies",
    "random": "random walks",
    "similar": "similarity walks",
    "markov": "Markov walks",
    "wayfinder": "simulated wayfinders",
}


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        key: Name in JSON.
        title: Name on the page.
        statistic: How walks are summed up; `share` is the mean of a yes or no.
        meaning: One sentence for the reader.
    """

    key: str
    title: str
    statistic: Statistic
    meaning: str


MEASURES = (
    Measure("visits", "pages opened", "median", "Visits of a walk, repeated pages included."),
    Measure("distinct", "distinct pages", "median", "Different pages of a walk."),
    Measure("depth", "depth [clicks]", "median", "Longest way from the start page down the tree."),
    Measure(
        "depth_mean", "depth [clicks]", "mean", "Longest way from the start page down the tree."
    ),
    Measure("branches", "branches", "mean", "Clicks beyond the first from one visit of a page."),
    Measure("back_clicks", "back clicks", "mean", "Steps back up the tree."),
    Measure("revisits", "revisits", "mean", "Visits of a page that was opened before."),
    Measure("loop", "walks in a loop", "share", "Links led from a page back to itself."),
    Measure("dwell", "dwell [s per page]", "median", "Time per page where times were recorded."),
    Measure("reached", "goal reached", "share", "Among walks that look for a goal."),
    Measure("offered", "links offered", "median", "Links per page, where they were recorded."),
    Measure(
        "off_graph",
        "clicks off the graph",
        "mean",
        "Share of clicks that follow no link of the world.",
    ),
    Measure(
        "similarity", "similarity of clicks", "median", "Cosine of the texts before and after."
    ),
    Measure("leaps", "leaps", "mean", "Share of clicks less similar than 9 of 10 links are."),
    Measure(
        "clustering",
        "clustering",
        "median",
        "Mean local clustering coefficient of the network of pages.",
    ),
    Measure(
        "path_length", "path length [links]", "median", "Mean way between two pages of the network."
    ),
    Measure(
        "efficiency", "efficiency", "median", "Mean of 1 / way between two pages of the network."
    ),
    Measure("betti_1", "open gaps (Betti-1)", "mean", "Loops of links that no triangle fills."),
    Measure(
        "compressibility",
        "compressibility [bits]",
        "median",
        "Information that clusterings of the network save.",
    ),
    *(
        Measure(style, plural, "share", f"Walks whose network is that of a {style}.")
        for style, plural in zip(STYLES, ("hunters", "busybodies", "dancers"), strict=True)
    ),
)
# Of a network of fewer pages these say nothing.
NETWORK_MEASURES = (
    "clustering", "path_length", "efficiency", "betti_1", "compressibility",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Mean of a measure after 1, 2, … distinct pages, over the walks that got so far."""

    mean: Floats  # (L,)
    low: Floats  # (L,) 95 % interval of the mean
    high: Floats  # (L,)
    n: NDArray[np.int64]  # (L,) walks


@dataclass(frozen=True)
class Group:
    """The walks of one kind, summed up.

    Attributes:
        estimates: By key of a measure; measures that no walk of the group has are missing.
        depths: (D,) walks of depth 0, 1, ….
        betti_1, compressibility: Curves over distinct pages.
        points: (S, 2) similarity and clustering of a sample of walks.
    """

    name: str
    n_walks: int
    n_visits: int
    estimates: Mapping[str, Estimate]
    depths: NDArray[np.int64]
    betti_1: Curve
    compressibility: Curve
    points: Floats

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "walks": self.n_walks,
            "visits": self.n_visits,
            "measures": {key: vars(estimate) for key, estimate in self.estimates.items()},
            "depths": self.depths.tolist(),
            **{
                name: {key: values.tolist() for key, values in vars(curve).items()}
                for name, curve in (
                    ("betti_1_curve", self.betti_1),
                    ("compressibility_curve", self.compressibility),
                )
            },
        }


def summarise(
    paths: Sequence[Path],
    landscape: Landscape | None,
    rng: np.random.Generator,
    by: str = "kind",
    resamples: int = RESAMPLES,
) -> list[Group]:
    """Measure all walks and sum them up by group, the largest kinds of walker in fixed order.

    Args:
        paths: At least one.
        landscape: The world they walked in, if it is known.
        rng: Draws the bootstrap samples and the points of the plot.
        by: One of `GROUPINGS`.

    Raises:
        ValueError: If there is no path or no such grouping.
    """
    if by not in GROUPINGS:
        raise ValueError(f"expected a grouping among {GROUPINGS}, got {by!r}")
    if not paths:
        raise ValueError("expected paths to describe, got none: the files hold no valid path")
    members: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        members.setdefault(group_of(path, by), []).append(number)
    order = list(KINDS.values())
    names = sorted(members, key=lambda name: (order.index(name) if name in order else 99, name))
    styles = describe(paths, landscape)
    table = measure(paths, styles, landscape)
    return [_group(name, np.array(members[name]), table, styles, rng, resamples) for name in names]


def group_of(path: Path, by: str) -> str:
    """Name of the group that a path belongs to."""
    if by == "kind":
        kind = path.walker.split(":")[0]
        return KINDS.get(kind, kind)
    return str(getattr(path, by))


def measure(
    paths: Sequence[Path], styles: WalkStyles, landscape: Landscape | None
) -> dict[str, Floats]:
    """(P,) values by measure; NaN where a walk has none."""
    rows = np.array([_tree_measures(path) for path in paths]).T
    names = (
        "visits", "distinct", "depth", "branches", "back_clicks", "revisits", "loop", "dwell",
        "reached", "offered",
    )  # fmt: skip
    table = dict(zip(names, rows, strict=True))
    table["depth_mean"] = table["depth"]
    table["off_graph"] = np.full(len(paths), np.nan)
    if landscape is not None:
        for number, path in enumerate(paths):
            if len(path) > 1:
                off = landscape.link_map.off_graph(path)
                table["off_graph"][number] = off / (len(path) - 1)
    table["similarity"], table["leaps"] = styles.similarity, styles.leaps
    last = np.arange(len(paths)), styles.pages - 1
    table["betti_1"], table["compressibility"] = styles.betti_1[last], styles.compressibility[last]
    for name in ("clustering", "path_length", "efficiency"):
        table[name] = getattr(styles, name)
    for name in NETWORK_MEASURES:
        table[name] = np.where(styles.pages >= SHORTEST, table[name], np.nan)
    for style in STYLES:
        table[style] = np.array(
            [np.nan if own is None else float(own == style) for own in styles.style]
        )
    return table


def _tree_measures(path: Path) -> tuple[float, ...]:
    titles, depths = path.titles, path.depths()
    children = np.bincount([parent for parent, _ in path.clicks()], minlength=len(path))
    recorded = path.meta.get("back_clicks")
    back_clicks = recorded if isinstance(recorded, int) else steps_back(path)
    offered = [len(visit.offered) for visit in path.visits if visit.offered]
    return (
        len(path),
        len(set(titles)),
        max(depths),
        int(np.maximum(children - 1, 0).sum()),
        back_clicks,
        len(titles) - len(set(titles)),
        path.status == "loop" or in_a_loop(path),
        dwell(path),
        np.nan if path.goal is None else path.goal in titles,
        float(np.mean(offered)) if offered else np.nan,
    )


def steps_back(path: Path) -> int:
    """Steps up the tree between one visit and the next; those after the last leave no trace."""
    parents = [visit.parent for visit in path.visits]
    depths = path.depths()
    steps = 0
    for index, visit in enumerate(path.visits[1:]):
        here: int | None = index
        goal = visit.parent
        while here is not None and goal is not None and here != goal:
            if depths[here] >= depths[goal]:
                here = parents[here]
                steps += 1
            else:
                goal = parents[goal]
    return steps


def in_a_loop(path: Path) -> bool:
    """Whether clicks lead from a page back to the same page."""
    above: list[frozenset[str]] = [frozenset({path.visits[0].title})]
    for parent, child in path.clicks():
        title = path.visits[child].title
        if title in above[parent]:
            return True
        above.append(above[parent] | {title})
    return False


def dwell(path: Path) -> float:
    """[s] mean time on a page; NaN where it was not recorded or the player went away."""
    times = [visit.time for visit in path.visits if visit.time is not None]
    if len(times) == len(path) > 1:
        return (times[-1] - times[0]) / (len(path) - 1)
    duration, back_clicks = path.meta.get("duration"), path.meta.get("back_clicks", 0)
    if isinstance(duration, int | float) and isinstance(back_clicks, int):
        views = len(path) - 1 + back_clicks
        if path.status == "finished" and views > 0:
            return duration / views
    return np.nan


def _group(
    name: str,
    rows: NDArray[np.int64],
    table: Mapping[str, Floats],
    styles: WalkStyles,
    rng: np.random.Generator,
    resamples: int,
) -> Group:
    estimates = {}
    for measure in MEASURES:
        found = estimate(table[measure.key][rows], measure.statistic, rng, resamples)
        if found is not None:
            estimates[measure.key] = found
    points = np.column_stack([table["similarity"][rows], table["clustering"][rows]])
    points = points[np.isfinite(points).all(axis=1)]
    chosen = rng.permutation(len(points))[:300]
    return Group(
        name,
        len(rows),
        int(table["visits"][rows].sum()),
        estimates,
        np.bincount(table["depth"][rows].astype(np.int64)),
        _curve(styles.betti_1[rows]),
        _curve(styles.compressibility[rows]),
        points[np.sort(chosen)],
    )


def _curve(values: Floats) -> Curve:
    """Mean per column, with the normal interval of a mean: curves have many walks per point."""
    n = np.isfinite(values).sum(axis=0)
    length = int((n > 0).sum())
    values, n = values[:, :length], n[:length]
    mean = np.nansum(values, axis=0) / n
    spread = np.nansum((values - mean) ** 2, axis=0) / np.maximum(n - 1, 1)
    half = 1.96 * np.sqrt(spread / n)
    return Curve(mean, mean - half, mean + half, n)

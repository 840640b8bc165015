"""The knowledge graph as a picture: nucleus, frontier and goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.graph import TopicGraph

if TYPE_CHECKING:
    from kncl_env.nucleus import Nucleus
    from kncl_env.topic_table import Goal, TopicTable


def positions(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 2) places in 0..1: the two main directions of the topic vectors, spread by rank.

    Ranks fill the plane evenly; the raw projection puts most topics on one spot.
    """
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    if len(directions) < 2:
        directions = np.vstack([directions, np.zeros_like(directions)])[:2]
    flat = centred @ directions[:2].T
    order = np.argsort(np.argsort(flat, axis=0, kind="stable"), axis=0, kind="stable")
    return order / max(1, len(vectors) - 1)


def thinned_edges(graph: TopicGraph, most: int) -> NDArray[np.int64]:
    """(E, 2) at most `most` links, evenly thinned: more would be a grey plane."""
    source = np.repeat(np.arange(len(graph)), graph.out_degree)
    pairs = np.stack([source, graph.indices], axis=1)
    if len(pairs) <= most:
        return pairs
    return pairs[np.linspace(0, len(pairs) - 1, most).astype(np.int64)]


def draw_nucleus(
    table: TopicTable, nucleus: Nucleus, goal: Goal | None, size: int = 480
) -> NDArray[np.uint8]:
    """(size, size, 3) pixels: seeds dark, expanded topics red with their links into the nucleus,
    the frontier blue, the goal yellow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place = positions(table.vectors)
    figure = Figure(figsize=(size / 100, size / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    inside = set(nucleus.members.tolist())
    for topic in nucleus.expanded:
        for other in inside.intersection(table.graph.around(topic).tolist()):
            axes.plot(*place[[topic, other]].T, color="#d1495b", linewidth=0.5, alpha=0.5, zorder=1)

    def dots(topics: NDArray[np.int64], colour: str, area: float, order: int) -> None:
        axes.scatter(
            place[topics, 0], place[topics, 1], s=area, color=colour, linewidths=0, zorder=order
        )

    dots(np.arange(len(table)), "#d9d9d9", 6, 2)
    if goal is not None:
        dots(goal.topics, "#e9c46a", 40, 3)
    dots(nucleus.frontier, "#8ecae6", 6, 4)
    dots(np.array(nucleus.seeds), "#1d3557", 20, 5)
    if nucleus.expanded:
        dots(np.array(nucleus.expanded), "#d1495b", 26, 6)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

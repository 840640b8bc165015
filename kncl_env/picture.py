"""The knowledge graph as a picture: nucleus, frontier, goal and the last expansion."""

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
    """(size, size, 3) pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    place = positions(table.vectors)
    figure = Figure(figsize=(size / 100, size / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    for a, b in thinned_edges(table.graph, 800):
        axes.plot(*place[[a, b]].T, color="#dddddd", linewidth=0.3, zorder=0)

    def dots(topics: NDArray[np.int64], colour: str, area: float, order: int) -> None:
        axes.scatter(
            place[topics, 0], place[topics, 1], s=area, color=colour, linewidths=0, zorder=order
        )

    dots(np.arange(len(table)), "#c8c8c8", 4, 1)
    if goal is not None:
        dots(goal.topics, "#e9c46a", 9, 2)
    dots(nucleus.frontier, "#8ecae6", 5, 3)
    dots(nucleus.members, "#1d3557", 12, 4)
    if nucleus.expanded:
        dots(np.array(nucleus.expanded[-1:]), "#d1495b", 60, 5)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

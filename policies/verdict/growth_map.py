"""How a nucleus grew: one map of the topics, drawn per arm at a few moments of one episode.

It knows places, links and orders of expansion; what an expansion was worth is not its business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.verdict.figures import svg_open
from policies.verdict.style_sheet import MOMENTS
from policies.verdict.wording import short
from train_lm.plain_text import in_html

FloatArray = NDArray[np.float64]
_MAP_WIDTH, _MAP_HEIGHT = 220.0, 165.0


@dataclass(frozen=True, eq=False)
class Growth:
    """One episode per arm on one map of the topics.

    Attributes:
        positions: (N, 2) place of every topic; any unit, stretched to fill the map.
        nucleus: Topics solid or expanded before the first step.
        expansions: Topics in the order in which each arm expanded them.
        target: Topics of the target region; empty where every topic counts alike.
        edges: (E, 2) topic pairs to draw, a few thousand at most.
        titles: (N,) names for the captions, or empty.
    """

    positions: FloatArray
    nucleus: Sequence[int]
    expansions: Mapping[str, Sequence[int]]
    target: Sequence[int] = ()
    edges: Sequence[Sequence[int]] | NDArray[np.int64] = ()
    titles: Sequence[str] = ()

    def __post_init__(self) -> None:
        positions = np.asarray(self.positions, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
            raise ValueError(f"expected finite positions (N, 2), got shape {positions.shape}")
        object.__setattr__(self, "positions", positions)
        n = len(positions)
        groups = {"nucleus": self.nucleus, "target": self.target, "edges": self.edges}
        groups |= {f"expansions of {arm!r}": order for arm, order in self.expansions.items()}
        for name, topics in groups.items():
            flat = np.asarray(topics, dtype=np.int64).ravel()
            if len(flat) and (flat.min() < 0 or flat.max() >= n):
                raise ValueError(
                    f"expected topics 0..{n - 1} in {name}, got {flat.min()}..{flat.max()}: "
                    "leave out steps that expanded nothing"
                )
        if len(self.titles) not in (0, n):
            raise ValueError(f"expected {n} titles or none, got {len(self.titles)}")


def growth_section(growth: Growth, looks: Mapping[str, str]) -> str:
    """The part of the page with the maps; `looks` holds the CSS class of every arm."""
    places = _map_places(growth.positions)
    size = min(3.4, max(1.1, 45 / math.sqrt(len(places))))
    edges = "".join(
        f"M{places[a]}L{places[b]}" for a, b in np.asarray(growth.edges, dtype=int).reshape(-1, 2)
    )
    faint = min(0.5, max(0.06, 60 / max(1, len(growth.edges))))
    shared = (
        "<svg class='defs' aria-hidden='true'><defs><g id='topic-map'>"
        f"<path class='dots region' stroke-width='{size + 6:.1f}' "
        f"d='{_dots_path(places, growth.target)}'/>"
        f"<path class='edge' stroke-opacity='{faint:.2f}' d='{edges}'/>"
        f"<path class='dots other' stroke-width='{size:.1f}' "
        f"d='{_dots_path(places, range(len(places)))}'/>"
        f"<path class='dots core' stroke-width='{size + 0.8:.1f}' "
        f"d='{_dots_path(places, growth.nucleus)}'/></g></defs></svg>"
    )
    arms = "".join(
        _growth_of(number, arm, growth, places, looks.get(arm, "ref"), size)
        for number, arm in enumerate(growth.expansions)
    )
    legend = "".join(
        f"<span><svg viewBox='0 0 16 16' class='key'>{mark}</svg>{words}</span>"
        for mark, words in (
            ("<path class='dots core' stroke-width='8' d='M8 8h.01'/>", "nucleus at the start"),
            ("<path class='dots region' stroke-width='15' d='M8 8h.01'/>", "target region"),
            ("<circle class='seed c1' cx='8' cy='8' r='4.5'/>", "expanded since the last picture"),
            ("<circle class='seed c1 old' cx='8' cy='8' r='4.5'/>", "expanded before"),
            ("<path class='dots other' stroke-width='5' d='M8 8h.01'/>", "other topics"),
        )
        if len(growth.target) or "region" not in mark
    )
    return (
        f"<section><h2>How the nucleus grew</h2><p class='legend'>{legend}</p>{shared}{arms}"
        "<p class='caption'>One episode per arm, in its colour; the points below a map step "
        f"through up to {MOMENTS} moments of it, by hand or by the arrow keys. Lines are links.</p>"
        "</section>"
    )


def _growth_of(
    number: int, arm: str, growth: Growth, places: Sequence[str], look: str, size: float
) -> str:
    order = list(growth.expansions[arm])
    target = set(growth.target)
    moments = sorted({round(len(order) * part / (MOMENTS - 1)) for part in range(MOMENTS)})
    pictures = []
    for earlier, now in zip([0, *moments], moments, strict=False):
        found = len(target & set(order[:now]))
        caption = f"after {now} expansions" if now else "start"
        if target:
            caption += f", {found} of {len(target)} target topics"
        pictures.append(
            f"<figure>{svg_open(_MAP_WIDTH, _MAP_HEIGHT, f'{arm} {caption}')}"
            "<use href='#topic-map'/>"
            f"{_expanded(places, order[:earlier], look + ' old', size)}"
            f"{_expanded(places, order[earlier:now], look, size)}</svg>"
            f"<figcaption>{in_html(caption)}</figcaption></figure>"
        )
    names = ""
    if growth.titles and order:
        shown = [growth.titles[t] for t in order]
        told = shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-4:]]
        names = f"<p class='order'>In order: {in_html(' → '.join(short(t, 40) for t in told))}</p>"
    # A slider without a script: a radio button for each moment, and the style sheet shows the
    # picture of the one that is chosen. Buttons of one name are stepped through by arrow keys. On
    # paper, where nothing can be chosen, all pictures stand side by side.
    group = f"growth-{number}"
    buttons = "".join(
        f"<input type='radio' name='{group}' aria-label='after {now} expansions'"
        f"{' checked' if now == moments[-1] else ''}>"
        for now in moments
    )
    return (
        f"<h3><i class='swatch {look}'></i>{in_html(arm)}</h3>{names}"
        f"<div class='stepper'>{buttons}<div class='maps'>{''.join(pictures)}</div></div>"
    )


def _expanded(places: Sequence[str], topics: Sequence[int], look: str, size: float) -> str:
    """Dots large enough to be found among thousands, with a rim that parts them from the rest."""
    path, width = _dots_path(places, topics), max(4.0, size + 1.6)
    rim = f"<path class='dots rim' stroke-width='{width + 1.4:.1f}' d='{path}'/>"
    return f"{rim}<path class='dots grown {look}' stroke-width='{width:.1f}' d='{path}'/>"


def _map_places(positions: FloatArray) -> list[str]:
    """(N,) `x y` in the map's units, stretched to fill it."""
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    room = np.array([_MAP_WIDTH - 12, _MAP_HEIGHT - 12])
    placed = 6 + (positions - low) / np.where(span > 0, span, 1.0) * room
    return [f"{x:.1f} {y:.1f}" for x, y in placed]


def _dots_path(places: Sequence[str], topics: Iterable[int]) -> str:
    # A stroke of no length with round caps is a dot: thousands fit in one path.
    return "".join(f"M{places[t]}h.01" for t in topics)

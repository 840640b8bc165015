"""The report's plots as inline SVG: learning curves, and every seed as a dot.

It draws what it is given and computes no statistic beyond the mean and the range of curves. Colours
are the style sheet's: a mark only names its class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.forgetting import BEFORE, LossMatrix, backward_transfer, forgetting
from policies.verdict.statistics import performance_profile
from policies.verdict.style_sheet import N_COLOURS
from policies.verdict.summary import Interval, Summary
from policies.verdict.wording import MINUS, amount, bits, short, signed
from train_lm.plain_text import in_html

FloatArray = NDArray[np.float64]
NUMBERED = 14  # [columns] of a heat map, at most, whose cells say their number
MAX_POINTS = 240  # [points per drawn curve]; more cannot be told apart at this size


class Curve(Protocol):
    """What a learning curve needs; a `scores.ArmRun` is one."""

    @property
    def arm(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def tokens(self) -> FloatArray: ...  # (S + 1,)
    @property
    def loss(self) -> FloatArray: ...  # (S + 1,) [bits per byte]


def looks_of(summary: Summary) -> dict[str, str]:
    """CSS class of every arm: the reference grey, the target's text ink, the others coloured."""
    looks = {}
    turn = 0
    for arm in summary.arms:
        if arm == summary.reference:
            looks[arm] = "ref"
        elif arm == summary.target_text:
            looks[arm] = "target-text"
        else:
            looks[arm] = f"c{turn % N_COLOURS + 1}" + (" again" if turn >= N_COLOURS else "")
            turn += 1
    return looks


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside `low..high`, spaced by 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / about))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda m: abs((high - low) / m - about))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(7) if abs(round(step, d) - step) < 1e-9), 7)
    return [f"{tick:.{decimals}f}".replace("-", MINUS) for tick in ticks]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: round(start + (value - low) / width * (end - start), 1)


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Label places near the wanted ones, in their order, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    floor = low
    for i in order:
        places[i] = max(wanted[i], floor)
        floor = places[i] + gap
    ceiling = high
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def curves_section(
    summary: Summary, curves: Sequence[Curve], looks: Mapping[str, str], split: str
) -> str:
    """The part of the page with the learning curves; empty where there are none."""
    by_arm = {arm: [c for c in curves if c.arm == arm] for arm in looks}
    bands = {arm: _band(runs) for arm, runs in by_arm.items() if runs}
    if not bands:
        return ""
    reference = summary.reference
    goal = float(bands[reference][1][-1]) if reference in bands else None
    room = 34 + min(170, 7 * max(map(len, bands)))
    by_end = sorted(bands, key=lambda arm: -bands[arm][1][-1])
    legend = "".join(
        f"<span><i class='swatch {looks[arm]}'></i>{in_html(arm)}</span>" for arm in by_end
    )
    line = f" The dotted line is {reference}'s final loss." if goal is not None else ""
    return (
        "<section><h2>Learning curves</h2>"
        f"<div class='wide'>{_curves_svg(bands, looks, goal, 1080, 430, room)}</div>"
        f"<div class='narrow'>{_curves_svg(bands, looks, goal, 380, 300, 0)}"
        f"<p class='legend'>{legend}</p></div>"
        f"<p class='caption'>Held-out loss on the {in_html(split)} split against tokens trained. "
        f"Line: mean over seeds; band: lowest to highest seed.{in_html(line)}</p></section>"
    )


def _band(runs: Sequence[Curve]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Tokens, mean, lowest and highest loss over seeds, as far as every seed went; each (S + 1,)"""
    end = min(float(run.tokens[-1]) for run in runs)
    grid = np.unique(np.concatenate([np.asarray(run.tokens, dtype=np.float64) for run in runs]))
    grid = grid[grid <= end]
    if len(grid) > MAX_POINTS:
        grid = np.linspace(0, end, MAX_POINTS)
    losses = np.stack([np.interp(grid, run.tokens, run.loss) for run in runs])
    return grid, losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0)


def _curves_svg(
    bands: Mapping[str, tuple[FloatArray, FloatArray, FloatArray, FloatArray]],
    looks: Mapping[str, str],
    goal: float | None,
    width: int,
    height: int,
    label_room: int,
) -> str:
    """`label_room` [px] right of the plot names the lines there; 0 leaves that to a legend."""
    low = min(float(b[2].min()) for b in bands.values())
    high = max(float(b[3].max()) for b in bands.values())
    end = max(float(b[0][-1]) for b in bands.values())
    pad = 0.04 * (high - low) or 0.01
    left, right, top, bottom = 50, width - max(label_room, 14), 24, height - 42
    x = _scale(0.0, end, left, right)
    y = _scale(low - pad, high + pad, bottom, top)
    out = [svg_open(width, height, "Learning curves: held-out loss against tokens trained")]
    ticks = nice_ticks(low - pad, high + pad, 6)
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        out.append(f"<path class='grid' d='M{left} {y(tick)}H{right}'/>")
        out.append(f"<text class='end' x='{left - 7}' y='{y(tick) + 4}'>{label}</text>")
    for tick in nice_ticks(0.0, end, max(3, (right - left) // 110)):
        out.append(f"<path class='axis' d='M{x(tick)} {bottom}v5'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 19}'>{amount(tick)}</text>")
    out.append(f"<path class='axis' d='M{left} {bottom}H{right}'/>")
    out.append(f"<text x='{left - 44}' y='12'>held-out loss [bits per byte]</text>")
    out.append(f"<text class='end' x='{right}' y='{height - 6}'>tokens trained</text>")
    for arm, (grid, _, least, most) in bands.items():
        there = [f"{x(t)} {y(v)}" for t, v in zip(grid, most, strict=True)]
        back = [f"{x(t)} {y(v)}" for t, v in zip(grid[::-1], least[::-1], strict=True)]
        out.append(f"<path class='band {looks[arm]}' d='M{'L'.join(there + back)}Z'/>")
    if goal is not None:
        out.append(f"<path class='goal' d='M{left} {y(goal)}H{right}'/>")
    for arm, (grid, centre, _, _) in bands.items():
        points = "L".join(f"{x(t)} {y(v)}" for t, v in zip(grid, centre, strict=True))
        out.append(f"<path class='line {looks[arm]}' d='M{points}'/>")
    ends = {arm: (x(float(b[0][-1])), y(float(b[1][-1]))) for arm, b in bands.items()}
    if not label_room:
        return "".join([*out, "</svg>"])
    places = _spread([place for _, place in ends.values()], 16, top + 6, bottom)
    for (arm, (ex, ey)), ly in zip(ends.items(), places, strict=True):
        out.append(f"<path class='leader {looks[arm]}' d='M{ex + 2} {ey}L{right + 13} {ly:.1f}'/>")
        out.append(f"<circle class='dot {looks[arm]}' cx='{right + 16}' cy='{ly:.1f}' r='4'/>")
        name = in_html(short(arm, (label_room - 34) // 7))
        out.append(
            f"<text x='{right + 24}' y='{ly + 4:.1f}'>{name}<title>{in_html(arm)}</title></text>"
        )
    return "".join([*out, "</svg>"])


def seeds_section(summary: Summary, looks: Mapping[str, str]) -> str:
    """The part of the page that shows every seed, and each difference to the reference."""
    reference = summary.reference
    finals = [(arm, score.test) for arm, score in summary.arms.items()]
    gaps = [
        (arm, score.difference.mean)
        for arm, score in summary.arms.items()
        if score.difference is not None
    ]
    panels = [_dots_svg(finals, looks, "final test loss [bits per byte]", None)]
    if gaps:
        panels.append(_dots_svg(gaps, looks, f"difference to {reference} [bits per byte]", 0.0))
    return (
        f"<section><h2>Every seed</h2><div class='pair'>{''.join(panels)}</div>"
        "<p class='caption'>Dots: single seeds. Bar: interval as in the table; tick: its centre. "
        f"Left of the zero line an arm ended below {in_html(reference)}.</p>"
        f"{_profiles(summary, looks)}</section>"
    )


def _profiles(summary: Summary, looks: Mapping[str, str]) -> str:
    """Performance profiles: which share of an arm's runs is at least so fast."""
    speeds = {
        arm: found.speed_up.values
        for arm, found in summary.arms.items()
        if arm != summary.reference and len(found.speed_up.values) > 1
    }
    fastest = max((max(values) for values in speeds.values()), default=0.0)
    if not fastest > 0:
        return ""
    legend = "".join(
        f"<span><i class='swatch {looks[arm]}'></i>{in_html(arm)}</span>" for arm in speeds
    )
    end = 1.05 * max(1.0, fastest)
    return (
        "<h3>How many runs are how fast</h3>"
        f"<div class='wide'>{_profiles_svg(speeds, looks, end, 1080)}</div>"
        f"<div class='narrow'>{_profiles_svg(speeds, looks, end, 380)}</div>"
        f"<p class='legend'>{legend}</p>"
        "<p class='caption'>Performance profiles: the share of an arm's runs whose speed-up is at "
        "least so large. A run that never gets there has 0.</p>"
    )


def _profiles_svg(
    speeds: Mapping[str, Sequence[float]], looks: Mapping[str, str], end: float, width: int
) -> str:
    levels = np.unique([0.0, end, *(v for values in speeds.values() for v in values)])
    height, left, top = 270, 50, 24
    right, bottom = width - 14, height - 42
    x, y = _scale(0.0, end, left, right), _scale(0.0, 1.0, bottom, top)
    out = [svg_open(width, height, "Share of runs with at least this speed-up")]
    for tick in (0.0, 0.5, 1.0):
        out.append(f"<path class='grid' d='M{left} {y(tick)}H{right}'/>")
        out.append(f"<text class='end' x='{left - 7}' y='{y(tick) + 4}'>{tick:g}</text>")
    ticks = nice_ticks(0.0, end, max(3, width // 130))
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        out.append(f"<path class='axis' d='M{x(tick)} {bottom}v5'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 19}'>{label}</text>")
    out.append(f"<path class='axis' d='M{left} {bottom}H{right}'/>")
    out.append(f"<text x='{left - 44}' y='12'>share of runs</text>")
    goal = "speed-up of at least [times]"
    out.append(f"<text class='end' x='{right}' y='{height - 6}'>{goal}</text>")
    for arm, values in speeds.items():
        shares = performance_profile(values, levels)
        path = f"M{x(0.0)} {y(float(shares[0]))}"
        for level, share in zip(levels[1:].tolist(), shares[1:].tolist(), strict=True):
            path += f"V{y(share)}H{x(level)}"  # from just above the level before, up to this one
        named = f"<title>{in_html(arm)}</title>"
        out.append(f"<path class='line {looks[arm]}' d='{path}'>{named}</path>")
    return "".join([*out, "</svg>"])


def _dots_svg(
    rows: Sequence[tuple[str, Interval]],
    looks: Mapping[str, str],
    label: str,
    zero: float | None,
) -> str:
    width, step, top, left, right = 460, 44, 24, 14, 446
    values = [v for _, found in rows for v in found.values] + ([] if zero is None else [zero])
    reach = 1.5 * (max(values) - min(values)) or 0.01
    # An interval of two seeds can be a hundred times wider than the seeds: cut it, do not zoom out.
    bounds = [
        min(max(end, min(values) - reach), max(values) + reach)
        for _, found in rows
        for end in (found.low, found.high)
        if end is not None
    ]
    low, high = min(values + bounds), max(values + bounds)
    pad = 0.05 * (high - low) or 0.01
    x = _scale(low - pad, high + pad, left, right)
    bottom = top + step * len(rows)
    out = [svg_open(width, bottom + 26, label), f"<text x='{left}' y='13'>{in_html(label)}</text>"]
    ticks = nice_ticks(low - pad, high + pad, 5)
    for tick, words in zip(ticks, _tick_labels(ticks), strict=True):
        out.append(f"<path class='grid' d='M{x(tick)} {top}V{bottom}'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 18}'>{words}</text>")
    if zero is not None:
        out.append(f"<path class='axis' d='M{x(zero)} {top}V{bottom}'/>")
    for k, (arm, found) in enumerate(rows):
        y = top + step * k + 31
        name = in_html(short(arm, 60))
        out.append(f"<text class='row' x='{left}' y='{y - 15}'>{name}</text>")
        if found.low is not None and found.high is not None:
            start, end = (x(min(max(e, low - pad), high + pad)) for e in (found.low, found.high))
            out.append(f"<path class='bar {looks[arm]}' d='M{start} {y}H{end}'/>")
        if found.centre is not None:
            out.append(f"<path class='tick' d='M{x(found.centre)} {y - 8}v16'/>")
        out += [
            f"<circle class='seed {looks[arm]}' cx='{x(v)}' cy='{y + (i % 3 - 1) * 3}' r='4'/>"
            for i, v in enumerate(found.values)
        ]
    return "".join([*out, "</svg>"])


def heat_map_section(matrix: LossMatrix, title: str, *, stages: Sequence[str] = ()) -> str:
    """The part of the page that shows what each stage did to what was learned before it.

    Args:
        matrix: Losses of neighbourhoods (columns) after stages (rows).
        title: What was played.
        stages: Names of the rows; their numbers, if none.

    Raises:
        ValueError: Another number of names than of stages.
    """
    if len(stages) not in (0, matrix.stages):
        raise ValueError(f"expected {matrix.stages} names of stages or none, got {len(stages)}")
    told = [
        f"{name}: {signed(value)}"
        for name, value in (
            ("Backward transfer", backward_transfer(matrix)),
            ("forgetting", forgetting(matrix)),
        )
        if np.isfinite(value)
    ]
    figures = f" {', '.join(told)} bits per byte." if told else ""
    rows = list(stages) or [str(i) for i in range(1, matrix.stages + 1)]
    return (
        f"<section><h2>{in_html(title)}</h2>{_heat_map_svg(matrix, rows)}"
        "<p class='caption'>Held-out loss of each neighbourhood (column) after each stage (row) "
        "[bits per byte]. Colour: its change since its own stage (framed; without a frame: since "
        f"before the first): orange, it was forgotten; green, it went on to improve. Grey: not "
        f"taught yet.{in_html(figures)}</p></section>"
    )


def _heat_map_svg(matrix: LossMatrix, rows: Sequence[str]) -> str:
    stages, columns = matrix.after.shape
    width, left, top = 1080, 120, 24
    step = min(90.0, (width - left - 10) / columns)
    height = min(30.0, max(8.0, 620 / stages))
    # What was measured since its own stage, as a change; the largest one has the full colour.
    since = np.arange(stages)[:, None] >= np.maximum(matrix.taught, 0)
    change = np.where(since, matrix.after - matrix.learned, np.nan)
    most = float(np.nanmax(np.abs(change))) or 1.0
    out = [svg_open(width, top + height * stages + 26, "Held-out loss after each stage")]
    for j, name in enumerate(matrix.names):
        if columns <= NUMBERED or j % math.ceil(columns / NUMBERED) == 0:
            x, room = round(left + step * (j + 0.5), 1), int(max(step, 60) // 8)
            label = f"{in_html(short(name, room))}<title>{in_html(name)}</title>"
            out.append(f"<text class='mid' x='{x}' y='14'>{label}</text>")
    for i, row in enumerate(rows):
        y = round(top + height * i, 1)
        if height >= 14 or i % math.ceil(14 / height) == 0:
            out.append(
                f"<text class='end' x='{left - 8}' y='{y + height / 2 + 4:.1f}'>"
                f"{in_html(short(row, 14))}</text>"
            )
        for j in range(columns):
            loss, moved = float(matrix.after[i, j]), float(change[i, j])
            if not np.isfinite(loss):
                continue
            x = round(left + step * j, 1)
            kind = "unseen" if not np.isfinite(moved) else "worse" if moved > 0 else "better"
            own = " own" if matrix.taught[j] == i and matrix.taught[j] != BEFORE else ""
            shade = 1.0 if kind == "unseen" else abs(moved) / most
            told = f"{matrix.names[j]} after {row}: {bits(loss)}"
            told += "" if kind == "unseen" else f" ({signed(moved)})"
            out.append(
                f"<rect class='cell {kind}{own}' x='{x}' y='{y}' width='{step - 1:.1f}' "
                f"height='{height - 1:.1f}' fill-opacity='{0.85 * shade:.3f}'>"
                f"<title>{in_html(told)}</title></rect>"
            )
            if columns <= NUMBERED and height >= 16:
                out.append(
                    f"<text class='mid' x='{x + step / 2:.1f}' y='{y + height / 2 + 4:.1f}'>"
                    f"{loss:.3f}</text>"
                )
    return "".join([*out, "</svg>"])


def svg_open(width: float, height: float, label: str) -> str:
    """Start of a picture `width` by `height` units; `label` is what a screen reader says."""
    return f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{in_html(label)}'>"

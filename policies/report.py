"""One HTML file that shows what an evaluation found, from the verdict down to the command.

It draws what it is given and computes no statistic: every figure and every verdict is the
summary's. The page fetches nothing and runs nothing (its own content policy forbids both), so it
can be mailed, archived and opened offline.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.scores import BETTER, NO_DIFFERENCE, REFERENCE, WORSE

FloatArray = NDArray[np.float64]
N_COLOURS = 6
MINUS, TIMES, NOTHING, NEVER = "\u2212", "\u00d7", "\u2013", "never"
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


@dataclass(frozen=True)
class RunInfo:
    """Where the figures come from, in words for a reader.

    Attributes:
        world: Name of the world, with its scenario.
        source: Where its text comes from.
        licence: Licence of that text.
        world_hash: Identity of the world directory.
        learner: The learner's architecture and size.
        commit: Version of the code that ran.
        command: What to type to run it again.
        curve_split: Split on which the learning curves were measured.
        details: Further rows, such as citation or hardware.
    """

    world: str
    source: str
    licence: str
    world_hash: str
    learner: str
    commit: str
    command: str
    curve_split: str = "reward"
    details: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str) and not value.strip():
                raise ValueError(f"expected {name} of the run, got nothing: write 'unknown' if so")


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


@dataclass(frozen=True)
class Section:
    """A further part of the page: paragraphs and, if there is a header, a table."""

    heading: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def write_report(
    file: Path | str,
    summary: Mapping[str, Any],
    curves: Sequence[Curve],
    run_info: RunInfo,
    growth: Growth | None = None,
    extra_sections: Sequence[Section] = (),
    subject: str | None = None,
) -> Path:
    """Write the page to `file`, in one move, and return its path.

    Args:
        summary: What `scores.summarise` returned.
        curves: One per arm and seed.
        subject: The arm that the first sentence is about, chosen before the figures were seen;
            without it the sentence lists every arm.

    Raises:
        ValueError: `subject`, a curve or `growth` names an arm that the summary lacks.
    """
    arms = list(summary["arms"])
    named = {c.arm for c in curves} | set(growth.expansions if growth else ())
    unknown = sorted((named | ({subject} if subject else set())) - set(arms))
    if unknown:
        raise ValueError(f"expected arms of the summary ({', '.join(arms)}), got {unknown}")
    looks = _looks(summary)
    first, *rest = headline(summary, subject)
    title = f"Evaluation in {run_info.world}"
    parts = [
        f"<header><h1>{_text(title)}</h1><p class='headline'>{_text(first)}</p>",
        *(f"<p>{_text(line)}</p>" for line in rest),
        "</header>",
        _curves_section(summary, curves, looks, run_info.curve_split),
        _table_section(summary, looks),
        _seeds_section(summary, looks),
        _growth_section(growth, looks) if growth is not None else "",
        *(_extra_section(section) for section in extra_sections),
        _origin_section(summary, run_info),
    ]
    page = (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    path = Path(file)
    draft = path.with_name(path.name + ".part")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, path)  # a reader never meets half a page
    return path


# Words ------------------------------------------------------------------------------------------


def headline(summary: Mapping[str, Any], subject: str | None = None) -> list[str]:
    """Sentences that say what the intervals allow, and no more."""
    reference, arms, n = summary["reference"], summary["arms"], len(summary["seeds"])
    others = [arm for arm in arms if arm not in (reference, subject)]
    lines = [] if subject in (None, reference) else [_sentence(summary, str(subject))]
    groups = [
        (label, [arm for arm in others if arms[arm]["verdict"] == word])
        for word, label in (
            (BETTER, f"Better than {reference}"),
            (WORSE, f"Worse than {reference}"),
            (NO_DIFFERENCE, f"No difference from {reference} shown"),
        )
    ]
    listed = ". ".join(f"{label}: {', '.join(names)}" for label, names in groups if names)
    if listed:
        lines.append(f"{listed}.")
    if not lines:
        lines.append(f"Only {reference} was run: there is nothing to compare it with.")
    if n == 1:
        lines.append("One seed has no interval, so no difference can be shown.")
    else:
        lines.append(
            f"A verdict follows from the {summary['level']:.0%} interval of the difference in "
            f"final test loss over the same {n} seeds; each arm is judged on its own, without a "
            "correction for the number of arms."
        )
    return lines + [f"Note: {note}." for note in summary["notes"]]


def _sentence(summary: Mapping[str, Any], arm: str) -> str:
    reference, found = summary["reference"], summary["arms"][arm]
    gap, n, word = found["difference"], len(summary["seeds"]), found["verdict"]
    if gap["low"] is None:
        return (
            f"One seed shows nothing yet: {arm} ended {_signed(gap['mean'])} bits per byte from "
            f"{reference}."
        )
    span = f"{summary['level']:.0%} interval {_signed(gap['low'])} to {_signed(gap['high'])}"
    if word == NO_DIFFERENCE:
        start = f"No difference between {arm} and {reference} is shown"
    else:
        start = f"{arm} does {word} than {reference}"
    speed = found["speed_up"]
    tail = ""
    if word == BETTER and speed["low"] is not None:
        least = "with fewer tokens" if speed["low"] > 1 else "though not surely with fewer tokens"
        tail = (
            f"; it reaches {reference}'s final loss {least} (speed-up {_speed(found)}, "
            f"{speed['low']:.2f} to {speed['high']:.2f})"
        )
    return (
        f"{start}: {_signed(gap['mean'])} bits per byte of test loss ({span}, {n} seeds, lower is "
        f"better){tail}."
    )


def _text(value: object) -> str:
    """Text made safe for HTML; characters that no page may hold become a visible mark."""
    clean = "".join(
        "\ufffd" if (ord(c) < 32 and c not in "\t\n") or 0xD800 <= ord(c) <= 0xDFFF else c
        for c in str(value)
    )
    return html.escape(clean, quote=True)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _bits(value: float | None, sign: bool = False) -> str:
    """Four decimals: arms differ by hundredths, seeds by thousandths of a bit per byte."""
    if value is None:
        return NOTHING
    return f"{value:{'+' if sign else ''}.4f}".replace("-", MINUS)


def _signed(value: float) -> str:
    return _bits(value, sign=True)


def _range(found: Mapping[str, Any], show: Callable[[float], str]) -> str:
    if found["low"] is None:
        return ""
    return f"[{show(found['low'])}, {show(found['high'])}]".replace("-", MINUS)


def _speed(found: Mapping[str, Any]) -> str:
    middle = found["speed_up"]["iqm"]
    if middle is None:
        return NOTHING
    return f"{middle:.2f}{TIMES}" if middle > 0 else NEVER


def _amount(tokens: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(tokens) >= size:
            return f"{tokens / size:.4g}{unit}"
    return f"{tokens:.4g}"


# Looks ------------------------------------------------------------------------------------------


def _looks(summary: Mapping[str, Any]) -> dict[str, str]:
    """CSS class of every arm: the reference grey, the oracle ink, the others by the palette."""
    looks = {}
    turn = 0
    for arm in summary["arms"]:
        if arm == summary["reference"]:
            looks[arm] = "ref"
        elif arm == summary["oracle"]:
            looks[arm] = "oracle"
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


# Learning curves --------------------------------------------------------------------------------


def _curves_section(
    summary: Mapping[str, Any], curves: Sequence[Curve], looks: Mapping[str, str], split: str
) -> str:
    by_arm = {arm: [c for c in curves if c.arm == arm] for arm in looks}
    bands = {arm: _band(runs) for arm, runs in by_arm.items() if runs}
    if not bands:
        return ""
    reference = summary["reference"]
    goal = float(bands[reference][1][-1]) if reference in bands else None
    room = 34 + min(170, 7 * max(map(len, bands)))
    by_end = sorted(bands, key=lambda arm: -bands[arm][1][-1])
    legend = "".join(
        f"<span><i class='swatch {looks[arm]}'></i>{_text(arm)}</span>" for arm in by_end
    )
    line = f" The dotted line is {reference}'s final loss." if goal is not None else ""
    return (
        "<section><h2>Learning curves</h2>"
        f"<div class='wide'>{_curves_svg(bands, looks, goal, 1080, 430, room)}</div>"
        f"<div class='narrow'>{_curves_svg(bands, looks, goal, 380, 300, 0)}"
        f"<p class='legend'>{legend}</p></div>"
        f"<p class='caption'>Held-out loss on the {_text(split)} split against tokens trained. "
        f"Line: mean over seeds; band: lowest to highest seed.{_text(line)}</p></section>"
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
    out = [_svg_open(width, height, "Learning curves: held-out loss against tokens trained")]
    ticks = nice_ticks(low - pad, high + pad, 6)
    for tick, label in zip(ticks, _tick_labels(ticks), strict=True):
        out.append(f"<path class='grid' d='M{left} {y(tick)}H{right}'/>")
        out.append(f"<text class='end' x='{left - 7}' y='{y(tick) + 4}'>{label}</text>")
    for tick in nice_ticks(0.0, end, max(3, (right - left) // 110)):
        out.append(f"<path class='axis' d='M{x(tick)} {bottom}v5'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 19}'>{_amount(tick)}</text>")
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
        name = _text(_short(arm, (label_room - 34) // 7))
        out.append(
            f"<text x='{right + 24}' y='{ly + 4:.1f}'>{name}<title>{_text(arm)}</title></text>"
        )
    return "".join([*out, "</svg>"])


def _svg_open(width: float, height: float, label: str) -> str:
    return f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{_text(label)}'>"


# Table ------------------------------------------------------------------------------------------


def _table_section(summary: Mapping[str, Any], looks: Mapping[str, str]) -> str:
    arms, reference = summary["arms"], summary["reference"]
    columns = [
        ("arm", ""),
        ("final test loss", "bits per byte"),
        (f"difference to {reference}", "bits per byte"),
        ("loss averaged over the budget", "bits per byte"),
        (f"speed-up to {reference}'s final loss", "times"),
    ]
    with_gap = any(found["gap_closed"] for found in arms.values())
    with_noise = any(found["noise_share"] is not None for found in arms.values())
    if with_gap:
        columns.append((f"gap to {summary['oracle']} closed", "share"))
    if with_noise:
        columns.append(("noise bought", "share of tokens"))
    columns.append(("verdict", ""))
    head = "".join(
        f"<th scope='col'>{_text(name)}{f'<small>{unit}</small>' if unit else ''}</th>"
        for name, unit in columns
    )
    rows = []
    for arm, found in arms.items():
        cells = _cells(found, with_gap, with_noise)
        body = "".join(
            f"<td data-label='{_text(name)}'><span>{_text(big)}</span>"
            f"{f'<small>{_text(small)}</small>' if small else ''}</td>"
            for (name, _), (big, small) in zip(columns[1:-1], cells, strict=True)
        )
        word = found["verdict"]
        rows.append(
            f"<tr><th scope='row'><i class='swatch {looks[arm]}'></i>{_text(arm)}</th>{body}"
            f"<td data-label='verdict'><b class='word {word.split()[0]}'>{_text(word)}</b></td>"
            "</tr>"
        )
    before = [value for found in arms.values() for value in found["test_before"]]
    start = _bits(min(before))
    if max(before) - min(before) > 5e-5:
        start += f" to {_bits(max(before))}"
    n, brackets = len(summary["seeds"]), ""
    if n > 1:
        brackets = (
            f" In brackets: {summary['level']:.0%} intervals over {n} seeds by "
            f"{_text(summary['interval'])}."
        )
    return (
        "<section><h2>Scores on the test split</h2><div class='scroll'><table class='scores'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class='caption'>Before the first step: {start} bits per byte.{brackets} "
        "Final loss, average loss and speed-up: interquartile "
        "means; difference: mean over pairs with one seed, p from flipping the pairs' signs "
        "(one-sided: the arm has the lower loss). A speed-up counts a run that never gets there "
        "as 0.</p></section>"
    )


def _cells(found: Mapping[str, Any], with_gap: bool, with_noise: bool) -> Iterable[tuple[str, str]]:
    """(figure, small print) per column between the arm's name and the verdict."""
    yield _bits(found["test"]["iqm"]), _range(found["test"], _bits)
    gap = found["difference"]
    if gap is None:
        yield NOTHING, ""
    else:
        least = "\n(lowest possible)" if gap["p"] == gap["smallest_p"] else ""
        yield _signed(gap["mean"]), f"{_range(gap, _signed)}\np = {gap['p']:.2g}{least}".strip()
    yield _bits(found["area"]["iqm"]), _range(found["area"], _bits)
    ratio = found["tokens_ratio"]
    times, n = _speed(found), found["n"]
    small = []
    if found["verdict"] != REFERENCE and ratio["never"] < n:
        small.append(_range(found["speed_up"], "{:.2f}".format))
    if ratio["never"]:
        small.append(f"{'' if times == NEVER else 'never '}in {ratio['never']} of {n} seeds")
    if ratio["undefined"]:
        small.append(f"undefined in {ratio['undefined']} of {n} seeds")
    yield times, "\n".join(line for line in small if line)
    if with_gap:
        closed = found["gap_closed"]
        if closed is None or closed["share"] is None:
            yield NOTHING, ""
        else:
            yield f"{closed['share']:.0%}".replace("-", MINUS), _range(closed, "{:.0%}".format)
    if with_noise:
        yield (NOTHING if found["noise_share"] is None else f"{found['noise_share']:.1%}"), ""


# Seeds ------------------------------------------------------------------------------------------


def _seeds_section(summary: Mapping[str, Any], looks: Mapping[str, str]) -> str:
    arms, reference = summary["arms"], summary["reference"]
    finals = [(arm, f["test"]["values"], f["test"], f["test"]["iqm"]) for arm, f in arms.items()]
    gaps = [
        (arm, f["difference"]["values"], f["difference"], f["difference"]["mean"])
        for arm, f in arms.items()
        if f["difference"] is not None
    ]
    panels = [_dots_svg(finals, looks, "final test loss [bits per byte]", None)]
    if gaps:
        panels.append(_dots_svg(gaps, looks, f"difference to {reference} [bits per byte]", 0.0))
    return (
        f"<section><h2>Every seed</h2><div class='pair'>{''.join(panels)}</div>"
        "<p class='caption'>Dots: single seeds. Bar: interval as in the table; tick: its centre. "
        f"Left of the zero line an arm ended below {_text(reference)}.</p></section>"
    )


def _dots_svg(
    rows: Sequence[tuple[str, Sequence[float], Mapping[str, Any], float]],
    looks: Mapping[str, str],
    label: str,
    zero: float | None,
) -> str:
    width, step, top, left, right = 460, 44, 24, 14, 446
    values = [v for _, seen, _, _ in rows for v in seen] + ([] if zero is None else [zero])
    reach = 1.5 * (max(values) - min(values)) or 0.01
    # An interval of two seeds can be a hundred times wider than the seeds: cut it, do not zoom out.
    bounds = [
        min(max(v[end], min(values) - reach), max(values) + reach)
        for _, _, v, _ in rows
        for end in ("low", "high")
        if v[end] is not None
    ]
    low, high = min(values + bounds), max(values + bounds)
    pad = 0.05 * (high - low) or 0.01
    x = _scale(low - pad, high + pad, left, right)
    bottom = top + step * len(rows)
    out = [_svg_open(width, bottom + 26, label), f"<text x='{left}' y='13'>{_text(label)}</text>"]
    ticks = nice_ticks(low - pad, high + pad, 5)
    for tick, words in zip(ticks, _tick_labels(ticks), strict=True):
        out.append(f"<path class='grid' d='M{x(tick)} {top}V{bottom}'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 18}'>{words}</text>")
    if zero is not None:
        out.append(f"<path class='axis' d='M{x(zero)} {top}V{bottom}'/>")
    for k, (arm, seen, found, centre) in enumerate(rows):
        y = top + step * k + 31
        name = _text(_short(arm, 60))
        out.append(f"<text class='row' x='{left}' y='{y - 15}'>{name}</text>")
        if found["low"] is not None:
            start, end = (x(min(max(found[e], low - pad), high + pad)) for e in ("low", "high"))
            out.append(f"<path class='bar {looks[arm]}' d='M{start} {y}H{end}'/>")
        out.append(f"<path class='tick' d='M{x(centre)} {y - 8}v16'/>")
        out += [
            f"<circle class='seed {looks[arm]}' cx='{x(v)}' cy='{y + (i % 3 - 1) * 3}' r='4'/>"
            for i, v in enumerate(seen)
        ]
    return "".join([*out, "</svg>"])


# Growth -----------------------------------------------------------------------------------------

_MAP_WIDTH, _MAP_HEIGHT = 220.0, 165.0


def _growth_section(growth: Growth, looks: Mapping[str, str]) -> str:
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
        _growth_of(arm, list(order), growth, places, looks.get(arm, "ref"), size)
        for arm, order in growth.expansions.items()
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
        "<p class='caption'>One episode per arm, in its colour, at up to four moments; lines are "
        "links.</p>"
        "</section>"
    )


def _growth_of(
    arm: str, order: list[int], growth: Growth, places: Sequence[str], look: str, size: float
) -> str:
    target = set(growth.target)
    moments = sorted({round(len(order) * part / 3) for part in range(4)})
    pictures = []
    for earlier, now in zip([0, *moments], moments, strict=False):
        found = len(target & set(order[:now]))
        caption = f"after {now} expansions" if now else "start"
        if target:
            caption += f", {found} of {len(target)} target topics"
        pictures.append(
            f"<figure>{_svg_open(_MAP_WIDTH, _MAP_HEIGHT, f'{arm} {caption}')}"
            "<use href='#topic-map'/>"
            f"{_expanded(places, order[:earlier], look + ' old', size)}"
            f"{_expanded(places, order[earlier:now], look, size)}</svg>"
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )
    names = ""
    if growth.titles and order:
        shown = [growth.titles[t] for t in order]
        told = shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-4:]]
        names = f"<p class='order'>In order: {_text(' → '.join(_short(t, 40) for t in told))}</p>"
    return (
        f"<h3><i class='swatch {look}'></i>{_text(arm)}</h3>{names}"
        f"<div class='maps'>{''.join(pictures)}</div>"
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


# Further parts ----------------------------------------------------------------------------------


def _extra_section(section: Section) -> str:
    text = "".join(f"<p>{_text(line)}</p>" for line in section.paragraphs)
    table = ""
    if section.header:
        head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in section.header)
        body = "".join(
            "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>"
            for row in section.rows
        )
        table = f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"
    return f"<section><h2>{_text(section.heading)}</h2>{text}{table}</section>"


def _origin_section(summary: Mapping[str, Any], info: RunInfo) -> str:
    rows = {
        "World": info.world,
        "Text": info.source,
        "Licence of the text": info.licence,
        "World hash": info.world_hash,
        "Learner": info.learner,
        "Token budget per run": f"{summary['budget_tokens']:,.0f} tokens",
        "Seeds": ", ".join(map(str, summary["seeds"])),
        "Intervals": f"{summary['interval']}, {summary['reps']} resamples",
        "Commit": info.commit,
        **info.details,
    }
    listed = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows.items()
    )
    return (
        f"<section><h2>Where this comes from</h2><dl>{listed}<dt>Command</dt>"
        f"<dd><code>{_text(info.command)}</code></dd></dl></section>"
    )


# Colours after Okabe & Ito, which stay apart for colour-blind readers.
_CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#5b6570;--rule:#dfe3e8;
--c1:#0072b2;--c2:#d55e00;--c3:#009e73;--c4:#b85c8e;--c5:#c98500;--c6:#3d9bd1;--region:#f6e9a6;
--good:#00714f;--bad:#b04a00}
@media(prefers-color-scheme:dark){:root{--paper:#15191e;--ink:#e8ebee;--soft:#9aa5b1;--rule:#303841;
--c1:#4aa8e0;--c2:#ff8a3d;--c3:#2cc79a;--c4:#e29cc5;--c5:#f0b840;--c6:#8fd0f5;--region:#4d4620;
--good:#43d6a5;--bad:#ff9a5a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",
"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.15rem;font-weight:600;color:var(--soft);margin:0 0 10px}
h2{font-size:1.2rem;margin:44px 0 12px}h3{font-size:1rem;margin:22px 0 4px}
.headline{font-size:1.55rem;line-height:1.35;font-weight:600;margin:0 0 14px}
header p:not(.headline),.caption,.order{color:var(--soft);font-size:.9rem;margin:.5em 0}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:13px;fill:var(--ink)}svg .mid{text-anchor:middle}svg .end{text-anchor:end}
svg .row{font-weight:600}
.defs{position:absolute;width:0;height:0}.narrow{display:none}
.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}
.c6{--c:var(--c6)}.ref{--c:var(--soft)}.oracle{--c:var(--ink)}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft);fill:none}
.goal{stroke:var(--soft);stroke-dasharray:2 4}
.band{fill:var(--c);fill-opacity:.15}.line{fill:none;stroke:var(--c);stroke-width:2.2;
stroke-linejoin:round}.line.again,.line.oracle{stroke-dasharray:7 4}.leader{stroke:var(--c);
stroke-opacity:.6}.dot,.seed{fill:var(--c)}.seed{stroke:var(--paper);stroke-width:1}
.bar{stroke:var(--c);stroke-width:9;stroke-opacity:.28}.tick{stroke:var(--ink);stroke-width:2}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:28px}
.pair svg{max-width:520px}
.maps{display:grid;grid-template-columns:repeat(4,1fr);gap:14px}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft)}
.maps svg{border:1px solid var(--rule);border-radius:6px}
.dots{fill:none;stroke-linecap:round}.other{stroke:var(--soft);stroke-opacity:.45}
.edge{fill:none;stroke:var(--soft);stroke-width:.5}
.core{stroke:var(--ink);stroke-linecap:square}.grown{stroke:var(--c)}.old{stroke-opacity:.5;fill-opacity:.5}
.region{stroke:var(--region)}.rim{stroke:var(--paper)}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:.85rem;margin:0}
.legend span{display:flex;align-items:center;gap:6px}.key{width:16px;flex:none}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:50%;background:var(--c);
margin-right:.5em}
td small{white-space:pre}.scores b,.scores td span{white-space:nowrap}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:8px 12px 8px 0;border-bottom:1px solid var(--rule)}
thead th{font-weight:500;color:var(--soft);font-size:.82rem;vertical-align:bottom}
.scores tbody th{min-width:8em;max-width:13em;position:relative;padding-left:1.3em}
.scores tbody .swatch{position:absolute;left:0;top:1.05em}
.scores td{overflow-wrap:normal}td small,th small{display:block;color:var(--soft);font-weight:400}
.scroll{overflow-x:auto}.word{font-weight:600;color:var(--soft)}
.word.better{color:var(--good)}.word.worse{color:var(--bad)}
dl{display:grid;grid-template-columns:minmax(9em,auto) 1fr;gap:4px 20px;margin:0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0}code{font:.9em ui-monospace,Menlo,Consolas,monospace}
@media(max-width:860px){.maps{grid-template-columns:1fr 1fr}td small{white-space:pre-line}
main{padding:18px 14px 40px}.headline{font-size:1.25rem}
.wide{display:none}.narrow{display:block}dl{display:block}dd{margin:0 0 8px}
.scores thead{display:none}.scores tr{display:block;padding:10px 0;border-bottom:1px solid
var(--rule)}.scores th,.scores td{display:block;max-width:none;border:0;padding:2px 0}
.scores td{display:grid;grid-template-columns:44% 1fr;column-gap:12px}
.scores tbody th{padding-left:1.3em}
.scores tbody .swatch{top:.55em}
.scores td::before{content:
attr(data-label);color:var(--soft);grid-row:1/3}.scores td small{grid-column:2}}
@media print{section{break-inside:avoid}}
"""

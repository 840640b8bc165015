"""One self-contained HTML page of what `stats.py` estimated: a table, four plots, definitions.

Plain text, inline SVG and one style sheet; nothing is fetched and no script runs, so the page can
be mailed, archived and printed. It computes no statistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rabbit_holes.describe.axes import Axes
from rabbit_holes.describe.estimates import CONFIDENCE, Estimate
from rabbit_holes.describe.stats import MEASURES, Curve, Group
from rabbit_holes.describe.styles import CAP, LEAP_SHARE, SHORTEST, STYLES
from train_lm.plain_text import content_policy, in_html

# Okabe & Ito's colours, told apart by colour-blind readers; smaller groups beyond them are in the
# table alone.
COLOURS = ("#0072b2", "#d55e00", "#7a7a7a", "#009e73", "#aa4499", "#b8860b", "#56b4e9", "#882255")
OTHERS = "#c3c9d1"
STYLE_COLOURS = {"hunter": "#31688e", "busybody": "#a8b6c4", "dancer": "#e0a43c"}
DEEPEST = 20  # [clicks] the plot ends here
FEWEST = 20  # [walks] a point of a curve over fewer walks is not drawn
PERCENT_KEYS = ("leaps", "off_graph")

# Tells that `stats` made the page, and may replace it.
MARK = '<meta name="generator" content="rabbit-holes stats">'

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: #1c2430;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 0 0 2px; }
.lead { margin: 0 0 24px; color: #566173; max-width: 76ch; }
.card { background: #fff; border: 1px solid #e1e5ea; border-radius: 10px; padding: 18px 20px;
  margin: 0 0 18px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 18px; }
.grid .card { margin: 0; }
.grid + .card { margin-top: 18px; }
.note { color: #6b7686; font-size: 13px; margin: 0 0 10px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 18px 6px 0; text-align: left; border-top: 1px solid #eef1f4;
  white-space: nowrap; vertical-align: top; }
thead th { border-top: 0; border-bottom: 1px solid #cfd6de; vertical-align: bottom; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 500; }
tr.section td { padding-top: 16px; border-top: 0; color: #6b7686; font-size: 12px;
  text-transform: uppercase; letter-spacing: 0.05em; }
.interval { color: #7c8797; font-size: 12px; margin-left: 8px; display: inline-block;
  min-width: 84px; text-align: left; }
thead .interval { display: block; margin: 0; min-width: 0; font-weight: 400; }
.statistic { color: #7c8797; font-size: 12px; font-weight: 400; }
.none { color: #b4bcc6; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  margin-right: 7px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 6px; font-size: 13px;
  color: #3b4657; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #566173; }
dl { margin: 8px 0 0; display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; }
dt { font-weight: 500; }
dd { margin: 0; color: #566173; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
@media (max-width: 560px) { .grid { grid-template-columns: 1fr; } dl { display: block; }
  main { padding: 20px 12px; } }
svg text.light { fill: #fff; }
svg text.dark { fill: #1c2430; }
""" + "".join(
    f".k{colour[1:]} {{ background: {colour}; }}\n"
    for colour in (*COLOURS, OTHERS, *STYLE_COLOURS.values())
)

SECTIONS = {
    "visits": "The walk",
    "dwell": "Time, goals and links",
    "similarity": "What it connects",
    "hunter": "Style",
}


def render_page(groups: Sequence[Group], sources: Sequence[str], world: str | None) -> str:
    """The page as HTML.

    Args:
        groups: What to show, side by side.
        sources: The files the walks came from, as the reader knows them.
        world: Name of the world that the walks are held against; None where none was given.
    """
    largest = sorted(groups, key=lambda group: -group.n_walks)[: len(COLOURS)]
    names = {group.name for group in largest}
    drawn = [group for group in groups if group.name in names]
    colours = {group.name: OTHERS for group in groups}
    colours |= {group.name: colour for group, colour in zip(drawn, COLOURS, strict=False)}
    total = sum(group.n_walks for group in groups)
    where = f"held against {in_html(world)}" if world else "without a world to hold them against"
    few = f" Plots show the {len(drawn)} largest groups." if len(drawn) < len(groups) else ""
    plots = [
        _card(
            "How deep they go",
            "Share of walks that go at least so many clicks away from their start page.",
            _depth_plot(drawn, colours),
        ),
        _card(
            "Tight or loose, near or far",
            f"Walks of at least {SHORTEST} pages, at most 300 per group, clustering spread by a "
            "hair so that equal values can be seen; rings mark the medians.",
            _scatter(drawn, colours),
        ),
        _card(
            "Gaps that open and close",
            "Mean Betti-1 of the network of pages: loops of links that no triangle fills.",
            _curve_plot(drawn, colours, lambda group: group.betti_1, "Betti-1"),
        ),
        _card(
            "How well it sums up",
            "Mean compressibility of the network of pages.",
            _curve_plot(drawn, colours, lambda g: g.compressibility, "compressibility [bits]"),
        ),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
{content_policy(CSS)}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rabbit holes side by side</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>Rabbit holes side by side</h1>
<p class="lead">{total:,} walks from {in_html(", ".join(sources))}, {where}.
Intervals are {CONFIDENCE:.0%} bootstrap intervals over walks.{few}</p>
<section class="card"><div class="scroll">{_table(groups, colours)}</div></section>
<section class="grid">{"".join(plots)}</section>
{_style_card(groups)}
<section class="card"><h2>What the words mean</h2>{_definitions()}</section>
</main>
</body>
</html>
"""


def _card(title: str, note: str, body: str) -> str:
    return (
        f'<section class="card"><h2>{in_html(title)}</h2>'
        f'<p class="note">{in_html(note)}</p>{body}</section>'
    )


def _legend(groups: Sequence[Group], colours: dict[str, str]) -> str:
    return (
        '<div class="legend">'
        + "".join(f"<span>{_swatch(colours[g.name])}{in_html(g.name)}</span>" for g in groups)
        + "</div>"
    )


def _swatch(colour: str) -> str:
    # By its class: the page's own rule lets no other style in than the one sheet.
    return f'<span class="swatch k{colour[1:]}"></span>'


def _table(groups: Sequence[Group], colours: dict[str, str]) -> str:
    head = "".join(
        f'<th scope="col">{_swatch(colours[g.name])}{in_html(g.name)}'
        f'<span class="interval">{g.n_walks:,} walks</span></th>'
        for g in groups
    )
    rows, section = [], ""
    for measure in MEASURES:
        found = [group.estimates.get(measure.key) for group in groups]
        section = SECTIONS.get(measure.key, section)
        if not any(found):
            continue
        if section:
            rows.append(f'<tr class="section"><td colspan="{len(groups) + 1}">{section}</td></tr>')
            section = ""
        percent = measure.statistic == "share" or measure.key in PERCENT_KEYS
        write = _writer([estimate for estimate in found if estimate], percent)
        cells = "".join(f"<td>{_cell(estimate, write)}</td>" for estimate in found)
        rows.append(
            f'<tr><th scope="row" title="{in_html(measure.meaning)}">{in_html(measure.title)} '
            f'<span class="statistic">{measure.statistic}</span></th>{cells}</tr>'
        )
    return (
        f'<table><thead><tr><th scope="col"></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _cell(estimate: Estimate | None, write: Callable[[float], str]) -> str:
    if estimate is None:
        return '<span class="none">not recorded</span>'
    low, high = write(estimate.low), write(estimate.high)
    return (
        f'{write(estimate.value)}<span class="interval" title="over {estimate.n:,} walks">'
        f"{low} to {high}</span>"
    )


def _writer(row: Sequence[Estimate], percent: bool) -> Callable[[float], str]:
    """Numbers of one row of the table with as many decimals as the row needs."""
    if percent:
        return lambda value: f"{100 * value:.1f} %"
    values = [value for e in row for value in (e.value, e.low, e.high)]
    largest = max(map(abs, values))
    whole = all(value == int(value) for value in values)
    decimals = 0 if whole or largest >= 100 else 1 if largest >= 10 else 2
    return lambda value: f"{value:,.{decimals}f}"


def _depth_plot(groups: Sequence[Group], colours: dict[str, str]) -> str:
    reached = {}
    for group in groups:
        counts = np.zeros(DEEPEST + 1)
        shallow = group.depths[: DEEPEST + 1]
        counts[: len(shallow)] = shallow
        counts[DEEPEST] += group.depths[DEEPEST + 1 :].sum()
        reached[group.name] = counts[::-1].cumsum()[::-1] / counts.sum()
    deepest = max(1, *(int(np.flatnonzero(share)[-1]) for share in reached.values()))
    axes = Axes(
        (0, deepest), (0, 1.02), ("depth [clicks]", "share of walks"), percent=(False, True)
    )
    marks = []
    for name, share in reached.items():
        xs = list(range(deepest + 1))
        dots = "".join(
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(share[x]):.1f}" r="2.6" '
            f'fill="{colours[name]}"><title>{in_html(name)}: {share[x]:.1%} of walks go {x} clicks '
            "deep or deeper</title></circle>"
            for x in xs
        )
        marks.append(
            f'<polyline points="{axes.points(xs, share[: deepest + 1].tolist())}" fill="none" '
            f'stroke="{colours[name]}" stroke-width="2"/>{dots}'
        )
    step = max(1, math.ceil(deepest / 10))
    ticks = {float(x): str(x) for x in range(0, deepest + 1, step)}
    return _legend(groups, colours) + axes.svg("".join(marks), ticks)


def _scatter(groups: Sequence[Group], colours: dict[str, str]) -> str:
    shown = [group for group in groups if len(group.points)]
    if not shown:
        return '<p class="note">Similarity needs the texts of a world: add --world.</p>'
    every = np.concatenate([group.points for group in shown])
    low, high = np.quantile(every[:, 0], [0.005, 0.995])
    margin = max(0.02, 0.05 * (high - low))
    axes = Axes(
        (float(low - margin), float(high + margin)),
        (-0.04, 1.04),
        ("similarity of consecutive pages [cosine]", "clustering"),
    )
    hair = np.random.default_rng(0)
    dots = []
    for group in shown:
        for x, y in group.points:
            if low - margin <= x <= high + margin:
                spread = y + hair.uniform(-0.018, 0.018)
                dots.append(
                    (
                        hair.random(),
                        f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(spread):.1f}" r="2.4" '
                        f'fill="{colours[group.name]}" fill-opacity="0.42"/>',
                    )
                )
    marks = [mark for _, mark in sorted(dots)]  # in random order, so that no group covers another
    for group in shown:
        x, y = (group.estimates[key].value for key in ("similarity", "clustering"))
        marks.append(
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="7.5" fill="#fff" '
            f'stroke="{colours[group.name]}" stroke-width="4"><title>{in_html(group.name)}: '
            f"medians {x:.2f} and {y:.2f}</title></circle>"
        )
    return _legend(shown, colours) + axes.svg("".join(marks))


def _curve_plot(
    groups: Sequence[Group],
    colours: dict[str, str],
    curve_of: Callable[[Group], Curve],
    label: str,
) -> str:
    shown = {}
    for group in groups:
        curve = curve_of(group)
        length = int((curve.n >= min(FEWEST, curve.n.max(initial=0))).sum())
        if length > 1:
            shown[group.name] = (curve, length)
    if not shown:
        return '<p class="note">No walk has two distinct pages.</p>'
    longest = max(length for _, length in shown.values())
    highest = max(float(c.high[:length].max()) for c, length in shown.values())
    axes = Axes((1, longest), (0, max(highest * 1.05, 0.1)), ("distinct pages seen", label))
    marks = []
    for name, (curve, length) in shown.items():
        xs = list(range(1, length + 1))
        low = np.maximum(curve.low[:length], 0).tolist()
        band = axes.points(xs + xs[::-1], curve.high[:length].tolist() + low[::-1])
        dots = "".join(
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(curve.mean[x - 1]):.1f}" r="2.4" '
            f'fill="{colours[name]}"><title>{in_html(name)}: {curve.mean[x - 1]:.3f} after {x} '
            f"pages, {curve.n[x - 1]:,} walks</title></circle>"
            for x in xs
        )
        marks.append(
            f'<polygon points="{band}" fill="{colours[name]}" fill-opacity="0.14"/>'
            f'<polyline points="{axes.points(xs, curve.mean[:length].tolist())}" fill="none" '
            f'stroke="{colours[name]}" stroke-width="2"/>{dots}'
        )
    step = max(1, math.ceil(longest / 12))
    ticks = {float(x): str(x) for x in range(1, longest + 1, step)}
    legend = _legend([g for g in groups if g.name in shown], colours)
    return legend + axes.svg("".join(marks), ticks)


def _style_card(groups: Sequence[Group]) -> str:
    shown = [group for group in groups if STYLES[0] in group.estimates]
    if not shown:
        return ""
    longest = max(len(group.name) for group in shown)
    left, width, row = 24 + 6.6 * longest, 1060, 34
    bars = []
    for i, group in enumerate(shown):
        at, y = 0.0, i * row
        bars.append(
            f'<text x="{left - 12}" y="{y + 19}" text-anchor="end">{in_html(group.name)}</text>'
        )
        for style in STYLES:
            share = group.estimates[style].value
            x, size = left + at * (width - left), share * (width - left)
            bars.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{size:.1f}" height="24" '
                f'fill="{STYLE_COLOURS[style]}"><title>{in_html(group.name)}: {share:.1%} '
                f"{style}</title></rect>"
            )
            if share > 0.06:
                ink = "light" if style == "hunter" else "dark"
                bars.append(
                    f'<text x="{x + size / 2:.1f}" y="{y + 19}" text-anchor="middle" '
                    f'class="{ink}">{share:.0%}</text>'
                )
            at += share
    legend = "".join(f"<span>{_swatch(STYLE_COLOURS[style])}{style}</span>" for style in STYLES)
    return _card(
        "Hunters, busybodies, dancers",
        "The style that stands out most against random walks over the same world that saw equally "
        f"many pages; walks of at least {SHORTEST} pages.",
        f'<div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {width} {len(shown) * row}" role="img" aria-label="styles by group">'
        f"{''.join(bars)}</svg>",
    )


def _definitions() -> str:
    own = {
        "network of pages": f"The first {CAP} distinct pages of a walk, joined where one was "
        "clicked on from the other or links to it.",
        "leap": f"A click between pages whose texts are less similar than {1 - LEAP_SHARE:.0%} of "
        "the world's links are.",
        "hunter, busybody, dancer": "High clustering, long paths, many leaps (Lydon-Staley et al. "
        "2021, Zhou et al. 2024).",
        "Betti-1, compressibility": "Of the network's clique complex, and of a random walk on it "
        "(Patankar et al. 2023).",
    }
    entries = {m.title: m.meaning for m in MEASURES if m.key not in STYLES} | own
    return (
        "<dl>"
        + "".join(f"<dt>{in_html(k)}</dt><dd>{in_html(v)}</dd>" for k, v in entries.items())
        + "</dl>"
    )

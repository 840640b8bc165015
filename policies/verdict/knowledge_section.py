"""The part of the report that says which links of the world's graph the learners know.

It decides by intervals and draws no curve of what nobody knows: of a learner at chance it says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kncl_env.knowledge.figures import Estimate
from kncl_env.knowledge.links import LinkFigures
from kncl_env.knowledge.meter import KnowledgeCurve
from policies.verdict.figures import nice_ticks, svg_open
from policies.verdict.wording import MINUS, NOTHING, amount, short
from train_lm.plain_text import counted, in_html

WIDTH, HEIGHT = 1080, 380
EXPLAINED = (
    "Held-out text of a topic names a topic that it links to; is that title likelier there than "
    "titles of topics that are as much linked to, and that it has no link with? Own context: the "
    "text before the title. A stranger's: text of a topic that has no link to any of them, where "
    "a title's frequency alone can be right. A learner knows links where the own context is right "
    "more often than chance and than the stranger's, both by 95 % intervals over topics"
)


def knowledge_section(
    arms: Mapping[str, KnowledgeCurve], looks: Mapping[str, str], learner: str
) -> str:
    """The section; empty where no learner was asked.

    Args:
        arms: What the learners of each arm knew, episodes of all seeds together; see
            `kncl_env.knowledge.meter.together`.
        looks: CSS class of each arm.
        learner: What the learners are, in words.
    """
    if not arms:
        return ""
    ends = {arm: curve.ranks[-1].figures(curve.clusters) for arm, curve in arms.items()}
    knowing = {arm: curve for arm, curve in arms.items() if ends[arm].knows(curve.chance)}
    lead = verdict_of(arms, ends, learner)
    plot = _plot(knowing, looks) if knowing else ""
    return (
        f"<section><h2>Which links the learner knows</h2><p>{in_html(lead)}</p>{plot}"
        f"{_table(arms, looks, ends)}<p class='caption'>{in_html(EXPLAINED)}. Hop: links from "
        "the nucleus to the farther end. All seeds together; the same links for every arm.</p>"
        "</section>"
    )


def verdict_of(
    arms: Mapping[str, KnowledgeCurve], ends: Mapping[str, LinkFigures], learner: str
) -> str:
    """A sentence that says what the intervals allow."""
    knowing = [arm for arm, curve in arms.items() if ends[arm].knows(curve.chance)]
    chance = next(iter(arms.values())).chance
    if not knowing:
        low = min(found.accuracy.low for found in ends.values())
        high = max(found.accuracy.high for found in ends.values())
        return (
            f"Nothing is known at this size ({learner}): at the end of an episode the right title "
            f"of a link is found in {_percent(low)} to {_percent(high)} of the cases, and chance "
            f"finds it in {_percent(chance)}. So no curve is drawn."
        )
    best = max(knowing, key=lambda arm: ends[arm].by_context.value)
    found = ends[best]
    others = [arm for arm in arms if arm not in knowing]
    tail = f" Nothing is known after {', '.join(others)}." if others else ""
    return (
        f"Links are known at the end of an episode of {', '.join(knowing)} ({learner}). Most of "
        f"them after {best}: the right title in {_share(found.accuracy)} of the cases, in "
        f"{_share(found.without)} without the text's own context; chance finds it in "
        f"{_percent(chance)}.{tail}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %".replace("-", MINUS)


def _share(found: Estimate) -> str:
    return f"{_percent(found.value)} [{_percent(found.low)}, {_percent(found.high)}]"


def _table(
    arms: Mapping[str, KnowledgeCurve], looks: Mapping[str, str], ends: Mapping[str, LinkFigures]
) -> str:
    hops = sorted({int(hop) for curve in arms.values() for hop in np.unique(curve.hops)})
    columns = ["own context", "a stranger's", "difference"]
    columns += ["unreachable" if hop < 0 else f"hop {hop}" for hop in hops]
    head = "".join(f"<th scope='col'>{in_html(name)}</th>" for name in ("arm", *columns))
    rows = []
    for arm, curve in arms.items():
        found = ends[arm]
        cells = [_cell(found.accuracy), _cell(found.without), _cell(found.by_context)]
        for hop in hops:
            among = curve.hops == hop
            own = curve.ranks[-1].figures(curve.clusters, among) if among.any() else None
            cells.append((NOTHING, "no link") if own is None else _cell(own.accuracy))
        body = "".join(
            f"<td data-label='{in_html(name)}'><span>{big}</span><small>{small}</small></td>"
            for name, (big, small) in zip(columns, cells, strict=True)
        )
        rows.append(
            f"<tr><th scope='row'><i class='swatch {looks[arm]}'></i>{in_html(arm)}</th>{body}</tr>"
        )
    return (
        "<div class='scroll'><table class='scores'>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(found: Estimate) -> tuple[str, str]:
    """A share, and in small print its interval and the topics that it is over."""
    interval = f"[{_percent(found.low)}, {_percent(found.high)}]"
    return _percent(found.value), f"{interval}, {counted(found.topics, 'topic')}"


def _plot(arms: Mapping[str, KnowledgeCurve], looks: Mapping[str, str]) -> str:
    """Accuracy against tokens, of arms whose learners know something; dashed: a stranger's."""
    lines = {
        arm: [
            (t, found.right("with").mean(), found.right("without").mean())
            for t, found in zip(curve.tokens, curve.ranks, strict=True)
        ]
        for arm, curve in arms.items()
    }
    points = [p for line in lines.values() for p in line]
    chance = next(iter(arms.values())).chance
    end = max(float(tokens) for tokens, _, _ in points) or 1.0
    high = 1.1 * max(chance, *(max(own, other) for _, own, other in points))
    left, right, top, bottom = 56, WIDTH - 190, 26, HEIGHT - 44

    def x(tokens: float) -> float:
        return round(left + tokens / end * (right - left), 1)

    def y(share: float) -> float:
        return round(bottom - share / high * (bottom - top), 1)

    out = [svg_open(WIDTH, HEIGHT, "Share of links whose title is found, against tokens trained")]
    for tick in nice_ticks(0.0, high, 6):
        out.append(f"<path class='grid' d='M{left} {y(tick)}H{right}'/>")
        out.append(f"<text class='end' x='{left - 7}' y='{y(tick) + 4}'>{_percent(tick)}</text>")
    for tick in nice_ticks(0.0, end, 8):
        out.append(f"<path class='axis' d='M{x(tick)} {bottom}v5'/>")
        out.append(f"<text class='mid' x='{x(tick)}' y='{bottom + 19}'>{amount(tick)}</text>")
    out.append(f"<path class='goal' d='M{left} {y(chance)}H{right}'/>")
    out.append(f"<text x='{left + 4}' y='{y(chance) - 5}'>chance</text>")
    out.append(f"<text class='end' x='{right}' y='{HEIGHT - 6}'>tokens trained</text>")
    for arm, line in lines.items():
        own = "L".join(f"{x(t)} {y(a)}" for t, a, _ in line)
        other = "L".join(f"{x(t)} {y(b)}" for t, _, b in line)
        out.append(f"<path class='line {looks[arm]}' d='M{own}'/>")
        out.append(f"<path class='line {looks[arm]}' stroke-dasharray='3 4' d='M{other}'/>")
    ordered = sorted(lines, key=lambda arm: -lines[arm][-1][1])
    place = float(top)
    for arm in ordered:
        tokens, share, _ = lines[arm][-1]
        place = max(place + 16, min(y(share), bottom))
        out.append(
            f"<path class='leader {looks[arm]}' d='M{x(tokens) + 2} {y(share)}L{right + 13} "
            f"{place:.1f}'/><text x='{right + 20}' y='{place + 4:.1f}'>{in_html(short(arm, 22))}"
            f"<title>{in_html(arm)}</title></text>"
        )
    return "".join([*out, "</svg>"]) + (
        "<p class='caption'>Line: own context; dashed: a stranger's context, of arms whose "
        "learners know links at the end. Means over links and seeds.</p>"
    )

"""What came of neighbourhoods side by side: scores, a table, and a page.

Every figure is over seeds with Student's 95 % interval, and a word follows from an interval alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.stream.methods import MERGED, ROUTED
from policies.stream.page import document, origin_section, row_html, span, table_html
from policies.stream.parallel import FULL, JOINT, SEQUENCE
from policies.stream.parallel_run import Played, Speed
from policies.stream.scores import interval, told
from policies.verdict.summary import BETTER, WORSE, Interval
from policies.verdict.wording import bits, signed
from train_lm.files import Json, replacing
from train_lm.plain_text import counted, in_html

Floats = NDArray[np.float64]

BASE = "base"


@dataclass(frozen=True)
class Way:
    """A way of learning all neighbourhoods.

    Attributes:
        loss: Mean over neighbourhoods at the end [bits per byte].
        to_joint, to_sequence: Minus that of one adapter on everything at once, or one after
            another, which read the same windows.
        interference: Minus that of each adapter on its own neighbourhood's text; only of adapters
            put together.
        nucleus: Loss of the nucleus minus before [bits per byte].
    """

    loss: Interval
    to_joint: Interval
    to_sequence: Interval
    interference: Interval | None
    nucleus: Interval


@dataclass(frozen=True)
class ParallelSummary:
    """What a run found.

    Attributes:
        ways: By name.
        seeds: Number of seeds.
        right: Share of held-out windows routed to their own neighbourhood's adapter.
        forecast: Rank correlation (Spearman) over pairs of neighbourhoods, by when the adapters'
            agreement was told: with the loss that merging the two cost.
        pairs: In each seed.
    """

    ways: Mapping[str, Way]
    seeds: int
    right: Interval
    forecast: Mapping[str, Interval]
    pairs: int

    def to_json(self) -> Json:
        return asdict(self)


def summarise_parallel(found: Played) -> ParallelSummary:
    """Figures of a run's records."""
    seeds = [int(one.key["seed"]) for one in found.together]
    ends: dict[str, list[Floats]] = {}
    for one in found.together:
        for way, losses in one.losses.items():
            ends.setdefault(way, []).append(losses)
    for kind in (SEQUENCE, JOINT, FULL):
        by_seed = {int(r.key["seed"]): r.losses for r in found.parts if r.key["arm"] == kind}
        ends[kind] = [by_seed[seed] for seed in seeds]
    table = {way: np.stack(rows) for way, rows in ends.items()}  # (S, T + 1)
    mean = {way: rows[:, :-1].mean(1) for way, rows in table.items()}
    ways = {
        way: Way(
            loss=interval(mean[way]),
            to_joint=interval(mean[way] - mean[JOINT]),
            to_sequence=interval(mean[way] - mean[SEQUENCE]),
            interference=interval(mean[way] - mean["own"]) if _together(way) else None,
            nucleus=interval(rows[:, -1] - table[BASE][:, -1]),
        )
        for way, rows in table.items()
    }
    forecast = {
        "early": _within([_rank_correlation(one.early, one.pairs) for one in found.together]),
        "late": _within([_rank_correlation(one.late, one.pairs) for one in found.together]),
    }
    right = interval([one.right for one in found.together])
    return ParallelSummary(ways, len(seeds), right, forecast, len(found.together[0].pairs))


def _together(way: str) -> bool:
    return way.removeprefix("random ") in (*MERGED, *ROUTED, "by lot") and way != "own"


def _within(correlations: Sequence[float]) -> Interval:
    """As `interval`, cut where no correlation can be."""
    found = interval(correlations)
    if found.low is None or found.high is None:
        return found
    return Interval(found.centre, max(found.low, -1.0), min(found.high, 1.0), found.values)


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; NaN where either does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    x, y = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def headline(summary: ParallelSummary, speed: Speed | None) -> list[str]:
    """Sentences that say what the intervals allow, and no more."""
    routed = summary.ways["routed"]
    lines = [
        f"Adapters trained side by side and routed are {_word(routed.to_sequence)} one adapter "
        f"that goes from neighbourhood to neighbourhood ({span(routed.to_sequence, signed)} bits "
        f"per byte), and {_word(routed.to_joint)} one trained on everything at once "
        f"({span(routed.to_joint, signed)})."
    ]
    control = _minus(summary.ways["random by lot"], routed)
    merged = ", ".join(
        f"{how} {span(_minus(summary.ways[f'random {how}'], summary.ways[how]), signed)}"
        for how in MERGED
    )
    lines.append(
        f"The control, adapters of random splits, one of which reads each text, is "
        f"{_word(control)} routed ones ({span(control, signed)}). Merged, random minus "
        f"neighbourhoods: {merged}."
    )
    if speed is not None:
        same = "with the same bytes" if speed.same else "BUT WITH OTHER BYTES"
        lines.append(
            f"{speed.workers} processes trained the first seed's adapters {speed.speed_up:.2f} "
            f"times as fast as one, {same}; {speed.workers} times would be ideal."
        )
    return lines


def _minus(a: Way, b: Way) -> Interval:
    return interval(np.array(a.loss.values) - np.array(b.loss.values))


def _word(gap: Interval) -> str:
    word = told(gap)
    return f"{word} than" if word in (BETTER, WORSE) else "not told apart from"


def table(summary: ParallelSummary) -> str:
    """One line per way of learning."""
    head = ("loss", "minus joint", "minus one after another", "interference")
    lines = [f"{'way':16s}" + "".join(f"{title:>28s}" for title in head)]
    for name, way in summary.ways.items():
        gap = "" if way.interference is None else span(way.interference, signed)
        cells = [span(way.loss, bits), span(way.to_joint, signed), span(way.to_sequence, signed)]
        lines.append(f"{name:16s}" + "".join(f"{cell:>28s}" for cell in [*cells, gap]))
    early = summary.forecast["early"]
    lines.append(
        f"{counted(summary.seeds, 'seed')}, bits per byte, 95 % intervals in brackets; agreement "
        "of early adapters and the cost of merging two: rank correlation "
        f"{span(early, '{:+.2f}'.format)} "
        f"over {summary.pairs} pairs a seed; routed right: {span(summary.right, '{:.2f}'.format)}"
    )
    return "\n".join(lines)


def write_parallel_page(
    file: Path, summary: ParallelSummary, speed: Speed | None, origin: Mapping[str, str]
) -> None:
    """Write `report.html`, in one move."""
    first, *rest = headline(summary, speed)
    columns = ["loss", "minus joint", "minus one after another", "interference", "nucleus lost"]
    rows = []
    for name, way in summary.ways.items():
        every = [way.loss, way.to_joint, way.to_sequence, way.interference, way.nucleus]
        cells = [
            ("" if one is None else span(one, bits if i == 0 else signed), "")
            for i, one in enumerate(every)
        ]
        rows.append(row_html(name, columns, cells, "c5" if name.startswith("random") else "c3"))
    forecast = "".join(
        f"<dt>{in_html(when)} adapters</dt><dd>{span(found, '{:+.2f}'.format)}</dd>"
        for when, found in summary.forecast.items()
    )
    timing = "".join(
        f"<dt>{in_html(name.replace('_', ' '))}</dt><dd>{in_html(value)}</dd>"
        for name, value in (asdict(speed) if speed else {}).items()
    )
    title = "Neighbourhoods side by side"
    parts = [
        f"<header><h1>{title}</h1><p class='headline'>{in_html(first)}</p>",
        *(f"<p>{in_html(line)}</p>" for line in rest),
        "</header>",
        f"<section><h2>Quality at equal tokens</h2>{table_html(['way', *columns], rows)}"
        "<p class='caption'>Mean held-out loss of all neighbourhoods at the end [bits per byte]. "
        "Every way read the same windows; own is told which neighbourhood a text is of. "
        "Interference: minus own.</p></section>",
        "<section><h2>What merging two will cost, told in advance</h2>"
        f"<dl>{forecast}</dl><p class='caption'>Rank correlation over {summary.pairs} pairs of "
        "neighbourhoods in each seed: agreement (cosine) of what two adapters add, after one "
        "update in ten or at the end, and by how much their mean is worse than each on its own "
        "text. Below 0: those that agree merge at less cost.</p></section>",
        f"<section><h2>Speed</h2><dl>{timing}</dl></section>" if timing else "",
        origin_section(origin),
    ]
    with replacing(file) as draft:
        draft.write_text(document(title, parts), encoding="utf-8")

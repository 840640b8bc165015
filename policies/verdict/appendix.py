"""`report.md`: the figures of the report as Markdown, for an appendix.

Same figures, same words. Whatever came from outside stands in code spans that it cannot end, so
that a title is no link, no picture and no markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from policies.verdict.accounting import Bill
from policies.verdict.controls_section import CONTROLS, finding
from policies.verdict.costs_section import HEAD, cells, told
from policies.verdict.report import RunInfo, by_family, headline
from policies.verdict.summary import INTERVALS, Interval, Summary
from policies.verdict.wording import bits, bracketed, signed, speed_up
from train_lm.files import replacing
from train_lm.plain_text import counted, visible


def write_appendix(
    file: Path,
    summary: Summary,
    run_info: RunInfo,
    bills: Mapping[str, Bill],
    subject: str | None = None,
) -> Path:
    """Write the appendix to `file`, in one move, and return its path."""
    parts = [
        f"# Evaluation in {code(run_info.world)}",
        *(plain(line) for line in headline(summary, subject)),
        *_scores(summary),
        *_comparisons(summary),
        *_controls(summary),
        *_costs(bills),
        *_origin(summary, run_info),
    ]
    with replacing(file) as draft:
        draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return file


def code(text: object) -> str:
    """A code span that its text cannot end, and that fits into a cell of a table."""
    shown = visible(str(text)).replace("|", "¦")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def plain(text: str) -> str:
    """A sentence in which nothing is markup: what could be is escaped."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&:@-])", r"\\\1", visible(text))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = [*head]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _span(found: Interval, show: object = bits) -> str:
    shown = show(found.centre)  # type: ignore[operator]
    return f"{shown} {bracketed(found, show)}".strip()  # type: ignore[arg-type]


def _scores(summary: Summary) -> Iterable[str]:
    yield "## Scores"
    head = (
        "arm",
        "final test loss [bits per byte]",
        f"minus {code(summary.reference)}",
        "p",
        "speed-up",
        "verdict",
    )
    for family, arms in by_family(summary):
        if family:
            yield f"### {family}"
        rows = []
        for arm in arms:
            found = summary.arms[arm]
            gap = found.difference
            rows.append(
                [
                    code(arm),
                    _span(found.test),
                    "" if gap is None else _span(gap.mean, signed),
                    "" if gap is None else f"{gap.p:.2g}",
                    f"{speed_up(found)} {bracketed(found.speed_up, '{:.2f}'.format)}".strip(),
                    found.verdict,
                ]
            )
        yield _table(head, rows)
    yield plain(
        f"In brackets: {summary.level:.0%} intervals over {counted(len(summary.seeds), 'seed')} by "
        f"{INTERVALS}. p is two-sided and corrected."
    )


def _comparisons(summary: Summary) -> Iterable[str]:
    if not summary.comparisons:
        return
    yield "## Comparisons named beforehand"
    yield _table(
        ("against", "which is", "difference [bits per byte]", "p", "verdict"),
        (
            [
                code(one.against),
                code(one.contest.rival),
                _span(one.contest.difference.mean, signed),
                f"{one.contest.difference.p:.2g}",
                one.contest.verdict,
            ]
            for one in summary.comparisons
        ),
    )


def _controls(summary: Summary) -> Iterable[str]:
    if not summary.controls:
        return
    yield "## Controls"
    yield _table(
        ("control", "what it is", "subject minus control", "p", "what follows"),
        (
            [
                code(one.rival),
                CONTROLS.get(one.rival, ("", ""))[0],
                _span(one.difference.mean, signed),
                f"{one.difference.p:.2g}",
                finding(one),
            ]
            for one in summary.controls
        ),
    )


def _costs(bills: Mapping[str, Bill]) -> Iterable[str]:
    if not bills:
        return
    yield "## Where tokens went"
    yield _table(
        ("arm", *(f"{name} [{unit}]" for name, unit in HEAD)),
        (
            [code(arm), *(f"{big} {small}".strip() for big, small in cells(bill))]
            for arm, bill in bills.items()
        ),
    )
    for arm, bill in bills.items():
        if bill.cost.search:
            flops = (bill.cost.flops_per_token, bill.cost.forward)
            parts = (f"{o.what}: {told(o.tokens, o.total(*flops))}" for o in bill.cost.search)
            yield f"Spent once on {code(arm)}: {plain('; '.join(parts))}."


def _origin(summary: Summary, info: RunInfo) -> Iterable[str]:
    yield "## Where this comes from"
    rows = {
        "World": info.world,
        "Text": info.source,
        "Licence of the text": info.licence,
        "World hash": info.world_hash,
        "Learner": info.learner,
        "Token budget per run": f"{summary.budget_tokens:,.0f} tokens",
        "Seeds": ", ".join(map(str, summary.seeds)),
        "Commit": info.commit,
        **info.details,
        "Command": info.command,
    }
    yield _table(("", ""), ([plain(name), code(value)] for name, value in rows.items()))

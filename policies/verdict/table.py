"""The score table for a terminal; every figure with its interval."""

from __future__ import annotations

from policies.verdict.scores import seeds_needed
from policies.verdict.summary import TEST, Interval, Summary
from train_lm.plain_text import counted, visible


def table(summary: Summary) -> str:
    """One line per arm, and one that says what the figures are."""
    reference = visible(summary.reference)
    head = ("arm", "test bits/byte", f"minus {reference}", "speed-up")
    lines = ["{:16s} {:>24s} {:>28s} {:>22s}  verdict".format(*head)]
    for name, arm in summary.arms.items():
        gap = "" if arm.difference is None else _span(arm.difference.mean, "+")
        lines.append(
            f"{visible(name)[:16]:16s} {_span(arm.test):>24s} {gap:>28s} "
            f"{_span(arm.speed_up, digits=2):>22s}  {arm.verdict}"
        )
    compared = [name for name, arm in summary.arms.items() if arm.family != "control"]
    if (needed := seeds_needed(len(compared))) > len(summary.seeds):
        lines.append(
            f"{counted(len(summary.seeds), 'seed')} cannot show a difference among {len(compared)} "
            f"arms, whatever comes out: {needed} can"
        )
    if summary.contest is not None:
        duel = summary.contest
        lines.append(
            f"{visible(duel.subject)} against its strongest rival {visible(duel.rival)}: "
            f"{_span(duel.difference.mean, '+')}, p = {duel.difference.p:.2g}: {duel.verdict}"
        )
    if summary.standing is not None and summary.standing.lacks:
        lines.append(f"an estimate: a headline needs {'; '.join(summary.standing.lacks)}")
    lines.append(
        f"{len(summary.seeds)} paired seeds (slots and order of text; {_trainings(summary)}), "
        f"{summary.budget_tokens:,.0f} tokens each; {100 * summary.level:.0f} % intervals "
        f"in brackets; speed-up: {reference}'s tokens / the arm's to {reference}'s final loss; "
        f"verdict: {TEST}"
    )
    return "\n".join(lines)


def _trainings(summary: Summary) -> str:
    several = [
        f"{arm.trainings} trainings of {visible(name)}"
        for name, arm in summary.arms.items()
        if arm.trainings > 1
    ]
    return ", ".join(several) or "one training of each policy"


def _span(found: Interval, sign: str = "", digits: int = 4) -> str:
    if found.centre is None:
        return "-"
    centre = f"{found.centre:{sign}.{digits}f}"
    if found.low is None or found.high is None:
        return centre
    return f"{centre} [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"

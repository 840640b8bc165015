"""One HTML file that shows what an evaluation found, from the verdict down to the command.

It draws what it is given and computes no statistic: every figure and every verdict is the
summary's. The page fetches nothing and runs nothing (its own content policy forbids both), so it
can be mailed, archived and opened offline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kncl_env.forgetting import LossMatrix
from policies.verdict.accounting import Bill
from policies.verdict.controls_section import controls_section
from policies.verdict.costs_section import costs_section
from policies.verdict.figures import (
    Curve,
    curves_section,
    heat_map_section,
    looks_of,
    seeds_section,
)
from policies.verdict.growth_map import Growth, growth_section
from policies.verdict.style_sheet import STYLE_SHEET
from policies.verdict.summary import (
    BETTER,
    COMPARISONS,
    INTERVALS,
    NO_DIFFERENCE,
    REFERENCE,
    TEST,
    TOO_FEW,
    WORSE,
    ArmScore,
    Contest,
    Difference,
    Summary,
)
from policies.verdict.wording import (
    MINUS,
    NEVER,
    NOTHING,
    bits,
    bracketed,
    signed,
    speed_up,
)
from train_lm.files import replacing
from train_lm.plain_text import content_policy, counted, in_html


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
class Beside:
    """What a report shows beside scores and curves, where there is any.

    Attributes:
        growth: How nuclei grew.
        kept: What became of watched topics in one episode per arm, by arm.
        costs: What each arm costs.
        sections: Further parts of the page, whole, such as the knowledge by hop; what is foreign in
            them is escaped.
    """

    growth: Growth | None = None
    kept: Mapping[str, LossMatrix] = field(default_factory=dict)
    costs: Mapping[str, Bill] = field(default_factory=dict)
    sections: Sequence[str] = ()


NOTHING_BESIDE = Beside()


def write_report(
    file: Path | str,
    summary: Summary,
    curves: Sequence[Curve],
    run_info: RunInfo,
    beside: Beside = NOTHING_BESIDE,
    subject: str | None = None,
) -> Path:
    """Write the page to `file`, in one move, and return its path.

    Args:
        summary: What `scores.summarise` returned.
        curves: One per arm and seed.
        subject: The arm that the first sentence is about, chosen before the figures were seen;
            without it the sentence lists every arm.

    Raises:
        ValueError: `subject`, a curve or something beside names an arm that the summary lacks.
    """
    arms, growth = list(summary.arms), beside.growth
    named = {c.arm for c in curves} | set(growth.expansions if growth else ())
    named |= {*beside.kept, *beside.costs}
    unknown = sorted((named | ({subject} if subject else set())) - set(arms))
    if unknown:
        raise ValueError(f"expected arms of the summary ({', '.join(arms)}), got {unknown}")
    looks = looks_of(summary)
    first, *rest = headline(summary, subject)
    title = f"Evaluation in {run_info.world}"
    parts = [
        f"<header><h1>{in_html(title)}</h1><p class='headline'>{in_html(first)}</p>",
        *(f"<p>{in_html(line)}</p>" for line in rest),
        "</header>",
        _comparisons_section(summary),
        curves_section(summary, curves, looks, run_info.curve_split),
        _table_section(summary, looks),
        seeds_section(summary, looks),
        controls_section(summary, looks),
        costs_section(beside.costs, looks),
        *beside.sections,
        growth_section(growth, looks) if growth is not None else "",
        *(
            heat_map_section(matrix, f"What {arm} kept: its first seed's watched topics")
            for arm, matrix in beside.kept.items()
        ),
        _noise_section(summary),
        _origin_section(summary, run_info),
    ]
    page = (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"{content_policy(STYLE_SHEET)}\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{in_html(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )
    path = Path(file)
    with replacing(path) as draft:  # a reader never meets half a page
        draft.write_text(page, encoding="utf-8")
    return path


def headline(summary: Summary, subject: str | None = None) -> list[str]:
    """Sentences that say what the intervals allow, and no more."""
    reference, arms, n = summary.reference, summary.arms, len(summary.seeds)
    others = [arm for arm in arms if arm not in (reference, subject)]
    lines = []
    if subject is not None and (gap := arms[subject].difference) is not None:
        lines.append(_estimate(summary) + _sentence(summary, subject, gap))
    elif summary.contest is not None:
        lines.append(_estimate(summary) + _against_rival(summary.contest))
    if lines and summary.standing is not None and summary.standing.lacks:
        lines.append(f"A headline would need {_listed(summary.standing.lacks)}.")
    others = [arm for arm in others if arms[arm].family != "control"]
    groups = [
        (label, [arm for arm in others if arms[arm].verdict == word])
        for word, label in (
            (BETTER, f"Better than {reference}"),
            (WORSE, f"Worse than {reference}"),
            (NO_DIFFERENCE, f"No difference from {reference} shown"),
            (TOO_FEW, f"Too few seeds to show a difference from {reference}"),
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
        lines.append(f"A verdict follows from {TEST}. Over {counted(n, 'seed')} here.")
    return lines + [f"Note: {note}." for note in summary.notes]


def _sentence(summary: Summary, arm: str, gap: Difference) -> str:
    reference, found = summary.reference, summary.arms[arm]
    n, word, centre = len(summary.seeds), found.verdict, signed(gap.mean.centre)
    if gap.mean.low is None:
        return f"One seed shows nothing yet: {arm} ended {centre} bits per byte from {reference}."
    ends = f"{signed(gap.mean.low)} to {signed(gap.mean.high)}"
    span = f"{summary.level:.0%} interval {ends}"
    contest = summary.contest
    to_beat = contest is not None and contest.rival == reference and len(summary.arms) > 2
    named = f"{reference}, its strongest rival" if to_beat else reference
    if word == TOO_FEW:
        start = f"{counted(n, 'seed')} are too few to show a difference between {arm} and {named}"
    elif word == NO_DIFFERENCE:
        start = f"No difference is shown between {arm} and {named}"
    else:
        start = f"{arm} does {word} than {named}"
    speed = found.speed_up
    tail = ""
    if word == BETTER and speed.low is not None:
        least = "with fewer tokens" if speed.low > 1 else "though not surely with fewer tokens"
        tail = (
            f"; it reaches {reference}'s final loss {least} (speed-up {speed_up(found)}, "
            f"{speed.low:.2f} to {speed.high:.2f})"
        )
    if contest is None or contest.rival == reference:
        return (
            f"{start}: {centre} bits per byte of test loss ({span}, {counted(n, 'seed')}, "
            f"lower is better){tail}."
        )
    rival, duel = contest.rival, contest.difference
    against = {
        BETTER: f"it does better than its strongest rival, {rival}",
        WORSE: f"it does worse than its strongest rival, {rival}",
        NO_DIFFERENCE: f"it is not told apart from its strongest rival, {rival}",
        TOO_FEW: f"too few to tell it from its strongest rival, {rival}",
    }[contest.verdict]
    return (
        f"{start}, and {against}: {centre} bits per byte of test loss to {reference} ({span}, {n} "
        f"seeds, lower is better), {signed(duel.mean.centre)} to {rival} "
        f"({bracketed(duel.mean, signed)}, p = {duel.p:.2g}){tail}."
    )


def _estimate(summary: Summary) -> str:
    """What stands before a sentence that is no headline."""
    return "Estimate: " if summary.standing is not None and summary.standing.lacks else ""


def _listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _against_rival(contest: Contest) -> str:
    """One sentence on the subject and the strongest other arm."""
    subject, rival, gap = contest.subject, contest.rival, contest.difference
    start = {
        BETTER: f"{subject} does better than every rival, the strongest of them {rival}",
        WORSE: f"{rival} does better than {subject}",
        NO_DIFFERENCE: f"{subject} and its strongest rival, {rival}, are not told apart",
        TOO_FEW: f"Too few seeds to tell {subject} from its strongest rival, {rival}",
    }[contest.verdict]
    ends = bracketed(gap.mean, signed)
    return f"{start}: {signed(gap.mean.centre)} bits per byte {ends}, p = {gap.p:.2g}."


def _comparisons_section(summary: Summary) -> str:
    """What was to be compared was said before the first episode."""
    if not summary.comparisons:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{in_html(one.against)}</th>"
        f"<td data-label='which is'>{in_html(one.contest.rival)}</td>"
        f"<td data-label='difference'><span>{signed(gap.mean.centre)}</span>"
        f"<small>{in_html(bracketed(gap.mean, signed))}\np = {gap.p:.2g}</small></td>"
        f"<td data-label='verdict'><b class='word {one.contest.verdict.split()[0]}'>"
        f"{in_html(one.contest.verdict)}</b></td></tr>"
        for one in summary.comparisons
        for gap in (one.contest.difference,)
    )
    return (
        "<section><h2>Comparisons that were named beforehand</h2><div class='scroll'>"
        "<table class='scores'><thead><tr><th scope='col'>against</th><th scope='col'>which is</th>"
        "<th scope='col'>difference<small>bits per byte</small></th><th scope='col'>verdict</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></div><p class='caption'>"
        f"{in_html(COMPARISONS[:1].upper() + COMPARISONS[1:])}. Where the subject is ahead of the "
        "best of a family, p is the largest against any of its arms.</p></section>"
    )


def _noise_section(summary: Summary) -> str:
    """How far the reference differs from itself."""
    if summary.noise_floor is None:
        return ""
    return (
        "<section><h2>Noise floor</h2><p>Two halves of the "
        f"{len(summary.seeds)} runs of {in_html(summary.reference)}, which differ in nothing but "
        f"their seeds, end less than {bits(summary.noise_floor)} bits per byte apart in 95 of 100 "
        "splits. Pairs with one seed share most of that, so smaller differences can still show."
        "</p></section>"
    )


def by_family(summary: Summary) -> list[tuple[str, list[str]]]:
    """Arms by their families, in the order of the table; one group without a name where nobody
    said which they are.
    """
    groups: dict[str, list[str]] = {}
    known = any(found.family for found in summary.arms.values())
    for arm, found in summary.arms.items():
        groups.setdefault((found.family or "own") if known else "", []).append(arm)
    return [*groups.items()]


def _table_section(summary: Summary, looks: Mapping[str, str]) -> str:
    arms, reference = summary.arms, summary.reference
    columns = [
        ("arm", ""),
        ("final test loss", "bits per byte"),
        (f"difference to {reference}", "bits per byte"),
        ("loss averaged over the budget", "bits per byte"),
        (f"speed-up to {reference}'s final loss", "times"),
    ]
    with_gap = any(found.gap_closed is not None for found in arms.values())
    with_noise = any(found.noise_share is not None for found in arms.values())
    if with_gap:
        columns.append((f"gap to {summary.target_text} closed", "share"))
    if with_noise:
        columns.append(("noise bought", "share of tokens"))
    columns.append(("verdict", ""))
    head = "".join(
        f"<th scope='col'>{in_html(name)}{f'<small>{unit}</small>' if unit else ''}</th>"
        for name, unit in columns
    )
    rows: dict[str, str] = {}
    for arm, found in arms.items():
        cells = _cells(found, with_gap, with_noise)
        body = "".join(
            f"<td data-label='{in_html(name)}'><span>{in_html(big)}</span>"
            f"{f'<small>{in_html(small)}</small>' if small else ''}</td>"
            for (name, _), (big, small) in zip(columns[1:-1], cells, strict=True)
        )
        word = found.verdict
        rows[arm] = (
            f"<tr><th scope='row'><i class='swatch {looks[arm]}'></i>{in_html(arm)}</th>{body}"
            f"<td data-label='verdict'><b class='word {word.split()[0]}'>{in_html(word)}</b></td>"
            "</tr>"
        )
    tables = [
        _foldable(family, own, summary)
        + "<div class='scroll'><table class='scores'>"
        + f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows[arm] for arm in own)}</tbody>"
        + f"</table></div>{'</details>' if family else ''}"
        for family, own in by_family(summary)
    ]
    before = [value for found in arms.values() for value in found.test_before]
    start = bits(min(before))
    if max(before) - min(before) > 5e-5:
        start += f" to {bits(max(before))}"
    n, brackets = len(summary.seeds), ""
    if n > 1:
        brackets = (
            f" In brackets: {summary.level:.0%} intervals over {counted(n, 'seed')} by "
            f"{in_html(INTERVALS)}."
        )
    return (
        "<section><h2>Scores: final loss on the test split, the rest from the curves</h2>"
        f"{''.join(tables)}"
        f"<p class='caption'>Before the first step: {start} bits per byte.{brackets} "
        "Final loss, average loss and speed-up: interquartile "
        f"means; difference: mean over pairs with one seed; p: {in_html(TEST)}. A speed-up counts "
        "a run that never gets there as 0.</p></section>"
    )


def _foldable(family: str, arms: Sequence[str], summary: Summary) -> str:
    """The beginning of a family's part, which a reader can close; it names the best of it."""
    if not family:
        return ""
    best = min(arms, key=lambda arm: summary.arms[arm].test.centre or 0)
    led = f", led by {in_html(best)}" if len(arms) > 1 else ""
    return f"<details open><summary>{in_html(family)}: {len(arms)}{led}</summary>"


def _cells(found: ArmScore, with_gap: bool, with_noise: bool) -> Iterable[tuple[str, str]]:
    """(figure, small print) per column between the arm's name and the verdict."""
    yield bits(found.test.centre), bracketed(found.test, bits)
    gap = found.difference
    if gap is None:
        yield NOTHING, ""
    else:
        least = "\n(lowest possible)" if gap.p == gap.smallest_p else ""
        small = f"{bracketed(gap.mean, signed)}\np = {gap.p:.2g}{least}"
        yield signed(gap.mean.centre), small.strip()
    yield bits(found.area.centre), bracketed(found.area, bits)
    times, n = speed_up(found), len(found.test.values)
    lines = []
    if found.verdict != REFERENCE and found.never < n:
        lines.append(bracketed(found.speed_up, "{:.2f}".format))
    if found.never:
        lines.append(
            f"{'' if times == NEVER else 'never '}in {found.never} of {counted(n, 'seed')}"
        )
    if found.undefined:
        lines.append(f"undefined in {found.undefined} of {counted(n, 'seed')}")
    yield times, "\n".join(line for line in lines if line)
    if with_gap:
        closed = found.gap_closed
        if closed is None or closed.centre is None:
            yield NOTHING, ""
        else:
            yield f"{closed.centre:.0%}".replace("-", MINUS), bracketed(closed, "{:.0%}".format)
    if with_noise:
        yield (NOTHING if found.noise_share is None else f"{found.noise_share:.1%}"), ""


def _origin_section(summary: Summary, info: RunInfo) -> str:
    rows = {
        "World": info.world,
        "Text": info.source,
        "Licence of the text": info.licence,
        "World hash": info.world_hash,
        "Learner": info.learner,
        "Token budget per run": f"{summary.budget_tokens:,.0f} tokens",
        "Seeds": ", ".join(map(str, summary.seeds)),
        "Intervals": f"{INTERVALS}, {summary.reps} resamples",
        "Commit": info.commit,
        **info.details,
    }
    listed = "".join(
        f"<dt>{in_html(name)}</dt><dd>{in_html(value)}</dd>" for name, value in rows.items()
    )
    return (
        f"<section><h2>Where this comes from</h2><dl>{listed}<dt>Command</dt>"
        f"<dd><code>{in_html(info.command)}</code></dd></dl></section>"
    )

"""The part of the page with the controls: what else could have done what the subject did."""

from __future__ import annotations

from collections.abc import Mapping

from policies.verdict.summary import BETTER, NO_DIFFERENCE, TOO_FEW, WORSE, Contest, Summary
from policies.verdict.wording import bracketed, signed
from train_lm.plain_text import in_html

# What each is, and what a tie with it would mean.
CONTROLS = {
    "shuffle": (
        "the same text in random order",
        "the order does not matter: what was selected does",
    ),
    "static-final": (
        "the topics' average weights, fixed from the first step",
        "no curriculum is needed: a fixed mixture does as well",
    ),
    "yoked": (
        "the topics that were chosen on another seed, in their order",
        "it looks at nothing: one recorded list does as well",
    ),
    "equal-search": (
        "the best of as many random curricula as training the policy took episodes (--search-cap "
        "at most), of any passages",
        "the search did it, not the policy",
    ),
    "rewired": (
        "the same arm where links were dealt anew, degrees kept",
        "who is linked with whom does not matter",
    ),
    "taste-off": (
        "the same arm without its taste for passages",
        "the taste does nothing",
    ),
}


def finding(contest: Contest) -> str:
    """What follows for the subject, in one sentence."""
    _, tie = CONTROLS.get(contest.rival, ("", "it is not needed"))
    return {
        BETTER: f"It did better, so it is not that {tie}.",
        WORSE: f"The control did better, which is more than a tie; that would mean: {tie}.",
        NO_DIFFERENCE: f"No difference shown. A tie would mean: {tie}.",
        TOO_FEW: f"Too few seeds to tell. A tie would mean: {tie}.",
    }[contest.verdict]


def controls_section(summary: Summary, looks: Mapping[str, str]) -> str:
    """Empty where no control was played."""
    if not summary.controls:
        return ""
    subject = summary.controls[0].subject
    rows = []
    for contest in summary.controls:
        gap = contest.difference
        what = CONTROLS.get(contest.rival, ("", ""))[0]
        rows.append(
            f"<tr><th scope='row'><i class='swatch {looks[contest.rival]}'></i>"
            f"{in_html(contest.rival)}<small>{in_html(what)}</small></th>"
            f"<td data-label='difference'><span>{in_html(signed(gap.mean.centre))}</span>"
            f"<small>{in_html(bracketed(gap.mean, signed))}\np = {gap.p:.2g}</small></td>"
            f"<td data-label='finding'>{in_html(finding(contest))}</td></tr>"
        )
    return (
        f"<section><h2>Controls of {in_html(subject)}</h2>"
        "<div class='scroll'><table class='scores'><thead><tr><th scope='col'>control</th>"
        f"<th scope='col'>{in_html(subject)} minus control<small>bits per byte</small></th>"
        f"<th scope='col'>what follows</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "</div>"
        "<p class='caption'>Same budget and seeds; p is corrected for the number of controls "
        "(Holm). No difference shown is not a tie: the interval says how large one could be."
        "</p></section>"
    )

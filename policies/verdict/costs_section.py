"""The part of the page that says where tokens went, and after how many runs a search has paid."""

from __future__ import annotations

from collections.abc import Mapping

from policies.verdict.accounting import RUNS, Bill
from policies.verdict.wording import NEVER, NOTHING, amount
from train_lm.plain_text import in_html

HEAD = (
    ("trained", "tokens a run"),
    ("looked at", "tokens a run"),
    ("of a run", "FLOPs"),
    ("spent once", "FLOPs"),
    *((("all-in" if n == 1 else f"over {n} runs"), "FLOPs a run") for n in RUNS),
    ("has paid after", "runs"),
)


def paid_after(bill: Bill) -> tuple[str, str]:
    """Runs until a search has paid, and their interval; a dash where nothing was spent once."""
    runs = bill.runs
    if runs is None:
        return NOTHING, ""
    centre = NEVER if runs.centre is None else f"{runs.centre:,.1f}"
    if runs.low is None:
        return centre, ""
    high = NEVER if runs.high is None else f"{runs.high:,.1f}"
    return centre, f"[{runs.low:,.1f}, {high}]"


def cells(bill: Bill) -> list[tuple[str, str]]:
    """(figure, small print) of an arm, in the order of `HEAD`."""
    cost = bill.cost
    thrown = cost.worked - cost.trained
    extra = f"and {amount(thrown)} on copies" if thrown > 0 else ""
    return [
        (amount(cost.trained), extra),
        (amount(cost.looked), ""),
        (_flops(cost.per_run), ""),
        (_flops(cost.once) if cost.once else NOTHING, ""),
        *((_flops(cost.amortised(n)), "") for n in RUNS),
        paid_after(bill),
    ]


def costs_section(bills: Mapping[str, Bill], looks: Mapping[str, str]) -> str:
    """Empty where nobody counted."""
    if not bills:
        return ""
    head = "".join(f"<th scope='col'>{name}<small>{unit}</small></th>" for name, unit in HEAD)
    rows = []
    for arm, bill in bills.items():
        body = "".join(
            f"<td data-label='{name}, {unit}'><span>{in_html(big)}</span>"
            f"{f'<small>{in_html(small)}</small>' if small else ''}</td>"
            for (name, unit), (big, small) in zip(HEAD, cells(bill), strict=True)
        )
        rows.append(
            f"<tr><th scope='row'><i class='swatch {looks[arm]}'></i>{in_html(arm)}</th>{body}</tr>"
        )
    return (
        "<section><h2>Where tokens went</h2><div class='scroll'><table class='scores'>"
        f"<thead><tr><th scope='col'>arm</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f"</table></div>{''.join(_search(arm, bill) for arm, bill in bills.items())}"
        "<p class='caption'>A run is one episode: what was trained, and what the learner was asked "
        "while the arm acted, by the game (reward, candidates) and by the arm; a forward pass is a "
        "third of training (a half where an adapter trains). Spent once: a policy's training, with "
        "all that led to it. It has paid when it, and all runs to the reference's final loss, have "
        "cost less than the reference's own runs there; the interval is that of the speed-up. "
        "Measuring the curves of this page is charged to nobody. Controls are made of the "
        "subject's episodes.</p></section>"
    )


def _search(arm: str, bill: Bill) -> str:
    """What was spent once, part by part."""
    if not bill.cost.search:
        return ""
    parts = "".join(
        f"<dt>{in_html(one.what)}</dt><dd>{in_html(told(one.tokens, one.total(*flops)))}</dd>"
        for flops in ((bill.cost.flops_per_token, bill.cost.forward),)
        for one in bill.cost.search
    )
    return f"<details><summary>Spent once on {in_html(arm)}</summary><dl>{parts}</dl></details>"


def told(tokens: float, flops: float) -> str:
    """`3.7 M tokens, 4.1e+12 FLOPs`."""
    return f"{amount(tokens)} tokens, {_flops(flops)} FLOPs" if tokens else f"{_flops(flops)} FLOPs"


def _flops(value: float) -> str:
    return f"{value:.3g}"

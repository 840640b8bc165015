"""The page and the table of a stream: learning against forgetting, and every matrix behind it.

It draws what it is given and computes no statistic. The page fetches nothing and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from policies.stream.cells import StreamRecord
from policies.stream.methods import method_of
from policies.stream.scores import BAR, JOINT, PLAIN, MethodScore, StreamSummary, matrix_of
from policies.verdict.figures import heat_map_section, nice_ticks, svg_open
from policies.verdict.style_sheet import STYLE_SHEET
from policies.verdict.summary import BETTER, WORSE, Interval
from policies.verdict.wording import MINUS, NOTHING, amount, bits, bracketed, signed
from train_lm.files import replacing
from train_lm.plain_text import content_policy, counted, in_html, visible

Show = Callable[[float], str]

WIDTH, HEIGHT = 1080, 520


def headline(summary: StreamSummary, subject: str = "lora-routed") -> list[str]:
    """Sentences that say what the intervals allow, and no more."""
    seeds = len(summary.seeds)
    if summary.bar is None:
        return [f"Nothing is compared: {PLAIN} and {BAR} were not both played."]
    lines = []
    if subject in summary.methods:
        lines.append(_sentence(summary, subject))
    for word in (BETTER, WORSE):
        names = []
        for name, found in summary.methods.items():
            shares = [f"{level.share:.0%}" for level in found.levels if level.verdict == word]
            if shares and name != subject:
                names.append(f"{name} (at {' and '.join(shares)})")
        if names:
            lines.append(f"{word.capitalize()} than half replay: {', '.join(names)}.")
    if not lines:
        lines.append("At equal learning no method was told apart from half replay.")
    lines.append(
        f"Forgetting at equal learning, over {counted(seeds, 'seed')}; a word follows from the "
        "95 % interval of the paired difference alone, without a correction for the number of "
        "methods."
    )
    return lines


def _sentence(summary: StreamSummary, subject: str) -> str:
    found, said, untold = summary.methods[subject], [], []
    for level in found.levels:
        gap, at = level.to_bar, f"{level.share:.0%}"
        if gap is None or gap.centre is None or level.missing:
            untold.append(at)
            continue
        word = level.verdict if level.verdict in (BETTER, WORSE) else "not told apart"
        said.append(f"at {at} {word} ({span(gap, signed)} bits per byte)")
    if untold:
        said.append(f"at {', '.join(untold)} one of the two never learns as much")
    end = "" if found.end is None else f" Loss at the end: {_end(found)}."
    return (
        f"{subject} against half replay, forgetting where both learned a share of what plain "
        f"training does: {'; '.join(said)}.{end}"
    )


COLUMNS: tuple[tuple[str, str, Show], ...] = (
    ("accuracy", "ACC", bits),
    ("backward_transfer", "BWT", signed),
    ("forward_transfer", "FWT", signed),
    ("learning_accuracy", "learning accuracy", bits),
    ("learning", "learned", signed),
    ("forgetting", "forgetting", signed),
    ("intransigence", "intransigence", signed),
    ("nucleus", "nucleus lost", signed),
    ("changed", "parameters changed", lambda x: f"{x:.1%}"),
    ("rank", "effective rank", lambda x: f"{x:.1f}"),
    ("optimizer_bytes", "optimiser bytes", lambda x: amount(x)),
    ("tokens_per_second", "tokens/s", lambda x: amount(x)),
)
SHORT = ("accuracy", "backward_transfer", "learning")  # of the terminal's table


def table(summary: StreamSummary) -> str:
    """One line per method, at the rate where it ends best."""
    titles = {name: (title, show) for name, title, show in COLUMNS}
    head = f"{'method':14s} {'rate':>8s}" + "".join(f"{titles[n][0]:>27s}" for n in SHORT)
    lines = [head + f"{'loss at the end, minus half replay':>48s}"]
    for name, found in summary.methods.items():
        best = found.rates[found.best]
        cells = "".join(f"{span(best.figures[n], titles[n][1]):>27s}" for n in SHORT)
        lines.append(f"{visible(name)[:14]:14s} {best.rate:8.3g}{cells}{_end(found):>48s}")
    lines.append(
        f"{counted(len(summary.seeds), 'seed')} (learner, order of neighbourhoods and of text); "
        "bits per byte, each method at its best rate; 95 % intervals in brackets"
    )
    return "\n".join(lines)


def _end(found: MethodScore) -> str:
    return found.verdict if found.end is None else f"{span(found.end, signed)} {found.verdict}"


def span(found: Interval, show: Show) -> str:
    """An estimate with its interval."""
    if found.centre is None:
        return NOTHING
    return f"{show(found.centre)} {bracketed(found, show)}".strip()


def write_page(
    file: Path,
    summary: StreamSummary,
    records: Sequence[StreamRecord],
    origin: Mapping[str, str],
) -> None:
    """Write `report.html`, in one move.

    Args:
        records: Of all cells.
        origin: What the figures come from, as rows: world, commit, command and the like.
    """
    title = f"A stream of {len(records[0].names)} neighbourhoods"
    first, *rest = headline(summary)
    parts = [
        f"<header><h1>{in_html(title)}</h1><p class='headline'>{in_html(first)}</p>",
        *(f"<p>{in_html(line)}</p>" for line in rest),
        "</header>",
        _pareto_section(summary),
        _level_section(summary),
        _figures_section(summary),
        *_matrices(summary, records),
        origin_section(origin),
    ]
    with replacing(file) as draft:
        draft.write_text(document(title, parts), encoding="utf-8")


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of its parts; it fetches nothing and runs nothing."""
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"{content_policy(STYLE_SHEET)}\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{in_html(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def look_of(name: str) -> str:
    """CSS class of a method, by what kind it is of."""
    method = method_of(name)
    if name == PLAIN:
        return "ref"
    if name == JOINT:
        return "target-text"
    if method.compose:
        return "c3"
    if method.adapter != "none":
        return "c2"
    return "c1" if method.memory != "none" else "c5"


Points = dict[str, list[tuple[float, float, float]]]  # (learned, forgotten, rate) of each method


def pareto_svg(summary: StreamSummary) -> str:
    """Learning (right is more) against forgetting (down is less), a line over rates per method.

    Rates at which a method unlearned more than it learned are left out.
    """
    points: Points = {}
    for name, found in summary.methods.items():
        for score in found.rates if name != JOINT else ():
            x = score.figures["learning"].centre
            y = score.figures["backward_transfer"].centre
            if x is not None and y is not None and x > 0:
                points.setdefault(name, []).append((x, -y, score.rate))
    every = [(x, y) for line in points.values() for x, y, _ in line] or [(0.01, 0.0)]
    left, right, top, bottom = 60, WIDTH - 190, 26, HEIGHT - 44
    ys = [0.0, *(y for _, y in every)]
    pad = 0.04 * (max(ys) - min(ys)) or 0.01
    low, high, end = min(ys) - pad, max(ys) + pad, 1.03 * max(x for x, _ in every)

    def x_of(value: float) -> float:
        return round(left + value / end * (right - left), 1)

    def y_of(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    out = [svg_open(WIDTH, HEIGHT, "Learning against forgetting, a line for each method")]
    for tick in nice_ticks(low, high, 6):
        out.append(f"<path class='grid' d='M{left} {y_of(tick)}H{right}'/>")
        out.append(f"<text class='end' x='{left - 7}' y='{y_of(tick) + 4}'>{_tick(tick)}</text>")
    for tick in nice_ticks(0.0, end, 8):
        out.append(f"<path class='axis' d='M{x_of(tick)} {bottom}v5'/>")
        out.append(f"<text class='mid' x='{x_of(tick)}' y='{bottom + 19}'>{_tick(tick)}</text>")
    out.append(f"<path class='axis' d='M{left} {y_of(0.0)}H{right}'/>")
    out.append(f"<text x='{left - 54}' y='13'>forgetting (minus BWT) [bits per byte]</text>")
    out.append(f"<text class='end' x='{right}' y='{HEIGHT - 6}'>learned [bits per byte]</text>")
    front = "L".join(f"{x_of(x)} {y_of(y)}" for x, y in pareto_front(every))
    out.append(f"<path class='goal' fill='none' d='M{front}'/>")
    for name, line in points.items():
        look = look_of(name)
        path = "L".join(f"{x_of(x)} {y_of(y)}" for x, y, _ in line)
        out.append(f"<path class='line {look}' d='M{path}'/>")
        for x, y, rate in line:
            told = in_html(f"{name} at a rate of {rate:.3g}: learned {bits(x)}, {bits(y)}")
            out.append(
                f"<circle class='dot {look}' cx='{x_of(x)}' cy='{y_of(y)}' r='3.5'>"
                f"<title>{told}</title></circle>"
            )
    # Each name stands at the right, as near to the height of its line's end as others leave it.
    ends = sorted((max(line)[:2] for line in points.values()), key=lambda end: -end[1])
    names = sorted(points, key=lambda name: -max(points[name])[1])
    place, room = float(top), min(16.0, (bottom - top) / max(1, len(ends)))
    for left_over, (name, (x, y)) in enumerate(zip(names, ends, strict=True)):
        place = max(place + room, min(y_of(y), bottom - room * (len(ends) - left_over)))
        look = look_of(name)
        out.append(
            f"<path class='leader {look}' d='M{x_of(x) + 3} {y_of(y)}L{right + 26} {place:.1f}'/>"
        )
        out.append(f"<text x='{right + 32}' y='{place + 4:.1f}'>{in_html(name)}</text>")
    return "".join([*out, "</svg>"])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (learned, forgotten) that no other one beats in both, most learned first."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def _pareto_section(summary: StreamSummary) -> str:
    return (
        f"<section><h2>Learning against forgetting</h2>{pareto_svg(summary)}"
        "<p class='caption'>Each line is a method over its learning rates, means over seeds. "
        "Right: more was learned of each neighbourhood by its own stage. Down: less of it was "
        "lost by the end; below 0 later stages helped. A method helps where its line runs below "
        "the others at equal learning. Dotted: what no other method and rate beats in both "
        "(Pareto). Rates at which a method unlearned are left out.</p></section>"
    )


def _level_section(summary: StreamSummary) -> str:
    learned = summary.learned_plainly
    if learned is None:
        return ""
    shares = [level.share for level in summary.methods[PLAIN].levels]
    columns = [f"at {share:.0%}" for share in shares]
    rows = []
    for name, found in summary.methods.items():
        cells = []
        for level in found.levels:
            small = []
            if level.forgetting.low is not None:
                small.append(bracketed(level.forgetting, signed))
            if level.to_bar is not None and level.to_bar.centre is not None:
                gap = f"{signed(level.to_bar.centre)} {bracketed(level.to_bar, signed)}".strip()
                small.append(f"minus {BAR}: {gap}")
            if level.missing:
                small.append(
                    f"not compared in {level.missing} of {counted(len(summary.seeds), 'seed')}"
                )
            small.append(level.verdict)
            cells.append((signed(level.forgetting.centre), "\n".join(small)))
        if cells:
            rows.append(row_html(name, columns, cells))
    return (
        "<section><h2>Forgetting at equal learning</h2>"
        f"{table_html(['method', *columns], rows)}"
        f"<p class='caption'>100 % is what plain training learns at its best rate, "
        f"{bits(learned.centre)} {bracketed(learned, bits)} bits per byte. Each seed's forgetting "
        "(minus BWT) is read off its line over learning rates, by straight lines between them and "
        f"from nothing learned, nothing forgotten. In brackets: 95 % "
        "intervals (Student's t over seeds).</p></section>"
    )


def _figures_section(summary: StreamSummary) -> str:
    columns = [title for _, title, _ in COLUMNS]
    rows = []
    for name, found in summary.methods.items():
        for i, score in enumerate(found.rates):
            best = " (best)" if i == found.best else ""
            cells = [
                (
                    NOTHING if (one := score.figures[key]).centre is None else show(one.centre),
                    bracketed(one, show),
                )
                for key, _, show in COLUMNS
            ]
            rows.append(row_html(f"{name}, {score.rate:.3g}{best}", columns, cells, look_of(name)))
    ends = "".join(
        f"<dt>{in_html(name)}</dt><dd>{in_html(_end(found))}</dd>"
        for name, found in summary.methods.items()
    )
    return (
        "<section><h2>Loss at the end, minus half replay</h2>"
        f"<dl>{ends}</dl><p class='caption'>Mean over all neighbourhoods after the last stage, "
        "each method at its best rate [bits per byte]; 95 % intervals of paired differences."
        "</p></section>"
        "<section><h2>Every method at every learning rate</h2>"
        f"{table_html(['method, rate', *columns], rows)}"
        "<p class='caption'>Means over seeds [bits per byte], in brackets 95 % intervals. ACC "
        "and learning accuracy: minus a loss. BWT below 0: forgetting. Means of BWT, FWT and "
        "forgetting are over all neighbourhoods but one. Best: the rate of the highest ACC. Tokens "
        "per second: of this machine as it was, others on it included.</p></section>"
    )


def row_html(
    name: str, columns: Sequence[str], cells: Sequence[tuple[str, str]], look: str | None = None
) -> str:
    """A row of a table: its name with the colour of `look`, then (figure, small print) each."""
    body = "".join(
        f"<td data-label='{in_html(column)}'><span>{in_html(big)}</span>"
        f"{f'<small>{in_html(small)}</small>' if small else ''}</td>"
        for column, (big, small) in zip(columns, cells, strict=True)
    )
    swatch = look or look_of(name)
    return f"<tr><th scope='row'><i class='swatch {swatch}'></i>{in_html(name)}</th>{body}</tr>"


def table_html(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table of rows as `row_html` makes them."""
    titles = "".join(f"<th scope='col'>{in_html(title)}</th>" for title in head)
    return (
        "<div class='scroll'><table class='scores'>"
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _matrices(summary: StreamSummary, records: Sequence[StreamRecord]) -> list[str]:
    """The matrix of each method and rate, of the first seed."""
    first = min(summary.seeds)
    return [
        heat_map_section(
            matrix_of(record), f"{record.method} at a rate of {record.rate:.3g}, seed {first}"
        )
        for record in records
        if record.seed == first
    ]


def origin_section(origin: Mapping[str, str]) -> str:
    """The part of a page that says where its figures come from."""
    listed = "".join(
        f"<dt>{in_html(name)}</dt><dd>{in_html(value)}</dd>" for name, value in origin.items()
    )
    return f"<section><h2>Where this comes from</h2><dl>{listed}</dl></section>"

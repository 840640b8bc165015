"""The page says what the summary says, fetches nothing, escapes everything and fits its window."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_knowledge import known_curve

from policies.verdict.accounting import ArmCost, Bill, Spent
from policies.verdict.controls_section import CONTROLS
from policies.verdict.figures import looks_of, nice_ticks
from policies.verdict.growth_map import Growth
from policies.verdict.knowledge_section import knowledge_section
from policies.verdict.report import Beside, RunInfo, headline, write_report
from policies.verdict.scores import ArmRun, summarise
from policies.verdict.summary import Interval, Summary
from policies.verdict.table import table

INFO = RunInfo(
    world="synthetic, focused",
    source="generated",
    licence="CC0",
    world_hash="abc123",
    learner="fake, 0 parameters",
    commit="0123abc",
    command="kncl-policy evaluate --world W --policies uniform,goal --seeds 8 --out RUN",
)
VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = "</td></svg><script>alert('x')</script>&\"'<img src=x onerror=1>\x07\ud800"


def arm_runs(arm: str, finals: list[float], noise_share: float = math.nan) -> list[ArmRun]:
    tokens = np.linspace(0, 120_000, 13)
    return [
        ArmRun(
            arm,
            seed,
            tokens,
            final + (4.0 - final) * np.exp(-4 * tokens / tokens[-1]),
            4.1,
            final,
            noise_share,
        )
        for seed, final in enumerate(finals)
    ]


UNIFORM = [3.00, 3.02, 2.98, 3.01, 2.99, 3.02, 2.97, 3.00]


GOAL = [2.90, 2.93, 2.88, 2.90, 2.89, 2.91, 2.88, 2.90]


def some_runs() -> list[ArmRun]:
    return [
        *arm_runs("uniform", UNIFORM, 0.2),
        *arm_runs("random", [3.10, 3.13, 3.07, 3.12, 3.09, 3.11, 3.08, 3.12], 0.25),
        *arm_runs("goal", GOAL, 0.1),
        *arm_runs("same", [3.01, 3.00, 2.99, 3.01, 2.98, 3.03, 2.96, 3.01], 0.2),
        *arm_runs("target-text", [2.80, 2.83, 2.79, 2.81, 2.80, 2.82, 2.78, 2.80]),
    ]


def summary_of(runs: list[ArmRun], target_text: str | None = None) -> Summary:
    return summarise(runs, target_text=target_text, rng=np.random.default_rng(0), reps=300)


def some_growth(arms: tuple[str, ...] = ("random", "goal"), n: int = 60) -> Growth:
    rng = np.random.default_rng(0)
    return Growth(
        positions=rng.normal(size=(n, 2)),
        nucleus=range(5),
        expansions={arm: [int(t) for t in rng.permutation(np.arange(5, n))[:12]] for arm in arms},
        target=range(n - 10, n),
        edges=rng.integers(n, size=(80, 2)),
        titles=[f"topic {t}" for t in range(n)],
    )


class Page(HTMLParser):
    """Checks nesting while reading, and keeps attributes, text and the table's cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open) and self.rows:
            self.rows[-1][-1] += data + "\n"


def page_of(tmp_path: Path, *args: Any, **kwargs: Any) -> Page:
    return Page(write_report(tmp_path / "report.html", *args, **kwargs).read_text(encoding="utf-8"))


def number(cell: str) -> float:
    first = cell.strip().splitlines()[0]
    return float(first.replace("\u2212", "-").rstrip("\u00d7%"))


def test_page_is_well_nested_and_reaches_for_nothing_outside(tmp_path: Path) -> None:
    runs = some_runs()
    page = page_of(tmp_path, summary_of(runs, "target-text"), runs, INFO, Beside(some_growth()))
    assert "script" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert value.startswith("#"), (tag, name, value)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {v[1:] for _, name, v in page.attributes if name == "href"} <= set(ids)


def test_figures_of_the_table_are_those_of_the_summary(tmp_path: Path) -> None:
    runs = some_runs()
    summary = summary_of(runs, "target-text")
    page = page_of(tmp_path, summary, runs, INFO)
    rows = {row[0].strip(): row for row in page.rows if row[0].strip() in summary.arms}
    assert list(rows) == list(summary.arms)
    for arm, found in summary.arms.items():
        _, test, gap, area, speed, closed, noise, word = rows[arm]
        assert number(test) == round(found.test.centre, 4)
        assert f"[{found.test.low:.4f}, {found.test.high:.4f}]" in test
        assert number(area) == round(found.area.centre, 4)
        assert word.strip() == found.verdict
        if found.difference is None:
            assert arm == "uniform"
            assert gap.strip() == closed.strip() == "\u2013"
            continue
        mean = found.difference.mean
        assert number(gap) == round(mean.centre, 4)
        assert f"[{mean.low:+.4f}, {mean.high:+.4f}]".replace("-", "\u2212") in gap
        assert f"p = {found.difference.p:.2g}" in gap
        if found.speed_up.centre == 0:
            assert speed.strip().startswith("never")
        else:
            assert number(speed) == round(found.speed_up.centre, 2)
        if found.gap_closed:
            assert number(closed) == round(100 * found.gap_closed.centre)
        if found.noise_share is not None:
            assert number(noise) == round(100 * found.noise_share, 1)


def test_a_page_from_a_score_file_is_the_page_from_the_runs(tmp_path: Path) -> None:
    runs = some_runs()
    summary = summary_of(runs, "target-text")
    again = Summary.from_json(json.loads(json.dumps(summary.to_json())))
    pages = [
        write_report(tmp_path / f"{i}.html", found, runs, INFO).read_bytes()
        for i, found in enumerate((summary, again))
    ]
    assert pages[0] == pages[1]


def test_the_table_of_a_terminal_has_every_figure_with_its_interval() -> None:
    summary = summary_of(some_runs())
    head, *rows, note = table(summary).splitlines()
    assert head.split() == ["arm", "test", "bits/byte", "minus", "uniform", "speed-up", "verdict"]
    assert [row.split()[0] for row in rows] == list(summary.arms)
    assert {len(row) - len(row.split("  ")[-1]) for row in [head, *rows]} == {16 + 25 + 29 + 23 + 2}
    goal = summary.arms["goal"]
    row = rows[list(summary.arms).index("goal")]
    for found, form in ((goal.test, ".4f"), (goal.difference.mean, "+.4f"), (goal.speed_up, ".2f")):
        figures = (format(x, form) for x in (found.centre, found.low, found.high))
        assert "{} [{}, {}]".format(*figures) in row
    assert row.endswith("  better")
    assert "8 paired seeds" in note
    assert "120,000 tokens each; 95 % intervals" in note
    assert "uniform's tokens / the arm's to uniform's final loss" in note


def test_the_table_of_one_seed_has_no_brackets() -> None:
    rows = table(summary_of(arm_runs("uniform", [3.0]) + arm_runs("goal", [2.0]))).splitlines()
    assert rows[2].split() == ["goal", "2.0000", "-1.0000", *rows[2].split()[3:]]
    assert "[" not in "".join(rows)


def test_columns_without_a_figure_are_left_out(tmp_path: Path) -> None:
    runs = arm_runs("uniform", UNIFORM) + arm_runs("goal", GOAL)
    page = page_of(tmp_path, summary_of(runs), runs, INFO)
    assert len(page.rows[0]) == 6
    assert "noise bought" not in page.text
    assert "closed" not in page.text
    assert "How the nucleus grew" not in page.text


def test_runs_that_never_arrive_are_counted_in_the_table(tmp_path: Path) -> None:
    slow = [*arm_runs("goal", GOAL[:7]), *arm_runs("goal", [9.0] * 7 + [3.5])[7:]]
    runs = arm_runs("uniform", UNIFORM) + slow
    page = page_of(tmp_path, summary_of(runs), runs, INFO)
    assert "never in 1 of 8 seeds" in page.text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    runs = arm_runs("uniform", UNIFORM) + arm_runs(NASTY, GOAL)
    words = {name: NASTY for name in vars(INFO) if name != "details"}
    info = RunInfo(**words, details={NASTY: NASTY})
    growth = some_growth((NASTY,))
    growth = Growth(**(vars(growth) | {"titles": [NASTY] * 60}))
    summary = summary_of(runs)
    clean = page_of(tmp_path, summary_of(some_runs()), some_runs(), INFO, Beside(some_growth()))
    page = page_of(tmp_path, summary, runs, info, Beside(growth), subject=NASTY)
    assert set(page.tags) <= set(clean.tags)
    assert "<script>alert('x')</script>" in page.text
    assert all(c.isprintable() or c == "\n" for c in page.text)


def test_headline_of_each_verdict_follows_the_interval() -> None:
    summary = summary_of(some_runs())
    better, worse, same = (headline(summary, arm)[0] for arm in ("goal", "random", "same"))
    assert better.startswith("goal does better than uniform: \u2212")
    assert "with fewer tokens" in better
    assert worse.startswith("random does worse than uniform: +")
    assert same.startswith("No difference is shown between same and uniform")
    for arm, line in (("goal", better), ("random", worse), ("same", same)):
        gap = summary.arms[arm].difference.mean
        span = f"interval {gap.low:+.4f} to {gap.high:+.4f}".replace("-", "\u2212")
        assert span in line


def test_headline_without_a_subject_lists_every_arm_by_verdict() -> None:
    line = headline(summary_of(some_runs()))[0]
    assert line == (
        "Better than uniform: goal, target-text. Worse than uniform: random. "
        "No difference from uniform shown: same."
    )


def test_headline_names_the_strongest_rival_of_the_subject() -> None:
    runs = some_runs()
    summary = summarise(
        runs, "uniform", "target-text", subject="same", rng=np.random.default_rng(0)
    )
    first = headline(summary, "same")[0]
    assert first.startswith("No difference is shown between same and uniform, and it does worse ")
    assert "than its strongest rival, goal: " in first
    assert "+0.1000 to goal (" in first
    ahead = summarise(runs, "uniform", "target-text", subject="goal", rng=np.random.default_rng(0))
    line = headline(ahead, "goal")[0]
    strongest = ahead.contest.rival
    assert strongest == "uniform"
    assert line.startswith("goal does better than uniform, its strongest rival: ")
    assert f"goal against its strongest rival {strongest}" in table(ahead)


def test_headline_and_table_of_few_seeds_say_how_many_would_do() -> None:
    runs = [run for run in some_runs() if run.seed < 3]
    summary = summarise(
        runs, "uniform", "target-text", subject="goal", rng=np.random.default_rng(0)
    )
    first = headline(summary, "goal")[0]
    assert first.startswith("3 seeds are too few to show a difference between goal and uniform")
    assert "3 seeds cannot show a difference among 5 arms, whatever comes out: 8 can" in table(
        summary
    )


def test_headline_of_one_seed_claims_nothing() -> None:
    runs = arm_runs("uniform", [3.0]) + arm_runs("goal", [2.0])
    lines = headline(summary_of(runs), "goal")
    assert lines[0].startswith("One seed shows nothing yet")
    assert "better" not in lines[0]


def test_headline_of_a_lone_reference_says_so() -> None:
    lines = headline(summary_of(arm_runs("uniform", UNIFORM)))
    assert lines[0] == "Only uniform was run: there is nothing to compare it with."


def test_notes_of_the_summary_are_on_the_page(tmp_path: Path) -> None:
    short = ArmRun("goal", 0, np.array([0.0, 10.0]), np.array([4.0, 3.0]), 4.1, 3.0)
    runs = [*arm_runs("uniform", [3.0]), short]
    page = page_of(tmp_path, summary_of(runs), runs, INFO)
    assert "their budgets differ" in page.text


def test_origin_names_world_seeds_budget_and_command(tmp_path: Path) -> None:
    runs = some_runs()
    text = page_of(tmp_path, summary_of(runs), runs, INFO).text
    for part in (
        "abc123",
        "CC0",
        "0, 1, 2, 3, 4, 5, 6, 7",
        "120,000 tokens",
        INFO.command,
        "0123abc",
    ):
        assert part in text


def test_the_same_input_gives_the_same_page_and_leaves_no_draft(tmp_path: Path) -> None:
    runs = some_runs()
    summary = summary_of(runs)
    one = write_report(tmp_path / "a.html", summary, runs, INFO, Beside(some_growth())).read_bytes()
    two = write_report(tmp_path / "b.html", summary, runs, INFO, Beside(some_growth())).read_bytes()
    assert one == two
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_growth_counts_the_target_topics_that_were_reached(tmp_path: Path) -> None:
    growth = Growth(np.eye(8)[:, :2], [0], {"goal": [1, 2, 3, 6]}, target=[6, 7])
    runs = some_runs()
    text = page_of(tmp_path, summary_of(runs), runs, INFO, Beside(growth)).text
    assert "start, 0 of 2 target topics" in text
    assert "after 4 expansions, 1 of 2 target topics" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nucleus": [60]}, "expected topics 0..59 in nucleus"),
        ({"expansions": {"goal": [-1]}}, "leave out steps that expanded nothing"),
        ({"positions": np.full((60, 2), np.nan)}, "finite positions"),
        ({"titles": ["one"]}, "expected 60 titles"),
    ],
)
def test_a_broken_growth_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Growth(**(vars(some_growth()) | change))


def test_an_unknown_arm_is_refused(tmp_path: Path) -> None:
    runs = some_runs()
    with pytest.raises(ValueError, match=r"expected arms of the summary .* got \['nobody'\]"):
        write_report(tmp_path / "r.html", summary_of(runs), runs, INFO, subject="nobody")


def test_an_empty_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="expected licence"):
        RunInfo(**(vars(INFO) | {"licence": " "}))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (2.71, 2.98), (0, 614_400), (-0.13, 0.04), (1e-6, 2e-6)]
)
def test_ticks_are_round_evenly_spaced_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high, 5)
    assert 3 <= len(ticks) <= 11
    assert low <= ticks[0]
    assert ticks[-1] <= high
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    lead = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(lead - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-6


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

# Measures the page in frames of the given widths: sideways overflow, and texts of one drawing that
# lie on each other.
PROBE = """<!DOCTYPE html><title>probe</title><body><script>
const found = {};
function measure(frame, width) {
  const page = frame.contentDocument, overlaps = [];
  for (const svg of page.querySelectorAll('svg')) {
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent,
      t.getBoundingClientRect()]).filter(([, b]) => b.width > 0);
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
      if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 &&
          Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3) overlaps.push([a, b]);
    }));
  }
  found[width] = {client: page.documentElement.clientWidth,
    scroll: page.documentElement.scrollWidth, overlaps, cells: page.querySelectorAll('td').length,
    drawn: [...page.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 100)
      .length};
  document.title = JSON.stringify(found);
}
for (const width of [1280, 900, 420]) {
  const frame = document.createElement('iframe');
  frame.width = width; frame.height = 3000; frame.src = 'report.html';
  frame.onload = () => measure(frame, width);
  document.body.append(frame);
}
</script></body>"""


def open_in_browser(file: Path, profile: Path) -> tuple[str, str]:
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            f"--user-data-dir={profile}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, "\n".join(x for x in done.stderr.splitlines() if "CONSOLE" in x)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_renders_the_page_without_complaint_and_without_overflow(tmp_path: Path) -> None:
    long = "runs/policy-trained-on-people-and-models-then-by-reward-for-a-very-long-time"
    runs = some_runs() + arm_runs(long, [f + 0.01 for f in GOAL])
    write_report(
        tmp_path / "report.html",
        summary_of(runs, "target-text"),
        runs,
        INFO,
        Beside(some_growth()),
        long,
    )
    page, console = open_in_browser(tmp_path / "report.html", tmp_path / "one")
    assert console == ""
    assert "Where this comes from" in page
    assert page.count("<use") == 2 * 9

    (tmp_path / "probe.html").write_text(PROBE, encoding="utf-8")
    probe, console = open_in_browser(tmp_path / "probe.html", tmp_path / "two")
    assert console == ""
    title = re.search(r"<title>(.*?)</title>", probe)
    assert title is not None
    found = json.loads(title[1].replace("&amp;", "&"))
    assert set(found) == {"1280", "900", "420"}
    for seen in found.values():
        assert seen["scroll"] <= seen["client"]
        assert seen["overlaps"] == []
        assert seen["cells"] == 6 * 7
        assert seen["drawn"] == 1 + 2 + 1 + 2  # of each map the moment that is chosen


def whole_report(file: Path) -> Summary:
    """A page with everything that one can have: families, controls, costs, growth, knowledge."""
    families = {"uniform": "independent", "rule": "frontier rule", "dsir": "selection"}
    families |= {"learned": "learned"} | dict.fromkeys(CONTROLS, "control")
    runs = [
        replace(run, family=family, learner_seed=run.seed, training=f"{run.seed % 3}")
        if family == "learned"
        else replace(run, family=family, learner_seed=run.seed)
        for k, (arm, family) in enumerate(families.items())
        for run in arm_runs(arm, [3.0 - 0.01 * k + 0.003 * (seed * k % 5) for seed in range(9)])
    ]
    summary = summarise(runs, subject="learned", rng=np.random.default_rng(0), reps=60)
    cost = ArmCost(1e6, 2e5, 1e6, 0.0, 6e5)
    bills = {arm: Bill(cost) for arm in families}
    searched = replace(cost, search=(Spent("episodes of PPO", 8, 8e6, 1e6), Spent("cloning")))
    bills["learned"] = Bill(searched, Interval(17.2, 9.0, None))
    known = {"uniform": known_curve(0.1), "rule": known_curve(0.58, 1), "learned": known_curve(0.6)}
    beside = Beside(
        some_growth(("learned", "rule")),
        costs=bills,
        sections=[knowledge_section(known, looks_of(summary), "m")],
    )
    write_report(file, summary, runs, INFO, beside, "learned")
    return summary


def test_the_page_says_first_what_was_found_and_whether_it_is_a_headline(tmp_path: Path) -> None:
    summary = whole_report(tmp_path / "report.html")
    assert summary.standing.lacks == ()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    first = text.split("<p class='headline'>")[1].split("</p>")[0]
    assert first.startswith("learned does better than uniform, and it ")
    assert summary.contest.rival in first
    for part in (
        "Comparisons that were named beforehand",
        "Controls of learned",
        "Where tokens went",
        "How many runs are how fast",
        "Noise floor",
        "Which links the learner knows",
    ):
        assert part in page.text
    for name, (what, _) in CONTROLS.items():
        assert name in page.text
        assert what in page.text
    assert text.count("<details open>") == 5
    assert "learned: 1" in page.text
    assert "17.2" in page.text
    assert page.tags.count("input") == 2 * 9
    few = replace(summary, standing=replace(summary.standing, learner_seeds=1))
    lines = headline(few, "learned")
    assert lines[0].startswith("Estimate: learned does better")
    assert lines[1] == ("A headline would need 8 learner seeds, of which there is 1 (--inits 8).")
    assert "an estimate: a headline needs 8 learner seeds" in table(few)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_renders_all_sections_without_complaint_request_or_overflow(
    tmp_path: Path,
) -> None:
    whole_report(tmp_path / "report.html")
    asked = (
        "const entries = frame.contentWindow.performance.getEntriesByType('resource');"
        "found[width] = {asked: entries.length, "
    )
    (tmp_path / "probe.html").write_text(PROBE.replace("found[width] = {", asked), encoding="utf-8")
    probe, console = open_in_browser(tmp_path / "probe.html", tmp_path / "browser")
    assert console == ""
    title = re.search(r"<title>(.*?)</title>", probe)
    assert title is not None
    found = json.loads(title[1].replace("&amp;", "&"))
    assert set(found) == {"1280", "900", "420"}
    for seen in found.values():
        assert seen["asked"] == 0
        assert seen["scroll"] <= seen["client"]
        assert seen["overlaps"] == []
        # Curves, two panels of dots, profiles, knowledge, and of each map the moment chosen.
        assert seen["drawn"] == 1 + 2 + 1 + 1 + 2

"""Known answers for what arms cost, and for the figures of the appendix."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from test_plain_text import TITLES
from test_report import INFO, arm_runs

from kncl_env.passage_traits import TRAITS
from kncl_env.settings import Settings
from kncl_env.taste import LEVELS, TASTE_FORMAT, Taste
from policies.arms.registry import places_of
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.play.curves import Curve
from policies.play.spending import episodes_of, spent_on, spent_on_all, tokens_of_taste
from policies.verdict.accounting import (
    TASTE,
    ArmCost,
    Bill,
    Spent,
    break_even,
    cost_of,
    episodes_spent,
    network_spent,
    search_of,
)
from policies.verdict.appendix import code, plain, write_appendix
from policies.verdict.costs_section import costs_section, paid_after
from policies.verdict.figures import looks_of
from policies.verdict.scores import ArmRun, summarise
from policies.verdict.summary import Interval, Summary
from train_lm.checked.digests import sealed
from train_lm.files import write_json

SETTINGS = Settings.of(steps=10, updates_per_step=2, batch=4, model="xxs", probes=3)


def curve(tokens: int = 1000, **more: float) -> Curve:
    known = {"tokens": [0, tokens], "loss": [4.0, 3.0], "topics": [1], "passages": [[1]]}
    return Curve(
        **known, test_before=4.0, test_after=3.0, noise_share=None, flops_per_token=6.0, **more
    )  # type: ignore[arg-type]


def test_episodes_cost_their_budget_and_a_look_at_reward_and_candidates() -> None:
    found = episodes_spent("episodes", 5, SETTINGS)
    assert found.tokens == 5 * SETTINGS.tokens_per_episode
    # 48 windows of `reward`, 3 candidates and the one that was chosen, after each of 10 steps.
    assert found.looked == 5 * 10 * (48 + 3 + 1) * SETTINGS.learner.context
    assert found.total(6.0) == 6.0 * (found.tokens + found.looked / 3)
    assert network_spent("net", 100, 50, 2).total(6.0) == 6 * 100 * 50 * 2
    with pytest.raises(ValueError, match="a cost of 0 or more"):
        Spent("x", tokens=-1)


def test_a_run_costs_what_was_counted_or_what_the_arm_says_if_that_is_more() -> None:
    plain_run = cost_of([curve(), curve()])
    assert plain_run.per_run == 6.0 * 1000
    looked = cost_of([curve(looked=300, trained=1000, worked=1000), curve(worked=3000, looked=0)])
    assert looked.per_run == 6.0 * (2000 + 150 / 3)
    assert cost_of([curve(extra_flops=50_000.0)]).per_run == 6000 + 50_000
    # Counted and charged are the same work, told twice.
    assert cost_of([curve(worked=3000, extra_flops=12_000.0)]).per_run == 18_000
    # What it spent on a model of its own was not counted; the game's looks were: they add up.
    looks = 48 * SETTINGS.learner.context
    own_model = curve(looked=looks + 30, trained=1000, worked=1000, extra_flops=50_000.0)
    assert cost_of([own_model], (), SETTINGS).per_run == 6.0 * (1000 + looks / 3) + 50_000
    assert cost_of([curve(looked=30, extra_flops=50_000.0)], (), SETTINGS).per_run == 56_060
    # Of an adapter's training the forward pass is a half.
    adapts = Settings.of(adapter="lora")
    spent = Spent("episodes", 2, 2000, 300)
    half = cost_of([curve(looked=300)], (spent,), adapts)
    assert half.per_run == 6.0 * (1000 + 300 / 2)
    assert half.once == 6.0 * (2000 + 300 / 2)
    searched = replace(plain_run, search=(Spent("episodes", 2, 2000, 300),))
    assert searched.once == 6.0 * 2100
    assert searched.amortised(1) == 6000 + 12_600
    assert searched.amortised(100) == 6000 + 126


def test_a_search_has_paid_when_what_is_saved_a_run_adds_up_to_it() -> None:
    reference = ArmCost(1000, 0, 1000, 0, 6.0)
    arm = replace(reference, search=(Spent("episodes", tokens=9000),))
    # The reference needs 0.9 of its 6,000 FLOPs; at twice the speed half of that is saved.
    found = break_even(arm, reference, Interval(2.0, 1.5, 3.0), 0.9)
    assert found.centre == pytest.approx(54_000 / (0.9 * 3000))
    assert found.low == pytest.approx(54_000 / (0.9 * 4000))
    assert found.high == pytest.approx(54_000 / (0.9 * 2000))
    # By brute force: the first run at which it has cost less.
    costs = [(54_000 + n * 0.9 * 3000, n * 0.9 * 6000) for n in range(1, 60)]
    first = next(n for n, (own, theirs) in enumerate(costs, 1) if own <= theirs)
    assert first == math.ceil(found.centre)
    never = break_even(arm, reference, Interval(1.2, 0.8, 1.5), 0.9)
    assert never.centre is not None
    assert never.high is None
    assert break_even(arm, reference, Interval(0.0, 0.0, 0.5), 0.9) == Interval(None, None, None)
    assert break_even(reference, reference, Interval(2.0, 1.5, 3.0), 0.9) is None
    assert paid_after(Bill(arm, found)) == ("20.0", "[15.0, 30.0]")
    assert paid_after(Bill(arm, never))[1].endswith("never]")
    assert paid_after(Bill(reference)) == ("\u2013", "")


def test_an_arm_that_looks_much_saves_less() -> None:
    reference = ArmCost(1000, 0, 1000, 0, 6.0)
    arm = replace(reference, looked=1500, search=(Spent("episodes", tokens=9000),))
    found = break_even(arm, reference, Interval(2.0, None, None), 1.0)
    assert found.centre == pytest.approx(54_000 / (6000 - 9000 / 2))


def policy(folder: Path, provenance: dict[str, object]) -> str:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=8)), provenance).save(folder)
    return str(folder)


def test_what_a_policy_cost_is_read_from_its_provenance(tmp_path: Path) -> None:
    entries = [Spent("cloning", flops=5.0), episodes_spent("episodes of PPO", 4, SETTINGS)]
    listed = {"made_by": "ppo", "spent": [one.to_json() for one in entries]}
    place = policy(tmp_path / "new", listed)
    assert spent_on(place) == tuple(entries)
    assert episodes_of(entries, SETTINGS.tokens_per_episode) == 4
    # One of before there was a list says how many episodes PPO had.
    old = {
        "made_by": "ppo",
        "ppo": {"iterations": 2, "episodes": 3},
        "settings": SETTINGS.to_json(),
    }
    assert search_of(old) == (episodes_spent("episodes of PPO", 6, SETTINGS),)
    assert search_of({"made_by": "cloning"}) == ()
    # Of several trainings, the mean: a run uses one of them.
    other = policy(
        tmp_path / "other", {"spent": [episodes_spent("episodes of PPO", 2, SETTINGS).to_json()]}
    )
    (cloned, played) = spent_on_all([place, other])
    assert (cloned.what, cloned.flops) == ("cloning", 2.5)
    assert played == episodes_spent("episodes of PPO", 3, SETTINGS)
    assert spent_on("uniform") == ()
    with pytest.raises(ValueError, match="an entry of what was spent"):
        Spent.from_json({"price": 3})


def test_who_borrows_a_taste_pays_for_it_and_for_a_policy_of_its_own(tmp_path: Path) -> None:
    ppo, taste = episodes_spent("episodes of PPO", 4, SETTINGS), Spent(TASTE, tokens=500)
    trained: dict[str, object] = {"spent": [ppo.to_json(), taste.to_json()]}
    network = CuriosityNetwork(CuriosityConfig(width=8))
    liked = Taste(((1.0,) * LEVELS,) * len(TRAITS), 0.5)
    CuriosityPolicy(network, trained, taste=liked).save(tmp_path / "trained")
    lender, file = tmp_path / "trained", tmp_path / "taste.json"
    assert spent_on(f"random+{lender}") == (taste,)
    assert spent_on(str(lender)) == (ppo, taste)
    cloned = policy(tmp_path / "cloned", {"spent": [Spent("cloning", flops=5.0).to_json()]})
    assert spent_on(f"{cloned}+{lender}") == (Spent("cloning", flops=5.0), taste)
    assert places_of(f"{cloned}+{lender}") == [Path(cloned), lender]
    write_json(file, sealed({"format": TASTE_FORMAT, "taste": liked.to_json(), "tokens": 61440}))
    assert spent_on(f"{cloned}+{file}") == (
        Spent("cloning", flops=5.0),
        Spent(TASTE, tokens=61440),
    )


def test_tokens_of_a_taste_are_those_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "taste.json"
    assert tokens_of_taste(file) == 0
    file.write_text('{"tokens": 61440}')
    assert tokens_of_taste(file) == 61440
    file.write_text('{"tokens": "many"}')
    assert tokens_of_taste(file) == 0


def told(names: list[str]) -> tuple[Summary, dict[str, Bill]]:
    runs: list[ArmRun] = []
    for k, name in enumerate(["uniform", *names]):
        family = "independent" if name == "uniform" else "control" if name == "yoked" else "learned"
        runs += [
            replace(run, family=family, learner_seed=run.seed)
            for run in arm_runs(name, [3.0 - 0.1 * k + 0.001 * (s * k % 3) for s in range(8)])
        ]
    summary = summarise(runs, subject=names[0], rng=np.random.default_rng(0), reps=50)
    cost = cost_of([curve()])
    return summary, {arm: Bill(cost) for arm in summary.arms}


def test_the_appendix_has_the_figures_of_the_summary(tmp_path: Path) -> None:
    summary, bills = told(["goal", "yoked"])
    bills["goal"] = Bill(
        replace(bills["goal"].cost, search=(Spent("episodes of PPO", 2, 2000),)),
        Interval(12.0, 8.0, None),
    )
    file = write_appendix(tmp_path / "report.md", summary, INFO, bills, "goal")
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[2].startswith("Estimate\\: goal does better than uniform")
    found = summary.arms["goal"]
    row = next(line for line in text.splitlines() if line.startswith("| `goal` |"))
    assert f"{found.test.centre:.4f} [{found.test.low:.4f}, {found.test.high:.4f}]" in row
    assert f"{found.difference.p:.2g}" in row
    assert "12.0 [8.0, never]" in text
    assert "### learned" in text
    assert "episodes of PPO" in text
    assert "it looks at nothing: one recorded list does as well" in text
    assert INFO.command in text
    widths = {
        line.count(" | ") for line in text.splitlines() if line.startswith("| `uniform` | 6.")
    }
    assert len(widths) <= 1


@pytest.mark.parametrize("title", TITLES)
def test_a_hostile_name_is_inert_in_the_appendix(title: str, tmp_path: Path) -> None:
    summary, bills = told([title])
    info = replace(INFO, world=title, command=title)
    text = write_appendix(tmp_path / "r.md", summary, info, bills, title).read_text(
        encoding="utf-8"
    )
    page = MarkdownIt("commonmark").enable("table").render(text)  # which lets markup through
    tags = set(re.findall(r"<([a-z0-9]+)", page))
    assert tags <= {"h1", "h2", "h3", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_a_code_span_cannot_be_ended_from_inside() -> None:
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("``` x") == "```` ``` x ````"
    assert code("a|b\nc") == "`a\u00a6b c`"
    assert plain("*a* [b](c) <d>") == r"\*a\* \[b\]\(c\) \<d\>"


def test_a_page_says_what_each_arm_cost() -> None:
    summary, bills = told(["goal"])
    page = costs_section(bills, looks_of(summary))
    assert "Where tokens went" in page
    assert page.count("<tr>") == 1 + len(bills)
    assert costs_section({}, {}) == ""

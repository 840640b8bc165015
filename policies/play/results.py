"""What an evaluation leaves: scores, curves, curricula and the report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kncl_env.forgetting import LossMatrix, figures
from kncl_env.knowledge.meter import KnowledgeCurve, together
from kncl_env.picture import positions, thinned_edges
from kncl_env.settings import Settings
from kncl_env.stage import seed_topics
from kncl_env.world.nucleation import NucleusReport
from kncl_env.world.world import World
from policies.play.curves import Curve
from policies.play.episodes import EpisodeRecord
from policies.play.plan import Cast, Plan, command_of
from policies.verdict.accounting import Bill, Spent, break_even, cost_of
from policies.verdict.appendix import write_appendix
from policies.verdict.figures import looks_of
from policies.verdict.growth_map import Growth
from policies.verdict.knowledge_section import knowledge_section
from policies.verdict.report import Beside, RunInfo, write_report
from policies.verdict.scores import ArmRun, summarise, tokens_to_reach
from policies.verdict.summary import CLUSTERS, HEADLINE, TEST, Summary
from train_lm.curriculum import write_curriculum
from train_lm.files import Json, replacing, write_json
from train_lm.plain_text import in_csv, in_file_name
from train_lm.provenance import commit, version

KEPT = ("accuracy", "backward_transfer", "forgetting", "learning_accuracy")


@dataclass(frozen=True)
class Played:
    """What an evaluation has played.

    Attributes:
        cast: The arms, controls aside.
        records: Of all episodes, those of controls as well.
        spent: What was spent once on each arm, by name.
        notes: What a reader has to know, one sentence each.
    """

    cast: Sequence[Cast]
    records: Sequence[EpisodeRecord[Curve]]
    spent: Mapping[str, tuple[Spent, ...]]
    notes: Sequence[str] = ()


def write_results(
    world: World, settings: Settings, plan: Plan, played: Played, out: Path
) -> Summary:
    """Write `scores.json`, `curves.csv`, `report.html`, `report.md` and the curricula; returns the
    summary.
    """
    records = played.records
    runs = _arm_runs(played)
    names = list(dict.fromkeys(record.arm for record in records))
    target_text = "target-text" if "target-text" in names else None
    rival = "random" if "random" in names else None
    summary = summarise(
        runs, "uniform", target_text, rival, subject=plan.subject, rng=np.random.default_rng(0)
    )
    summary = replace(summary, notes=(*summary.notes, *played.notes))
    costs = _costs(played, summary, settings)
    info = _run_info(world, settings, plan, records, out)
    write_json(
        out / "scores.json",
        {
            **summary.to_json(),
            "cost": {arm: cost.to_json() for arm, cost in costs.items()},
            "world": world.hash,
            "settings": settings.to_json(),
            "nucleus": _nucleus(world, settings).to_json(),
            "version": version(),
            "commit": info.commit,
            "command": info.command,
            **_memory_figures(records),
            **_knowledge_figures(known_links(records)),
        },
    )
    _write_curves(records, settings.tokens_per_step, out / "curves.csv")
    _write_curricula(world, settings, records, out / "curricula")
    known = knowledge_section(known_links(records), looks_of(summary), info.learner)
    beside = Beside(
        growth=_growth(world, settings, records),
        kept=_kept(records),
        costs=costs,
        sections=[known] if known else [],
    )
    write_report(out / "report.html", summary, runs, info, beside, subject=plan.subject)
    write_appendix(out / "report.md", summary, info, costs, subject=plan.subject)
    return summary


def _arm_runs(played: Played) -> list[ArmRun]:
    families = {one.name: one.family for one in played.cast}
    return [
        ArmRun(
            arm=record.arm,
            seed=record.seed,
            tokens=np.array(curve.tokens, dtype=float),
            loss=np.array(curve.loss),
            test_before=curve.test_before,
            test_after=curve.test_after,
            noise_share=float("nan") if curve.noise_share is None else curve.noise_share,
            family=(family := families.get(record.arm, "control")),
            training=record.digest if family == "learned" else "",
            learner_seed=record.learner_seed,
        )
        for record in played.records
        for curve in (record.measured,)
    ]


def _costs(played: Played, summary: Summary, settings: Settings) -> dict[str, Bill]:
    """What each arm costs, and after how many runs it has paid."""
    curves = {arm: [r.measured for r in played.records if r.arm == arm] for arm in summary.arms}
    found = {arm: cost_of(own, played.spent.get(arm, ()), settings) for arm, own in curves.items()}
    reference = found[summary.reference]
    needs = [
        tokens_to_reach(curve.tokens, curve.loss, curve.loss[-1]) / curve.tokens[-1]
        for curve in (r.measured for r in played.records if r.arm == summary.reference)
    ]
    share = float(np.mean(needs))
    return {
        arm: Bill(cost, break_even(cost, reference, summary.arms[arm].speed_up, share))
        for arm, cost in found.items()
    }


def _run_info(
    world: World,
    settings: Settings,
    plan: Plan,
    records: Sequence[EpisodeRecord[Curve]],
    out: Path,
) -> RunInfo:
    parameters = records[0].measured.flops_per_token / 6
    return RunInfo(
        world=f"{world.card['source']} ({_scenario(world)})",
        source=str(world.card["source"]),
        licence=str(world.card["licence"]),
        world_hash=world.hash,
        learner=f"{settings.learner.model} (Llama, {parameters:,.0f} parameters)",
        commit=commit(),
        curve_split="select",
        command=command_of(world, settings, plan, out),
        details={
            "Learners": f"{plan.inits} initial learner(s); seeds vary slots and the order of text",
            **({"Trainings": trainings} if (trainings := _trainings(plan)) else {}),
            "Curves": plan.meter_in(settings).told(settings.rules.steps),
            "Measured by": f"{TEST}; {CLUSTERS}. Headline: {HEADLINE}",
            "Citation": str(world.card["citation"]) or "none asked for",
            "Nucleus": "; ".join(_nucleus(world, settings).lines()),
            "Settings": ", ".join(f"{k}={v}" for k, v in settings.to_json().items()),
        },
    )


def _trainings(plan: Plan) -> str:
    return "; ".join(f"{name}: {', '.join(places)}" for name, places in plan.trainings.items())


def _nucleus(world: World, settings: Settings) -> NucleusReport:
    return NucleusReport.of(world, seed_topics(world, settings))


def _write_curves(
    records: Sequence[EpisodeRecord[Curve]], tokens_per_step: int, file: Path
) -> None:
    """A row per step; the loss is empty where it was not measured."""
    with replacing(file) as part, part.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["arm", "seed", "step", "tokens", "select_bits_per_byte", "topic"])
        for record in records:
            curve = record.measured
            losses = dict(zip(curve.tokens, curve.loss, strict=True))
            for step, topic in enumerate([-1, *curve.topics]):
                tokens = step * tokens_per_step
                row = [step, tokens, losses.get(tokens, ""), topic]
                writer.writerow([in_csv(record.arm), record.seed, *row])


def _write_curricula(
    world: World, settings: Settings, records: Sequence[EpisodeRecord[Curve]], folder: Path
) -> None:
    """What each episode read, in order: what `train-lm run` trains a larger model on."""
    folder.mkdir(exist_ok=True)
    for record in records:
        file = folder / f"{in_file_name(record.arm)}-{record.seed}.jsonl"
        curve = record.measured
        write_curriculum(file, world.hash, settings.tokens_per_step, curve.topics, curve.passages)


def _kept(records: Sequence[EpisodeRecord[Curve]]) -> dict[str, LossMatrix]:
    """What became of watched topics in the first seed's episode of every arm, if any was."""
    first = min(record.seed for record in records)
    found = {r.arm: r.measured.kept for r in records if r.seed == first}
    return {arm: matrix for arm, matrix in found.items() if matrix is not None}


def _memory_figures(records: Sequence[EpisodeRecord[Curve]]) -> Json:
    """Of each episode with watched topics, by arm, in the order of the seeds [bits per byte]."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record.measured.kept is not None:
            told = figures(record.measured.kept)
            own = found.setdefault(record.arm, {name: [] for name in KEPT})
            for name in KEPT:
                own[name].append(told[name])
    return {"kept": found} if found else {}


def _growth(world: World, settings: Settings, records: Sequence[EpisodeRecord[Curve]]) -> Growth:
    """The first seed's episode of every arm that grew a nucleus."""
    first = min(record.seed for record in records)
    expansions = {
        record.arm: [t for t in record.measured.topics if t >= 0]
        for record in records
        if record.seed == first and any(t >= 0 for t in record.measured.topics)
    }
    focused = settings.region is not None or world.target_region is not None
    return Growth(
        positions=positions(world.topic_vectors),
        nucleus=seed_topics(world, settings).tolist(),
        expansions=expansions,
        target=world.target_topics(settings.region).tolist() if focused else (),
        edges=thinned_edges(world.graph, 1500),
        titles=world.titles,
    )


def _scenario(world: World) -> str:
    scenario = world.card["scenario"]
    name = str(scenario["name"])
    return f"{name}: {scenario['region']}" if scenario["region"] else name


def known_links(records: Sequence[EpisodeRecord[Curve]]) -> dict[str, KnowledgeCurve]:
    """Which links the learners of each arm knew, all seeds together; none where none was asked."""
    found: dict[str, list[KnowledgeCurve]] = {}
    for record in records:
        if record.measured.knowledge is not None:
            found.setdefault(record.arm, []).append(record.measured.knowledge)
    return {arm: together(curves) for arm, curves in found.items()}


def _knowledge_figures(known: Mapping[str, KnowledgeCurve]) -> Json:
    """Of each arm, at each moment: what of the links in question its learners knew."""
    found = {
        arm: {
            "tokens": curve.tokens,
            "chance": curve.chance,
            "moments": [ranks.figures(curve.clusters).to_json() for ranks in curve.ranks],
        }
        for arm, curve in known.items()
    }
    return {"knowledge": found} if found else {}

"""What a stream, or neighbourhoods side by side, leave beside their journal: scores, a page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.stream.cells import StreamRecord
from policies.stream.course import SPLIT, Layout, learner_of
from policies.stream.page import write_page
from policies.stream.parallel_page import (
    ParallelSummary,
    summarise_parallel,
    write_parallel_page,
)
from policies.stream.parallel_run import COMMAND as NEIGHBOURHOODS
from policies.stream.parallel_run import ParallelPlan, Played
from policies.stream.runs import COMMAND as STREAM
from policies.stream.runs import StreamPlan
from policies.stream.scores import StreamSummary, summarise
from train_lm.command_line import by_comma
from train_lm.files import Json, replacing, write_json
from train_lm.plain_text import in_csv
from train_lm.provenance import commit, version


def write_results(
    world: World,
    settings: Settings,
    layout: Layout,
    plan: StreamPlan,
    records: Sequence[StreamRecord],
    out: Path,
) -> StreamSummary:
    """Write `scores.json`, `matrices.csv` and `report.html`; returns the summary.

    The first two are the same bytes for the same cells; the page tells the speed, too.
    """
    summary = summarise(records)
    own = ["--methods", by_comma(plan.methods), "--rates", str(plan.rates)]
    command = _command(f"{STREAM} --world", world, layout, settings, [*own, *_of_plan(plan, out)])
    write_json(
        out / "scores.json", {**summary.to_json(), **_about(world, settings, layout, command)}
    )
    _write_matrices(records, out / "matrices.csv")
    names, tokens = records[0].names, records[0].cost.tokens
    origin = {
        **_origin(world, settings, layout, names, command),
        "Tokens per cell": f"{tokens:,} in {len(names)} stages",
        "Seeds": ", ".join(map(str, summary.seeds)),
    }
    write_page(out / "report.html", summary, records, origin)
    return summary


def write_parallel_results(
    world: World,
    settings: Settings,
    layout: Layout,
    plan: ParallelPlan,
    found: Played,
    out: Path,
) -> ParallelSummary:
    """Write `scores.json` and `report.html`, and `speed.json` where it was measured.

    Scores are the same bytes for the same tasks; the speed is the machine's.
    """
    summary = summarise_parallel(found)
    own = ["--rank", str(plan.rank)] if plan.rank != ParallelPlan.rank else []
    own += ["--processes", str(plan.hands.processes)] + (["--timed"] if plan.timed else [])
    command = _command(
        f"{NEIGHBOURHOODS} --world", world, layout, settings, [*own, *_of_plan(plan, out)]
    )
    about = _about(world, settings, layout, command)
    write_json(out / "scores.json", {**summary.to_json(), **about})
    if found.speed is not None:
        speed = {**asdict(found.speed), "speed_up": found.speed.speed_up}
        write_json(out / "speed.json", speed)
    names = found.together[0].names
    origin = _origin(world, settings, layout, names, command)
    write_parallel_page(out / "report.html", summary, found.speed, origin)
    return summary


def _about(world: World, settings: Settings, layout: Layout, command: str) -> Json:
    return {
        "world": world.hash,
        "learner": learner_of(settings),
        "layout": layout.to_json(),
        "version": version(),
        "commit": commit(),
        "command": command,
    }


def _origin(
    world: World, settings: Settings, layout: Layout, names: Sequence[str], command: str
) -> dict[str, str]:
    learner, nucleus = settings.learner, settings.nucleus
    return {
        "World": f"{world.card['source']}, {world.hash}",
        "Text": str(world.card["source"]),
        "Licence of the text": str(world.card["licence"]),
        "Learner": f"{learner.model}, {nucleus.updates} updates of nucleus phase",
        "Neighbourhoods": ", ".join(sorted(names)),
        "Measured on": f"{layout.windows} windows of {SPLIT} text per neighbourhood",
        "Commit": commit(),
        "Command": command,
    }


def _of_plan(plan: StreamPlan | ParallelPlan, out: Path) -> list[str]:
    rate = [] if plan.rate is None else ["--rate", str(plan.rate)]
    return ["--seeds", str(plan.seeds), *rate, "--out", str(out)]


def _command(
    begin: str, world: World, layout: Layout, settings: Settings, own: Sequence[str]
) -> str:
    """What to type to play it again."""
    parts = str(layout.parts) if isinstance(layout.parts, int) else by_comma(layout.parts)
    words = [*begin.split(), str(world.path), "--neighbourhoods", parts, *own]
    for name, option in (("size", "size"), ("updates", "stage-updates"), ("windows", "windows")):
        if getattr(layout, name) != getattr(Layout, name):
            words += [f"--{option}", str(getattr(layout, name))]
    usual = learner_of(Settings())
    for name, value in learner_of(settings).items():
        if value != usual[name]:
            listed = by_comma(value) if isinstance(value, list) else str(value)
            words += [f"--{name.replace('_', '-')}", listed]
    return shlex.join(words)


def _write_matrices(records: Sequence[StreamRecord], file: Path) -> None:
    with replacing(file) as part, part.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "rate", "seed", "stage", "neighbourhood", "bits_per_byte"])
        for record in records:
            names = [*record.names, "(nucleus)"]
            for stage, row in enumerate(record.losses):
                for name, loss in zip(names, row, strict=True):
                    who = [in_csv(record.method), record.rate, record.seed]
                    writer.writerow([*who, stage, in_csv(name), float(loss)])

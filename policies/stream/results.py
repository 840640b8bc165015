"""What a stream leaves beside its journal: scores, matrices and the page."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.stream.cells import StreamRecord
from policies.stream.course import SPLIT, Layout
from policies.stream.page import write_page
from policies.stream.runs import COMMAND, StreamPlan
from policies.stream.scores import StreamSummary, summarise
from train_lm.command_line import by_comma
from train_lm.files import replacing, write_json
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
    command = command_of(world, settings, layout, plan, out)
    write_json(
        out / "scores.json",
        {
            **summary.to_json(),
            "world": world.hash,
            "settings": settings.to_json(),
            "layout": layout.to_json(),
            "version": version(),
            "commit": commit(),
            "command": command,
        },
    )
    _write_matrices(records, out / "matrices.csv")
    cost = records[0].cost
    origin = {
        "World": f"{world.card['source']}, {world.hash}",
        "Text": str(world.card["source"]),
        "Licence of the text": str(world.card["licence"]),
        "Learner": f"{settings.learner.model}, {settings.nucleus.updates} updates of nucleus phase",
        "Neighbourhoods": ", ".join(sorted(records[0].names)),
        "Tokens per cell": f"{cost.tokens:,} in {len(records[0].names)} stages",
        "Measured on": f"{layout.windows} windows of {SPLIT} text per neighbourhood",
        "Seeds": ", ".join(map(str, summary.seeds)),
        "Commit": commit(),
        "Command": command,
    }
    write_page(out / "report.html", summary, records, origin)
    return summary


def command_of(
    world: World, settings: Settings, layout: Layout, plan: StreamPlan, out: Path
) -> str:
    """What to type to play it again."""
    parts = str(layout.parts) if isinstance(layout.parts, int) else by_comma(layout.parts)
    words = [*COMMAND.split(), "--world", str(world.path), "--neighbourhoods", parts]
    words += ["--methods", by_comma(plan.methods), "--rates", str(plan.rates)]
    words += ["--seeds", str(plan.seeds), "--out", str(out)]
    if plan.rate is not None:
        words += ["--rate", str(plan.rate)]
    for name, option in (("size", "size"), ("updates", "stage-updates"), ("windows", "windows")):
        if getattr(layout, name) != getattr(Layout, name):
            words += [f"--{option}", str(getattr(layout, name))]
    usual = Settings().to_json()
    for name, value in settings.to_json().items():
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

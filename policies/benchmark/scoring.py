"""From what an evaluation found to the score of a cell."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np

from kncl_env.world.world import World
from policies.benchmark.cells import Cell
from policies.benchmark.standings import placing
from policies.benchmark.stored import ArmFigures, Duel, Score, Span
from policies.play.curves import Curve
from policies.play.episodes import EpisodeRecord
from policies.verdict.summary import Contest, Interval, Summary
from train_lm.checked.records import Fields
from train_lm.command_line import by_comma
from train_lm.files import Json, read_json
from train_lm.provenance import commit, version


@dataclass(frozen=True)
class Found:
    """What an evaluation found.

    Attributes:
        summary: Of all arms.
        records: Of all episodes.
        scores: The file that it wrote, which has the costs.
        told: Sentences that a reader has to know beside the summary's.
    """

    summary: Summary
    records: Sequence[EpisodeRecord[Curve]]
    scores: Path
    told: Sequence[str] = ()


def score_of(cell: Cell, identity: str, world: World, found: Found) -> Score:
    """The score; the same bytes for the same episodes."""
    summary = found.summary
    costs = Fields.of(read_json(found.scores), found.scores).inner("cost")
    arms = {arm: _figures(found, arm, costs.inner(arm)) for arm in summary.arms}
    tests = {arm: own.test for arm, own in arms.items()}
    families = {arm: own.family for arm, own in arms.items()}
    standing = summary.standing
    return Score(
        cell=cell.to_json(),
        identity=identity,
        world={
            "hash": world.hash,
            "source": str(world.card["source"]),
            "licence": str(world.card["licence"]),
            "build": cell.recipe.command,
            "counts": world.card["counts"],
        },
        made_by=made_by(cell),
        moments=tuple(float(x) for x in _longest([r.measured for r in found.records])[0].tokens),
        arms=arms,
        placing=placing(tests, families, _trainings(found)),
        duels=tuple(_duel(one.against, one.contest) for one in summary.comparisons),
        controls=tuple(_duel(one.rival, one) for one in summary.controls),
        lacks=() if standing is None or cell.subject is None else standing.lacks,
        notes=(*summary.notes, *found.told),
    )


def made_by(cell: Cell) -> Json:
    """Command, commit, versions and machine."""
    import torch

    data = ["--data", "DATA"] if cell.recipe.needs_data else []
    words = ["kncl-policy", "benchmark", "--cells", by_comma([cell.name]), *data, "--out", "DIR"]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "command": " ".join(words),
        "commit": commit(),
        "version": version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": version_of("torch"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {card}, {sys.platform}",
    }


def _figures(found: Found, arm: str, cost: Fields) -> ArmFigures:
    own = found.summary.arms[arm]
    records = sorted((r for r in found.records if r.arm == arm), key=lambda r: r.seed)
    whole = _longest([record.measured for record in records])
    difference = own.difference
    return ArmFigures(
        family=own.family,
        digest=",".join(dict.fromkeys(record.digest for record in records)),
        trainings=own.trainings,
        test=own.test.values,
        curve=tuple(float(x) for x in np.mean([curve.loss for curve in whole], axis=0)),
        tokens=float(np.mean(own.tokens)),
        per_run=cost.number("flops_per_run", 0),
        once=cost.number("flops_once", 0),
        loss=_needed(own.test),
        speed_up=_span(own.speed_up),
        difference=None if difference is None else _span(difference.mean),
        p=None if difference is None else difference.p,
        verdict=own.verdict,
    )


def _trainings(found: Found) -> dict[str, list[str]]:
    """Which training of a learned policy played each seed."""
    told: dict[str, list[str]] = {}
    for record in sorted(found.records, key=lambda r: r.seed):
        if found.summary.arms[record.arm].family == "learned":
            told.setdefault(record.arm, []).append(record.digest)
    return told


def _longest(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of whole episodes: one that ended early was measured at other moments."""
    length = max(len(curve.loss) for curve in curves)
    return [curve for curve in curves if len(curve.loss) == length]


def _duel(against: str, contest: Contest) -> Duel:
    gap = contest.difference
    return Duel(against, contest.rival, _needed(gap.mean), gap.p, contest.verdict)


def _span(found: Interval) -> Span | None:
    return None if found.centre is None else (found.centre, found.low, found.high)


def _needed(found: Interval) -> Span:
    span = _span(found)
    assert span is not None, "every arm has a loss"
    return span

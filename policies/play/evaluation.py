"""Plays arms against each other: same start, same budget, same schedule, paired seeds.

The `test` split is read here and nowhere else. Every finished episode is a line of a journal, so
an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.passage_traits import TRAITS_VERSION
from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.vector import worth_compiling
from kncl_env.world.world import World
from policies.arms.baselines import check_target_text
from policies.arms.registry import check_arms
from policies.play.curves import Curve
from policies.play.episodes import EpisodeRecord, EpisodeTask, play_all
from policies.play.journal import Journal
from policies.play.plan import Plan
from policies.play.results import write_results
from policies.play.seeds import EVALUATION
from policies.verdict.summary import TEST, Summary
from train_lm.checked.records import Fields
from train_lm.checkpoint import claim_run
from train_lm.files import read_json
from train_lm.outputs import alone

COMMAND = "kncl-policy evaluate"
FORMAT = "kncl-evaluation"


def evaluate(
    world: World,
    settings: Settings,
    plan: Plan,
    out: Path,
    on_episode: Callable[[EpisodeRecord[Curve]], None] = lambda _: None,
) -> Summary:
    """Evaluate arms; write `scores.json`, `curves.csv`, `report.html` and what each episode read.

    Args:
        settings: The same for all arms.
        on_episode: Told each record as it is finished.

    Raises:
        ValueError: An unknown arm, no `uniform`, or `out` holds an evaluation with other settings,
            or with arms or seeds that this one would leave out.
    """
    arms = check_arms(plan.arms)
    names = [arm.name for arm in arms]
    check_target_text(names, world)
    check_nothing_lost(out, names, plan.seeds)
    rules = settings.rules
    updates = len(arms) * plan.seeds * rules.steps * rules.updates_per_step
    # As it began: the last digits depend on it.
    config = out / "config.json"
    begun = Fields.of(read_json(config) if config.is_file() else {}, config)
    compiled = begun.flag("compiled") if "compiled" in begun else worth_compiling(updates)
    versions = {"nucleus": NUCLEUS_VERSION, "windows": MEASURED_WINDOWS, "traits": TRAITS_VERSION}
    run = {"world": world.hash, "settings": settings.to_json(), "inits": plan.inits}
    run |= {"versions": versions, "compiled": compiled, "curve": plan.meter.to_json()}
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        # What will count is fixed before the first episode.
        claimed, usual = {**run, "primary": TEST}, {"settings": Settings().to_json()}
        claim_run(out, claimed, defaults={**usual, "primary": TEST}, made_by=COMMAND)
        journal = Journal(out / "episodes.jsonl", {"format": FORMAT, **run})
        records = play_all(
            world,
            _tasks(world, settings, plan),
            journal,
            learners=plan.learners,
            compile=compiled,
            hands=plan.hands,
            on_record=on_episode,
        )
        records.sort(key=lambda r: (names.index(r.arm), r.seed))
        return write_results(world, settings, plan, records, out)


def check_nothing_lost(out: Path, names: Sequence[str], seeds: int) -> None:
    """Raises: ValueError where a report in `out` has arms or seeds that a new one would not."""
    if not (out / "scores.json").is_file():
        return
    file = out / "scores.json"
    found = Fields.of(read_json(file), file, "name another --out, or add --force to begin again")
    arms, before = list(found.inner("arms")), len(found.wholes("seeds"))
    if before > seeds or not set(arms) <= set(names):
        raise ValueError(
            f"expected all that the report in {out} is about, {before} seeds of "
            f"{', '.join(arms)}, got {seeds} seeds of {', '.join(names)}: name them too, "
            "name another --out, or add --force to begin again"
        )


def _tasks(world: World, settings: Settings, plan: Plan) -> list[EpisodeTask[Curve]]:
    """Initial learner by initial learner, as a bank is built for one; within, seed by seed, so that
    a stopped evaluation has whole rows of arms to compare."""
    seeds = sorted(EVALUATION(plan.seeds), key=lambda seed: (seed % plan.inits, seed))
    first = settings.learner.seed
    return [
        EpisodeTask(
            world=str(world.path),
            settings=settings.with_learner_seed(first + seed % plan.inits),
            arm=arm,
            seed=seed,
            choices=EVALUATION.choices,
            meter=plan.meter,
        )
        for seed in seeds
        for arm in plan.arms
    ]

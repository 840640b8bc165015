"""Plays arms against each other: same start, same budget, same schedule, paired seeds.

The `test` split is read here and nowhere else. Every finished episode is a line of a journal, so
an interrupted evaluation goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.passage_traits import TRAITS_VERSION
from kncl_env.settings import Settings
from kncl_env.stage import NUCLEUS_VERSION
from kncl_env.vector import worth_compiling
from kncl_env.world.world import World
from policies.arms.baselines import check_target_text
from policies.play.controls import (
    SEARCH_FORMAT,
    SEARCHED,
    Searched,
    Subject,
    made_of,
    possible,
    random_curricula,
)
from policies.play.curves import Curve
from policies.play.episodes import EpisodeRecord, EpisodeTask, Made, play_all
from policies.play.journal import Journal
from policies.play.plan import Cast, Plan
from policies.play.results import Played, write_results
from policies.play.seeds import EVALUATION
from policies.play.spending import episodes_of, spent_on_all
from policies.verdict.accounting import Spent, episodes_spent
from policies.verdict.summary import COMPARISONS, HEADLINE, TEST, Summary
from train_lm.checked.records import Fields
from train_lm.checkpoint import claim_run
from train_lm.files import Json, read_json
from train_lm.outputs import alone
from train_lm.plain_text import counted

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
        ValueError: An unknown arm, no `uniform`, an arm that cheated, or `out` holds an evaluation
            with other settings or another subject, or with arms or seeds that this one would leave
            out.
    """
    cast = plan.cast()
    names = [one.name for one in cast]
    check_target_text(names, world)
    check_nothing_lost(out, [*names, *plan.controls], plan.seeds)
    rules = settings.rules
    updates = len(cast) * plan.seeds * rules.steps * rules.updates_per_step
    # As it began: the last digits depend on it.
    config = out / "config.json"
    begun = Fields.of(read_json(config) if config.is_file() else {}, config)
    compiled = begun.flag("compiled") if "compiled" in begun else worth_compiling(updates)
    versions = {"nucleus": NUCLEUS_VERSION, "windows": MEASURED_WINDOWS, "traits": TRAITS_VERSION}
    run = {"world": world.hash, "settings": settings.to_json(), "inits": plan.inits}
    run |= {"versions": versions, "compiled": compiled, "curve": plan.meter_in(settings).to_json()}
    with alone(out) as hold:
        hold.begin_run(COMMAND, force=False)
        # What will count is fixed before the first episode.
        named = {"primary": TEST, "comparisons": COMPARISONS, "headline": HEADLINE}
        subject, late = _named_subject(begun, plan.subject)
        claimed = {**run, **named, "subject": subject}
        defaults = {"settings": Settings().to_json(), **named, "subject": subject}
        claim_run(out, claimed, defaults=defaults, made_by=COMMAND)
        journal = Journal(out / "episodes.jsonl", {"format": FORMAT, **run})

        game = _Game(world, settings, plan, journal, compiled, on_episode)
        records = game.play(_tasks(world, settings, plan, cast))
        check_fair(records, settings)
        notes = [late] if late else []
        spent = {one.name: spent_on_all(one.specs) for one in cast}
        if plan.controls:
            more, told, once = _play_controls(game, cast, records)
            check_fair([*records, *more], settings)
            records, notes = records + more, notes + told
            spent |= {name: (one,) for name, one in once.items()}
        order = [*(one.name for one in cast), *plan.controls]
        records.sort(key=lambda r: (order.index(r.arm), r.seed))
        return write_results(world, settings, plan, Played(cast, records, spent, notes), out)


@dataclass(frozen=True)
class _Game:
    """What all episodes of an evaluation share."""

    world: World
    settings: Settings
    plan: Plan
    journal: Journal
    compiled: bool
    on_episode: Callable[[EpisodeRecord[Curve]], None]

    def play(self, tasks: list[EpisodeTask[Curve]]) -> list[EpisodeRecord[Curve]]:
        return play_all(
            self.world,
            tasks,
            self.journal,
            learners=self.plan.learners,
            compile=self.compiled,
            hands=self.plan.hands,
            on_record=self.on_episode,
        )

    def search(self, tasks: list[EpisodeTask[Searched]]) -> list[EpisodeRecord[Searched]]:
        """Random curricula have a journal of their own: they are no arm's."""
        header: Json = {"format": SEARCH_FORMAT, "world": self.world.hash}
        header |= {"settings": self.settings.to_json()}
        return play_all(
            self.world,
            tasks,
            Journal(self.journal.file.with_name(SEARCHED), header),
            learners=self.plan.learners,
            compile=self.compiled,
            hands=self.plan.hands,
        )


def _named_subject(begun: Fields, subject: str | None) -> tuple[str | None, str]:
    """The subject that an evaluation began with, and what a reader has to know of it.

    Raises:
        ValueError: It began with another one.
    """
    if "subject" not in begun:  # it begins here, or is of before a subject was kept
        return subject, ""
    first = begun.or_none("subject", begun.text)
    if first is not None and subject != first:
        raise ValueError(
            f"expected the subject that {begun.place} names, {first}, got {subject}: what an "
            "evaluation is about is fixed before its first episode; name it with --subject, or "
            "name another --out"
        )
    if first is None and subject is not None:
        return None, f"{subject} was named as the subject after the first episodes were played"
    return first, ""


def check_fair(records: Sequence[EpisodeRecord[Curve]], settings: Settings) -> None:
    """Raises: ValueError where an arm trained another budget than its record says, or began with
    other weights than the others of its seed.
    """
    starts: dict[tuple[int, int], tuple[str, str]] = {}
    for record in records:
        who, curve = f"{record.arm}, seed {record.seed}", record.measured
        budget = settings.tokens_per_episode
        spent = curve.trained or curve.tokens[-1]
        if spent > budget or spent != curve.tokens[-1]:
            raise ValueError(
                f"expected {who} to train the {min(budget, curve.tokens[-1]):,} tokens of its "
                f"steps, of a budget of {budget:,}, got {spent:,}: it trained beside its budget"
            )
        if not curve.start:
            continue
        first = starts.setdefault((record.seed, record.learner_seed), (curve.start, record.arm))
        if first[0] != curve.start:
            raise ValueError(
                f"expected {who} to begin with the weights that {first[1]} began with, got others "
                f"({curve.start[:8]}, not {first[0][:8]}): arms must share their initialisation"
            )


def _play_controls(
    game: _Game, cast: Sequence[Cast], records: Sequence[EpisodeRecord[Curve]]
) -> tuple[list[EpisodeRecord[Curve]], list[str], dict[str, Spent]]:
    """The controls that the subject can have: their records, a sentence for each that it cannot
    have, and what was spent once on the others."""
    plan, settings = game.plan, game.settings
    whose = next(one for one in cast if one.name == plan.subject)
    searched = episodes_of(spent_on_all(whose.specs), settings.tokens_per_episode)
    subject = Subject(whose.name, whose.specs, min(plan.searched, searched))
    names, notes = possible(plan.controls, subject, settings, plan.seeds)
    if "equal-search" in names and searched > plan.searched:
        notes.append(
            f"equal-search tried {plan.searched} random curricula, not the {searched} episodes "
            f"that training {subject.name} took"
        )
    own = {record.seed: record for record in records if record.arm == subject.name}
    seeds = sorted(own)
    store = game.world.windows(settings.learner.context)
    topic_of_window = game.world.passage_topic[store.document]
    made: dict[tuple[str, int], Made] = {}
    spent: dict[str, Spent] = {}
    for name in names:
        best: Sequence[int] = ()
        if name == "equal-search":
            n = subject.searched
            tried = game.search(random_curricula(game.world, settings, n))
            best = min((one.measured for one in tried), key=lambda found: found.loss).topics
            spent[name] = episodes_spent("random curricula", n, settings)
        found = made_of(name, subject, [own[seed] for seed in seeds], topic_of_window, best)
        made |= {(name, seed): one for seed, one in zip(seeds, found, strict=True)}
    tasks = [
        _task(game.world, settings, plan, seed, whose, made[name, seed])
        # What plays on another stage comes last: its learners are another bank.
        for place in sorted({one.place for one in made.values()})
        for seed in _seeds(plan)
        for name in names
        if made[name, seed].place == place
    ]
    return game.play(tasks), notes, spent


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
            f"{', '.join(arms)}, got {counted(seeds, 'seed')} of {', '.join(names)}: name them "
            "too, name another --out, or add --force to begin again"
        )


def _tasks(
    world: World, settings: Settings, plan: Plan, cast: Sequence[Cast]
) -> list[EpisodeTask[Curve]]:
    """Initial learner by initial learner, as a bank is built for one; within, seed by seed, so that
    a stopped evaluation has whole rows of arms to compare."""
    return [_task(world, settings, plan, seed, one) for seed in _seeds(plan) for one in cast]


def _seeds(plan: Plan) -> list[int]:
    return sorted(EVALUATION(plan.seeds), key=lambda seed: (seed % plan.inits, seed))


def _task(
    world: World, settings: Settings, plan: Plan, seed: int, one: Cast, made: Made | None = None
) -> EpisodeTask[Curve]:
    # Controls are made of what their subject read.
    keeps = bool(plan.controls) and one.name == plan.subject and made is None
    return EpisodeTask(
        world=str(world.path),
        settings=settings.with_learner_seed(settings.learner.seed + seed % plan.inits),
        arm=one.spec(seed),
        seed=seed,
        choices=EVALUATION.choices,
        meter=replace(plan.meter_in(settings), keep_read=keeps),
        name="" if made is not None else one.name,
        made=made,
    )

"""`kncl-env knowledge`: asks a model what it knows of a world. Parses and prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kncl_env.settings import OPTIONS, Settings
from train_lm.command_line import Verbs, comma_separated, say, say_lines
from train_lm.outputs import MADE_BY, alone, holds_json

if TYPE_CHECKING:
    from kncl_env.knowledge.facts import FactProbe
    from kncl_env.knowledge.links import Encode
    from kncl_env.knowledge.reading import Asked
    from kncl_env.knowledge.report import KnowledgeReport
    from kncl_env.world.world import World

COMMAND = "kncl-env knowledge"
TABLE, GRAPH = "knowledge.json", "links.graphml"
READ = ("learner", "nucleus")  # groups of settings that a nucleated learner depends on


def knowledge_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "knowledge",
        help="which links of a world a model knows",
        description="Ask a model which of ten titles stands in held-out text, where the text names "
        "a topic that its own topic links to; in a generated world, ask for its facts as well. "
        "Prints accuracies with intervals, by distance from the nucleus.",
        epilog="Example: kncl-env knowledge worlds/wiki --model runs/larger/model --out runs/known",
    )
    verb.add_argument("world", type=Path, metavar="WORLD", help="a world directory")
    verb.add_argument(
        "--model",
        default=OPTIONS["model"].default,
        metavar="NAME",
        help="a preset, untrained; a model directory; a hub id (default: %(default)s)",
    )
    verb.add_argument(
        "--nucleated",
        action="store_true",
        help="a preset after its nucleus phase, as an episode begins with it (default: untrained)",
    )
    what = verb.add_argument_group("what is asked")
    what.add_argument(
        "--split",
        default="select",
        metavar="SPLIT",
        help="held-out text that is read: reward, select or test (default: %(default)s)",
    )
    for name, default, about in (
        ("items", 400, "links in question, at most"),
        ("others", 9, "titles beside the right one"),
        ("context", 48, "text before a title, at most [tokens]"),
        ("seed", 0, "seed of the draw of links and titles"),
    ):
        what.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{about} (%(default)s)"
        )
    verb.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder for {TABLE}, with every link, and {GRAPH} (default: only print)",
    )
    verb.add_argument(
        "--force", action="store_true", help="replace what this command wrote (default: refuse)"
    )
    learner = verb.add_argument_group("the learner (its seed counts of a fresh preset, too)")
    for name, option in OPTIONS.items():
        if option.group in READ and name != "model":
            listed = isinstance(option.default, tuple)
            kind: Any = comma_separated if listed else type(option.default)
            learner.add_argument(
                f"--{name.replace('_', '-')}",
                type=kind,
                metavar="A,B" if listed else "VALUE",
                help=f"{option.help} ({option.default or 'none'})",
            )
    verb.set_defaults(action=_knowledge)


def _knowledge(args: argparse.Namespace) -> int:
    from contextlib import nullcontext

    from kncl_env.world.world import World
    from train_lm.model import hide_library_bars

    hide_library_bars()
    settings = _settings(args)
    with nullcontext() if args.out is None else alone(args.out) as hold:
        if hold is not None:
            hold.begin_anew(args.force, _is_table, [args.world, Path(args.model)])
        world = World.open(args.world)
        report = _asked_of(args, world, settings)
        if args.out is not None:
            _write(args, world, report)
    return 0


def _is_table(place: Path) -> bool:
    # What somebody else made may have these names, too.
    ours = place.is_dir() and holds_json(place / TABLE, **{MADE_BY: COMMAND})
    return ours and {file.name for file in place.iterdir()} == {TABLE, GRAPH}


def _asked_of(args: argparse.Namespace, world: World, settings: Settings) -> KnowledgeReport:
    """Draw the questions, ask them, print what came."""
    from kncl_env.knowledge.cloze import LinkCloze, hops_of
    from kncl_env.knowledge.report import KnowledgeReport
    from kncl_env.stage import seed_topics

    cloze = LinkCloze.of(world, args.split, args.items, args.others, args.seed)
    asked = _asked(args, world, settings)
    hops = hops_of(world, seed_topics(world, settings), cloze.sources, cloze.topics[:, 0])
    facts = _facts(world, asked.encode)
    report = KnowledgeReport.of(asked, cloze, hops, args.context, facts)
    say(
        f"{len(cloze):,} links of {len({*cloze.sources.tolist()}):,} topics in split {args.split}; "
        f"{args.model}{', nucleated' if args.nucleated else ''}"
    )
    say_lines("\n".join(report.lines()))
    return report


def _settings(args: argparse.Namespace) -> Settings:
    from train_lm.model import PRESETS

    given = {n: getattr(args, n) for n, o in OPTIONS.items() if o.group in READ and n != "model"}
    if args.model in PRESETS:
        given["model"] = args.model
    elif args.nucleated:
        raise ValueError(
            f"expected a preset to nucleate ({', '.join(PRESETS)}), got {args.model}: leave out "
            "--nucleated"
        )
    # Nothing is expanded, so a nucleus with a small frontier is as good as any.
    asked = {name: value for name, value in given.items() if value is not None}
    return Settings.of(slots=1, **asked)


def _asked(args: argparse.Namespace, world: World, settings: Settings) -> Asked:
    from kncl_env.knowledge.reading import learner_model, named_model
    from kncl_env.stage import open_stage

    if not args.nucleated:
        return named_model(args.model, world, settings.learner.seed)
    stage = open_stage(world, settings)
    learner = stage.learner()
    learner.begin(settings.tokens_per_episode)
    return learner_model(stage, learner)


def _facts(world: World, encode: Encode) -> FactProbe | None:
    """The facts of a generated world that was built to be asked; None of others."""
    if world.card["source"] != "synthetic" or not world.card["source_counts"].get("unread"):
        return None
    from kncl_env.knowledge.facts import FactProbe, questions_of, truth_of

    return FactProbe(questions_of(*truth_of(world)), encode)


def _write(args: argparse.Namespace, world: World, report: KnowledgeReport) -> None:
    from kncl_env.knowledge.export import write_graphml
    from train_lm.files import replacing_folder, write_json
    from train_lm.inputs import inputs
    from train_lm.provenance import commit

    about = {MADE_BY: COMMAND, "world": world.hash, "model": args.model, "split": args.split}
    about |= {"commit": commit(), "inputs": inputs()}
    with replacing_folder(args.out, over=True) as part:
        write_graphml(part / GRAPH, report.asked)
        write_json(part / TABLE, {**about, **report.to_json()})
    say(f"{args.out}: {TABLE}, {GRAPH}")

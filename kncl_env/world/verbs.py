"""Verbs of `kncl-env` that look at a world or copy it, and what a build asks of its topics."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kncl_env.world.build_config import CONNECTIONS, TFIDF, BuildConfig
from train_lm.command_line import Verbs, comma_separated, say, say_lines
from train_lm.outputs import alone
from train_lm.plain_text import counted

if TYPE_CHECKING:
    from kncl_env.world.world import World


def add_topic_options(build: argparse.ArgumentParser) -> None:
    """Options of `build`: what is a topic, how topics are connected, in what space they lie."""
    what = build.add_argument_group("topics and links")
    what.add_argument(
        "--connect",
        type=comma_separated,
        default=(),
        metavar="KINDS",
        help=f"where links come from, by comma: {', '.join(CONNECTIONS)} (default: the corpus's "
        "links; where it has none, mentions of titles in the text and nearest neighbours)",
    )
    what.add_argument(
        "--neighbours",
        type=int,
        default=BuildConfig.neighbours,
        metavar="N",
        help="nearest topics that a topic is linked with, where it is (default: %(default)s)",
    )
    what.add_argument(
        "--clusters",
        type=_number_or_auto,
        metavar="N",
        help="gather the articles into N topics by likeness, named by their words; auto: only "
        "where most articles are too short to be topics (default: each article is a topic)",
    )
    what.add_argument(
        "--embedder",
        default=BuildConfig.embedder,
        metavar="NAME",
        help=f"{TFIDF}, fitted on the training text, or the directory of a model of transformers "
        "or sentence-transformers (default: %(default)s)",
    )


def topic_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `BuildConfig` by the options above."""
    return {
        "connect": tuple(args.connect),
        "neighbours": args.neighbours,
        "clusters": args.clusters,
        "embedder": args.embedder,
    }


def _number_or_auto(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def add_verbs(verbs: Verbs) -> None:
    _show_parser(verbs)
    _nucleate_parser(verbs)
    _rewire_parser(verbs)
    _grow_parser(verbs)


def _show_parser(verbs: Verbs) -> None:
    show = verbs.add_parser(
        "show",
        help="what a world holds, or one of its topics",
        description="Print what a world holds: its source, licence, target, counts, and how its "
        "graph hangs together.",
        epilog="Example: kncl-env show worlds/pydoc --topic asyncio",
    )
    show.add_argument("world", type=Path, metavar="WORLD", help="a world directory")
    what = show.add_mutually_exclusive_group()
    what.add_argument(
        "--topic",
        metavar="TITLE",
        help="print one topic instead: links, likest topics and first passage (default: none)",
    )
    what.add_argument(
        "--regions",
        action="store_true",
        help="list the regions instead, each with its number of topics (default: no)",
    )
    show.set_defaults(action=_show)


def _show(args: argparse.Namespace) -> int:
    from kncl_env.world.world import World

    world = World.open(args.world)
    if args.topic is not None:
        _show_topic(world, args.topic)
    elif args.regions:
        for name, topics in world.regions.items():
            say(f"{len(topics):6d}  {name}")
    else:
        _show_world(world)
    return 0


def _show_topic(world: World, title: str) -> None:
    topic = world.topic_of(title)
    nearest = (-(world.topic_vectors @ world.topic_vectors[topic])).argsort(kind="stable")
    say(title)
    say()
    say(f"links to:    {_titles(world, world.graph.out(topic)[:20])}")
    say(f"linked from: {_titles(world, world.graph.into(topic)[:20])}")
    say(f"alike:       {_titles(world, nearest[1:11])}")
    own = world.passages_of(topic)
    say(f"training:    {world.train_tokens_of[topic]:,} tokens, {len(own)} passages")
    say()
    if len(own):
        say_lines(world.passage_text(int(own[0])))


def _show_world(world: World) -> None:
    from kncl_env.world.card import told_build

    card = world.card
    say(f"{world.path}: {card['source']}, {card['scenario']['name']}, hash {world.hash[:12]}")
    say(f"licence: {card['licence']}")
    if world.target_region:
        say(f"target: {world.target_region}, {counted(len(world.target_topics()), 'topic')}")
    for line in told_target(world):
        say(line)
    for name, value in card["counts"].items():
        say(f"  {name.replace('_', ' ')}: {value:,}")
    say(f"vectors: {_embedder(world)}")
    say(f"index: {_index(card)}")
    if told := told_build(world.path):
        say(f"build: {told}")
    shape = world.graph.shape()
    say(f"graph: {shape}")
    if shape.warning:
        say(f"warning: {shape.warning}")
    if "rewired" in card:
        say(
            f"rewired: a random copy of the graph of world {card['rewired']['of'][:12]} with the "
            f"same degrees, {100 * card['rewired']['links_kept']:.1f} % of its links kept"
        )
    if "grown" in card:
        say(
            f"grown: from world {card['grown']['of'][:12]} of {card['grown']['topics_before']:,} "
            "topics"
        )
    central = (-world.graph.pagerank).argsort(kind="stable")[:10]
    say(f"most central: {_titles(world, central)}")


def told_target(world: World) -> list[str]:
    """What a distant world shows of its target, and what it hides."""
    if not world.is_distant:
        return []
    found = {name: n for name, n in world.card.get("target", {}).items() if type(n) is int}

    def kb(name: str) -> str:
        return f"{found.get(name, 0) / 1000:,.0f} kB"

    return [
        f"  visible: {kb('sample_bytes')} of {found.get('topics_seen', 0):,} of its topics; of all "
        f"of them titles and links ({found.get('links_from', 0):,} lead from them, "
        f"{found.get('links_to', 0):,} to them)",
        f"  hidden: {kb('select_bytes')} for select, {kb('test_bytes')} for test; none of its text "
        "is trained on",
        f"  copies of its text left out of what is trained on: {found.get('copies_passages', 0):,} "
        f"passages, {kb('copies_bytes')}",
    ]


def _embedder(world: World) -> str:
    stated = world.embedder.stated
    digest = f", digest {str(stated['sha256'])[:12]}" if "sha256" in stated else ""
    return f"{stated['name']}, {stated['dimensions']} dimensions{digest}"


def _index(card: dict[str, Any]) -> str:
    made_as = card.get("index")
    if made_as is None:
        return "exact, every passage is looked at"
    begin = "recall_at_"
    found = {int(k[len(begin) :]): share for k, share in made_as.items() if k.startswith(begin)}
    shares = ", ".join(f"at {k} of {share}" for k, share in sorted(found.items()))
    listed = f"the best {made_as['listed']} or more ranked, " if "listed" in made_as else ""
    lacks = made_as.get("finds_enough") is False
    return (
        f"{made_as.get('kind')}, {made_as.get('cells_searched')} cells searched, {listed}recall "
        f"{shares} in its own trial"
        + (": less than there should be, no setting that was tried finds more" if lacks else "")
    )


def _titles(world: World, topics: Iterable[int]) -> str:
    return ", ".join(world.titles[topic] for topic in topics)


def _nucleate_parser(verbs: Verbs) -> None:
    nucleate = verbs.add_parser(
        "nucleate",
        help="which topics a learner would begin with, and how much of the world that is",
        description="Print the nucleus of a world: its topics, how well they cover it, how central "
        "they are and how much text they bring. Nothing is trained and nothing written; episodes "
        "take the same by --nucleus-topics, --nucleus-titles and --nucleus-text.",
        epilog='Example: kncl-env nucleate worlds/pydoc --text "parsing, dates and times"',
    )
    nucleate.add_argument("world", type=Path, metavar="WORLD", help="a world directory")
    what = nucleate.add_mutually_exclusive_group()
    what.add_argument(
        "--titles",
        type=comma_separated,
        default=(),
        metavar="TITLES",
        help="its topics by title, by comma (default: topics that are central and cover the world)",
    )
    what.add_argument(
        "--text",
        default="",
        metavar="TEXT",
        help="what it is about, phrases by comma: the topics nearest to each (default: as above)",
    )
    nucleate.add_argument(
        "--topics",
        type=int,
        default=0,
        metavar="N",
        help="number of topics, where no titles are given (default: a thirtieth of the world's, "
        "8 to 150)",
    )
    nucleate.set_defaults(action=_nucleate)


def _nucleate(args: argparse.Namespace) -> int:
    from kncl_env.world.nucleation import NucleusReport, Wanted, seeds_of
    from kncl_env.world.world import World
    from train_lm.model import PRESETS

    if args.topics < 0:
        raise ValueError(f"expected --topics of 1 or more, got {args.topics}")
    world = World.open(args.world)
    wanted = Wanted(tuple(args.titles), args.text, args.topics)
    seeds = seeds_of(world, wanted, None, PRESETS["xs"].context)
    say(f"{counted(len(seeds), 'topic')}: {_titles(world, seeds)}")
    for line in NucleusReport.of(world, seeds).lines():
        say(line)
    return 0


def _rewire_parser(verbs: Verbs) -> None:
    rewire = verbs.add_parser(
        "rewire",
        help="a copy of a world whose links are random",
        description="Copy a world with a random graph of the same degrees: each topic keeps its "
        "number of links out, in and in both directions, and leads elsewhere. All else stays. It "
        "is the control for what links tell a policy.",
        epilog="Example: kncl-env rewire worlds/pydoc --seed 1 --out worlds/pydoc-rewired",
    )
    rewire.add_argument("world", type=Path, metavar="WORLD", help="a world directory")
    rewire.add_argument(
        "--out", type=Path, required=True, metavar="WORLD2", help="directory to make; required"
    )
    rewire.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the links (default: %(default)s)"
    )
    rewire.add_argument(
        "--force", action="store_true", help="replace an existing world (default: refuse)"
    )
    rewire.set_defaults(action=_rewire)


def _rewire(args: argparse.Namespace) -> int:
    from kncl_env.world.build import is_world
    from kncl_env.world.card import REWIRED
    from kncl_env.world.rewiring import rewire_world
    from kncl_env.world.world import World

    if args.seed < 0:
        raise ValueError(f"expected a seed of 0 or more, got {args.seed}")
    with alone(args.out) as hold:
        hold.begin_anew(args.force, partial(is_world, made=REWIRED), [args.world])
        world = rewire_world(World.open(args.world), args.out, args.seed)
    share = world.card["rewired"]["links_kept"]
    say(
        f"{args.out}: {100 * share:.1f} % of {world.graph.n_edges:,} links as they were, every "
        f"degree the same; of {world.n_topics:,} topics"
    )
    return 0


def _grow_parser(verbs: Verbs) -> None:
    grow = verbs.add_parser(
        "grow",
        help="save the world that an open-world run grew into",
        description="Write the world that `kncl-policy run --live` grew into as a world directory, "
        "from the articles that the run kept; no wiki is asked. Topics and passages have the "
        "numbers of the run, so its curriculum is one of this world. It is an ordinary world: "
        "policies are evaluated and trained there, and it can grow again. Of several runs in one "
        "world the first comes first, then what the others fetched besides.",
        epilog="Example: kncl-env grow worlds/live --run runs/live --out worlds/grown",
    )
    grow.add_argument("world", type=Path, metavar="WORLD", help="the world that the run began with")
    grow.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        metavar="RUN",
        help="folder of a run, finished or as far as its last checkpoint; or several; required",
    )
    grow.add_argument(
        "--out", type=Path, required=True, metavar="WORLD2", help="directory to make; required"
    )
    grow.add_argument(
        "--force", action="store_true", help="replace an existing world (default: refuse)"
    )
    grow.set_defaults(action=_grow)


def _grow(args: argparse.Namespace) -> int:
    from kncl_env.open_world.saved import replay_growth, save_grown, together
    from kncl_env.world.build import is_world
    from kncl_env.world.card import GROWN
    from kncl_env.world.world import World

    base = World.open(args.world)
    with alone(args.out) as hold:
        hold.begin_anew(args.force, partial(is_world, made=GROWN), [args.world, *args.run])
        grown = together([replay_growth(base, run) for run in args.run])
        world = save_grown(grown, args.out)
    say(
        f"{args.out}: {world.n_topics:,} topics, {base.n_topics:,} of them as it was built; "
        f"{len(world.passage_topic):,} passages, {world.graph.n_edges:,} links; hash "
        f"{world.hash[:12]}"
    )
    return 0

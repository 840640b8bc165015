"""The command `rabbit-holes collect`: from options to a collection, with a bar while it runs.

It parses, wires and prints. Another command that brings a walker of its own, such as a trained
policy, adds the same options with `add_collection_options` and calls `run_collection`.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kncl_env.world.sources.wiki.options import add_wiki_options, etiquette_of
from rabbit_holes.live.settings import CollectionSettings, Progress, Report
from train_lm.command_line import GOES_ON, say

if TYPE_CHECKING:
    from rabbit_holes.walkers.walkers import Walker

logger = logging.getLogger(__name__)

_BACK = 0.25  # probability of going back at a page, with --branching
_SHOWN_FAILURES = 20
_WALKERS = ("random", "similar", "markov", "lm")
_DESCRIPTION = """\
Walks a live MediaWiki and writes one tree of visits per walk. Every page is asked for once and kept
in --cache. Interrupted or killed, the same command goes on where it was. Requests keep to --rate
over all walks, step back when the servers lag or say so, and carry your --contact, without which
nothing is sent."""
_EXAMPLE = """\
Example: rabbit-holes collect --seed "Ada Lovelace" Jazz --walks 20 --branching
--contact you@example.org --out walks.jsonl"""


def add_collect_parser(subparsers: Any) -> None:
    """Add `collect` to the sub-commands of `rabbit-holes`; `arguments.run(arguments)` runs it."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "collect",
        help="walk a live wiki and record what was offered",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
    )
    add_collection_options(parser)
    walkers = parser.add_argument_group("who walks")
    walkers.add_argument(
        "--walker", choices=_WALKERS, default="random", help="who picks the links (%(default)s)"
    )
    walkers.add_argument(
        "--transitions",
        type=Path,
        metavar="F",
        help="what --walker markov counts: recorded paths (.jsonl) or a clickstream (.tsv, .csv, "
        "plain or .gz); required there",
    )
    walkers.add_argument(
        "--model",
        help="language model of --walker lm: a directory or a hub id; required there",
    )
    walkers.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of --walker similar and lm, above 0: the lower, the surer the best link is taken "
        "(similar 0.1, lm 1)",
    )
    parser.set_defaults(run=_collect, **{GOES_ON: True})


def add_collection_options(parser: argparse.ArgumentParser) -> None:
    """Options that every collection has, whoever walks."""
    _add_walk_options(parser)
    _add_wiki_options(parser.add_argument_group("the wiki and manners towards it"))


def _add_walk_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        dest="seeds",
        action="extend",
        nargs="+",  # not by comma, which titles hold
        required=True,
        metavar="TITLE",
        help="articles where walks begin, in turn; required",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="F.jsonl", help="file of paths; required"
    )
    parser.add_argument(
        "--walks", type=int, default=0, metavar="N", help="walks in all (one from each seed)"
    )
    parser.add_argument(
        "--depth", type=int, default=10, metavar="D", help="clicks in a walk (%(default)s)"
    )
    parser.add_argument(
        "--branching",
        action="store_true",
        help="let walks go back and click another link, where they would end (off)",
    )
    parser.add_argument(
        "--disambiguation",
        action="store_true",
        help="walk through pages that only list what a title may mean, too; the wiki says which "
        "those are (off)",
    )
    parser.add_argument(
        "--max-pages",
        type=int,
        metavar="M",
        help="different pages to visit at most; walks then go one after another (no limit)",
    )
    parser.add_argument(
        "--text", action="store_true", help="keep the lead text of every page (off)"
    )
    parser.add_argument(
        "--random-seed",
        type=int,
        default=0,
        metavar="S",
        help="number that decides all draws (%(default)s)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace --out and begin anew instead of going on; keeps the cache (off)",
    )


def _add_wiki_options(wiki: argparse._ArgumentGroup) -> None:
    add_wiki_options(wiki)
    wiki.add_argument(
        "--concurrency",
        type=int,
        default=1,
        metavar="C",
        help="walks at a time; 1 with --max-pages (%(default)s)",
    )
    wiki.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of pages that the wiki has given already (wiki-cache beside --out)",
    )


def _collect(arguments: argparse.Namespace) -> int:
    walker, options = _walker(arguments)
    return run_collection(arguments, walker, options)


def run_collection(
    arguments: argparse.Namespace, walker: Walker, walker_options: Mapping[str, Any]
) -> int:
    """Collect as the options of `add_collection_options` say, with any walker, and report.

    Args:
        arguments: Parsed options.
        walker: Who walks.
        walker_options: What decides the walker's choices, for the journal: a collection is only
            taken up again with equal options.

    Returns:
        0 if complete, 1 if the wiki stopped it or no walk could begin.

    Raises:
        ValueError: For options that cannot be followed, such as no contact.
    """
    settings = CollectionSettings(
        seeds=tuple(arguments.seeds),
        walks=arguments.walks,
        depth=arguments.depth,
        branching=arguments.branching,
        random_seed=arguments.random_seed,
        text=arguments.text,
        disambiguation=arguments.disambiguation,
        max_pages=arguments.max_pages,
        walker_options=walker_options,
    )
    etiquette = etiquette_of(arguments, arguments.concurrency)

    # The client brings a third of a second of imports, which bad options need not wait for.
    from kncl_env.world.sources.wiki.etiquette import Gate
    from kncl_env.world.sources.wiki.page_cache import Library, PageCache
    from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia, api_of
    from rabbit_holes.live.collector import collect

    wiki = PoliteWikipedia(
        etiquette,
        Gate(etiquette.rate),
        arguments.api_url or api_of(arguments.language),
        language=arguments.language,
        needs_text=arguments.text,
    )
    out: Path = arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    cache = PageCache(arguments.cache or out.parent / "wiki-cache", wiki.api)
    try:
        with _bar(settings.walks) as on_progress:
            report = collect(
                out,
                settings,
                walker,
                Library(cache, wiki),
                concurrency=etiquette.concurrency,
                force=arguments.force,
                on_progress=on_progress,
            )
    finally:
        cache.close()
        wiki.close()
    return _print(report, settings.walks)


def _walker(arguments: argparse.Namespace) -> tuple[Walker, dict[str, Any]]:
    """The walker that the options name, and the options that decide its choices."""
    from rabbit_holes.walkers.walkers import (
        LmWalker,
        MarkovWalker,
        RandomWalker,
        SimilarWalker,
        hashed_tfidf,
    )

    used = {"markov": ("transitions",), "lm": ("model", "temperature"), "similar": ("temperature",)}
    for name in ("transitions", "model", "temperature"):
        wanted = name in used.get(arguments.walker, ())
        given = getattr(arguments, name) is not None
        if given and not wanted:
            raise ValueError(f"expected --{name} with another --walker, got {arguments.walker}")
        if wanted and not given and name != "temperature":
            raise ValueError(f"expected --{name} with --walker {arguments.walker}, got none")
    back = _BACK if arguments.branching else 0.0
    warmth = {} if arguments.temperature is None else {"temperature": arguments.temperature}
    if arguments.walker == "random":
        return RandomWalker(back), {}
    if arguments.walker == "similar":
        return SimilarWalker(hashed_tfidf, back=back, **warmth), warmth
    if arguments.walker == "markov":
        from train_lm.files import hash_file

        counts = _transitions(arguments.transitions)
        return MarkovWalker(counts, back=back), {"transitions": hash_file(arguments.transitions)}
    from rabbit_holes.walkers.generative import load_link_scorer

    score, sha256 = load_link_scorer(arguments.model)
    named = Path(arguments.model).name
    return LmWalker(score, named, back=back, **warmth), {**warmth, "model": sha256}


def _transitions(file: Path) -> Callable[[str], Mapping[str, int]]:
    from rabbit_holes.imports.clickstream import TransitionCounts, read_clickstream
    from rabbit_holes.imports.tally import Tally
    from rabbit_holes.path import read_paths

    if file.suffix == ".jsonl":
        return TransitionCounts.from_paths(read_paths(file, on_error=logger.warning)).counts_from
    tally = Tally()
    counts = read_clickstream(file, tally)
    for line in tally.lines():
        logger.info("%s", line)
    return counts.counts_from


@contextmanager
def _bar(walks: int) -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal; elsewhere nothing, so that logs stay clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("walks"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("walks", total=walks, note="")

        def show(progress: Progress) -> None:
            note = (
                f"{progress.visits} visits, {progress.requests} requests, "
                f"{progress.from_cache} from cache, {progress.failures} failures"
            )
            if progress.held > 1:
                note += f", waiting {progress.held:.0f} s"
            bars.update(task, completed=progress.walks, note=note)

        yield show


def _print(report: Report, walks: int) -> int:
    for failure in report.lost[:_SHOWN_FAILURES]:
        say(f"{failure.title}: {failure.reason} ({failure.detail})", error=True)
    others = Counter(failure.reason for failure in report.lost[_SHOWN_FAILURES:])
    if others:
        counts = ", ".join(f"{count} {reason}" for reason, count in others.most_common())
        say(f"and {counts}: see {report.out}.journal", error=True)
    say(
        f"{report.out}: {report.walks} of {walks} walks, {len(report.lost)} pages not got; "
        f"now {report.visits} visits, {report.requests} requests, "
        f"{report.from_cache} pages from the cache"
    )
    if report.stopped:
        say(f"stopped: {report.stopped}; the same command goes on", error=True)
        return 1
    if not report.walks:
        say("error: no walk could begin", error=True)
        return 1
    return 0

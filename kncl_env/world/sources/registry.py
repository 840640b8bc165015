"""Every source that `kncl-env build` reads: one row each, and one file each that it opens.

The rows are light, so that help is, too: a source's file is imported when the source is opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from train_lm.command_line import comma_separated, say

if TYPE_CHECKING:
    from kncl_env.world.corpus import Corpus
    from kncl_env.world.sources.documents import Wanted
    from kncl_env.world.sources.rows import Columns


@dataclass(frozen=True)
class Source:
    """A kind of corpus.

    Attributes:
        about: What it is, for the help.
        place: What PLACE has to be; empty where there is none.
        passage_bytes: Size of a passage [bytes], if none is asked for; some texts are short.
        options: Options that it takes, by their names in `OPTIONS`.
        open: Reads, or makes ready to read; it checks that PLACE is there.
    """

    about: str
    open: Callable[[argparse.Namespace], Corpus]
    place: str = ""
    passage_bytes: int = 600
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """An option that some sources take.

    Attributes:
        about: Meaning, unit and default, for the help.
        is_for: Why another source takes none, for the message.
        metavar: Of its value; empty for a flag.
        kind: What parses its value.
    """

    about: str
    is_for: str
    metavar: str = ""
    kind: Callable[[str], object] = str


OPTIONS = {
    "--topics": Option(
        "topics of the generated world (default: 120)", "the size of a generated world", "N", int
    ),
    "--unread-wordings": Option(
        "wordings of facts that stand in no text, 0 to 2, so that `kncl-env knowledge` can ask for "
        "facts in them (default: 0)",
        "a part of a generated world's language",
        "N",
        int,
    ),
    **{
        f"--{part}-column": Option(
            f"name of the column with {about} (default: {part}{', where there is one' * may_lack})",
            f"a column's name, {part}",
            "NAME",
        )
        for part, about, may_lack in (
            ("id", "ids, which links may name", True),
            ("title", "titles", False),
            ("text", "texts", False),
            ("links", "lists of linked ids or titles", True),
            ("section", "names of sections; rows in turn with one id or title are one text", True),
            ("labels", "lists of regions, dots between their levels", True),
        )
    },
    "--split": Option("split of the data set (default: train)", "a split of a data set", "NAME"),
    "--subset": Option(
        "configuration of the data set, where it has several (default: the only one)",
        "a part of a data set",
        "NAME",
    ),
    "--links": Option(
        "file of further links: two columns, from and to, ids or titles, .tsv or .csv, plain or "
        "packed (default: none)",
        "a file of links between documents",
        "FILE",
        Path,
    ),
    "--limit": Option(
        "documents to read, at most (default: all)", "a number of documents to read", "N", int
    ),
    "--licence": Option(
        "licence of the texts, for the world's card (default: what the source states, if it does)",
        "the licence of your own texts",
        "TEXT",
    ),
    "--titles": Option(
        "articles to begin at, by comma; required there", "where to begin", "A,B", comma_separated
    ),
    "--articles": Option(
        "articles in all, those that the first ones link to (default: 200)",
        "the size of a world out of a wiki",
        "N",
        int,
    ),
    "--contact": Option(
        "where you can be reached; required there unless --user-agent says it",
        "who asks",
        "MAIL_OR_URL",
    ),
    "--user-agent": Option(
        "what to call yourself; the contact is added (default: this project's name)",
        "who asks",
        "UA",
    ),
    "--api-url": Option(
        "api.php of the wiki (default: that of the English Wikipedia)", "which wiki is asked", "URL"
    ),
    "--rate": Option(
        "requests per second, at most (default: 2)", "how fast a wiki is asked", "R", float
    ),
    "--download": Option(
        "fetch the archives from SNAP into PLACE first (default: no)",
        "to fetch Wikispeedia's files",
    ),
}


def _synthetic(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic

    sizes = {} if args.topics is None else {"n_topics": args.topics}
    if args.unread_wordings is not None:
        sizes["unread"] = args.unread_wordings
    return read_synthetic(SyntheticConfig(seed=args.seed, **sizes))


def _pydoc(_: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.pydoc.read import read_pydoc

    return read_pydoc()


def _wikispeedia(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.wikispeedia import download_wikispeedia, read_wikispeedia

    if args.place is None:
        raise ValueError(
            "expected the folder with Wikispeedia's unpacked archives: name it, or name an empty "
            "one and add --download"
        )
    if args.download:
        download_wikispeedia(Path(args.place), progress=_tell_download)
    return read_wikispeedia(Path(args.place))


def _tell_download(name: str, done: int, total: int | None) -> None:
    size = f" of {total / 1e6:.0f}" if total else ""
    end = "\n" if done == total else "\r"
    say(f"{name}: {done / 1e6:.0f}{size} MB", end=end, error=True)


def _jsonl(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.jsonl import read_jsonl

    return read_jsonl(Path(_place(args)), _columns(args), _wanted(args), bars)


def _parquet(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.parquet import read_parquet

    return read_parquet(Path(_place(args)), _columns(args), _wanted(args), bars)


def _hf(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.hf import read_hf

    return read_hf(
        _place(args),
        _columns(args),
        _wanted(args),
        bars,
        split=args.split,
        subset=args.subset,
    )


def _zim(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.zim import read_zim

    return read_zim(Path(_place(args)), _wanted(args), bars)


def _mediawiki(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.mediawiki import read_mediawiki

    return read_mediawiki(Path(_place(args)), _wanted(args), bars)


def _folder(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.folder import read_folder

    return read_folder(Path(_place(args)), _wanted(args), bars)


def _live(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.wiki.etiquette import Etiquette
    from kncl_env.world.sources.wiki.live import read_live
    from kncl_env.world.sources.wiki.wikipedia import api_of

    rate = {} if args.rate is None else {"rate": args.rate}
    etiquette = Etiquette(contact=args.contact or "", user_agent=args.user_agent or "", **rate)
    return read_live(
        args.api_url or api_of("en"),
        etiquette,
        tuple(args.titles or ()),
        200 if args.articles is None else args.articles,
        args.out.with_name(args.out.name + ".articles.jsonl"),
        lambda n: say(f"{n:,} articles fetched", end="\r", error=True),
    )


def _place(args: argparse.Namespace) -> str:
    if args.place is None:
        wanted = SOURCES[args.source].place
        raise ValueError(f"expected {wanted} as PLACE after {args.source}, got none: name it")
    return str(args.place)


def _wanted(args: argparse.Namespace) -> Wanted:
    from kncl_env.world.sources.documents import Wanted

    return Wanted(args.links, args.limit, args.licence or "")


def _columns(args: argparse.Namespace) -> Columns:
    from kncl_env.world.sources.rows import Columns

    names = ("id", "title", "text", "links", "section", "labels")
    return Columns(**{name: getattr(args, f"{name}_column") for name in names})


@contextmanager
def bars(what: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """Bytes read of all bytes and the time left, on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=size)
        yield lambda done: bar.update(task, completed=done)


OF_DOCUMENTS = ("--links", "--limit", "--licence")
OF_TABLES = (*(name for name in OPTIONS if name.endswith("-column")), *OF_DOCUMENTS)

SOURCES = {
    "pydoc": Source("this Python's own documentation", _pydoc, passage_bytes=300),
    "synthetic": Source(
        "a generated world",
        _synthetic,
        passage_bytes=300,
        options=("--topics", "--unread-wordings"),
    ),
    "wikispeedia": Source(
        "4,604 articles of a school encyclopaedia",
        _wikispeedia,
        place="the folder with Wikispeedia's files",
        options=("--download",),
    ),
    "jsonl": Source(
        "JSON Lines of your own", _jsonl, "a .jsonl file or a folder of them", options=OF_TABLES
    ),
    "parquet": Source(
        "Parquet of your own", _parquet, "a .parquet file or a folder of them", options=OF_TABLES
    ),
    "hf": Source(
        "a data set of Hugging Face's `datasets`",
        _hf,
        "a data set's folder, or its id on the hub",
        options=(*OF_TABLES, "--split", "--subset"),
    ),
    "zim": Source("an archive of Kiwix", _zim, "a .zim file", options=OF_DOCUMENTS),
    "mediawiki": Source(
        "an XML dump of a wiki", _mediawiki, "an .xml dump, plain or packed", options=OF_DOCUMENTS
    ),
    "live": Source(
        "a live MediaWiki, a few articles and what they link to; it grows while it is played",
        _live,
        options=("--titles", "--articles", "--contact", "--user-agent", "--api-url", "--rate"),
    ),
    "folder": Source("text and Markdown files", _folder, "the folder", options=OF_DOCUMENTS),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """SOURCE, PLACE, and the options that some sources take."""
    parser.add_argument(
        "source",
        choices=tuple(SOURCES),
        metavar="SOURCE",
        help="; ".join(f"{name}: {source.about}" for name, source in SOURCES.items()),
    )
    places = "; ".join(f"{name}: {s.place}" for name, s in SOURCES.items() if s.place)
    parser.add_argument(
        "place", nargs="?", metavar="PLACE", help=f"what is read; {places} (default: none)"
    )
    own = parser.add_argument_group("what some sources take")
    for name, option in OPTIONS.items():
        takers = ", ".join(s for s, source in SOURCES.items() if name in source.options)
        about = f"{takers} only: {option.about}"
        if option.metavar:
            own.add_argument(name, type=option.kind, metavar=option.metavar, help=about)
        else:
            own.add_argument(name, action="store_true", help=about)


def open_source(args: argparse.Namespace) -> Corpus:
    """The corpus that the arguments name.

    Raises:
        ValueError: It cannot be read.
    """
    return SOURCES[args.source].open(args)


def open_target(args: argparse.Namespace) -> Corpus | None:
    """Documents of one's own that are the target, if some are named: JSON Lines, or a folder of
    them or of text and Markdown files.

    Raises:
        ValueError: They cannot be read.
    """
    if args.target is None:
        return None
    from kncl_env.world.sources.folder import read_folder
    from kncl_env.world.sources.jsonl import ENDINGS, read_jsonl
    from kncl_env.world.sources.packed import PACKED

    place = Path(args.target)
    wanted = replace(_wanted(args), links=None, limit=None, outward=True)
    lines = tuple(e + packed for e in ENDINGS for packed in ("", *PACKED))
    if place.is_dir() and not any(f.name.lower().endswith(lines) for f in place.rglob("*")):
        return read_folder(place, wanted, bars)
    return read_jsonl(place, _columns(args), wanted, bars)


def refuse_what_would_be_ignored(args: argparse.Namespace) -> None:
    """Raises: ValueError where an option or PLACE is given that the source does not take."""
    source = SOURCES[args.source]
    if args.place is not None and not source.place:
        raise ValueError(
            f"expected no PLACE with {args.source}, got {args.place}: it has no place, leave it out"
        )
    for name, option in OPTIONS.items():
        given = getattr(args, name[2:].replace("-", "_"))
        if name.endswith("-column") and args.target is not None:
            continue  # of the target's documents
        if given is not None and given is not False and name not in source.options:
            takers = " and ".join(s for s, own in SOURCES.items() if name in own.options)
            raise ValueError(
                f"expected no {name} with {args.source}, got {name if given is True else given}: "
                f"it is {option.is_for}, and {takers}'s alone"
            )

"""Every source that `kncl-env build` reads: one row each, and one file each that it opens.

The rows are light, so that help is, too: a source's file is imported when the source is opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from train_lm.command_line import say

if TYPE_CHECKING:
    from kncl_env.world.corpus import Corpus


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
    kind: type = str


OPTIONS = {
    "--topics": Option(
        "topics of the generated world (default: 120)", "the size of a generated world", "N", int
    ),
    "--download": Option(
        "fetch the archives from SNAP into PLACE first (default: no)",
        "to fetch Wikispeedia's files",
    ),
}


def _synthetic(args: argparse.Namespace) -> Corpus:
    from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic

    sizes = {} if args.topics is None else {"n_topics": args.topics}
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


SOURCES = {
    "pydoc": Source("this Python's own documentation", _pydoc, passage_bytes=300),
    "synthetic": Source("a generated world", _synthetic, passage_bytes=300, options=("--topics",)),
    "wikispeedia": Source(
        "4,604 articles of a school encyclopaedia",
        _wikispeedia,
        place="the folder with Wikispeedia's files",
        options=("--download",),
    ),
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


def refuse_what_would_be_ignored(args: argparse.Namespace) -> None:
    """Raises: ValueError where an option or PLACE is given that the source does not take."""
    source = SOURCES[args.source]
    if args.place is not None and not source.place:
        raise ValueError(
            f"expected no PLACE with {args.source}, got {args.place}: it has no place, leave it out"
        )
    for name, option in OPTIONS.items():
        given = getattr(args, name[2:].replace("-", "_"))
        if given is not None and given is not False and name not in source.options:
            takers = " and ".join(s for s, own in SOURCES.items() if name in own.options)
            raise ValueError(
                f"expected no {name} with {args.source}, got {name if given is True else given}: "
                f"it is {option.is_for}, and {takers}'s alone"
            )

"""The environment's settings as command-line options, read off `kncl_env.settings.OPTIONS`."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kncl_env.settings import OPTIONS, Settings
from train_lm.command_line import BAD_INPUT, comma_separated


def add_world(verb: argparse.ArgumentParser, grows: bool = False) -> None:
    """`--world`.

    Args:
        grows: Whether the verb takes one that grows while it is played; others say what to do.
    """
    verb.add_argument(
        "--world", type=Path, required=True, help="directory of the world (see kncl-env build)"
    )
    if not grows:
        verb.add_argument("--live", action=_Elsewhere, nargs=0, help=argparse.SUPPRESS)
        verb.add_argument("--articles", action=_Elsewhere, nargs="?", help=argparse.SUPPRESS)


class _Elsewhere(argparse.Action):
    """Only `run` lets a world grow: arms can be compared where all of them can go."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.exit(
            BAD_INPUT,
            f"error: expected a world as it is, got {self.option_strings[0]}: what one run fetched "
            "is no fair ground for another; save it with `kncl-env grow WORLD --run RUN --out "
            "GROWN`, and name --world GROWN\n",
        )


def add_learners(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--learners", type=int, default=4, metavar="N", help="episodes played side by side (4)"
    )


def add_settings(
    parser: argparse.ArgumentParser, only: Collection[str] = OPTIONS.keys(), **defaults: Any
) -> None:
    """One option per setting; what is not given keeps its default, or the one named here.

    Args:
        only: Names of the settings that the verb reads.
    """
    group = parser.add_argument_group("environment")
    for name, option in OPTIONS.items():
        if name not in only:
            continue
        default = defaults.get(name)
        shown = option.default if default is None else default
        kind: Any = str if option.default is None else type(option.default)
        listed = kind is tuple
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=comma_separated if listed else kind,
            metavar="A,B" if listed else kind.__name__.upper(),
            default=default,
            help=f"{option.help} ({shown if shown not in (None, ()) else 'none'})",
        )


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that were given."""
    given = {name: getattr(args, name, None) for name in OPTIONS}
    return Settings.of(**{name: value for name, value in given.items() if value is not None})

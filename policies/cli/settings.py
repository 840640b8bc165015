"""The environment's settings as command-line options, read off `kncl_env.settings.OPTIONS`."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kncl_env.settings import OPTIONS, Settings
from train_lm.command_line import comma_separated


def add_world(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--world", type=Path, required=True, help="directory of the world (see kncl-env build)"
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

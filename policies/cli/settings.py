"""The environment's settings as command-line options, derived from `Setup`'s fields."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any


def add_settings(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """One option per field of `Setup`; what is not given keeps its default, or the one here."""
    from kncl_env.stage import Setup

    group = parser.add_argument_group("environment")
    for field in fields(Setup):
        option = f"--{field.name.replace('_', '-')}"
        if field.name == "context":
            continue  # follows from the model
        if field.name == "nucleus_titles":
            group.add_argument(option, nargs="+", metavar="TITLE")
            continue
        kind: Any = str if field.default is None else type(field.default)
        assert field.default is not MISSING
        default = defaults.get(field.name)
        shown = field.default if default is None else default
        metavar = kind.__name__.upper()
        group.add_argument(option, type=kind, metavar=metavar, default=default, help=f"({shown})")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given."""
    from kncl_env.stage import Setup

    given = {f.name: getattr(args, f.name, None) for f in fields(Setup)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}

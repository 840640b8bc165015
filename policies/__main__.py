"""The process of `kncl-policy`."""

from __future__ import annotations

from train_lm.command_line import program


def command() -> None:
    program("policies.cli.main")


if __name__ == "__main__":
    command()

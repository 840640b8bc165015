"""The process of `rabbit-holes`."""

from __future__ import annotations

from train_lm.command_line import program


def command() -> None:
    program("rabbit_holes.cli")


if __name__ == "__main__":
    command()

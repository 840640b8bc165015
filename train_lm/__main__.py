"""The process of `train-lm`."""

from __future__ import annotations

from train_lm.command_line import program


def command() -> None:
    program("train_lm.cli")


if __name__ == "__main__":
    command()

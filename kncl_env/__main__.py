"""The process of `kncl-env`."""

from __future__ import annotations

from train_lm.command_line import program


def command() -> None:
    program("kncl_env.cli")


if __name__ == "__main__":
    command()

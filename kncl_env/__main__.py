"""The process of `kncl-env`."""

from __future__ import annotations

from train_lm import say_nothing

say_nothing()


def command() -> None:
    from train_lm.command_line import program

    program("kncl_env.cli")


if __name__ == "__main__":
    command()

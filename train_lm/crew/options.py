"""`--processes` and `--ray`, the same for every verb that has tasks to play."""

from __future__ import annotations

import argparse

from train_lm.crew.hands import Hands
from train_lm.crew.local import HERE


def add_hands(verb: argparse.ArgumentParser, what: str, processes: int = 1) -> None:
    """Adds both options.

    Args:
        what: That is played, for `--help`.
        processes: Where nothing is said.
    """
    hands = verb.add_mutually_exclusive_group()
    hands.add_argument(
        "--processes",
        type=int,
        default=processes,
        metavar="N",
        help=f"processes of this machine that play {what} ({processes})",
    )
    hands.add_argument(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help=f"play {what} on a Ray cluster: host:port of its head, auto for the one that runs "
        "here, or nothing to start one on this machine; needs kncl[ray] (no cluster)",
    )


def hands_of(args: argparse.Namespace) -> Hands:
    """What was asked for."""
    return Hands(args.processes) if args.ray is None else Hands(ray=args.ray)

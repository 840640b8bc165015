"""`kncl-env tabulate`: measure the table world anew, or check a part of the one that is shipped."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from train_lm.command_line import Verbs, say
from train_lm.outputs import alone


def tabulate_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "tabulate",
        help="measure every action in every state of a small world",
        description="Measure the table world: every action in every state of some episodes of a "
        "small generated world, by fork and restore, in minutes. A table comes with the package; "
        "--check plays some of its episodes anew instead. In a table, policies are studied with "
        "exact regret, in seconds: kncl-policy regret.",
        epilog="Example: kncl-env tabulate --check 20",
    )
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="F.npz", help="file to write the table to")
    what.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="states of the shipped table that are measured again and compared, instead",
    )
    verb.add_argument("--force", action="store_true", help="replace F.npz (default: refuse)")
    verb.set_defaults(action=_tabulate)


def _tabulate(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.table_world.measuring import measure
    from kncl_env.table_world.recipe import TableRecipe

    torch.set_num_threads(1)
    if args.check is not None:
        return _check(args.check)
    with alone(args.out) as hold:
        hold.begin_anew(args.force, _is_table)
        tell = partial(say, error=True, end="\r", flush=True)
        table = measure(TableRecipe(), lambda n: tell(f"{n:,} states"))
        table.write(args.out)
    best = ", ".join(f"{table.optimum(draw):.4f}" for draw in range(table.draws))
    size = args.out.stat().st_size
    say(f"{args.out}: {len(table):,} states, {size:,} bytes, best returns {best}")
    return 0


def _check(n: int) -> int:
    from kncl_env.table_world.measuring import measured_again, spread
    from kncl_env.table_world.recipe import TableRecipe
    from kncl_env.table_world.table import load_table

    if n < 1:
        raise ValueError(f"expected --check of 1 or more, got {n}")
    table, recipe = load_table(), TableRecipe()
    rows = spread(table, n).tolist()
    keys = other = 0
    farthest = 0
    for row, found in zip(rows, measured_again(recipe, table, rows), strict=True):
        keys += found.key != int(table.key[row])
        gap = abs(found.loss - int(table.loss[row]))
        other += gap > 0
        farthest = max(farthest, gap)
    say(
        f"{len(rows)} states measured again: {keys} read other windows, {other} have another loss, "
        f"by {farthest} of its last digit at most"
    )
    return 1 if keys or farthest > 1 else 0


def _is_table(file: Path) -> bool:
    from kncl_env.table_world.table import load_table

    try:
        load_table(file)
    except (ValueError, OSError):
        return False
    return True

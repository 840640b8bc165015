"""`kncl-policy arms`: what can be played by name."""

from __future__ import annotations

import argparse

from train_lm.command_line import Verbs, say


def arms_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "arms",
        help="what can be played by name",
        description="Lists every arm that has a name of its own, family by family: its variant and "
        "where it is from. Policies and arms of your own are named by their place.",
        epilog="Example: kncl-policy arms --family selection",
    )
    verb.add_argument("--family", metavar="F", help="this family alone (all)")
    verb.set_defaults(action=_arms)


def _arms(args: argparse.Namespace) -> int:
    from policies.arms.arm import FAMILIES
    from policies.arms.registry import ARMS

    if args.family not in (None, *FAMILIES):
        raise ValueError(f"expected a family among {', '.join(FAMILIES)}, got {args.family!r}")
    width = max(map(len, ARMS))
    for family in FAMILIES:
        found = {name: arm for name, arm in ARMS.items() if arm.family == family}
        if not found or args.family not in (None, family):
            continue
        say(f"{family}:")
        for name, arm in found.items():
            takes = f" Takes a file: {name}@FILE." if arm.of_file else ""
            source = f" ({arm.source})" if arm.source else ""
            say(f"  {name:{width}}  {arm.variant}{takes}{source}")
    return 0

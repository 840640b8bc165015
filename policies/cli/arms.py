"""`kncl-policy arms`: what can be played by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from train_lm.command_line import Verbs, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from policies.arms.arm import Listed

# Families whose arms have no name of their own.
UNNAMED = {
    "learned": "a policy is named by its directory, an arm of your own by its import path",
    "control": "`kncl-policy evaluate --controls` plays them",
}
# What stands around the table in a page that has one.
BEGIN, END = "<!-- arms: begin -->\n", "<!-- arms: end -->\n"


def arms_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "arms",
        help="what can be played by name",
        description="Lists every arm that has a name of its own, family by family: its variant and "
        "where it is from. Policies and arms of your own are named by their place.",
        epilog="Example: kncl-policy arms --family selection",
    )
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--family", metavar="F", help="this family alone (all)")
    what.add_argument(
        "--page",
        type=Path,
        metavar="F.md",
        help="write the table of all arms into this page, between its two marks, and print nothing "
        "(print the list)",
    )
    verb.set_defaults(action=_arms)


def table_of(arms: Mapping[str, Listed]) -> str:
    """The arms as a table in Markdown, family by family."""
    from policies.arms.arm import FAMILIES

    lines = ["| arm | family | variant | source |", "|---|---|---|---|"]
    for family in FAMILIES:
        for name, arm in arms.items():
            if arm.family == family:
                called = f"`{name}`, `{name}@FILE`" if arm.of_file else f"`{name}`"
                told = [text.replace("|", r"\|") for text in (arm.variant, arm.source)]
                lines.append(f"| {called} | {family} | {' | '.join(told)} |")
    return "\n".join([*lines, ""])


def with_table(page: str, table: str, place: object) -> str:
    """The page with this table in the place of what stands between its marks.

    Raises:
        ValueError: It has no marks.
    """
    before, begins, rest = page.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        raise ValueError(
            f"expected the lines {BEGIN.strip()} and {END.strip()} in {place}, found none: add "
            "them where the table belongs"
        )
    return f"{before}{begins}{table}{ends}{after}"


def _arms(args: argparse.Namespace) -> int:
    from policies.arms.arm import FAMILIES
    from policies.arms.registry import ARMS

    if args.page is not None:
        from train_lm.files import replacing
        from train_lm.outputs import alone

        with alone(args.page):
            try:
                text = args.page.read_text("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"expected UTF-8 in {args.page}, got {error}: damaged") from None
            page = with_table(text, table_of(ARMS), args.page)
            with replacing(args.page) as part:
                part.write_text(page, "utf-8")
        return 0
    if args.family not in (None, *FAMILIES):
        raise ValueError(f"expected a family among {', '.join(FAMILIES)}, got {args.family!r}")
    if args.family in UNNAMED:
        say(f"{args.family}: none has a name; {UNNAMED[args.family]}")
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

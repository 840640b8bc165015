"""Options of every command that asks a live wiki: which one, and how we behave towards it."""

from __future__ import annotations

import argparse

from kncl_env.world.sources.wiki.etiquette import OWN_NAME, Etiquette


def add_wiki_options(wiki: argparse._ArgumentGroup) -> None:
    """Which wiki, who asks, and how fast at most."""
    add_manners(wiki)
    wiki.add_argument(
        "--language", default="en", metavar="L", help="language code of a Wikipedia (%(default)s)"
    )
    wiki.add_argument(
        "--api-url",
        metavar="URL",
        help="api.php of any other MediaWiki (that of the --language's Wikipedia)",
    )


def add_manners(wiki: argparse._ArgumentGroup) -> None:
    """Who asks, and how fast at most."""
    wiki.add_argument(
        "--contact",
        default="",
        metavar="MAIL_OR_URL",
        help="where you can be reached; required unless --user-agent says it",
    )
    wiki.add_argument(
        "--user-agent",
        default="",
        metavar="UA",
        help=f"what to call yourself; the contact is added ({OWN_NAME})",
    )
    wiki.add_argument(
        "--rate",
        type=float,
        default=2.0,
        metavar="R",
        help="requests per second at most, in all (%(default)s)",
    )


def etiquette_of(arguments: argparse.Namespace, concurrency: int = 1) -> Etiquette:
    """What the options of `add_wiki_options` say.

    Raises:
        ValueError: No contact, or a number out of its range.
    """
    return Etiquette(
        contact=arguments.contact,
        user_agent=arguments.user_agent,
        rate=arguments.rate,
        concurrency=concurrency,
    )

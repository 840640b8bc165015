"""What a world remembers of the wiki that it was built from, and can grow into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from train_lm.checked.digests import read_sealed, sealed
from train_lm.checked.records import Fields
from train_lm.files import Json

OUTWARD = "outward.json"  # a file of the world

ADVICE = "rebuild the world"


@dataclass(frozen=True)
class Outward:
    """Links that lead out of a world, and how to follow them.

    Attributes:
        api: Address of the wiki's API.
        prefixes: What stands before the colon of a link that leads to no article.
        first_letter: Whether titles begin with a capital.
        links: Titles that each topic links to, in reading order, in the world or not.
        aliases: Title of the article that another name leads to.
        absent: Names that lead to no article.
    """

    api: str
    prefixes: tuple[str, ...] = ()
    first_letter: bool = True
    links: tuple[tuple[str, ...], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()

    def with_links(
        self, links: Sequence[Sequence[str]], aliases: Mapping[str, str], absent: Sequence[str]
    ) -> Outward:
        return replace(
            self,
            links=tuple(tuple(row) for row in links),
            aliases=tuple(sorted(aliases.items())),
            absent=tuple(absent),
        )

    def to_json(self) -> Json:
        return sealed({**asdict(self), "aliases": dict(self.aliases)})

    @classmethod
    def read(cls, file: Path) -> Outward:
        """Raises: ValueError where the file is damaged."""
        found = read_sealed(file, ADVICE)
        links = found.values.get("links")
        if not isinstance(links, list) or not all(
            isinstance(row, list) and all(isinstance(t, str) for t in row) for row in links
        ):
            raise found.wrong("links", "titles for each topic")
        aliases = found.inner("aliases")
        return cls(
            api=found.text("api"),
            prefixes=tuple(found.texts("prefixes")),
            first_letter=found.flag("first_letter"),
            links=tuple(tuple(row) for row in links),
            aliases=tuple((name, _text(aliases, name)) for name in aliases.values),
            absent=tuple(found.texts("absent")),
        )


def _text(fields: Fields, name: str) -> str:
    return fields.text(name)

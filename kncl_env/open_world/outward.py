"""What a world remembers of the wiki that it was built from, and can grow into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kncl_env.world.world import World
from train_lm.checked.digests import read_sealed, sealed
from train_lm.files import Json

OUTWARD = "outward.json"  # a file of the world

ADVICE = "rebuild the world"


@dataclass(frozen=True)
class Outward:
    """Links that lead out of a world, and how to follow them.

    Attributes:
        api: Address of the wiki's API.
        namespaces: Numbers of the wiki's namespaces by the names that stand before a colon.
        first_letter: Whether titles begin with a capital.
        links: Titles that each topic links to, in reading order, in the world or not.
        aliases: Title of the article that another name leads to.
        absent: Names that lead to no article.
    """

    api: str
    namespaces: tuple[tuple[str, int], ...] = ()
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
        pairs = {"namespaces": dict(self.namespaces), "aliases": dict(self.aliases)}
        return sealed({**asdict(self), **pairs})

    @classmethod
    def of(cls, world: World) -> Outward:
        """Raises: ValueError where a world was not built from a live wiki, or a file is damaged."""
        if OUTWARD not in world.card["files"]:
            raise ValueError(
                f"expected a world that was built from a live wiki, got {world.path}: "
                "build one with `kncl-env build live`"
            )
        return cls.read(world._whole(OUTWARD))

    @classmethod
    def read(cls, file: Path) -> Outward:
        """Raises: ValueError where the file is damaged."""
        found = read_sealed(file, ADVICE)
        links = found.values.get("links")
        if not isinstance(links, list) or not all(
            isinstance(row, list) and all(isinstance(t, str) for t in row) for row in links
        ):
            raise found.wrong("links", "titles for each topic")
        aliases, spaces = found.inner("aliases"), found.inner("namespaces")
        return cls(
            api=found.text("api"),
            namespaces=tuple((name, spaces.whole(name, -1000)) for name in spaces.values),
            first_letter=found.flag("first_letter"),
            links=tuple(tuple(row) for row in links),
            aliases=tuple((name, aliases.text(name)) for name in aliases.values),
            absent=tuple(found.texts("absent")),
        )

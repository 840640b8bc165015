"""Which pages exist and which link to which, as an importer needs to know it.

It asks a world, or a plain table of links, and cuts out of a path what cannot have happened there.
It knows no file format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from rabbit_holes.path import Path, Visit

if TYPE_CHECKING:
    from kncl_env.world.world import World


@dataclass(frozen=True)
class LinkMap:
    """Pages and the links each offers.

    Attributes:
        pages: Where the titles stand, for messages (`articles.tsv`, `the world`).
        links: Where the links stand, for messages.
        titles: Every known title.
        offered: The titles that a known page links to.
    """

    pages: str
    links: str
    titles: Collection[str]
    offered: Callable[[str], frozenset[str]]

    @classmethod
    def of_world(cls, world: World) -> LinkMap:
        """The topics and links of a world."""
        titles, graph = world.titles, world.graph

        @cache
        def offered(title: str) -> frozenset[str]:
            return frozenset(titles[target] for target in graph.out(world.topic_of(title)))

        return cls("the world", "the world", frozenset(titles), offered)

    def off_graph(self, path: Path) -> int:
        """Clicks between known pages that follow no link."""
        titles = path.titles
        return sum(
            titles[child] not in self.offered(titles[parent])
            for parent, child in path.clicks()
            if titles[parent] in self.titles and titles[child] in self.titles
        )

    def prune(
        self, path: Path, *, keep_off_graph: bool = False
    ) -> tuple[Path | None, Counter[str]]:
        """Leave out visits to unknown pages, clicks that follow no link, and what came after them.

        A visit that was reached from a dropped page goes too; one that was reached by going back to
        a kept page stays. The number of dropped visits is added to `meta["dropped_visits"]`.

        Args:
            keep_off_graph: Keep clicks between known pages that follow no link.

        Returns:
            The path, None where its root is unknown, and the number of dropped visits by reason.
        """
        dropped: Counter[str] = Counter()
        place: dict[int, int] = {}  # index in the given path -> index in the result
        visits: list[Visit] = []
        for index, visit in enumerate(path.visits):
            parent = visit.parent
            if visit.title not in self.titles:
                dropped[f"page unknown to {self.pages}"] += 1
            elif parent is not None and parent not in place:
                dropped["reached through a dropped visit"] += 1
            elif (
                parent is not None
                and not keep_off_graph
                and visit.title not in self.offered(path.visits[parent].title)
            ):
                dropped[f"click not in {self.links}"] += 1
            else:
                place[index] = len(visits)
                visits.append(visit if parent is None else replace(visit, parent=place[parent]))
        if not dropped:
            return path, dropped
        if not visits:
            return None, dropped
        earlier = path.meta.get("dropped_visits")
        total = dropped.total() + (earlier if isinstance(earlier, int) else 0)
        return replace(
            path, visits=tuple(visits), meta={**path.meta, "dropped_visits": total}
        ), dropped

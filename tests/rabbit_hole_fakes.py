"""A world of ten topics in memory, and SNAP's files for a handful of games.

`FakeWorld` has what `rabbit_holes` asks of a world (titles, links, unit vectors), nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.graph import TopicGraph
from kncl_env.world.world import World
from rabbit_holes.path import Path, Visit

TITLES = ("Ant", "Bee", "Cat", "Dog", "Elk", "Fox", "Gnu", "Hen", "Ibis", "Jay")
# A ring with chords: every topic links to the next two and to the opposite one.
LINKS = [[((i + step) % 10, 0) for step in (1, 2, 5)] for i in range(10)]


class FakeWorld:
    """Ten topics on a circle; neighbours on the circle are alike, opposite ones are opposite."""

    card = {"source": "fake", "licence": "CC0"}  # noqa: RUF012
    hash = "0123456789abcdef"
    titles = TITLES
    n_topics = len(TITLES)

    def __init__(self) -> None:
        self.graph = TopicGraph.from_links(10, LINKS)
        angle = 2 * np.pi * np.arange(10) / 10
        self.topic_vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    def __contains__(self, title: str) -> bool:
        return title in TITLES

    def topic_of(self, title: str) -> int:
        if title not in TITLES:
            raise ValueError(f"expected a topic, got {title!r}")
        return TITLES.index(title)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A text lies where the first topic lies whose name it holds; others lie nowhere."""
        rows = np.zeros((len(texts), 2), dtype=np.float32)
        for row, text in enumerate(texts):
            named = [i for i, title in enumerate(TITLES) if title in text]
            rows[row] = self.topic_vectors[named[0]] if named else 0.0
        return rows


def build_animals(place: FilePath) -> World:
    """A real world directory with the topics and links of the fake world."""
    from kncl_env.world.build import BuildConfig, build_world
    from kncl_env.world.corpus import Article, Corpus

    articles = tuple(
        Article(
            title,
            tuple(f"The {title} meets word{j} and word{i * j % 7} at noon. " * 4 for j in range(6)),
            links=tuple((TITLES[target], "link") for target, _ in LINKS[i]),
        )
        for i, title in enumerate(TITLES)
    )
    config = BuildConfig(vocab_size=300, dimensions=4, max_terms=100)
    return build_world(Corpus(articles, "animals", "CC0"), place, config)


def walk_of(*titles: str, parents: list[int] | None = None, **fields: object) -> Path:
    """A chain, or a tree if parents are given."""
    visits = tuple(
        Visit(title, None if i == 0 else parents[i - 1] if parents else i - 1)
        for i, title in enumerate(titles)
    )
    known = {"id": "w", "source": "test", "walker": "person", "licence": "CC0", **fields}
    return Path(visits=visits, **known)  # type: ignore[arg-type]


ARTICLES = ["%C3%85land", "Ant", "Big_Cat", "Dog", "Licence"]
ARTICLE_LINKS = [
    ("%C3%85land", "Ant"), ("%C3%85land", "Dog"), ("Ant", "Big_Cat"), ("Big_Cat", "Dog"),
    ("Big_Cat", "Ant"), ("Dog", "%C3%85land"),
]  # fmt: skip
PLAYER = "651ff0fa4fac4471"


def write_snap(
    folder: FilePath, finished: list[bytes | str], unfinished: list[bytes | str]
) -> FilePath:
    """SNAP's layout with the given lines of games; returns the folder above the tables."""
    tables = folder / "wikispeedia_paths-and-graph"
    tables.mkdir(parents=True)
    head = b"# A comment.\n# FORMAT:   something\n\n"

    def write(name: str, lines: list[bytes | str]) -> None:
        rows = [line if isinstance(line, bytes) else line.encode() for line in lines]
        (tables / name).write_bytes(head + b"".join(row + b"\n" for row in rows))

    write("articles.tsv", list(ARTICLES))
    write("links.tsv", ["\t".join(pair) for pair in ARTICLE_LINKS])
    write("paths_finished.tsv", finished)
    write("paths_unfinished.tsv", unfinished)
    return folder


def finished(path: str, rating: str = "NULL", time: str = "1227628729", took: str = "15") -> str:
    return "\t".join([PLAYER, time, took, path, rating])


def unfinished(path: str, goal: str, kind: str = "timeout") -> str:
    return "\t".join([PLAYER, "1297054935", "1804", path, goal, kind])

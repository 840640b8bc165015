"""The links that a model was asked about, with what it made of each: a table and a graph.

The world's graph says which links there are; these files say which of them the model knows, so that
any tool for graphs can draw the one beside the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.cloze import LinkCloze
from kncl_env.knowledge.links import SCORINGS, LinkRanks, LinkScores
from train_lm.files import Json, replacing
from train_lm.plain_text import visible

Ints = NDArray[np.int64]

_KINDS = {int: "long", float: "double", bool: "boolean"}


@dataclass(frozen=True)
class AskedLink:
    """A link of the world, and what a model makes of it.

    Attributes:
        source, target: Titles of its ends.
        hop: Links from the nucleus to its farther end; -1 where none leads there.
        rank, rank_without, rank_by_lift: Place of the target's title among all of the item.
        margin: Its log-likelihood minus that of the best other title [nats].
        lift: How much its own context raises that log-likelihood over a stranger's [nats].
    """

    source: str
    target: str
    hop: int
    rank: int
    rank_without: int
    rank_by_lift: int
    margin: float
    lift: float

    @property
    def known(self) -> bool:
        """Whether the right title is first in its own context and not so in a stranger's.

        One of a single link is a guess now and then; the share beyond chance is in the figures.
        """
        return self.rank == 1 and self.rank_without > 1

    def to_json(self) -> Json:
        return {**vars(self), "known": self.known}


def asked_links(
    cloze: LinkCloze, scores: LinkScores, ranks: LinkRanks, hops: Ints
) -> list[AskedLink]:
    """One of each item."""
    titles = cloze.world.titles
    ends = zip(cloze.sources.tolist(), cloze.topics[:, 0].tolist(), strict=True)
    margin = scores.own[:, 0] - scores.own[:, 1:].max(1)
    lift = scores.own[:, 0] - scores.stranger[:, 0]
    own, without, by_lift = (ranks.of[name].tolist() for name in SCORINGS)
    return [
        AskedLink(
            source=titles[source],
            target=titles[target],
            hop=int(hops[i]),
            rank=own[i],
            rank_without=without[i],
            rank_by_lift=by_lift[i],
            margin=float(margin[i]),
            lift=float(lift[i]),
        )
        for i, (source, target) in enumerate(ends)
    ]


def write_graphml(file: Path, links: Sequence[AskedLink]) -> None:
    """The links as GraphML (http://graphml.graphdrawing.org): Gephi, yEd and NetworkX read it."""
    titles = list(dict.fromkeys(title for link in links for title in (link.source, link.target)))
    number = {title: i for i, title in enumerate(titles)}
    kinds = {name: type(value) for name, value in links[0].to_json().items()} if links else {}
    told = [name for name in kinds if name not in ("source", "target")]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        '<key id="title" for="node" attr.name="title" attr.type="string"/>',
    ]
    lines += [
        f'<key id="{name}" for="edge" attr.name="{name}" attr.type="{_KINDS[kinds[name]]}"/>'
        for name in told
    ]
    lines.append('<graph edgedefault="directed">')
    for title, i in number.items():
        # Titles are anybody's; XML has no place for control characters at all.
        shown = escape(visible(title))
        lines.append(f'<node id="n{i}"><data key="title">{shown}</data></node>')
    for link in links:
        ends = f'source="n{number[link.source]}" target="n{number[link.target]}"'
        values = link.to_json()
        data = "".join(f"<data key={quoteattr(n)}>{_said(values[n])}</data>" for n in told)
        lines.append(f"<edge {ends}>{data}</edge>")
    lines += ["</graph>", "</graphml>", ""]
    with replacing(file) as part:
        part.write_text("\n".join(lines), encoding="utf-8")


def _said(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

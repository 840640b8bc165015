"""What a model was found to know, as one value: a table for the terminal, JSON for a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.cloze import LinkCloze
from kncl_env.knowledge.export import AskedLink, asked_links
from kncl_env.knowledge.facts import FactFigures, FactProbe
from kncl_env.knowledge.figures import beyond_chance
from kncl_env.knowledge.links import CONTEXT, LinkFigures, LinkProbe
from kncl_env.knowledge.reading import Asked
from train_lm.files import Json

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class KnowledgeReport:
    """What a model knows of a world.

    Attributes:
        chance: That a guess is right.
        links: Of all links in question.
        by_hop: Of those at each distance from the nucleus; -1 where none leads there.
        asked: Each link.
        facts: Of a generated world; None of others.
    """

    chance: float
    links: LinkFigures
    by_hop: dict[int, LinkFigures]
    asked: list[AskedLink]
    facts: FactFigures | None = None

    @classmethod
    def of(
        cls,
        asked: Asked,
        cloze: LinkCloze,
        hops: Ints,
        context: int = CONTEXT,
        facts: FactProbe | None = None,
    ) -> KnowledgeReport:
        """Ask a model, as it stands.

        Args:
            hops: (n,) of each item.
            context: Tokens before a title, at most.
        """
        probe = LinkProbe(cloze, asked.encode, asked.longest, context)
        scores = probe.scores(asked.model, asked.device)
        found = scores.ranks()
        by_hop = {int(hop): found.figures(probe.clusters, hops == hop) for hop in np.unique(hops)}
        recalled = None
        if facts is not None:
            recalled = facts.figures(facts.right(asked.model, asked.device))
        return cls(
            probe.chance,
            found.figures(probe.clusters),
            by_hop,
            asked_links(cloze, scores, found, hops),
            recalled,
        )

    def verdict(self) -> str:
        """A sentence that says what the intervals allow, and no more."""
        share = max(0.0, beyond_chance(self.links.accuracy.value, self.chance))
        if self.links.knows(self.chance):
            return f"links are known: {share:.0%} of those in question, once guesses are taken off"
        if self.links.accuracy.low > self.chance:
            return "titles are known and no link: a stranger's context does as well"
        return "no link is known: the interval holds chance"

    def lines(self) -> list[str]:
        """A table, its verdict last."""
        head = f"{'':>12s} {'items':>6s} {'own context':>22s} {'a stranger' + chr(39) + 's':>22s}"
        lines = [f"{head} {'difference':>24s} {'MRR':>6s}"]
        rows = {"all": self.links}
        rows |= {f"hop {h}" if h >= 0 else "unreachable": f for h, f in self.by_hop.items()}
        for name, found in rows.items():
            lines.append(
                f"{name:>12s} {found.accuracy.items:6d} {found.accuracy!s:>22s} "
                f"{found.without!s:>22s} {found.by_context!s:>24s} {found.mrr.value:6.3f}"
            )
        lines.append(f"chance {self.chance:.3f}; by lift {self.links.lift}; {self.verdict()}")
        return lines + ([] if self.facts is None else fact_lines(self.facts))

    def to_json(self) -> Json:
        found = {
            "chance": self.chance,
            "verdict": self.verdict(),
            "all": self.links.to_json(),
            "by_hop": {str(hop): found.to_json() for hop, found in self.by_hop.items()},
            "links": [link.to_json() for link in self.asked],
        }
        return found if self.facts is None else {**found, "facts": self.facts.to_json()}


def fact_lines(facts: FactFigures) -> list[str]:
    """Recall of facts, and by depth."""
    depths = [f"depth {depth}: {found}" for depth, found in facts.by_depth.items()]
    word = "facts are known" if facts.knows else "no fact is known beyond that"
    return [
        f"facts recalled in unread words: {facts.recall} of {facts.recall.items} questions; chance "
        f"{facts.chance:.3f}, the most frequent value {facts.frequent:.3f}: {word}",
        f"  {'; '.join(depths)}",
    ]

"""What a learner knows at moments of an episode: the same links each time, for all arms.

Asking for 60 links takes a good third of the time of a step of a small learner, so it is done at
few moments of an episode and on few links; a whole table is `kncl-env knowledge`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.cloze import LinkCloze, hops_of
from kncl_env.knowledge.links import LinkProbe, LinkRanks
from kncl_env.knowledge.reading import in_world_tokens, learner_model
from kncl_env.learner import Learner
from kncl_env.stage import Stage
from train_lm.checked.records import Fields
from train_lm.files import Json

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KnowledgeCurve:
    """What a learner knew at moments of an episode.

    Attributes:
        tokens: Trained until each moment.
        ranks: Places of the right titles at each.
        hops: (n,) links from the nucleus to the farther end of each link in question.
        clusters: (n,) topic that each item counts to.
        chance: That a guess is right.
    """

    tokens: list[int]
    ranks: list[LinkRanks]
    hops: Ints
    clusters: Ints
    chance: float

    def to_json(self) -> Json:
        return {
            "tokens": self.tokens,
            "ranks": [found.to_json() for found in self.ranks],
            "hops": self.hops.tolist(),
            "clusters": self.clusters.tolist(),
            "chance": self.chance,
        }

    @classmethod
    def from_json(cls, found: Fields) -> KnowledgeCurve:
        """Raises: ValueError where it is not what `to_json` gave."""
        hops = found.wholes("hops", least=-1)
        clusters, tokens = found.wholes("clusters"), found.wholes("tokens")
        ranks = [LinkRanks.from_json(one, len(hops)) for one in found.inners("ranks")]
        if len(clusters) != len(hops) or len(ranks) != len(tokens) or not hops or not tokens:
            raise found.wrong("ranks", f"those of {len(tokens)} moments and {len(hops)} links")
        chance = found.number("chance", 0, 1)
        return cls(tokens, ranks, np.array(hops), np.array(clusters), chance)


@dataclass(frozen=True)
class KnowledgeMeter:
    """When and on how many links a learner is asked in an episode.

    Attributes:
        points: Moments, both ends included, among those at which a curve is measured.
        items: Links of the `select` split in question, at most.

    Raises:
        ValueError: Fewer than two moments, or no link.
    """

    points: int = 3
    items: int = 60

    def __post_init__(self) -> None:
        if self.points < 2 or self.items < 1:
            raise ValueError(
                f"expected knowledge at 2 moments or more, of 1 link or more, got {self.points} "
                f"and {self.items}"
            )

    def moments(self, measured: Collection[int]) -> frozenset[int]:
        """Those of a curve's moments that come nearest to even ones."""
        known = np.array(sorted(measured))
        even = np.linspace(known[0], known[-1], self.points)
        return frozenset(int(known[np.abs(known - moment).argmin()]) for moment in even)

    def begin(self, stage: Stage) -> KnowledgeWatch:
        """Raises: ValueError where no held-out text names a linked topic."""
        return KnowledgeWatch(stage, self.items)


# Of each stage: places by weights and number of links. All arms of a seed begin alike.
_AT_FIRST: WeakKeyDictionary[Stage, dict[tuple[str, int], LinkRanks]] = WeakKeyDictionary()


class KnowledgeWatch:
    """Asks the learner of one episode.

    Args:
        stage: Its world, seeds and learners.
        items: Links in question, at most.
    """

    def __init__(self, stage: Stage, items: int) -> None:
        self.stage, self.items = stage, items
        cloze = LinkCloze.of(stage.world, "select", items)
        self.probe = LinkProbe(cloze, in_world_tokens(stage.world), stage.store.context)
        self.hops = hops_of(stage.world, stage.seeds, cloze.sources, cloze.topics[:, 0])
        self._tokens: list[int] = []
        self._ranks: list[LinkRanks] = []

    def ask(self, learner: Learner, tokens: int, start: str = "") -> None:
        """Ask it now, after so many tokens.

        Args:
            start: Tells the weights with which an episode begins from others; who begins with the
                same is asked once. Empty in the middle of one.
        """
        known = _AT_FIRST.setdefault(self.stage, {})
        key = (start, self.items)
        ranks = known.get(key) if start else None
        if ranks is None:
            asked = learner_model(self.stage, learner)
            ranks = self.probe.scores(asked.model, asked.device).ranks()
        if start:
            known[key] = ranks
        self._tokens.append(tokens)
        self._ranks.append(ranks)

    def curve(self) -> KnowledgeCurve:
        """What was found so far."""
        probe = self.probe
        return KnowledgeCurve(self._tokens, self._ranks, self.hops, probe.clusters, probe.chance)


def together(curves: Sequence[KnowledgeCurve]) -> KnowledgeCurve:
    """Episodes of several seeds as one whose items are all of theirs, at the moments that all have.

    Items of one topic stay one cluster whatever seed asked them, so that seeds add no topics.

    Raises:
        ValueError: No episode.
    """
    if not curves:
        raise ValueError("expected at least one episode to join, got none")
    common = sorted(set.intersection(*({*curve.tokens} for curve in curves)))
    joined = []
    for tokens in common:
        of = [curve.ranks[curve.tokens.index(tokens)].of for curve in curves]
        joined.append(LinkRanks({name: np.concatenate([o[name] for o in of]) for name in of[0]}))
    hops = np.concatenate([curve.hops for curve in curves])
    clusters = np.concatenate([curve.clusters for curve in curves])
    return KnowledgeCurve(common, joined, hops, clusters, curves[0].chance)

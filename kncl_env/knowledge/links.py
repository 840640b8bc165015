"""Which links a model knows: it reads the items of a link cloze, and ranks the titles of each.

    with      log p(title | its own context)
    without   log p(title | a stranger's context): what the title's frequency alone gives
    lift      with - without, the pointwise mutual information of title and context

A model knows links, and not titles alone, where the right title is first with its context more
often than chance has it, and more often than without. Lift takes frequency off each title instead
(Holtzman et al. 2021, arXiv:2104.08315), but a single stranger's context is a noisy measure of it.
The log-likelihood is the sum over a title's tokens: that is the probability of this title. Means
per byte would favour long titles, whose ends are certain once they are begun; the other titles of
an item are about as long as the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.figures import Estimate, estimate, ranks
from train_lm.checked.records import Fields
from train_lm.files import Json

if TYPE_CHECKING:
    import torch
    from torch import nn

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Encode = Callable[[Sequence[str]], list[Ints]]


class Cloze(Protocol):
    """Items to ask: a `LinkCloze`, or one that was written down."""

    @property
    def contexts(self) -> Sequence[str]: ...  # (n,)
    @property
    def topics(self) -> Ints: ...  # (n, 1 + others), the right one first
    @property
    def strangers(self) -> Ints: ...  # (n,) items whose context is the stranger's
    @property
    def clusters(self) -> Ints: ...  # (n,) topics that items count to
    @property
    def names(self) -> Sequence[str]: ...  # (N,) titles as a text has them
    def __len__(self) -> int: ...


CONTEXT = 48  # [tokens]
SCORINGS = ("with", "without", "lift")


@dataclass(frozen=True, eq=False)
class LinkScores:
    """What a model finds likely.

    Attributes:
        own: (n, 1 + others) log-likelihood [nats] of each title after the item's own context; the
            right one first.
        stranger: The same after the stranger's context.
    """

    own: Floats
    stranger: Floats

    def ranks(self) -> LinkRanks:
        by = (self.own, self.stranger, self.own - self.stranger)
        return LinkRanks({name: ranks(found) for name, found in zip(SCORINGS, by, strict=True)})


@dataclass(frozen=True, eq=False)
class LinkRanks:
    """Place of the right title in each item, 1 for the first.

    Attributes:
        of: (n,) by each of `SCORINGS`.
    """

    of: Mapping[str, Ints]

    def right(self, scoring: str) -> Floats:
        """(n,) 1 where the right title is first, else 0."""
        return (self.of[scoring] == 1).astype(np.float64)

    def figures(self, clusters: Ints, among: NDArray[np.bool_] | None = None) -> LinkFigures:
        """Accuracy and mean reciprocal rank, of all items or of some.

        Raises:
            ValueError: Of no item.
        """
        kept = np.ones(len(clusters), dtype=bool) if among is None else among
        own = clusters[kept]
        return LinkFigures(
            **{name: estimate(self.right(key)[kept], own) for name, key in _ACCURACIES.items()},
            by_context=estimate((self.right("with") - self.right("without"))[kept], own),
            mrr=estimate(1 / self.of["with"][kept], own),
        )

    def to_json(self) -> Json:
        return {name: found.tolist() for name, found in self.of.items()}

    @classmethod
    def from_json(cls, found: Fields, n: int) -> LinkRanks:
        """Raises: ValueError where it is not what `to_json` gave of n items."""
        of = {name: found.wholes(name, least=1) for name in SCORINGS}
        for name, places in of.items():
            if len(places) != n:
                raise found.wrong(name, f"{n} places")
        return cls({name: np.array(places) for name, places in of.items()})


_ACCURACIES = {"accuracy": "with", "without": "without", "lift": "lift"}


@dataclass(frozen=True)
class LinkFigures:
    """What of the links in question a model knows.

    Attributes:
        accuracy: Share of items whose right title is first after the item's own context.
        without: After a stranger's.
        lift: By the difference of the two log-likelihoods.
        by_context: Mean of accuracy minus `without`, paired by item.
        mrr: Mean reciprocal rank after the item's own context.
    """

    accuracy: Estimate
    without: Estimate
    lift: Estimate
    by_context: Estimate
    mrr: Estimate

    def knows(self, chance: float) -> bool:
        """Whether links are known, and not titles alone.

        The interval of the accuracy lies above chance, and that of its difference to what a
        stranger's context gives above 0.
        """
        return self.accuracy.low > chance and self.by_context.low > 0

    def to_json(self) -> Json:
        return {name: found.to_json() for name, found in vars(self).items()}


class LinkProbe:
    """The items of a cloze in the tokens of a model.

    Args:
        cloze: The items.
        encode: Token ids of texts, without an end.
        longest: Tokens that the model reads at most.
        context: Tokens of a context, at most; less where a title would not fit behind them.

    Raises:
        ValueError: The model is too short for the titles.
    """

    def __init__(self, cloze: Cloze, encode: Encode, longest: int, context: int = CONTEXT) -> None:
        self.cloze = cloze
        self._contexts = encode(cloze.contexts)
        used, self._option_of = np.unique(cloze.topics, return_inverse=True)  # (n, 1 + others)
        self._option_of = self._option_of.reshape(cloze.topics.shape)
        self._options = encode([f" {cloze.names[t]}" for t in used])
        lengths = np.array([len(ids) for ids in self._options])
        self._room = np.minimum(context, longest - lengths[self._option_of].max(1))  # (n,)
        if context < 1 or self._room.min() < 1:
            raise ValueError(
                f"expected room for a title and a token before it, got a context of {context} and "
                f"a model of {longest} tokens: take a model that reads more"
            )

    @property
    def chance(self) -> float:
        return 1 / self.cloze.topics.shape[1]

    @cached_property
    def clusters(self) -> Ints:
        return self.cloze.clusters

    def scores(self, model: nn.Module, device: torch.device | str) -> LinkScores:
        """What a model, as it stands, finds likely."""
        from train_lm.continuations import Question, log_likelihoods

        questions = [
            Question(self._before(lender, i), self._titles(i))
            for lenders in (range(len(self.cloze)), self.cloze.strangers.tolist())
            for i, lender in enumerate(lenders)
        ]
        found = np.array(log_likelihoods(model, questions, device))
        return LinkScores(found[: len(self.cloze)], found[len(self.cloze) :])

    def _before(self, lender: int, item: int) -> Ints:
        return self._contexts[lender][-int(self._room[item]) :]

    def _titles(self, item: int) -> tuple[Ints, ...]:
        return tuple(self._options[option] for option in self._option_of[item])

"""Who walks: given what a page offers and the way so far, a walker picks a link or goes back.

Walkers see titles and visits only. They know no wiki, no file and no world, and hold no state of
their own, so that a walk resumed after a kill makes the choices that it would have made.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.path import Visit

Embed = Callable[[Sequence[str]], NDArray[Any]]
LogProbabilities = Callable[[Sequence[str], Sequence[str]], Any]
Transitions = Mapping[str, Mapping[str, int]] | Callable[[str], Mapping[str, int]]


@dataclass(frozen=True)
class WalkState:
    """What a walker knows when it chooses.

    Attributes:
        visits: Of this walk, in order of time; at least one.
        here: Index of the visit whose page is open.
        goal: Title that is looked for, if any.
    """

    visits: tuple[Visit, ...]
    here: int
    goal: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.here < len(self.visits):
            raise ValueError(
                f"expected the open page among {len(self.visits)} visits, got {self.here}"
            )

    @property
    def page(self) -> Visit:
        """The visit whose page is open."""
        return self.visits[self.here]

    @property
    def trail(self) -> tuple[Visit, ...]:
        """The visits from the root to the open page along the tree."""
        trail = [self.page]
        while trail[-1].parent is not None:
            trail.append(self.visits[trail[-1].parent])
        return tuple(reversed(trail))


class Walker(Protocol):
    """Chooses among offered links. Calls come one at a time."""

    @property
    def name(self) -> str:
        """As recorded in a path: `random`, `similar`, `markov`, `lm:<model>`, `policy:<name>`."""

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        """One of `offered` (never empty, none visited before), or None to go back."""


class RandomWalker:
    """Every offered link is equally likely.

    Args:
        back: Probability of going back, where there is a page to go back to.
    """

    name = "random"

    def __init__(self, back: float = 0.0) -> None:
        self.back = _probability(back)

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        if _goes_back(state, self.back, rng):
            return None
        return offered[int(rng.integers(len(offered)))]


class SimilarWalker:
    """Stays near the open page and away from what it has seen.

    The score of a link is its cosine to the open page, minus `novelty` times its largest cosine to
    an earlier page of the walk (maximal marginal relevance, Carbonell & Goldstein 1998); the choice
    is a draw from the softmax of score / temperature.

    Args:
        embed: Texts -> (n, D) unit rows; called once per choice, with all texts of that choice.
        novelty: Weight of having been there.
        temperature: Towards 0 the best link always wins.
        back: Probability of going back.
    """

    name = "similar"

    def __init__(
        self, embed: Embed, *, novelty: float = 0.5, temperature: float = 0.1, back: float = 0.0
    ) -> None:
        self.embed = embed
        self.novelty = novelty
        self.temperature = _temperature(temperature)
        self.back = _probability(back)

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        if _goes_back(state, self.back, rng):
            return None
        earlier = [_text(visit) for i, visit in enumerate(state.visits) if i != state.here]
        rows = np.asarray(self.embed([_text(state.page), *earlier, *offered]))  # (1 + v + n, D)
        links = rows[1 + len(earlier) :]  # (n, D)
        score = links @ rows[0]  # (n,)
        if earlier:
            score = score - self.novelty * (links @ rows[1 : 1 + len(earlier)].T).max(axis=1)
        return _draw(offered, score / self.temperature, rng)


class MarkovWalker:
    """Goes where readers went from here: first-order transition counts, smoothed.

    Args:
        transitions: Title -> {title: count}, as a mapping or a function.
        smoothing: Count added to every offered link, so that none is impossible.
        back: Probability of going back.
    """

    name = "markov"

    def __init__(
        self, transitions: Transitions, *, smoothing: float = 0.1, back: float = 0.0
    ) -> None:
        if not smoothing > 0:
            raise ValueError(
                f"expected smoothing above 0, got {smoothing}: pages without counts need it"
            )
        self.transitions = transitions
        self.smoothing = smoothing
        self.back = _probability(back)

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        if _goes_back(state, self.back, rng):
            return None
        if callable(self.transitions):
            counts = self.transitions(state.page.title)
        else:
            counts = self.transitions.get(state.page.title, {})
        weights = np.array([counts.get(title, 0) for title in offered]) + self.smoothing
        return _draw(offered, np.log(weights), rng)


class LmWalker:
    """A language model picks the next link.

    Args:
        log_probabilities: (titles from the root to the open page, offered titles) -> (n,)
            log-probabilities, not necessarily normalised.
        model: Name of the model, recorded in the path.
        temperature: Towards 0 the likeliest link always wins.
        back: Probability of going back.
    """

    def __init__(
        self,
        log_probabilities: LogProbabilities,
        model: str,
        *,
        temperature: float = 1.0,
        back: float = 0.0,
    ) -> None:
        self.log_probabilities = log_probabilities
        self.name = f"lm:{model}"
        self.temperature = _temperature(temperature)
        self.back = _probability(back)

    def choose(
        self, state: WalkState, offered: Sequence[str], rng: np.random.Generator
    ) -> str | None:
        if _goes_back(state, self.back, rng):
            return None
        trail = [visit.title for visit in state.trail]
        scores = np.asarray(self.log_probabilities(trail, offered), dtype=np.float64)
        return _draw(offered, scores / self.temperature, rng)


def next_click(
    walker: Walker,
    visits: Sequence[Visit],
    rng: np.random.Generator,
    *,
    branching: bool,
    dead: frozenset[str] = frozenset(),
) -> tuple[str, int] | None:
    """The next title to open and the index of the visit it is clicked on; None where a walk ends.

    Going back moves up the tree, one page at a time, until the walker picks a link there. Without
    `branching` the walk ends instead.

    Args:
        walker: Who chooses.
        visits: So far, at least one; the last one's page is open.
        rng: For this click alone.
        branching: Whether the walk may go back.
        dead: Titles that led nowhere, not to be offered again.

    Raises:
        ValueError: If the walker picks what was not offered.
    """
    closed = dead.union(visit.title for visit in visits)
    here: int | None = len(visits) - 1
    while here is not None:
        offered = [title for title in visits[here].offered if title not in closed]
        if offered:
            title = walker.choose(WalkState(tuple(visits), here), offered, rng)
            if title is not None and title not in offered:
                raise ValueError(
                    f"expected walker {walker.name!r} to pick one of {len(offered)} links of "
                    f"{visits[here].title!r}, got {title!r}"
                )
            if title is not None:
                return title, here
        if not branching:
            return None
        here = visits[here].parent
    return None


def hashed_tfidf(texts: Sequence[str], dimensions: int = 512) -> NDArray[np.float32]:
    """(n, D) unit rows from words and character trigrams: an embedding for any wiki, unfitted.

    Features are hashed with a sign (Weinberger et al. 2009), so nothing has to be learned or kept;
    a feature that many of the given texts share counts for little. Texts without a word give a zero
    row. The same texts give the same rows on every machine.
    """
    counts: list[dict[str, float]] = []
    seen_in: dict[str, int] = {}
    for text in texts:
        bag: dict[str, float] = {}
        for word in _WORD.findall(text.casefold()):
            padded = f"^{word}$"
            grams = [padded[at : at + 3] for at in range(len(padded) - 2)]
            for feature, weight in ((word, 1.0), *((gram, 0.3) for gram in grams)):
                bag[feature] = bag.get(feature, 0.0) + weight
        counts.append(bag)
        for feature in bag:
            seen_in[feature] = seen_in.get(feature, 0) + 1
    rows = np.zeros((len(texts), dimensions), dtype=np.float64)
    places = {feature: zlib.crc32(feature.encode()) for feature in seen_in}
    for row, bag in zip(rows, counts, strict=True):
        for feature, weight in bag.items():
            rarity = np.log((1 + len(texts)) / (1 + seen_in[feature])) + 1.0
            sign = 1.0 if places[feature] >> 31 else -1.0
            row[places[feature] % dimensions] += sign * np.log1p(weight) * rarity
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0).astype(np.float32)


_WORD = re.compile(r"\w+")


def _text(visit: Visit) -> str:
    return f"{visit.title} {visit.text}" if visit.text else visit.title


def _goes_back(state: WalkState, back: float, rng: np.random.Generator) -> bool:
    return state.page.parent is not None and back > 0 and rng.random() < back


def _draw(offered: Sequence[str], logits: NDArray[np.float64], rng: np.random.Generator) -> str:
    if logits.shape != (len(offered),) or np.isnan(logits).any() or not np.isfinite(logits.max()):
        raise ValueError(f"expected one finite score for each of {len(offered)} links")
    weights = np.exp(logits - logits.max())
    return offered[int(rng.choice(len(offered), p=weights / weights.sum()))]


def _probability(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"expected a probability of going back in [0, 1), got {value}")
    return value


def _temperature(value: float) -> float:
    if not value > 0:
        raise ValueError(f"expected a temperature above 0, got {value}")
    return value

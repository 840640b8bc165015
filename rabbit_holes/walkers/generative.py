"""A language model goes down the hole over a world.

Two ways. *Choose*: it picks among the links a page offers, by the probability it gives their
titles. *Associate*: it names the next topic in its own words, which are matched to the world's
topics; words that match none are misses, and a match that the page does not link to is off the
graph. As in the recorded games, a walk ends where it comes back to a page: a loop.

Weights and tokens are `language_model.py`'s business, wording is `prompts.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rabbit_holes.path import Path, Visit
from rabbit_holes.walkers.prompts import Prompt, chat_prompt, plain_prompt, read_answer
from rabbit_holes.walkers.settings import GenerationSettings
from train_lm.files import hash_json
from train_lm.inputs import SHOWN

if TYPE_CHECKING:
    from kncl_env.world.world import World
    from rabbit_holes.walkers.language_model import LanguageModel

MODEL_SHA256 = "model_sha256"  # in a path's meta: the first digits of its model's digest
TRIES = 3  # misses in a row after which a walk is lost
LONGEST_TITLE = 24  # [tokens] titles beyond this are cut when they are scored


@dataclass
class _Walk:
    """A walk on its way."""

    number: int
    rng: np.random.Generator
    topics: list[int]
    goal: int | None
    offered: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    said: list[str] = field(default_factory=list)
    status: str | None = None
    misses: int = 0
    misses_in_a_row: int = 0
    off_graph: int = 0

    @property
    def here(self) -> int:
        return self.topics[-1]

    def go(self, topic: int, depth: int) -> None:
        """Open a page and see whether the walk ends there."""
        is_back = topic in self.topics
        self.topics.append(topic)
        self.offered.append(())
        self.misses_in_a_row = 0
        if topic == self.goal:
            self.status = "finished"
        elif is_back:
            self.status = "loop"
        elif len(self.topics) > depth:
            self.status = "finished" if self.goal is None else "unfinished"


def generate(
    world: World,
    model: LanguageModel,
    settings: GenerationSettings,
    done: frozenset[str] = frozenset(),
) -> Iterator[Path]:
    """Walk, batch by batch.

    Walks of a batch are computed together, so a batch that was cut short is walked again and gives
    the same walks; a batch that is done is skipped.

    Args:
        done: Ids of walks that need not be given again.

    Raises:
        ValueError: If a start or goal is no topic, or no topic has a link.
    """
    step = partial(_choose if settings.mode == "choose" else _associate, world, model, settings)
    name = run_name(world, model.name, settings)
    starts = [world.topic_of(title) for title in settings.starts]
    goals = [world.topic_of(title) for title in settings.goals]
    linking = np.flatnonzero(world.graph.out_degree)
    if not len(linking):
        raise ValueError("expected a world with links to follow, got none")
    for first in range(0, settings.walks, settings.batch):
        numbers = range(first, min(first + settings.batch, settings.walks))
        if all(f"{name}-{number:06d}" in done for number in numbers):
            continue
        walks = []
        for number in numbers:
            rng = np.random.default_rng([settings.seed, number])
            start = starts[number % len(starts)] if starts else int(rng.choice(linking))
            goal = goals[number % len(goals)] if goals else None
            walks.append(_Walk(number, rng, [start], goal))
        while active := [walk for walk in walks if walk.status is None]:
            step(active)
        for walk in walks:
            path = _path(walk, f"{name}-{walk.number:06d}", world, model, settings)
            if path.id not in done:
                yield path


def run_name(world: World, model: str, settings: GenerationSettings) -> str:
    """Begins the ids of all walks that one command gives, however often it is run."""
    decisive = {key: value for key, value in asdict(settings).items() if key != "walks"}
    return f"lm-{hash_json([world.hash, model, decisive])[:10]}"


def _choose(
    world: World, model: LanguageModel, settings: GenerationSettings, walks: Sequence[_Walk]
) -> None:
    """One click of each walk, among the links of its page."""
    moving, links = [], []
    for walk in walks:
        out = world.graph.out(walk.here)
        if settings.offered and len(out) > settings.offered:
            out = out[np.sort(walk.rng.choice(len(out), settings.offered, replace=False))]
        if len(out):
            walk.offered[-1] = tuple(world.titles[topic] for topic in out)
            moving.append(walk)
            links.append(out)
        else:
            walk.status = "dead end"
    if not moving:
        return
    scores = _scores(world, model, moving)
    from rabbit_holes.walkers.language_model import draw

    for walk, out, score in zip(moving, links, scores, strict=True):
        walk.go(int(out[draw(score, settings.temperature, walk.rng)]), settings.depth)


def _scores(
    world: World, model: LanguageModel, walks: Sequence[_Walk]
) -> list[NDArray[np.float64]]:
    answers = [
        [model.title_tokens(title, model.chats)[:LONGEST_TITLE] for title in walk.offered[-1]]
        for walk in walks
    ]
    prompts = [
        model.prompt_tokens(
            [world.titles[topic] for topic in walk.topics],
            _prompt_of(world, model, walk, walk.offered[-1]),
            room=max(map(len, own)),
        )
        for walk, own in zip(walks, answers, strict=True)
    ]
    return model.score(prompts, answers)


def _prompt_of(
    world: World, model: LanguageModel, walk: _Walk, offered: Sequence[str] | None
) -> Callable[[Sequence[str]], Prompt]:
    goal = None if walk.goal is None else world.titles[walk.goal]
    if model.chats:
        return lambda trail: chat_prompt(trail, goal, offered)
    return lambda trail: plain_prompt(trail, goal)


def _associate(
    world: World, model: LanguageModel, settings: GenerationSettings, walks: Sequence[_Walk]
) -> None:
    """One try of each walk to name its next topic."""
    prompts = [
        model.prompt_tokens(
            [world.titles[topic] for topic in walk.topics],
            _prompt_of(world, model, walk, None),
            room=settings.words,
        )
        for walk in walks
    ]
    texts = model.go_on(prompts, [w.rng for w in walks], settings.temperature, settings.words)
    answers = [read_answer(text) for text in texts]
    topics = match_topics(world, answers, settings.similarity)
    for walk, answer, topic in zip(walks, answers, topics, strict=True):
        if topic is None:
            walk.misses += 1
            walk.misses_in_a_row += 1
            if walk.misses_in_a_row == TRIES or settings.temperature == 0:
                walk.status = "lost"
            continue
        walk.said.append(answer)
        walk.off_graph += not world.graph.has_edge(walk.here, topic)
        walk.go(topic, settings.depth)


def match_topics(world: World, words: Sequence[str], similarity: float) -> list[int | None]:
    """The topic that each answer names: by its title, else the nearest text; None is a miss."""
    by_title = {title.casefold(): topic for topic, title in enumerate(world.titles)}
    found: list[int | None] = [by_title.get(answer.casefold()) for answer in words]
    open_rows = [row for row, topic in enumerate(found) if topic is None and words[row]]
    if open_rows:
        cosines = world.embed([words[row] for row in open_rows]) @ world.topic_vectors.T
        for row, own in zip(open_rows, cosines, strict=True):
            best = int(own.argmax())
            if own[best] >= similarity:
                found[row] = best
    return found


def _path(
    walk: _Walk, name: str, world: World, model: LanguageModel, settings: GenerationSettings
) -> Path:
    visits = [
        Visit(world.titles[topic], i - 1 if i else None, offered=offered)
        for i, (topic, offered) in enumerate(zip(walk.topics, walk.offered, strict=True))
    ]
    meta: dict[str, str | int | float | None] = {
        "mode": settings.mode,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }
    if model.sha256:
        meta[MODEL_SHA256] = model.sha256[:SHOWN]
    if settings.mode == "choose" and settings.offered:
        meta["offered_at_most"] = settings.offered
    if settings.mode == "associate":
        meta |= {"misses": walk.misses, "off_graph": walk.off_graph, "said": " > ".join(walk.said)}
    return Path(
        id=name,
        visits=tuple(visits),
        source=f"generated:{model.name}",
        walker=f"lm:{model.name}",
        licence=f"titles: {world.card['licence']}",
        goal=None if walk.goal is None else world.titles[walk.goal],
        status=walk.status or "unfinished",
        meta=meta,
    )


def load_link_scorer(
    place: str,
) -> tuple[Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]], str]:
    """A language model for walks outside any world.

    Returns:
        A function of the titles so far and n titles offered, which gives (n,) mean
        log-probabilities [nats per token]; and the model's digest.
    """
    from rabbit_holes.walkers.language_model import load_language_model

    model = load_language_model(place)

    def score(trail: Sequence[str], offered: Sequence[str]) -> NDArray[np.float64]:
        def prompt_of(part: Sequence[str]) -> Prompt:
            return chat_prompt(part, None, offered) if model.chats else plain_prompt(part, None)

        answers = [model.title_tokens(title, model.chats)[:LONGEST_TITLE] for title in offered]
        prompt = model.prompt_tokens(list(trail), prompt_of, room=max(map(len, answers)))
        return model.score([prompt], [answers])[0]

    return score, model.sha256

"""What a learner recalls of a generated world's facts, asked in words that it never read.

The generator knows every fact. A world that was built with unread wordings has statements, such as
`What Brella calls its colour is ...`, that stand in none of its texts. Each fact of each topic is
asked in each of them; the learner answers with the likeliest of the values that could stand
there: words that the same community has for the attribute, or titles of that community where the
value is one. Style does not answer, and chance is one over their number; what the most frequent of
them would get, among the facts of the community for this attribute, stands beside it.

A fact that holds through another topic, which may hold it through a third, has a depth; facts of a
topic's own have depth 0. Nobody tells the depth to a learner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.figures import Estimate, estimate, ranks
from kncl_env.world.sources.synthetic import Fact, SyntheticConfig, SyntheticWorld, generate
from kncl_env.world.sources.synthetic_words import ASKING, RELATIONS, STATEMENTS
from kncl_env.world.world import World
from train_lm.files import Json

if TYPE_CHECKING:
    import torch
    from torch import nn

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Encode = Callable[[Sequence[str]], list[Ints]]

VALUES = 6  # that a question offers, at most


@dataclass(frozen=True)
class FactQuestion:
    """A fact, asked.

    Attributes:
        topic: That it is about.
        fact: As the generator knows it.
        depth: Topics that it holds through, one after another.
        prompt: A statement in an unread wording, up to the value.
        values: What could stand there, the right one first.
        frequent: Chance that the most frequent of them is right; of equals any.
    """

    topic: int
    fact: Fact
    depth: int
    prompt: str
    values: tuple[str, ...]
    frequent: float


def truth_of(world: World) -> tuple[SyntheticConfig, SyntheticWorld]:
    """The generator's settings and its truth, generated once more.

    Raises:
        ValueError: The world is not generated, by other code than this, or not from its own seed.
    """
    if world.card["source"] != "synthetic":
        raise ValueError(
            f"expected a generated world, whose facts are known, got one of {world.card['source']}"
            f" at {world.path}: build one with `kncl-env build synthetic`"
        )
    seed = int(world.card["settings"]["seed"])
    config = SyntheticConfig.from_counts(world.card["source_counts"], seed)
    truth = generate(config)
    if truth.corpus.sha256 != world.card["source_sha256"]:
        raise ValueError(
            f"expected the texts that seed {seed} generates in world {world.path}, got others: it "
            "was built by another version or from another seed, build it again"
        )
    return config, truth


def questions_of(config: SyntheticConfig, truth: SyntheticWorld) -> list[FactQuestion]:
    """Every fact in every unread wording, topic by topic; topics of noise and copies have none.

    Raises:
        ValueError: The world has no unread wording.
    """
    if not config.unread:
        raise ValueError(
            "expected a generated world with wordings that nobody reads, got one whose texts use "
            "all: build it with --unread-wordings"
        )
    titles = [article.title for article in truth.corpus.articles]
    known, times = _known_values(truth), _times_told(truth)
    links = [{title for title, _ in article.links} for article in truth.corpus.articles]
    rng = np.random.default_rng(config.seed)
    found = []
    for topic, facts in enumerate(truth.facts):
        for fact in facts if topic not in truth.redundant_of else ():
            owner, depth = _owner(truth, topic, fact)
            could = known[truth.community[owner], fact.attribute]
            if fact.attribute in RELATIONS:
                # What others have for the relation; a linked topic might be right here, too.
                own = {titles[topic], *links[topic]}
                could = [title for title in could if title not in own]
            others = [value for value in could if value != fact.value]
            drawn = [others[i] for i in rng.permutation(len(others))[: VALUES - 1]]
            for wording in ASKING[: config.unread] if drawn else ():
                statement = STATEMENTS[wording].format(x=titles[topic], a=fact.attribute, v="\0")
                prompt = statement[: statement.index("\0")].rstrip()
                prompt = prompt[0].upper() + prompt[1:]
                values = (fact.value, *drawn)
                told = [times[truth.community[topic], fact.attribute, v] for v in values]
                frequent = (told[0] == max(told)) / told.count(max(told))
                found.append(FactQuestion(topic, fact, depth, prompt, values, frequent))
    return found


def _times_told(truth: SyntheticWorld) -> Counter[tuple[int, str, str]]:
    """How many topics of a community have a value for an attribute, copies included."""
    return Counter(
        (truth.community[topic], fact.attribute, fact.value)
        for topic, facts in enumerate(truth.facts)
        for fact in facts
    )


def _known_values(truth: SyntheticWorld) -> dict[tuple[int, str], list[str]]:
    """Values that a community's own facts have for an attribute, in the order of the alphabet."""
    found: dict[tuple[int, str], set[str]] = {}
    for topic, facts in enumerate(truth.facts):
        for fact in facts:
            if fact.through is None and topic not in truth.redundant_of:
                key = (truth.community[topic], fact.attribute)
                found.setdefault(key, set()).add(fact.value)
    return {key: sorted(values) for key, values in found.items()}


def _owner(truth: SyntheticWorld, topic: int, fact: Fact) -> tuple[int, int]:
    """The topic that has a fact by itself, and how many topics away it is."""
    depth = 0
    while fact.through is not None:
        topic, depth = fact.through, depth + 1
        fact = next(f for f in truth.facts[topic] if f.attribute == fact.attribute)
    return topic, depth


@dataclass(frozen=True)
class FactFigures:
    """What is recalled.

    Attributes:
        recall: Share of questions whose right value is the likeliest.
        chance: What guessing would give.
        frequent: What the most frequent value would give.
        by_depth: Recall of facts at each depth.
    """

    recall: Estimate
    chance: float
    frequent: float
    by_depth: dict[int, Estimate]

    @property
    def knows(self) -> bool:
        """Whether the interval lies above chance and above what frequency gives."""
        return self.recall.low > max(self.chance, self.frequent)

    def to_json(self) -> Json:
        depths = {str(depth): found.to_json() for depth, found in self.by_depth.items()}
        own = {"recall": self.recall.to_json(), "chance": self.chance, "frequent": self.frequent}
        return {**own, "by_depth": depths}


class FactProbe:
    """The facts of a generated world as questions in the tokens of a model.

    Args:
        questions: What is asked.
        encode: Token ids of texts, without an end.

    Raises:
        ValueError: No question.
    """

    def __init__(self, questions: Sequence[FactQuestion], encode: Encode) -> None:
        if not questions:
            raise ValueError("expected facts to ask for, got none: the world is too small")
        self.questions = questions
        self._prompts = encode([question.prompt for question in questions])
        every = list(dict.fromkeys(value for q in questions for value in q.values))
        # With the stop that closes the statement: `mun` is no beginning of `mund` then.
        self._values = dict(zip(every, encode([f" {value}." for value in every]), strict=True))

    @cached_property
    def chance(self) -> float:
        return float(np.mean([1 / len(question.values) for question in self.questions]))

    @cached_property
    def topics(self) -> Ints:
        """(n,) topic of each question."""
        return np.array([question.topic for question in self.questions])

    @cached_property
    def depths(self) -> Ints:
        """(n,) depth of each question's fact."""
        return np.array([question.depth for question in self.questions])

    def right(self, model: nn.Module, device: torch.device | str) -> Floats:
        """(n,) 1 where a model finds the right value likeliest, else 0."""
        from train_lm.continuations import Question, log_likelihoods

        asked = [
            Question(prompt, tuple(self._values[value] for value in question.values))
            for prompt, question in zip(self._prompts, self.questions, strict=True)
        ]
        return first_is_best(log_likelihoods(model, asked, device))

    def figures(self, right: Floats) -> FactFigures:
        """Recall with its interval over topics, of all questions and by depth."""
        by_depth = {
            int(depth): estimate(right[self.depths == depth], self.topics[self.depths == depth])
            for depth in np.unique(self.depths)
        }
        frequent = float(np.mean([question.frequent for question in self.questions]))
        return FactFigures(estimate(right, self.topics), self.chance, frequent, by_depth)


def first_is_best(scores: Sequence[Floats]) -> Floats:
    """(n,) 1 where the first score of a question is its highest, else 0."""
    widest = max(len(found) for found in scores)
    table = np.full((len(scores), widest), -np.inf)
    for row, found in zip(table, scores, strict=True):
        row[: len(found)] = found
    return (ranks(table) == 1).astype(np.float64)

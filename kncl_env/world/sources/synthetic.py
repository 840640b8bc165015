"""A generated world whose truth is known: what unit tests and canaries train on.

Topics are invented things in communities, each with its own words. A topic's facts are told again
and again in other words and another order, so that a held-out section tests what a learner knows,
not what it can repeat. It knows nothing of tokens, splits or learners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.sources.synthetic_words import (
    ASKING,
    ATTRIBUTES,
    CODAS,
    INHERITANCES,
    ONSETS,
    RELATIONS,
    STATEMENTS,
    VOWELS,
)

SENTENCES_PER_PARAGRAPH = 4
VALUES_PER_ATTRIBUTE = 6  # [words] that a community has for an attribute

# Sizes that a card keeps where they are not as usual; topics, noise and copies are counted anyway.
KEPT = (
    "n_communities",
    "facts_per_topic",
    "paraphrases",
    "links_within",
    "links_between",
    "unread",
)


@dataclass(frozen=True)
class SyntheticConfig:
    """Size and make-up of a generated world.

    Attributes:
        n_topics: [topics] in all.
        n_communities: [communities]; topics are dealt to them evenly.
        noise_share: Share of topics whose text is random letters.
        redundant_share: Share of topics that only tell another topic's facts again.
        facts_per_topic: [facts], of which a quarter relate the topic to linked ones and up to
            another quarter hold through a linked one.
        paraphrases: [sections] per article, each telling all facts in its own words.
        links_within: [links] from each topic into its community, besides two to its neighbours.
        links_between: [links] from each topic into other communities.
        seed: Same seed, same bytes.
        unread: [wordings] that stand in no text, so that facts can be asked for in them.
    """

    n_topics: int = 120
    n_communities: int = 6
    noise_share: float = 0.1
    redundant_share: float = 0.1
    facts_per_topic: int = 12
    paraphrases: int = 10
    links_within: int = 4
    links_between: int = 2
    seed: int = 0
    unread: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n_communities", 1, 100),
            ("n_topics", 2 * self.n_communities, 100_000),
            ("facts_per_topic", 4, len(ATTRIBUTES)),
            ("unread", 0, len(ASKING)),
            ("paraphrases", 2, len(STATEMENTS) - self.unread),
            ("links_within", 0, 1_000),
            ("links_between", 0, 1_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"expected {name} of {low} to {high:,}, got {value}")
        for name in ("noise_share", "redundant_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} of 0 to 1, got {getattr(self, name)}")
        n_originals = self.n_topics - self.n_noise - self.n_redundant
        if n_originals < self.n_communities:
            raise ValueError(
                f"expected at least {self.n_communities} topics that are neither noise nor "
                f"redundant, got {n_originals}: lower the shares"
            )

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], seed: int) -> SyntheticConfig:
        """Of a world that was built: what its card counts and its seed.

        Raises:
            ValueError: They are of no generated world.
        """
        n = counts.get("topics", 0)
        return cls(
            n_topics=n,
            noise_share=counts.get("noise_topics", 0) / max(1, n),
            redundant_share=counts.get("redundant_topics", 0) / max(1, n),
            seed=seed,
            **{name: counts[name] for name in KEPT if name in counts},
        )

    @property
    def kept(self) -> dict[str, int]:
        """What is not as usual, for the card of a world: it says how to generate it once more."""
        usual = {f.name: f.default for f in fields(self)}
        return {name: v for name in KEPT if (v := getattr(self, name)) != usual[name]}

    @property
    def n_noise(self) -> int:
        return round(self.noise_share * self.n_topics)

    @property
    def n_redundant(self) -> int:
        return round(self.redundant_share * self.n_topics)


@dataclass(frozen=True)
class Fact:
    """What is true of a topic.

    Attributes:
        attribute: For example `colour`, or a relation such as `rival`.
        value: An invented word, or the title of a linked topic if the attribute is a relation.
        through: The topic from which the value comes, if it can only be understood through that.
    """

    attribute: str
    value: str
    through: int | None = None


@dataclass(frozen=True)
class SyntheticWorld:
    """A corpus and the truth behind it; topics are numbered as in `corpus.articles`.

    Attributes:
        community: (N,) number of each topic's community.
        facts: Facts of each topic; none for noise; those of the original for redundant topics.
        redundant_of: Redundant topic -> its original.
        noise: Topics that nothing can be learned from.
    """

    corpus: Corpus
    community: tuple[int, ...]
    facts: tuple[tuple[Fact, ...], ...]
    redundant_of: dict[int, int]
    noise: frozenset[int]


def read_synthetic(config: SyntheticConfig | None = None) -> Corpus:
    """The corpus of a generated world; labels are `community.<number>`."""
    return generate(config or SyntheticConfig()).corpus


def generate(config: SyntheticConfig) -> SyntheticWorld:
    """Generate a world: names, links, facts, then text."""
    rng = np.random.default_rng(config.seed)
    n = config.n_topics
    community = rng.permutation(np.arange(n) % config.n_communities)
    tongues = [_Tongue(rng, config.facts_per_topic) for _ in range(config.n_communities)]
    taken: set[str] = {w for t in tongues for words in t.values.values() for w in words}
    titles = [tongues[c].name(rng, taken) for c in community]
    links = _links(config, community, rng)

    order = rng.permutation(n)
    noise = frozenset(int(t) for t in order[: config.n_noise])
    redundant = order[config.n_noise : config.n_noise + config.n_redundant]
    originals = [int(t) for t in order[config.n_noise + config.n_redundant :]]
    facts: list[tuple[Fact, ...]] = [()] * n
    told: set[int] = set()  # a prerequisite is always told before, so there is no cycle
    for topic in originals:
        near = [t for t in links[topic] if t in told]
        tongue = tongues[community[topic]]
        facts[topic] = _facts(config, tongue, links[topic], near, facts, titles, rng)
        told.add(topic)
    redundant_of = {}
    for topic in map(int, redundant):
        same = [t for t in originals if community[t] == community[topic]] or originals
        original = same[rng.integers(len(same))]
        redundant_of[topic] = original
        facts[topic] = facts[original]
        # As many links as before, so that their number does not tell.
        row = [original, *(t for t in links[original] if t != topic), *links[topic]]
        links[topic] = list(dict.fromkeys(row))[: len(links[topic])]

    articles = []
    for topic in range(n):
        if topic in noise:
            paragraphs = tuple(_noise_paragraphs(config, rng))
        else:
            name = titles[redundant_of.get(topic, topic)]
            paragraphs = tuple(_paragraphs(config, name, facts[topic], facts, titles, rng))
        articles.append(
            Article(
                titles[topic],
                paragraphs,
                tuple((titles[t], "link") for t in links[topic]),
                (f"community.{community[topic]}",),
                is_noise=topic in noise,
            )
        )
    counts = {"topics": n, "noise_topics": len(noise), "redundant_topics": len(redundant_of)}
    counts |= config.kept
    return SyntheticWorld(
        Corpus(tuple(articles), "synthetic", "CC0-1.0 (generated)", "", counts),
        tuple(int(c) for c in community),
        tuple(facts),
        redundant_of,
        noise,
    )


class _Tongue:
    """The words of a community: its sounds, and what it calls the values of its attributes."""

    def __init__(self, rng: np.random.Generator, n_attributes: int) -> None:
        self.onsets = rng.choice(ONSETS, 6, replace=False)
        self.vowels = rng.choice(VOWELS, 3, replace=False)
        self.codas = rng.choice(CODAS, 3, replace=False)
        taken: set[str] = set()
        attributes = rng.choice(ATTRIBUTES, n_attributes, replace=False)
        self.values = {
            str(a): [self._word(rng, 1, taken) for _ in range(VALUES_PER_ATTRIBUTE)]
            for a in attributes
        }

    def name(self, rng: np.random.Generator, taken: set[str]) -> str:
        return self._word(rng, 2, taken).capitalize()

    def _word(self, rng: np.random.Generator, n_syllables: int, taken: set[str]) -> str:
        while True:
            parts = [
                f"{rng.choice(self.onsets)}{rng.choice(self.vowels)}" for _ in range(n_syllables)
            ]
            word = "".join(parts) + str(rng.choice(self.codas))
            if word not in taken and word not in ATTRIBUTES:
                taken.add(word)
                return word
            n_syllables += 1


def _links(
    config: SyntheticConfig, community: np.ndarray, rng: np.random.Generator
) -> list[list[int]]:
    """A small world: a ring in each community, chords within, a few bridges to the others."""
    rows: list[list[int]] = [[] for _ in range(config.n_topics)]
    members = [np.flatnonzero(community == c) for c in range(config.n_communities)]
    for c, ring in enumerate(members):
        ring = rng.permutation(ring)
        others = np.flatnonzero(community != c)
        for i, topic in enumerate(ring):
            beside = [ring[(i + 1) % len(ring)], ring[i - 1]]
            chords = rng.choice(ring, min(config.links_within, len(ring)), replace=False)
            bridges = rng.choice(others, min(config.links_between, len(others)), replace=False)
            row = [int(t) for t in rng.permutation([*beside, *chords, *bridges])]
            rows[topic] = [t for t in dict.fromkeys(row) if t != topic]
        if len(others):  # whatever was drawn, a walk can reach every community
            first, next_first = int(members[c][0]), int(members[(c + 1) % len(members)][0])
            if next_first not in rows[first]:
                rows[first].append(next_first)
    return rows


def _facts(
    config: SyntheticConfig,
    tongue: _Tongue,
    links: Sequence[int],
    near: Sequence[int],
    known: Sequence[tuple[Fact, ...]],
    titles: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Fact, ...]:
    """Facts through `near` topics, relations to linked ones, and facts of one's own."""
    quarter = config.facts_per_topic // 4
    found: dict[str, Fact] = {}
    for y in rng.permutation(near)[:quarter] if near else ():
        inherited = [f for f in known[y] if f.attribute not in (*found, *RELATIONS)]
        if inherited:
            fact = inherited[rng.integers(len(inherited))]
            found[fact.attribute] = Fact(fact.attribute, fact.value, int(y))
    targets = rng.permutation(links)[: min(quarter, len(RELATIONS))]
    for relation, y in zip(rng.permutation(RELATIONS), targets, strict=False):
        found[str(relation)] = Fact(str(relation), titles[y])
    for attribute in rng.permutation(list(tongue.values)):
        if len(found) >= config.facts_per_topic:
            break
        if str(attribute) not in found:
            words = tongue.values[str(attribute)]
            found[str(attribute)] = Fact(str(attribute), words[rng.integers(len(words))])
    return tuple(found.values())


def _paragraphs(
    config: SyntheticConfig,
    name: str,
    facts: tuple[Fact, ...],
    known: Sequence[tuple[Fact, ...]],
    titles: Sequence[str],
    rng: np.random.Generator,
) -> Iterator[str]:
    """Section after section, each telling every fact once; no fact twice in the same words."""
    told = np.array([i for i in range(len(STATEMENTS)) if i not in ASKING[: config.unread]])
    wordings = [told[rng.permutation(len(told))] for _ in facts]
    for section in range(config.paraphrases):
        sentences = []
        for i in rng.permutation(len(facts)):
            fact, wording = facts[i], wordings[i][section]
            slots = {"x": name, "a": fact.attribute, "v": fact.value}
            if fact.through is None:
                sentence = STATEMENTS[wording].format(**slots)
            else:
                others = [f for f in known[fact.through] if f.attribute != fact.attribute]
                other = others[rng.integers(len(others))]
                slots |= {"y": titles[fact.through], "b": other.attribute, "w": other.value}
                sentence = INHERITANCES[wording].format(**slots)
            sentences.append(sentence[0].upper() + sentence[1:])
        yield from _grouped(sentences)


def _noise_paragraphs(config: SyntheticConfig, rng: np.random.Generator) -> Iterator[str]:
    """As long as a topic's text and as full of stops, but every letter is drawn afresh."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for _ in range(config.paraphrases):
        sentences = []
        for _ in range(config.facts_per_topic):
            words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(10)]
            sentences.append(" ".join(words).capitalize() + ".")
        yield from _grouped(sentences)


def _grouped(sentences: Sequence[str]) -> Iterator[str]:
    for i in range(0, len(sentences), SENTENCES_PER_PARAGRAPH):
        yield " ".join(sentences[i : i + SENTENCES_PER_PARAGRAPH])

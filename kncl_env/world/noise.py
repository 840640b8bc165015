"""The junk of the *noisy* scenario: what a crawl holds besides text that is worth reading.

It adds copies, shuffled and truncated passages, boilerplate and a language that no one speaks, in
real topics and in topics of its own. Nothing but the accounting is told which is which. It knows
passages as text: no graph, no learner, no split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kncl_env.world.build_config import MOST_NOISE

KINDS = ("duplicate", "shuffled", "truncated", "boilerplate", "foreign")
OWN_TOPICS = 0.5  # share of the junk's bytes that lies in topics of its own
LINKS = 6  # [topics] that a junk topic links to
LINKS_INTO = 3  # [topics] of those that link to it, so that a frontier meets it
LANGUAGES = 3
LEXICON = 1_500  # [words] per language
ALPHABETS = (
    ("aeiouyäöåø", "bdfghjklmnprstvžšč"),
    ("αειουηω", "βγδζθκλμνξπρστφχψ"),
    ("аеиоуыэ", "бвгджзклмнпрстфхцчш"),
)
# The templates are this project's own words; names, numbers and dates are drawn.
BOILERPLATE = (
    "Skip to content. Home, News, Topics, Archive, Shop, About, Contact, Log in, Sign up.",
    "We and our {n} partners use cookies to store and read information on your device.",
    "By clicking Accept all you agree to the use of cookies as our cookie policy describes.",
    "Manage preferences. Reject all. Accept all. You can change your choice at any time.",
    "Copyright {year} {site}. All rights reserved.",
    "No part of this page may be reproduced without the written consent of {site}.",
    "Share this page: Mail, Print, Copy link. {n} people have shared this.",
    "Subscribe to the {site} newsletter and never miss an update. Unsubscribe at any time.",
    "This page was last changed on {day} {month} {year} at {hour}:{minute}.",
    "Page {m} of {n}. Previous. Next. Go to page {m}. Show {n} per page.",
    "You have {m} free articles left this month. Sign in or subscribe to continue reading.",
    "The information is provided as is, without warranty of any kind, express or implied.",
    "{site} is not liable for any loss that arises from the use of this page.",
    "These terms are governed by the law of the place where {site} has its seat.",
    "Related links: Terms of use, Privacy notice, Imprint, Accessibility, Site map, Careers.",
    "Advertisement. Story continues below. Advertisement.",
    "Please enable scripts in your browser to view the comments. Loading, please wait.",
    "{n} comments. Sort by newest. Log in to reply. Report abuse. Show more replies.",
    "Error {m}. The page that you have asked for could not be found. Return to the home page.",
    "Your basket is empty. Free delivery on orders over {n}. Prices include tax.",
)
SITES = ("Example Media", "The Daily Sample", "Placeholder Press", "Acme Pages", "Lorem House")
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class JunkPassage:
    """A passage of junk; a topic number of N or more is that of a junk topic."""

    topic: int
    text: str
    kind: str


@dataclass(frozen=True)
class JunkTopic:
    """A topic that holds nothing but junk.

    Attributes:
        title: Unlike every other title.
        kind: The kind of all its passages.
        links: Topics that it links to.
        linked_from: Topics that link to it.
    """

    title: str
    kind: str
    links: tuple[int, ...]
    linked_from: tuple[int, ...]


def draw_noise(
    passages: Sequence[tuple[int, str]],
    titles: Sequence[str],
    share: float,
    rng: np.random.Generator,
    keep: Callable[[JunkPassage], None],
) -> tuple[JunkTopic, ...]:
    """Draw junk until it is `share` of the training bytes, itself included, to one passage.

    Kinds get equal shares of the bytes. Half goes to real topics, made from their own passages;
    half to topics of its own, each of one kind, made from the topics that it links to.

    Args:
        passages: (topic, text) of every training passage.
        titles: (N,) titles of the real topics.
        share: Of the resulting bytes, 0 to 0.9.
        rng: The same generator state gives the same junk.
        keep: Given each passage of junk, as it is drawn.

    Returns:
        Junk topics; `topics[i]` becomes topic N + i.

    Raises:
        ValueError: The share or a topic is out of range, or a passage is empty.
    """
    if not 0 <= share <= MOST_NOISE:
        raise ValueError(f"expected a noise share of 0 to {MOST_NOISE}, got {share}")
    if not passages:
        raise ValueError("expected passages to mix noise into, got none")
    wrong = next((topic for topic, _ in passages if not 0 <= topic < len(titles)), None)
    if wrong is not None:
        raise ValueError(f"expected topics of 0 to {len(titles) - 1}, got {wrong}")
    if not all(text.strip() for _, text in passages):
        raise ValueError("expected text in every passage, got an empty one")
    if share == 0:
        return ()
    wanted = share / (1 - share) * sum(len(text.encode()) for _, text in passages)  # [bytes]
    return _Spoiler(passages, titles, rng).spoil(wanted, keep)


class _Spoiler:
    def __init__(
        self,
        passages: Sequence[tuple[int, str]],
        titles: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        self._passages = passages
        self._rng = rng
        self._titles = list(titles)
        self._taken = set(titles)
        self._n_topics = len(titles)
        self._of_topic: dict[int, list[int]] = defaultdict(list)
        for i, (topic, _) in enumerate(passages):
            self._of_topic[topic].append(i)
        # Topics without training text have no words to lend.
        self._told = np.array(list(self._of_topic), dtype=np.int64)
        self._sizes = [len(ids) for ids in self._of_topic.values()]  # [passages]
        self._languages = [_Language(*ALPHABETS[i], rng) for i in range(LANGUAGES)]
        self._make: dict[str, Callable[[str], str]] = {
            "duplicate": lambda text: text,
            "shuffled": self._shuffled,
            "truncated": self._truncated,
            "boilerplate": self._boilerplate,
            "foreign": self._foreign,
        }

    def spoil(self, wanted: float, keep: Callable[[JunkPassage], None]) -> tuple[JunkTopic, ...]:
        topics: list[JunkTopic] = []
        for in_real, goal in ((True, (1 - OWN_TOPICS) * wanted), (False, OWN_TOPICS * wanted)):
            size = dict.fromkeys(KINDS, 0)  # [bytes]
            while sum(size.values()) < goal:
                kind = min(KINDS, key=size.__getitem__)
                if in_real:
                    topic, text = self._passages[int(self._rng.integers(len(self._passages)))]
                    texts = [text]
                else:
                    topic = self._n_topics + len(topics)
                    topics.append(self._topic(kind))
                    texts = self._sources(topics[-1].links)
                for text in texts:
                    if sum(size.values()) < goal:
                        junk = self._make[kind](text)
                        keep(JunkPassage(topic, junk, kind))
                        size[kind] += len(junk.encode())
        return tuple(topics)

    def _topic(self, kind: str) -> JunkTopic:
        n = min(LINKS, len(self._told))
        links = self._rng.choice(self._told, n, replace=False).tolist()
        return JunkTopic(self._title(links), kind, tuple(links), tuple(links[:LINKS_INTO]))

    def _sources(self, links: Sequence[int]) -> list[str]:
        """As many passages of the linked topics as some real topic has."""
        pool = [i for topic in links for i in self._of_topic[topic]]
        drawn = self._rng.choice(pool, self._sizes[self._rng.integers(len(self._sizes))])
        return [self._passages[i][1] for i in drawn]

    def _title(self, links: Sequence[int]) -> str:
        """A real title with its words replaced by words of the linked topics' titles and texts."""
        names = " ".join(self._titles[topic] for topic in links)
        words = _WORD.findall(names + " " + self._sources(links)[0])
        words = [word for word in words if len(word) >= 4] or words or ["page"]

        def drawn(like: re.Match[str]) -> str:
            word = words[int(self._rng.integers(len(words)))].lower()
            return word.capitalize() if like.group()[0].isupper() else word

        tries = 0
        title = self._titles[0]
        while title in self._taken:
            like = self._titles[int(self._rng.integers(self._n_topics))]
            title = _WORD.sub(drawn, like)
            for _ in range(tries):  # a small world may have no more words to recombine
                title += f" {words[int(self._rng.integers(len(words)))]}"
            tries += 1
        self._taken.add(title)
        return title

    def _shuffled(self, text: str) -> str:
        return " ".join(self._rng.permutation(text.split()).tolist())

    def _truncated(self, text: str) -> str:
        """Two stretches that begin and end anywhere, the second perhaps before the first."""
        pieces = []
        for _ in range(2):
            length = max(1, int(len(text) * self._rng.uniform(0.15, 0.4)))
            start = int(self._rng.integers(max(1, len(text) - length)))
            pieces.append(text[start : start + length])
        return " ".join(pieces).strip() or text[:1]

    def _boilerplate(self, text: str) -> str:
        """About as long as `text`."""
        rng = self._rng
        slots = {"site": SITES[rng.integers(len(SITES))], "year": rng.integers(1998, 2025)}
        lines: list[str] = []
        while sum(map(len, lines)) < len(text):
            lines.append(
                BOILERPLATE[rng.integers(len(BOILERPLATE))].format(
                    **slots,
                    n=rng.integers(2, 900),
                    m=rng.integers(2, 30),
                    day=rng.integers(1, 29),
                    month=MONTHS[rng.integers(len(MONTHS))],
                    hour=rng.integers(0, 24),
                    minute=f"{rng.integers(0, 60):02d}",
                )
            )
        return "\n".join(lines)

    def _foreign(self, text: str) -> str:
        """About as many words as `text` has."""
        language = self._languages[self._rng.integers(len(self._languages))]
        return language.text(len(text.split()), self._rng)


class _Language:
    """Words from a random Markov chain over letters, used with Zipf's frequencies."""

    def __init__(self, vowels: str, consonants: str, rng: np.random.Generator) -> None:
        letters = list(vowels + consonants)
        is_vowel = np.arange(len(letters)) < len(vowels)
        # A consonant mostly follows a vowel and the other way round, so that words can be spoken.
        chain = rng.gamma(0.3, size=(len(letters), len(letters))) + 1e-3
        chain[is_vowel[:, None] == is_vowel[None, :]] *= 0.1
        steps = np.cumsum(chain / chain.sum(axis=1, keepdims=True), axis=1)
        self._words = []
        for _ in range(LEXICON):
            letter = int(rng.integers(len(letters)))
            word = letters[letter]
            for draw in rng.random(rng.integers(1, 9)):
                letter = min(int(np.searchsorted(steps[letter], draw)), len(letters) - 1)
                word += letters[letter]
            self._words.append(word)
        weights = 1 / np.arange(1, LEXICON + 1)
        self._frequency = np.cumsum(weights / weights.sum())

    def text(self, n_words: int, rng: np.random.Generator) -> str:
        drawn = np.searchsorted(self._frequency, rng.random(max(1, n_words)))
        words = [self._words[min(int(i), LEXICON - 1)] for i in drawn]
        sentences = []
        while words:
            n = int(rng.integers(5, 15))
            sentences.append(" ".join(words[:n]).capitalize() + ".")
            words = words[n:]
        return " ".join(sentences)

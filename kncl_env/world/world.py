"""A world: one corpus made ready to be explored, as an immutable directory.

    world.json            source, licence, hashes, counts, scenario, settings
    passages.parquet      topic, split, text, noise kind of every passage
    topics.parquet        title, labels, noise flag of every topic
    tokens.npy starts.npy token ids of all passages, and where each begins
    tokenizer.json        byte-level BPE
    graph.npz             typed links as CSR
    topic_vectors.npy     one unit vector per topic
    embedder.npz          maps any text into the same space
    passages.faiss …      passage index, bound to the corpus by its hash
    build.json            time and memory of each stage of the build; no hash covers it

`build.py` makes it, `leaks.py` checks it. It knows no learner and no policy.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import TFIDF
from kncl_env.world.cached import cached_array
from kncl_env.world.card import read_card
from kncl_env.world.embedding import TextSpace
from kncl_env.world.graph import TopicGraph
from kncl_env.world.splits import SPLITS, Passage
from kncl_env.world.tables import PassageTable, read_topics
from kncl_env.world.text.spaces import load_space
from kncl_env.world.topics import has_held_out, region_of, regions_of, target_of
from train_lm.checked.arrays import load_array, load_arrays, reason
from train_lm.checked.digests import Verified, first_time
from train_lm.crew.folders import located
from train_lm.plain_text import counted
from train_lm.token_files import STARTS, TOKENS, TRAIN, TokenFiles
from train_lm.windows import TokenStore

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from kncl_env.world.index import PassageIndex

T = TypeVar("T")

TITLES_VERSION = 1  # raised whenever the vectors of titles would come out with other values


class World:
    """An opened world; everything large is read on first use.

    Raises (from `open`):
        FileNotFoundError: No world there.
        ValueError: A file is missing, damaged, of another format, or a link that leads elsewhere.
    """

    def __init__(self, path: Path, card: dict[str, Any]) -> None:
        self.path = path
        self.card = card

    @classmethod
    def open(cls, path: str | Path) -> World:
        path = located(path)
        world = cls(path, read_card(path))
        world._verified.look_ahead()
        return world

    def with_graph(self, graph: TopicGraph) -> World:
        """The same world with other links between its topics, in memory alone."""
        twin = World(self.path, self.card)
        twin.__dict__.update(self.__dict__)
        twin.__dict__["graph"] = graph
        return twin

    def __repr__(self) -> str:
        return f"World({self.card['source']}, {counted(self.n_topics, 'topic')}, {self.hash[:12]})"

    @property
    def hash(self) -> str:
        """Identity of the world: texts, splits, links, target and settings."""
        return str(self.card["hash"])

    @property
    def corpus_hash(self) -> str:
        """Identity of the passages alone; the index is bound to it."""
        return str(self.card["corpus_hash"])

    @property
    def space(self) -> str:
        """Name of the embedder that its topics were placed by; see the card for its digest."""
        return str(self.card.get("embedder", {}).get("name", TFIDF))

    @cached_property
    def _topics(self) -> dict[str, list[Any]]:
        table: dict[str, list[Any]] = self._read("topics.parquet", read_topics)
        return table

    def _read(self, name: str, read: Callable[[Path], T]) -> T:
        """Read one file; whatever its library says of a damaged one becomes one clear error."""
        file = self._whole(name)
        try:
            return read(file)
        except Exception as error:  # pyarrow, numpy and others raise kinds of their own
            raise self._damaged(name, error) from None

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return ValueError(
            f"expected {name} of world {self.path} whole, got {reason(error)}: rebuild it"
        )

    @cached_property
    def _verified(self) -> Verified:
        return Verified(self.path, self.card["files"])

    def _whole(self, name: str) -> Path:
        """A file of the world, if it is the one that was built."""
        file = self.path / name
        if not file.is_file():
            raise ValueError(f"expected {name} in world {self.path}, found none: rebuild it")
        if name not in self._verified:
            raise ValueError(
                f"expected {name} of world {self.path} whole, got other bytes than were built: "
                "it is damaged or was changed since, rebuild it"
            )
        return file

    @cached_property
    def titles(self) -> tuple[str, ...]:
        return tuple(self._topics["title"])

    @property
    def n_topics(self) -> int:
        return len(self.titles)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {title: i for i, title in enumerate(self.titles)}

    def __contains__(self, title: str) -> bool:
        return title in self._number

    def topic_of(self, title: str) -> int:
        """Number of the topic with this title.

        Raises:
            ValueError: No such topic; the closest titles are named.
        """
        try:
            return self._number[title]
        except KeyError:
            close = difflib.get_close_matches(title, self.titles, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(close)}?" if close else "see `kncl-env show`"
            raise ValueError(
                f"expected the title of a topic of {self.path}, got {title!r}: {hint}"
            ) from None

    @cached_property
    def graph(self) -> TopicGraph:
        n = self.n_topics

        def read(file: Path) -> TopicGraph:
            one = ("iu", (None,))
            found = load_arrays(file, {"indptr": one, "indices": one, "types": one})
            graph = TopicGraph(found["indptr"], found["indices"], found["types"])
            if len(graph) != n:
                raise ValueError(f"expected links of {n} topics, got {len(graph)}")
            return graph

        return self._read("graph.npz", read)

    @cached_property
    def topic_vectors(self) -> NDArray[np.float32]:
        """(N, D) unit rows; zeros where no word of a topic is known."""

        n = self.n_topics

        def read(file: Path) -> NDArray[np.float32]:
            found = load_array(file, "f", (n, None))
            length = np.linalg.norm(found, axis=1)
            if not (np.isclose(length, 1, atol=1e-3) | (length == 0)).all():
                raise ValueError("expected vectors of length 1, got others")
            return found

        return self._read("topic_vectors.npy", read)

    @cached_property
    def title_vectors(self) -> NDArray[np.float32]:
        """(N, D) titles in the space of `topic_vectors`; zero where no word of one is known."""

        def embedded() -> NDArray[np.float32]:
            return self.embed([title_text(title) for title in self.titles])

        made_from = {"world": self.hash, "version": TITLES_VERSION}
        return cached_array("titles", made_from, self.topic_vectors.shape, embedded)

    @cached_property
    def embedder(self) -> TextSpace:
        """Maps any text into the space of `topic_vectors`."""

        width = self.topic_vectors.shape[1]

        def read(file: Path) -> TextSpace:
            found = load_space(file)
            if found.dimensions != width:
                raise ValueError(f"expected vectors of {width} dimensions, got {found.dimensions}")
            return found

        return self._read("embedder.npz", read)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows in the space of `topic_vectors`; zero where no word is known."""
        return self.embedder(texts)

    @cached_property
    def index(self) -> PassageIndex:
        """The passage index. Raises: ValueError where it is of another corpus."""
        from kncl_env.world.index import PassageIndex

        names = ("index.json", "passages.faiss", "indexed_passages.npy")
        for name in names:
            self._whole(name)
        dimensions, n_passages = self.topic_vectors.shape[1], len(self.passage_topic)
        with first_time("index", dimensions, n_passages, *self._digests(*names)) as new:
            return PassageIndex.open(self.path, self.corpus_hash, dimensions, n_passages, new)

    def _digests(self, *names: str) -> list[str]:
        return [str(self.card["files"].get(name)) for name in names]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from train_lm.tokenizer import load_tokenizer

        return self._read("tokenizer.json", load_tokenizer)

    @cached_property
    def _passages(self) -> PassageTable:
        n = self.n_topics
        return self._read("passages.parquet", lambda file: PassageTable(file, n))

    @property
    def passage_topic(self) -> NDArray[np.int64]:
        """(P,) ascending."""
        return self._passages.topic

    @property
    def passage_split(self) -> NDArray[np.int64]:
        """(P,) index into `SPLITS`."""
        return self._passages.split

    @cached_property
    def passage_is_noise(self) -> NDArray[np.bool_]:
        """(P,) truth about junk, for accounting only."""
        return self.topic_is_noise[self.passage_topic] | self._passages.is_noise

    @cached_property
    def topic_is_noise(self) -> NDArray[np.bool_]:
        """(N,) truth about junk topics, for accounting only."""
        return np.array(self._topics["noise"], dtype=bool)

    def passage_text(self, passage: int) -> str:
        """One passage's text, read from its file. Raises: ValueError where that is damaged."""
        return self._read("passages.parquet", lambda _: self._passages.text(int(passage)))

    def passage_rows(self, passages: NDArray[np.int64] | None = None) -> Iterator[Passage]:
        """The given passages, whose numbers ascend, or all of them, read one after another.

        Raises:
            ValueError: Their file is damaged.
        """
        self._whole("passages.parquet")
        try:
            yield from self._passages.rows(passages)
        except (OSError, ValueError) as error:  # pyarrow's are kinds of these
            raise self._damaged("passages.parquet", error) from None

    def passages(self) -> list[Passage]:
        """All passages with their texts; a copy of the corpus in memory."""
        return list(self.passage_rows())

    def passages_of(self, topic: int, split: str = "train") -> NDArray[np.int64]:
        """Numbers of a topic's passages of one split, in reading order."""
        low, high = np.searchsorted(self.passage_topic, [topic, topic + 1])
        rows = np.arange(low, high)
        return rows[self.passage_split[low:high] == SPLITS.index(split)]

    @cached_property
    def _token_files(self) -> TokenFiles:
        for name in (TOKENS, STARTS):
            self._whole(name)
        files = TokenFiles.open(self.path)
        if len(files) != len(self.passage_split):
            raise ValueError(
                f"expected the tokens of {len(self.passage_split)} passages in world {self.path}, "
                f"got those of {len(files)}: rebuild it"
            )
        with first_time("token ids", *self._digests(TOKENS, STARTS, "tokenizer.json")) as new:
            if new:
                self._check_ids(files)
        return files

    def _check_ids(self, files: TokenFiles) -> None:
        known, largest = self.tokenizer.get_vocab_size(), files.largest()
        if largest >= known:
            raise ValueError(
                f"expected token ids below {known} in world {self.path}, got {largest}: rebuild it"
            )

    @cached_property
    def train_tokens_of(self) -> NDArray[np.int64]:
        """(N,) training tokens of each topic."""
        train = self.passage_split == TRAIN
        return np.bincount(
            self.passage_topic[train],
            weights=self._token_files.lengths[train],
            minlength=self.n_topics,
        ).astype(np.int64)

    @property
    def n_tokens(self) -> int:
        return int(self._token_files.starts[-1])

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(M,) token ids of all passages, and (P + 1,) where each begins; the last entry is M."""
        files = self._token_files
        return files.tokens.astype(np.int64), files.starts

    def windows(self, context: int) -> TokenStore:
        """Token windows over all passages; documents are passages, so `windows_of` takes them."""
        # A segment is a run of one topic and one split, so no window reaches across splits.
        key = self.passage_topic * len(SPLITS) + self.passage_split
        segment = np.cumsum(np.diff(key, prepend=key[0]) != 0)
        files = self._token_files
        return TokenStore(files.tokens, files.starts, segment, context)

    @cached_property
    def regions(self) -> dict[str, NDArray[np.int64]]:
        """Topics of every named region: each label and every dotted prefix of it."""
        return regions_of(self._topics["labels"])

    def region(self, name: str) -> NDArray[np.int64]:
        """Raises: ValueError naming close matches where there is no such region."""
        return region_of(self.regions, name, self.path)

    @cached_property
    def has_held_out(self) -> NDArray[np.bool_]:
        """(N,) whether a topic has text in every held-out split."""
        return has_held_out(self.passage_topic, self.passage_split, self.n_topics)

    @property
    def is_distant(self) -> bool:
        """Whether none of the target's text is trained on."""
        return bool(self.card["scenario"]["name"] == "distant")

    @property
    def target_region(self) -> str | None:
        """The region whose held-out text is the target; None where every topic counts alike."""
        return self.card["scenario"]["region"]

    def target_topics(self, region: str | None = None) -> NDArray[np.int64]:
        """Topics of the target mix, each with the same weight: those with held-out text; in a
        distant world all of the target, since what is hidden must not tell which has some.

        Args:
            region: Another region than the scenario's, for example to practise on.

        Raises:
            ValueError: No such region, or another one than the target of a distant world.
        """
        if self.is_distant:
            if region not in (None, self.target_region):
                raise ValueError(
                    f"expected no other region than {self.target_region} in the distant world "
                    f"{self.path}, got {region!r}: the text of others is trained on, build a world "
                    f"for it (kncl-env build --scenario distant --region {region})"
                )
            region, every = self.target_region, np.ones(self.n_topics, dtype=bool)
            return target_of(self.regions, every & ~self.topic_is_noise, region, self.path)
        usable = self.has_held_out & ~self.topic_is_noise
        return target_of(self.regions, usable, region or self.target_region, self.path)


def title_text(title: str) -> str:
    """A title as it is embedded."""
    # A dotted name is one word of documentation; its parts are words, too.
    return f"{title} {re.sub(r'[._]', ' ', title)}"

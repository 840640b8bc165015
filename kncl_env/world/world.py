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

`build.py` makes it, `leaks.py` checks it. It knows no learner and no policy.
"""

from __future__ import annotations

import difflib
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.cached import cached_array
from kncl_env.world.embedding import Embedder
from kncl_env.world.graph import TopicGraph
from kncl_env.world.splits import SPLITS, Passage
from kncl_env.world.topics import has_held_out, region_of, regions_of, target_of
from train_lm.files import hash_json, read_json
from train_lm.inside import check_links
from train_lm.token_files import TRAIN, TokenFiles
from train_lm.windows import TokenStore

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from kncl_env.world.index import PassageIndex

WORLD_FORMAT = 1

# What the card of every world states.
CARD = ("source", "licence", "corpus_hash", "settings", "scenario", "counts", "hash", "files")

TITLES_VERSION = 1  # raised whenever the vectors of titles would come out with other values


def world_hash(card: dict[str, Any]) -> str:
    """Identity of a world: every file of it, its target and its settings."""
    return hash_json({k: card[k] for k in ("format", "files", "settings", "scenario")})


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
        path = Path(path)
        if not (path / "world.json").is_file():
            raise FileNotFoundError(
                f"expected a world directory at {path}, found no world.json there: "
                "make one with `kncl-env build`"
            )
        check_links(path)
        card = read_json(path / "world.json")
        found = card.get("format") if isinstance(card, dict) else "something else"
        if found != WORLD_FORMAT:
            raise ValueError(
                f"expected world format {WORLD_FORMAT} in {path}, got {found}: "
                "rebuild it with this version"
            )
        missing = [key for key in CARD if key not in card]
        if missing:
            raise ValueError(
                f"expected {', '.join(missing)} in {path / 'world.json'}, found none: "
                "the card was edited, rebuild the world"
            )
        return cls(path, card)

    def __repr__(self) -> str:
        return f"World({self.card['source']}, {self.n_topics} topics, {self.hash[:12]})"

    @property
    def hash(self) -> str:
        """Identity of the world: texts, splits, links, target and settings."""
        return str(self.card["hash"])

    @property
    def corpus_hash(self) -> str:
        """Identity of the passages alone; the index is bound to it."""
        return str(self.card["corpus_hash"])

    @cached_property
    def _topics(self) -> dict[str, list[Any]]:
        import pyarrow.parquet as pq

        table: dict[str, list[Any]] = self._read("topics.parquet", pq.read_table).to_pydict()
        return table

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Read one file; whatever its library says of a damaged one becomes one clear error."""
        file = self.path / name
        if not file.is_file():
            raise ValueError(f"expected {name} in world {self.path}, found none: rebuild it")
        try:
            return read(file)
        except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"expected {name} of world {self.path} whole, got {error}: rebuild it"
            ) from None

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
        def read(file: Path) -> TopicGraph:
            with np.load(file, allow_pickle=False) as arrays:
                return TopicGraph(arrays["indptr"], arrays["indices"], arrays["types"])

        graph: TopicGraph = self._read("graph.npz", read)
        return graph

    @cached_property
    def topic_vectors(self) -> NDArray[np.float32]:
        """(N, D) unit rows."""
        vectors: NDArray[np.float32] = self._read("topic_vectors.npy", np.load)
        return vectors

    @cached_property
    def title_vectors(self) -> NDArray[np.float32]:
        """(N, D) titles in the space of `topic_vectors`; zero where no word of one is known."""

        def embedded() -> NDArray[np.float32]:
            # A dotted name is one word of documentation; its parts are words, too.
            return self.embed([f"{t} {re.sub(r'[._]', ' ', t)}" for t in self.titles])

        made_from = {"world": self.hash, "version": TITLES_VERSION}
        return cached_array("titles", made_from, embedded)

    @cached_property
    def embedder(self) -> Embedder:
        """Maps any text into the space of `topic_vectors`."""
        embedder: Embedder = self._read("embedder.npz", Embedder.load)
        return embedder

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows in the space of `topic_vectors`; zero where no word is known."""
        return self.embedder(texts)

    @cached_property
    def index(self) -> PassageIndex:
        """The passage index. Raises: ValueError where it is of another corpus."""
        from kncl_env.world.index import PassageIndex

        dimensions, n_passages = self.topic_vectors.shape[1], len(self.passage_topic)
        return PassageIndex.open(self.path, self.corpus_hash, dimensions, n_passages)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from train_lm.tokenizer import load_tokenizer

        tokenizer: Tokenizer = self._read("tokenizer.json", load_tokenizer)
        return tokenizer

    @cached_property
    def _passages(self) -> Any:
        import pyarrow.parquet as pq

        return self._read("passages.parquet", pq.read_table)

    @cached_property
    def passage_topic(self) -> NDArray[np.int64]:
        """(P,) ascending."""
        return np.asarray(self._passages["topic"].to_numpy(), dtype=np.int64)

    @cached_property
    def passage_split(self) -> NDArray[np.int64]:
        """(P,) index into `SPLITS`."""
        return np.asarray(self._passages["split"].to_numpy(), dtype=np.int64)

    @cached_property
    def passage_is_noise(self) -> NDArray[np.bool_]:
        """(P,) truth about junk, for accounting only."""
        noisy_topic = np.array(self._topics["noise"], dtype=bool)[self.passage_topic]
        kind = np.array(self._passages["noise"].to_pylist()) != ""
        return noisy_topic | kind

    @cached_property
    def topic_is_noise(self) -> NDArray[np.bool_]:
        """(N,) truth about junk topics, for accounting only."""
        return np.array(self._topics["noise"], dtype=bool)

    def passage_text(self, passage: int) -> str:
        return str(self._passages["text"][int(passage)].as_py())

    def passages(self) -> list[Passage]:
        """All passages with their texts; a copy of the corpus in memory."""
        table = self._passages.to_pydict()
        return [
            Passage(topic, SPLITS[split], text, noise)
            for topic, split, text, noise in zip(
                table["topic"], table["split"], table["text"], table["noise"], strict=True
            )
        ]

    def passages_of(self, topic: int, split: str = "train") -> NDArray[np.int64]:
        """Numbers of a topic's passages of one split, in reading order."""
        low, high = np.searchsorted(self.passage_topic, [topic, topic + 1])
        rows = np.arange(low, high)
        return rows[self.passage_split[low:high] == SPLITS.index(split)]

    def _token_files(self) -> TokenFiles:
        files = TokenFiles.open(self.path)
        if len(files) != len(self.passage_split):
            raise ValueError(
                f"expected the tokens of {len(self.passage_split)} passages in world {self.path}, "
                f"got those of {len(files)}: rebuild it"
            )
        return files

    @cached_property
    def train_tokens_of(self) -> NDArray[np.int64]:
        """(N,) training tokens of each topic."""
        train = self.passage_split == TRAIN
        return np.bincount(
            self.passage_topic[train],
            weights=self._token_files().lengths[train],
            minlength=self.n_topics,
        ).astype(np.int64)

    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(M,) token ids of all passages, and (P + 1,) where each begins; the last entry is M."""
        files = self._token_files()
        return files.tokens.astype(np.int64), files.starts

    def windows(self, context: int) -> TokenStore:
        """Token windows over all passages; documents are passages, so `windows_of` takes them."""
        # A segment is a run of one topic and one split, so no window reaches across splits.
        key = self.passage_topic * len(SPLITS) + self.passage_split
        segment = np.cumsum(np.diff(key, prepend=key[0]) != 0)
        files = self._token_files()
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
    def target_region(self) -> str | None:
        """The region whose held-out text is the target; None where every topic counts alike."""
        return self.card["scenario"]["region"]

    def target_topics(self, region: str | None = None) -> NDArray[np.int64]:
        """Topics of the target mix, each with the same weight: those with held-out text.

        Args:
            region: Another region than the scenario's, for example to practise on.
        """
        usable = self.has_held_out & ~self.topic_is_noise
        return target_of(self.regions, usable, region or self.target_region, self.path)

"""The passage index: which passages belong to the neighbourhood of a topic. The door to faiss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train_lm.files import read_json, write_json

if TYPE_CHECKING:
    from kncl_env.world import World


class PassageIndex:
    """Nearest training passages by inner product, on a GPU where faiss finds one.

    Args:
        index: A faiss index over unit vectors.
        passages: (n,) passage number of each row of the index.
        corpus_hash: Hash of the passages that the index was built from.
    """

    def __init__(self, index: Any, passages: NDArray[np.int64], corpus_hash: str) -> None:
        if index.ntotal != len(passages):
            raise ValueError(
                f"expected {len(passages)} vectors in the index, got {index.ntotal}: rebuild it"
            )
        self.index = index
        self.passages = passages
        self.corpus_hash = corpus_hash

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], passages: NDArray[np.int64], corpus_hash: str
    ) -> PassageIndex:
        """Exact search up to 200,000 vectors, an inverted file above (faiss guidelines)."""
        import faiss

        dimensions = vectors.shape[1]
        index: Any
        if len(vectors) <= 200_000:
            index = faiss.IndexFlatIP(dimensions)
        else:
            cells = int(4 * np.sqrt(len(vectors)))
            index = faiss.index_factory(dimensions, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
            index.nprobe = 32
        index.add(np.ascontiguousarray(vectors))
        return cls(index, np.asarray(passages, dtype=np.int64), corpus_hash)

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(n, min(k, size)) passage numbers, nearest first; ties by the lower row."""
        _, rows = self.index.search(
            np.ascontiguousarray(queries, dtype=np.float32), min(k, self.index.ntotal)
        )
        return self.passages[rows]

    def save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self.index, str(folder / "passages.faiss"))
        np.save(folder / "indexed_passages.npy", self.passages)
        write_json(folder / "index.json", {"corpus_hash": self.corpus_hash})

    @classmethod
    def open(cls, folder: Path, corpus_hash: str) -> PassageIndex:
        """Open the index of a corpus.

        Raises:
            ValueError: The index was built from another corpus; both hashes are named.
        """
        import faiss

        found = read_json(folder / "index.json")["corpus_hash"]
        if found != corpus_hash:
            raise ValueError(
                f"expected an index of corpus {corpus_hash[:12]}, got one of corpus {found[:12]}: "
                "rebuild the world"
            )
        try:
            index = faiss.read_index(str(folder / "passages.faiss"))
            passages = np.load(folder / "indexed_passages.npy")
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"expected a whole passage index in {folder}, got {reason}: rebuild the world"
            ) from None
        if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
            index = faiss.index_cpu_to_all_gpus(index)
        return cls(index, passages, found)


class NeighbourhoodRetriever:
    """The passages of a topic's neighbourhood: nearest to the topic and what it is linked with.

    Args:
        world: Where the passages come from.
        breadth: Passages per neighbourhood. Narrow neighbourhoods overfit and forget.
        pull: Weight of the linked topics' centroid in the query.
    """

    def __init__(self, world: World, breadth: int, pull: float = 0.25) -> None:
        if breadth < 1:
            raise ValueError(f"expected a breadth of at least one passage, got {breadth}")
        self.world = world
        self.breadth = breadth
        self.pull = pull
        self._found: dict[int, NDArray[np.int64]] = {}

    def own(self, topic: int) -> NDArray[np.int64]:
        return self.world.passages_of(topic)

    def neighbourhood(self, topic: int) -> NDArray[np.int64]:
        """The topic's own training passages and the nearest others, `breadth` in all."""
        if topic not in self._found:
            world = self.world
            query = world.topic_vectors[topic].astype(np.float64)
            linked = world.graph.out(topic)
            if len(linked):
                query = query + self.pull * world.topic_vectors[linked].mean(0)
            nearest = world.index.search(query[None].astype(np.float32), self.breadth)[0]
            own = self.own(topic)
            others = nearest[~np.isin(nearest, own)][: max(0, self.breadth - len(own))]
            self._found[topic] = np.sort(np.concatenate([own, others]))
        return self._found[topic]

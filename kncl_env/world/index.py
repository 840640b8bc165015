"""The passage index: the nearest training passages of a vector. The one door to faiss."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.index_file import check_index_file
from train_lm.checked.arrays import load_array
from train_lm.checked.records import Fields
from train_lm.checked.rows import RowFile
from train_lm.files import Json, read_json, write_json

EXACT = 200_000  # [vectors] that are searched one by one
EXACT_PAIRS = 50_000  # [vectors] whose nearest others are: this is their square
# Vectors of an inverted file are turned at random, so that no number matters more than another. A
# search scans two bits for each number, and ranks a list of the best by two bytes for each number.
# One byte would not do: of short passages, a hundred of which lie within 0.013 of the nearest, it
# finds 0.91 of the ten nearest, however many are ranked.
TURN_SEED = 5
TRAINED_ON = 40  # [vectors] that each cell is found from
ROUNDS = 8  # of k-means
# Cells that are searched and vectors that are listed: the quickest pair by which TRIED queries find
# such a share of so many true neighbours, a few and as many as a step asks for; if there is none,
# the one that lacks least. What it takes depends on the vectors, so it is measured.
PROBED = (16, 32, 64, 128, 256, 512, 1024)
LISTED = (100, 200, 400, 800)
NEAREST, TRIED = 10, 256
RECALL = {NEAREST: 0.96, 512: 0.95}
RANKED = 80  # [vectors] that are scanned in the time in which one of the list is ranked, about
LONGER = 3  # times what a search asks for that its list holds at least
ALIKE = 1e-6  # inner products that differ by less are one
ADDED = 2**15  # [vectors] that are added, or compared, together
GPU_MOST = 2048  # [vectors] that an index on a GPU finds at most
LOOKED_AT = 8  # [cells] searched for the nearest other passage

Rows = NDArray[np.float32] | RowFile


class PassageIndex:
    """Nearest training passages by inner product, on a GPU where faiss finds one.

    Args:
        index: A faiss index over unit vectors.
        passages: (n,) passage number of each row of the index.
        corpus_hash: Hash of the passages that the index was built from.
        made_as: What a card says of its kind; None where every vector is looked at.
    """

    def __init__(
        self,
        index: Any,
        passages: NDArray[np.int64],
        corpus_hash: str,
        made_as: Json | None = None,
    ) -> None:
        if index.ntotal != len(passages):
            raise ValueError(
                f"expected {len(passages)} vectors in the index, got {index.ntotal}: rebuild it"
            )
        self.index = index
        self.passages = passages
        self._rows = index  # where vectors can be read back from; a GPU's index cannot
        self._search = _Search(index, index)
        self.corpus_hash = corpus_hash
        self.made_as = made_as

    @classmethod
    def build(
        cls,
        vectors: Rows,
        passages: NDArray[np.int64],
        corpus_hash: str,
        queries: Rows | None = None,
    ) -> PassageIndex:
        """Exact search up to 200,000 vectors, an inverted file above (faiss guidelines).

        Args:
            vectors: (n, D) unit rows, in memory or in a file: they are read by blocks.
            passages: (n,) number of each.
            queries: (m, D) what will be asked for, about; the vectors themselves, if None.
        """
        passages = np.asarray(passages, dtype=np.int64)
        if len(vectors) <= EXACT:
            return cls(_flat(vectors[:]), passages, corpus_hash)
        index, made_as = _inverted(vectors, vectors if queries is None else queries)
        return cls(index, passages, corpus_hash, made_as)

    @property
    def size(self) -> int:
        return len(self.passages)

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """(n, min(k, size)) passage numbers, nearest first; ties by the lower row."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return self.passages[self._search(queries, min(k, self.size))[1]]

    def vectors(self) -> NDArray[np.float32]:
        """(n, D) the indexed vectors, in the order of `passages`."""
        import faiss

        rows: Any = faiss.downcast_index(self._rows)
        if _is_turned(rows):
            return _turned_back(rows)
        if isinstance(rows, faiss.IndexIVF):
            rows.make_direct_map()
        return np.asarray(rows.reconstruct_n(0, rows.ntotal), dtype=np.float32)

    def nearest_other(self, n: int) -> NDArray[np.float64]:
        """(n,) inner product of each passage with the nearest other one; 0 where not indexed.

        Among many passages the nearest is looked for in the cells around it: a copy, which lies in
        the same cell, is never missed.
        """
        found = np.zeros(n)
        if self.size < 2:
            return found
        vectors = self.vectors()
        index = _flat(vectors) if len(vectors) <= EXACT_PAIRS else _coarse(vectors, LOOKED_AT)
        search = _Search(index, index)
        for i in range(0, len(vectors), 4096):
            near, rows = search(np.ascontiguousarray(vectors[i : i + 4096]), 2)
            # A copy may be found before the passage itself.
            own = rows[:, 0] == np.arange(i, i + len(rows))
            found[self.passages[i : i + len(rows)]] = np.where(own, near[:, 1], near[:, 0])
        return found

    def save(self, folder: Path, corpus_hash: str | None = None) -> None:
        """Write the index.

        Args:
            corpus_hash: Of the passages, where they are called otherwise than it was built with.
        """
        import faiss

        faiss.write_index(self._rows, str(folder / "passages.faiss"))
        np.save(folder / "indexed_passages.npy", self.passages)
        made_as = {} if self.made_as is None else {"made_as": self.made_as}
        about = {"corpus_hash": corpus_hash or self.corpus_hash, **made_as}
        write_json(folder / "index.json", about)

    @classmethod
    def open(
        cls,
        folder: Path,
        corpus_hash: str,
        dimensions: int | None = None,
        n_passages: int | None = None,
        every_byte: bool = True,
    ) -> PassageIndex:
        """Open the index of a corpus.

        Args:
            dimensions: Of the vectors that it will be asked for; any, if None.
            n_passages: Of the corpus; any number, if None.
            every_byte: Whether all of it is looked at; not, where these very bytes were before.

        Raises:
            ValueError: The index was built from another corpus, both hashes are named; or a file of
                it is missing or damaged.
        """
        import faiss

        for name in ("index.json", "passages.faiss", "indexed_passages.npy"):
            if not (folder / name).is_file():
                raise ValueError(f"expected {name} in {folder}, found none: rebuild the world")
        card = folder / "index.json"
        about = Fields.of(read_json(card), card, "rebuild the world")
        found = about.text("corpus_hash")
        made_as = dict(about.inner("made_as").values) if "made_as" in about else None
        if found != corpus_hash:
            raise ValueError(
                f"expected an index of corpus {corpus_hash[:12]} in {card}, got one of corpus "
                f"{found[:12]}: rebuild the world"
            )
        file = folder / "passages.faiss"
        try:
            size = check_index_file(file, every_byte)
            passages = _numbers(folder / "indexed_passages.npy", size.vectors, n_passages)
            if dimensions not in (None, size.dimensions):
                raise ValueError(f"expected vectors of {dimensions}, got {size.dimensions} numbers")
            # Vectors stay on disk until a search comes by.
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except Exception as error:  # numpy and faiss raise kinds of their own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"expected a whole passage index in {folder}, got {reason}: rebuild the world"
            ) from None
        try:
            opened = cls(index, passages, found, made_as)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        if hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0:
            opened.index = _on_gpu(index)
            opened._search = _Search(opened.index, index)
        return opened


def k_means(vectors: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """(n,) cluster of each row, from 0; clusters that end up empty are left out.

    Spherical k-means (Dhillon & Modha 2001), trained on up to 256 rows a cluster.

    Args:
        vectors: (n, D) unit rows; a memory map will do.

    Raises:
        ValueError: More clusters than rows.
    """
    import faiss

    if not 1 <= k <= len(vectors):
        raise ValueError(
            f"expected 1 to {len(vectors):,} clusters, the number of texts to gather, got {k:,}: "
            "ask for fewer"
        )
    means: Any = faiss.Kmeans(
        vectors.shape[1], k, niter=25, nredo=1, seed=seed % 2**31, spherical=True
    )
    means.cp.min_points_per_centroid = 1  # or it warns on standard error
    means.train(np.ascontiguousarray(vectors, dtype=np.float32))
    found = [
        means.index.search(np.ascontiguousarray(vectors[i : i + 65536], dtype=np.float32), 1)[1]
        for i in range(0, len(vectors), 65536)
    ]
    cluster: NDArray[np.int64] = np.unique(np.concatenate(found)[:, 0], return_inverse=True)[1]
    return cluster.astype(np.int64)


def _numbers(file: Path, n: int, below: int | None) -> NDArray[np.int64]:
    """(n,) passage number of each row, each once."""
    numbers = load_array(file, "iu", (n,)).astype(np.int64)
    past = np.iinfo(np.int64).max if below is None else below
    outside = n and (numbers.min() < 0 or numbers.max() >= past)
    if outside or not _different(numbers, below):
        raise ValueError(
            f"expected different passages from 0 to below {past} in {file.name}, got "
            f"{numbers.min()} to {numbers.max()}"
        )
    return numbers


def _different(numbers: NDArray[np.int64], below: int | None) -> bool:
    """Whether no number comes twice; counting is quicker than sorting, where there is a bound."""
    if below is None:
        return len(np.unique(numbers)) == len(numbers)
    seen = np.zeros(below, dtype=bool)
    seen[numbers] = True
    return int(np.count_nonzero(seen)) == len(numbers)


def _flat(vectors: NDArray[np.float32]) -> Any:
    import faiss

    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def _coarse(vectors: NDArray[np.float32], cells: int) -> Any:
    """An inverted file of whole numbers that looks into `cells` cells."""
    import faiss

    lists = int(4 * np.sqrt(len(vectors)))
    index: Any = faiss.index_factory(
        vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT
    )
    index.train(np.ascontiguousarray(vectors))
    index.add(np.ascontiguousarray(vectors))
    index.nprobe = cells
    return index


def _inverted(vectors: Rows, queries: Rows) -> tuple[Any, Json]:
    """An inverted file that finds what it should, and what a card says of it."""
    n, dimensions = vectors.shape
    lists = int(4 * np.sqrt(n))
    index = _short(dimensions, lists)
    index.train(_some(vectors, TRAINED_ON * lists))
    for low in range(0, n, ADDED):
        index.add(np.ascontiguousarray(vectors[low : low + ADDED]))
    scan: Any = _cells_of(index)
    asked = _some(queries, TRIED)
    found, lacks = _try_pairs(index, vectors, asked)
    return index, {
        "kind": f"IVF{lists},PQ{scan.pq.M}x4fs,Refine(SQfp16)",
        "cells_searched": int(scan.nprobe),
        "listed": _listed(index),
        **{f"recall_at_{k}": round(share, 4) for k, share in found.items()},
        "finds_enough": lacks <= 0,
        "queries_tried": len(asked),
    }


def _try_pairs(
    index: Any, vectors: Rows, asked: NDArray[np.float32]
) -> tuple[dict[int, float], float]:
    """Set the cells that are searched and the length of the list.

    Returns:
        What share of so many nearest they find, and how much of what should be is lacking.
    """
    scan: Any = _cells_of(index)
    n = int(index.ntotal)
    wanted = {min(k, n): share for k, share in RECALL.items()}
    true = _nearest(vectors, asked, tuple(wanted))
    cells = sorted({min(m, scan.nlist) for m in PROBED})
    each = n / scan.nlist  # vectors of a cell
    pairs = sorted(product(cells, LISTED), key=lambda p: (p[0] * each + p[1] * RANKED, p))
    best, least, told = pairs[0], np.inf, dict[int, float]()
    for pair in pairs:
        _set_pair(index, *pair)
        search, shares, lacks = _Search(index, index), dict[int, float](), -np.inf
        for k, share in wanted.items():
            shares[k] = float(np.mean(_is_true(search(asked, k)[1], n, true[k])))
            lacks = max(lacks, share - shares[k])
            if lacks >= least:
                break
        else:
            best, least, told = pair, lacks, shares
        if least <= 0:
            break
    _set_pair(index, *best)
    return told, float(least)


def _set_pair(index: Any, cells: int, listed: int) -> None:
    scan: Any = _cells_of(index)
    scan.nprobe = cells
    _refined(index).k_factor = listed / NEAREST


def _listed(index: Any) -> int:
    """Vectors that a search lists, where it asks for `NEAREST`."""
    return round(NEAREST * _refined(index).k_factor)


def _short(dimensions: int, lists: int) -> Any:
    """An index of turned vectors: short codes in cells, which are scanned, and two bytes a number.

    Short codes are those of product quantisation, four bits for each two numbers, looked up in
    registers (Andre et al. 2017, arXiv:1704.07355).
    """
    import faiss

    even = dimensions + dimensions % 2  # codes are of two numbers each
    turn: Any = faiss.RandomRotationMatrix(dimensions, even)
    turn.init(TURN_SEED)
    scan: Any = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(even), even, lists, even // 2, 4, faiss.METRIC_INNER_PRODUCT
    )
    scan.by_residual = True
    scan.cp.niter, scan.cp.max_points_per_centroid = ROUNDS, TRAINED_ON
    scan.cp.min_points_per_centroid = scan.pq.cp.min_points_per_centroid = 1  # or they warn
    stored: Any = faiss.IndexScalarQuantizer(
        even, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    return faiss.IndexPreTransform(turn, faiss.IndexRefine(scan, stored))


def _cells_of(index: Any) -> Any | None:
    """The inverted file inside of an index; None where every vector is looked at."""
    import faiss

    inside: Any = faiss.downcast_index(index)
    if _is_turned(index):
        inside = faiss.downcast_index(_refined(index).base_index)
    return inside if isinstance(inside, faiss.IndexIVF) else None


def _refined(index: Any) -> Any:
    """What a `_short` index hands its turned vectors to."""
    import faiss

    turned: Any = faiss.downcast_index(index)
    return faiss.downcast_index(turned.index)


def _is_turned(index: Any) -> bool:
    """Whether it is one of `_short`."""
    import faiss

    return isinstance(faiss.downcast_index(index), faiss.IndexPreTransform)


def _turned_back(index: Any) -> NDArray[np.float32]:
    """(n, D) the vectors of a `_short` index, as two bytes for each number have them."""
    import faiss

    stored: Any = faiss.downcast_index(_refined(index).refine_index)
    turn: Any = faiss.downcast_VectorTransform(index.chain.at(0))
    matrix = faiss.vector_to_array(turn.A).reshape(turn.d_out, turn.d_in)
    found = np.empty((index.ntotal, turn.d_in), dtype=np.float32)
    for low in range(0, len(found), ADDED):
        n = min(ADDED, len(found) - low)
        found[low : low + n] = stored.reconstruct_n(low, n) @ matrix
    return found


def _on_gpu(index: Any) -> Any:
    """The same on GPUs; of many vectors an exact index there, of two bytes for each number."""
    import faiss

    if not _is_turned(index):
        return faiss.index_cpu_to_all_gpus(index)
    vectors = _turned_back(faiss.downcast_index(index))
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    found = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), vectors.shape[1], config)
    for low in range(0, len(vectors), ADDED):
        found.add(vectors[low : low + ADDED])
    return found


def _some(vectors: Rows, n: int) -> NDArray[np.float32]:
    """At most n of the rows, the same ones each time, in their order."""
    chosen = np.arange(len(vectors))
    if n < len(vectors):
        chosen = np.sort(np.random.default_rng(0).choice(len(vectors), n, replace=False))
    found = vectors.take(chosen) if isinstance(vectors, RowFile) else vectors[chosen]
    return np.ascontiguousarray(found, dtype=np.float32)


def _nearest(
    vectors: Rows, asked: NDArray[np.float32], depths: tuple[int, ...]
) -> dict[int, NDArray[np.int64]]:
    """By depth k: pairs `query * n + row`, ascending, of each query with the rows that are as near
    as its k nearest are, found one by one: of copies any one will do."""
    n, most = len(vectors), max(depths)
    best = np.full((len(asked), most), -np.inf, dtype=np.float32)
    pairs, products = list[NDArray[np.int64]](), list[NDArray[np.float32]]()
    for low in range(0, n, ADDED):
        near = asked @ vectors[low : low + ADDED].T
        both = np.concatenate([best, near], axis=1)
        best = -np.partition(-both, most - 1, axis=1)[:, :most]
        query, row = np.nonzero(near >= best.min(axis=1, keepdims=True) - ALIKE)
        pairs.append(query * n + low + row)
        products.append(near[query, row])
    best = -np.sort(-best, axis=1)
    pair, found = np.concatenate(pairs), np.concatenate(products)
    return {k: np.sort(pair[found >= best[pair // n, k - 1] - ALIKE]) for k in depths}


def _is_true(rows: NDArray[np.int64], n: int, true: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n, k) which of the rows found are as near as the nearest of `_nearest` are."""
    queries = np.arange(len(rows))[:, None]
    return np.isin(queries * n + rows, true) & (rows >= 0)


class _Search:
    """Looks into as many cells as it takes to find what is asked for.

    Args:
        index: What is searched.
        rows: The same on the CPU.
    """

    def __init__(self, index: Any, rows: Any) -> None:
        self._index, self._rows = index, rows
        self._cells = _cells_of(rows)
        # Turned vectors are looked at one by one on a GPU.
        self._is_exact = self._cells is None or (index is not rows and _is_turned(rows))
        self._listed = _listed(rows) if _is_turned(rows) else 0
        # Parameters, by cells and how many are asked for: they take as long as a search.
        self._looking: dict[tuple[int, int], Any] = {}

    def __call__(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, k) inner products and rows."""
        coarse: Any = self._cells
        if self._is_exact:
            return (self._index if k <= GPU_MOST else self._rows).search(queries, k)
        # Two times what is wanted: cells differ in size.
        cells = max(coarse.nprobe, int(np.ceil(2 * k * coarse.nlist / coarse.ntotal)))
        while True:
            looked = self._into(min(cells, coarse.nlist), k)
            try:
                found = self._index.search(queries, k, params=looked)
            except RuntimeError:  # a GPU's has a limit to k, copies on several take no parameters
                found = self._rows.search(queries, k, params=looked)
            # What is not found has the number -1.
            if cells >= coarse.nlist or (found[1] >= 0).all():
                return found
            cells *= 2

    def _into(self, cells: int, k: int) -> Any:
        if (cells, k) not in self._looking:
            longer = max(LONGER, self._listed / k)
            self._looking[cells, k] = _looking_into(self._rows, cells, longer)
        return self._looking[cells, k]


def _looking_into(index: Any, cells: int, longer: float) -> Any:
    """Parameters of a search."""
    import faiss

    parameters: Any = faiss.SearchParametersIVF
    found = parameters(nprobe=cells)
    if not _is_turned(index):
        return found
    refined: Any = faiss.IndexRefineSearchParameters
    outer: Any = faiss.SearchParametersPreTransform
    return outer(index_params=refined(k_factor=longer, base_index_params=found))

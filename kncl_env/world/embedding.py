"""The space of a world's topics: what maps text to it, and the one that needs no download.

That one is TF-IDF and a truncated SVD (latent semantic analysis, Deerwester et al. 1990), fitted on
training text alone. `model_space.py` has the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build_config import TFIDF
from kncl_env.world.scripts import terms_of
from train_lm.checked.arrays import load_arrays
from train_lm.files import replacing

FEW = 50  # [topics] of which every word counts, however rare or common


# What a card says of an embedder: name, dimensions, and the digest of a pretrained model.
Stated: TypeAlias = "dict[str, str | int]"


class TextSpace(Protocol):
    """Maps texts into the space of a world's topics, where cosines compare them.

    Whatever compares topics, observations, tastes and walkers, needs unit rows whose axes are
    ordered by how much they tell of the world's text, and nothing of their number D.
    """

    @property
    def dimensions(self) -> int:
        """D."""

    @property
    def stated(self) -> Stated:
        """What the world's card says of it."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows; zero where nothing is known of a text."""

    def save(self, path: Path) -> None:
        """Write all that it takes to open it again, but for a pretrained model itself."""


class Embedder:
    """Maps texts to unit vectors; texts without a known word map to zero.

    Args:
        vocabulary: (V,) terms.
        idf: (V,) inverse document frequencies.
        components: (D, V) right singular vectors.
    """

    def __init__(
        self, vocabulary: Sequence[str], idf: NDArray[Any], components: NDArray[Any]
    ) -> None:
        if not len(vocabulary) == len(idf) == components.shape[1]:
            raise ValueError(
                f"expected one idf and one component column per term, got {len(vocabulary)} "
                f"terms, {len(idf)} idf and {components.shape[1]} columns: the file is damaged"
            )
        self._number = {term: i for i, term in enumerate(vocabulary)}
        if len(self._number) != len(vocabulary):
            raise ValueError("expected each term once, got one twice: the file is damaged")
        self.vocabulary = list(vocabulary)
        self.idf = np.asarray(idf, dtype=np.float64)
        self.components = np.asarray(components, dtype=np.float32)

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int, max_terms: int, seed: int) -> Embedder:
        """Fit on one text per topic; D is at most the number of topics minus one.

        Raises:
            ValueError: The texts hold too few words.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(
            max_features=max_terms,
            sublinear_tf=True,
            stop_words="english",
            tokenizer=terms_of,
            token_pattern=None,
            min_df=2 if len(texts) > FEW else 1,
            max_df=0.5 if len(texts) > FEW else 1.0,
        )
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:  # it speaks of options that no one here has set
            matrix = None
        if matrix is None or matrix.shape[1] < 2:
            shared = (
                f" that at least 2 of the {len(texts)} topics have and at most half of them"
                if len(texts) > FEW
                else ""
            )
            raise ValueError(
                "expected training text with two or more words (of two letters or more, not among "
                f"the most frequent English ones){shared}, got fewer: the corpus is too small to "
                "embed, add text or topics"
            )
        width = max(1, min(dimensions, min(matrix.shape) - 1))
        with np.errstate(invalid="ignore"):  # of one topic: a share of a variance that is zero
            svd = TruncatedSVD(width, algorithm="randomized", n_iter=4, random_state=seed)
            svd.fit(matrix)
        return cls(list(vectorizer.get_feature_names_out()), vectorizer.idf_, svd.components_)

    @property
    def dimensions(self) -> int:
        return int(self.components.shape[0])

    @property
    def stated(self) -> Stated:
        return {"name": TFIDF, "dimensions": self.dimensions}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows."""
        from scipy import sparse

        own = [np.array(self._known_in(text), dtype=np.int64) for text in texts]
        terms = [np.unique(found, return_counts=True) for found in own]
        lengths = [len(columns) for columns, _ in terms]
        row = np.repeat(np.arange(len(texts)), lengths)
        columns = np.concatenate([np.zeros(0, dtype=np.int64), *(found for found, _ in terms)])
        counts = np.concatenate([np.zeros(0), *(found for _, found in terms)])
        weights = (1.0 + np.log(counts)) * self.idf[columns]
        # Added one after another, as by whoever built the worlds that there are.
        length = np.sqrt(np.bincount(row, weights * weights, minlength=len(texts)))
        weights /= np.where(length == 0, 1, length)[row]
        place = (weights, columns, np.cumsum([0, *lengths]))
        weighted = sparse.csr_array(place, shape=(len(texts), len(self.idf)))
        return unit_rows(np.asarray(weighted @ self.components.T.astype(np.float64)))

    def _known_in(self, text: str) -> list[int]:
        """Numbers of the terms of a text, as often as they come."""
        found = map(self._number.get, terms_of(text.lower()))
        return [term for term in found if term is not None]

    def save(self, path: Path) -> None:
        with replacing(path, durable=False) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                vocabulary=np.array(self.vocabulary),
                idf=self.idf,
                components=self.components,
            )

    @classmethod
    def load(cls, path: Path) -> Embedder:
        """Raises: FileNotFoundError, or ValueError where the file holds no embedder."""
        wanted = {
            "vocabulary": ("U", (None,)),
            "idf": ("f", (None,)),
            "components": ("f", (None, None)),
        }
        found = load_arrays(path, wanted, advice="rebuild it")
        return cls(found["vocabulary"].tolist(), found["idf"], found["components"])


def unit_rows(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 1e-12).astype(
        np.float32
    )

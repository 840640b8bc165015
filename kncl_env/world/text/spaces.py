"""Which space a world's topics lie in: chosen when it is built, found again when it is opened."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from kncl_env.world.build_config import TFIDF, BuildConfig
from kncl_env.world.embedding import Embedder, TextSpace
from train_lm.checked.arrays import told


def fit_space(texts: Sequence[str], config: BuildConfig) -> TextSpace:
    """The space that the settings ask for, fitted on training text.

    Args:
        texts: Title and training text of each topic, or of a sample of them.

    Raises:
        ValueError: The texts hold too few words, or the embedder is no directory of a model.
    """
    if config.embedder == TFIDF:
        return Embedder.fit(texts, config.dimensions, config.max_terms, config.seed)
    from kncl_env.world.text.model_space import ModelSpace

    return ModelSpace.fit(Path(config.embedder), texts, config.dimensions)


def embedder_digest(config: BuildConfig) -> str:
    """Digest of the pretrained model that the settings name; empty where there is none.

    Raises:
        ValueError: The embedder is no directory of a model.
    """
    if config.embedder == TFIDF:
        return ""
    from train_lm.pretrained.text_vectors import model_digest

    return model_digest(Path(config.embedder))


def load_space(path: Path) -> TextSpace:
    """The space that a world was made in. A pretrained model is opened where text comes.

    Raises:
        FileNotFoundError, or ValueError where the file holds no space.
    """

    def names() -> list[str]:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()

    if "axes.npy" in told(path, names, "rebuild it"):
        from kncl_env.world.text.model_space import ModelSpace

        return ModelSpace.load(path)
    return Embedder.load(path)

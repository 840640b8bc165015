"""The space of a pretrained model's vectors, made fit for a world: centred, turned, cut.

A model's own axes mean nothing in themselves, and its vectors share a common direction. A world
wants axes ordered by how much they tell of it (`topic_table.BANDS`), as those of TF-IDF and SVD
are. So the mean of its texts is taken off (Mu & Viswanath 2018, arXiv:1702.01417), and principal
axes are kept. The model stays where it is: a world names it by its digest, and this machine
remembers where it saw it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.embedding import Stated, unit_rows
from train_lm.checked.arrays import load_arrays
from train_lm.checked.records import Fields
from train_lm.files import cache_folder, read_json, replacing, write_json
from train_lm.pretrained.text_vectors import TextModel, model_digest

log = logging.getLogger(__name__)

FITTED_ON = 4096  # [texts] at most, evenly spread
PLACE = "KNCL_EMBEDDER"  # names the directory of a world's model, where this machine forgot it


class ModelSpace:
    """Maps texts to unit vectors by a pretrained model.

    Args:
        name: Of the model's directory.
        sha256: Digest of the files that decide its vectors.
        mean: (M,) of the training texts, in the model's own space.
        axes: (M, D) orthonormal columns, the first telling most.
        model: Opened on first use, if None.
        file: That it was read from.
    """

    def __init__(
        self,
        name: str,
        sha256: str,
        mean: NDArray[np.float64],
        axes: NDArray[np.float64],
        model: TextModel | None = None,
        file: Path | None = None,
    ) -> None:
        if axes.ndim != 2 or len(mean) != len(axes) or not axes.shape[1]:
            raise ValueError(
                f"expected axes of vectors of {len(mean)} numbers, got {axes.shape}: the file is "
                "damaged"
            )
        self.name, self.sha256 = name, sha256
        self._mean, self._axes, self._model, self._file = mean, axes, model, file

    @classmethod
    def fit(cls, folder: Path, texts: Sequence[str], dimensions: int) -> ModelSpace:
        """Open a model directory and find its axes in the training text; D < the number of texts.

        Raises:
            ValueError: It is no directory of a model; see `TextModel.open`.
        """
        sha256 = model_digest(folder)
        model = TextModel.open(folder)
        _remember(folder, sha256)
        some = np.unique(np.linspace(0, len(texts) - 1, min(FITTED_ON, len(texts))).astype(int))
        vectors = model([texts[int(i)] for i in some]).astype(np.float64)
        mean = vectors.mean(0) if len(vectors) > 1 else np.zeros(vectors.shape[1])
        axes = np.linalg.svd(vectors - mean, full_matrices=False)[2].T
        width = max(1, min(dimensions, len(some) - 1, axes.shape[1]))
        return cls(folder.resolve().name, sha256, mean, _turned(axes[:, :width]), model)

    @property
    def dimensions(self) -> int:
        return int(self._axes.shape[1])

    @property
    def stated(self) -> Stated:
        return {"name": self.name, "sha256": self.sha256, "dimensions": self.dimensions}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows.

        Raises:
            ValueError: The model's directory is gone, or holds another model.
        """
        if self._model is None:
            self._model = TextModel.open(_place_of(self.name, self.sha256, self._file))
            if self._model.dimensions != len(self._mean):
                raise ValueError(
                    f"expected a model of {len(self._mean)} dimensions, got one of "
                    f"{self._model.dimensions}: rebuild the world"
                )
        return unit_rows((self._model(texts) - self._mean) @ self._axes)

    def save(self, path: Path) -> None:
        with replacing(path, durable=False) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                name=np.array(self.name),
                sha256=np.array(self.sha256),
                mean=self._mean,
                axes=self._axes,
            )

    @classmethod
    def load(cls, path: Path) -> ModelSpace:
        """Raises: FileNotFoundError, or ValueError where the file is damaged."""
        wanted = {
            "name": ("U", ()),
            "sha256": ("U", ()),
            "mean": ("f", (None,)),
            "axes": ("f", (None, None)),
        }
        found = load_arrays(path, wanted, advice="rebuild it")
        name, sha256 = str(found["name"]), str(found["sha256"])
        return cls(name, sha256, found["mean"], found["axes"], file=path)


def _turned(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same axes, each with its largest number above 0: their signs are no one's choice."""
    largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
    return np.asarray(axes * np.sign(largest))


def _seen(sha256: str) -> Path:
    return cache_folder() / "embedders" / f"{sha256[:32]}.json"


def _remember(folder: Path, sha256: str) -> None:
    """A world is data of anybody's and names no place; where its model lies is known here alone."""
    with suppress(OSError):
        _seen(sha256).parent.mkdir(parents=True, exist_ok=True)
        write_json(_seen(sha256), {"folder": str(folder.resolve())})


def _place_of(name: str, sha256: str, file: Path | None) -> Path:
    """The directory of a model that an embedder's file names.

    Raises:
        ValueError: It is gone, or another model lies there.
    """
    note = _seen(sha256)
    place, by = os.environ.get(PLACE, ""), PLACE
    if not place and note.is_file():
        place, by = Fields.of(read_json(note), note).text("folder"), str(note)
    advice = f"set {PLACE} to the directory of that model, or rebuild the world"
    world = f"the world of {file}" if file is not None else "this world"
    wanted = f"expected the embedder {name!r} (digest {sha256[:12]}) that {world} was made with"
    if not place or not _is_folder(place):
        where = f"found {place!r} gone ({by})"
        if not place and not note.is_file():
            where = "do not know where it lies here"
        raise ValueError(f"{wanted}, {where}: {advice}")
    try:
        found = model_digest(Path(place))
    except ValueError as error:
        raise ValueError(f"{wanted}, got none from {by} ({error}): {advice}") from None
    if found != sha256:
        raise ValueError(
            f"{wanted}, got another model in {place} (digest {found[:12]}, {by}): {advice}"
        )
    if os.environ.get(PLACE):
        _remember(Path(place), sha256)
    return Path(place)


def _is_folder(place: str) -> bool:
    """Whether there is such a folder; a name that no file can have is none."""
    try:
        return Path(place).is_dir()
    except (OSError, ValueError):
        return False

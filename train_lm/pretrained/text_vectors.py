"""Text to vectors by a pretrained model: a directory of transformers or sentence-transformers.

Mean-pooled (or the first token's, where the directory says so), of length 1. Files of this machine
alone, safetensors alone, no code of the model's own: `checked/model_folder.py` holds the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import reason
from train_lm.checked.model_folder import check_sizes, opened_as_data
from train_lm.checked.records import Fields
from train_lm.files import hash_file, hash_json, read_json
from train_lm.inputs import note_input
from train_lm.model import hide_library_bars

LONGEST = 512  # [tokens] read at a time, at most; a model may read fewer
PIECES = 8  # of a longer text, at most, evenly spread over it
TOGETHER, TOKENISED = 32, 256  # pieces in a batch, texts that are tokenised at a time

# What decides a model's vectors; a card's pictures and other formats of its weights do not.
DECIDING = ("*.json", "*.txt", "*.model", "*.safetensors", "*_Pooling/config.json")
MODULES, POOLING = "modules.json", "*_Pooling/config.json"


def model_digest(folder: Path) -> str:
    """SHA-256 of the files that decide a model's vectors.

    Raises:
        ValueError: It is no folder of a model.
    """
    files = {file for pattern in DECIDING for file in folder.glob(pattern) if file.is_file()}
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"expected the directory of a model of transformers or sentence-transformers at "
            f"{folder}, found {'no config.json' if folder.is_dir() else 'no directory'} there: "
            "name one that holds config.json, a tokenizer and safetensors"
        )
    found = {file.relative_to(folder).as_posix(): hash_file(file) for file in sorted(files)}
    return hash_json(found)


class TextModel:
    """Maps texts to unit vectors; open one with `TextModel.open`.

    Args:
        model: Of transformers; gives `last_hidden_state`.
        tokenizer: A fast one of transformers.
        longest: Tokens that it reads at a time.
        first: Whether the first token's vector stands for a piece of text; their mean, if not.
    """

    def __init__(self, model: Any, tokenizer: Any, longest: int, first: bool) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.longest, self._first = longest, first
        self.dimensions = int(model.config.hidden_size)

    @classmethod
    def open(cls, folder: Path) -> TextModel:
        """Open a model directory as data.

        Raises:
            ValueError: It is none, it is more than data, weights are missing, or it does not read
                text to vectors.
        """
        digest = model_digest(folder)  # says so where there is none
        first, longest = _pooling(folder), _longest(folder)
        hide_library_bars()
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        as_data = opened_as_data(str(folder))
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **as_data)
            check_sizes(str(folder), AutoConfig, AutoModel, as_data)
            opened: Any = AutoModel.from_pretrained(
                str(folder),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **as_data,
            )
            model, loaded = opened
            # What pools for a classifier is not asked.
            missing = sorted(k for k in loaded["missing_keys"] if "pooler" not in k)
            if missing:  # transformers would fill them with noise
                raise ValueError(f"it lacks weights, the first of them {missing[0]}")
            known = model.get_input_embeddings().num_embeddings
            if not tokenizer.is_fast or len(tokenizer) > known:
                raise ValueError(f"its tokenizer has {len(tokenizer)} ids, its model {known}")
            own = getattr(model.config, "max_position_embeddings", LONGEST)
            # RoBERTa counts positions from behind its padding.
            if (pads := getattr(model.config, "pad_token_id", None)) and own > pads + 1:
                own -= pads + 1 if model.config.model_type in ("roberta", "xlm-roberta") else 0
            longest = min(longest, own, tokenizer.model_max_length)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            found = cls(model.eval().to(device), tokenizer, int(longest), first)
            found(["A text."])
        except Exception as error:  # transformers raises whatever its file formats raise
            raise ValueError(
                f"expected a model that turns text into vectors in {folder}, got {reason(error)}"
            ) from None
        note_input(folder, digest, "a model of text")
        return found

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit rows; of a long text the mean over up to 8 pieces of it."""
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float64)
        for i in range(0, len(texts), TOKENISED):
            group = list(texts[i : i + TOKENISED])
            owner, pieces = self._pieces(group)
            vectors, sizes = self._read(pieces)
            np.add.at(rows, i + owner, vectors * sizes[:, None])
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)

    def _pieces(self, texts: list[str]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Token ids of pieces, and which text each of them is of."""
        found = self._tokenizer(
            texts, truncation=True, max_length=self.longest, return_overflowing_tokens=True
        )
        owner = np.array(found["overflow_to_sample_mapping"], dtype=np.int64)
        kept = []
        for text in range(len(texts)):
            own = np.flatnonzero(owner == text)
            some = np.linspace(0, len(own) - 1, min(PIECES, len(own))).round().astype(int)
            kept.append(own[some])
        chosen = np.concatenate(kept)
        return owner[chosen], [found["input_ids"][int(i)] for i in chosen]

    def _read(self, pieces: list[list[int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(n, D) a unit vector of each piece, and (n,) tokens of each."""
        import torch

        sizes = np.array([len(ids) for ids in pieces], dtype=np.int64)
        vectors = np.zeros((len(pieces), self.dimensions))
        order = np.argsort(sizes, kind="stable")  # alike lengths pad little
        pad = self._tokenizer.pad_token_id or 0
        device = self._model.device
        for i in range(0, len(order), TOGETHER):
            rows = order[i : i + TOGETHER]
            width = max(1, int(sizes[rows].max()))
            ids = np.full((len(rows), width), pad, dtype=np.int64)
            mask = np.zeros((len(rows), width), dtype=np.int64)
            for row, piece in enumerate(rows):
                ids[row, : sizes[piece]] = pieces[int(piece)]
                mask[row, : sizes[piece]] = 1
            given = {"input_ids": ids, "attention_mask": mask}
            with torch.inference_mode():
                hidden = self._model(
                    **{name: torch.from_numpy(a).to(device) for name, a in given.items()}
                ).last_hidden_state  # (B, T, D)
            hidden = hidden.double().cpu().numpy()
            if self._first:
                pooled = hidden[:, 0]
            else:
                pooled = (hidden * mask[:, :, None]).sum(1) / np.maximum(1, mask.sum(1))[:, None]
            length = np.linalg.norm(pooled, axis=1, keepdims=True)
            vectors[rows] = pooled / np.maximum(length, 1e-12)
        return vectors, sizes


def _pooling(folder: Path) -> bool:
    """Whether the first token stands for the text. Raises: ValueError for another kind of it."""
    if (folder / MODULES).is_file():
        kinds = [str(part.get("type", "")).split(".")[-1] for part in _list(folder / MODULES)]
        other = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        if other:
            raise ValueError(
                f"expected a model, pooling and no more in {folder}, got {other[0]} in {MODULES}: "
                "such vectors cannot be made here, name another model"
            )
    for file in sorted(folder.glob(POOLING)):
        card = Fields.of(read_json(file), file)
        modes = {
            name.removeprefix("pooling_mode_")
            for name in card
            if name.startswith("pooling_mode_") and card.values[name] is True
        }
        if isinstance(named := card.values.get("pooling_mode"), str):  # as newer versions write it
            modes.add(named)
        if modes in ({"cls_token"}, {"cls"}):
            return True
        if modes not in (set(), {"mean_tokens"}, {"mean"}):
            raise ValueError(
                f"expected mean_tokens or cls_token as pooling in {file}, got "
                f"{', '.join(sorted(modes))}: name another model"
            )
    return False


def _longest(folder: Path) -> int:
    file = folder / "sentence_bert_config.json"
    card = Fields.of(read_json(file) if file.is_file() else {}, file)
    most = card.or_none("max_seq_length", card.whole) if "max_seq_length" in card else None
    return min(LONGEST, most or LONGEST)


def _list(file: Path) -> list[dict[str, Any]]:
    found = read_json(file)
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise ValueError(f"expected a list of modules in {file}, got something else")
    return found

"""A byte-level BPE tokenizer trained on the training split alone; the one door to `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): every byte string round-trips.

    Args:
        vocab_size: Number of token ids, at least 257 (256 bytes and the end of text).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(f"expected a vocabulary of at least 257 (all bytes), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise FileNotFoundError(f"expected a tokenizer at {path}, found none: rebuild the world")
    return Tokenizer.from_file(str(path))


def as_transformers(tokenizer: Tokenizer) -> Any:
    """The same tokenizer as transformers knows it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.uint16]]:
    """Token ids of each text, closed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [
        np.array([*encoding.ids, end], dtype=np.uint16)
        for encoding in tokenizer.encode_batch(list(texts))
    ]


def bytes_per_token(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """(V,) bytes of text that each id stands for; 0 for the end of text.

    A byte-level token is spelt with one character per byte, so its length is its bytes. The count
    turns a loss in nats per token into bits per byte, which survives a change of tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, index in vocabulary.items():
        lengths[index] = 0 if token == END_OF_TEXT else len(token)
    return lengths

"""A byte-level BPE tokenizer trained on the training split alone; the one door to `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.records import parse_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
SMALLEST, LARGEST = 257, 2**20  # [token ids] all bytes and the end of text; four times Gemma's


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): every byte string round-trips.

    Args:
        vocab_size: Number of token ids, at least 257 (256 bytes and the end of text).

    Raises:
        ValueError: No vocabulary can have, or no model could use, as many.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    check_vocabulary(vocab_size)
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
    return _of_text_alone(tokenizer)


def check_vocabulary(size: int) -> None:
    """Raises: ValueError where no tokenizer of this many token ids makes sense."""
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(
            f"expected a vocabulary of at least {SMALLEST} (all bytes) and at most {LARGEST:,} "
            f"token ids, got {size:,}"
        )


def load_tokenizer(path: Path) -> Tokenizer:
    """Raises: FileNotFoundError, or ValueError where the file holds no tokenizer of a world."""
    from tokenizers import Tokenizer

    if not path.is_file():
        raise FileNotFoundError(f"expected a tokenizer at {path}, found none: rebuild the world")
    try:
        content = path.read_bytes()
        parse_json(content, path)  # a parser in Rust has a limit of its own, or none
        tokenizer = _of_text_alone(Tokenizer.from_buffer(content))
        _try_out(tokenizer)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing more precise, and its panics
        raise ValueError(f"expected a tokenizer in {path}, got {error}: rebuild it") from None
    return tokenizer


def _try_out(tokenizer: Tokenizer) -> None:
    """Raises: ValueError, or what the library raises, where it is not one that we could train."""
    end_of_text(tokenizer)
    ids = sorted(tokenizer.get_vocab().values())
    check_vocabulary(len(ids))
    if ids != list(range(len(ids))):
        raise ValueError(f"expected token ids from 0 to {len(ids) - 1}, got others")
    text = "Every byte, ÿ and \N{SNOWMAN} too.\n"
    known = tokenizer.decode(tokenizer.encode(text).ids)
    if known != text:
        raise ValueError(f"expected a text to come back as it was, got {known!r}")


def as_transformers(tokenizer: Tokenizer, context: int | None = None) -> Any:
    """The same tokenizer as transformers knows it.

    Passages stand between ends of text, so an end is what a text begins with, too, and what fills
    up a batch.

    Args:
        context: Tokens that its model reads at most; no limit, if not stated.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        split_special_tokens=True,  # as `_of_text_alone`; transformers asks for it apart
        **({} if context is None else {"model_max_length": context}),
    )


def end_of_text(tokenizer: Tokenizer) -> int:
    """Id of the token that closes every passage."""
    found = tokenizer.token_to_id(END_OF_TEXT)
    if found is None:
        raise ValueError(f"expected a tokenizer with {END_OF_TEXT}, got one without")
    return int(found)


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger[Any]]]:
    """Token ids of each text, closed by the end-of-text token, which is nowhere else.

    A text that spells out that token is text like any other.
    """
    end, kind = end_of_text(tokenizer), id_type(tokenizer.get_vocab().values())
    return [
        np.array([*encoding.ids, end], dtype=kind)
        for encoding in _of_text_alone(tokenizer).encode_batch(list(texts))
    ]


def id_type(ids: Iterable[int]) -> np.dtype[np.unsignedinteger[Any]]:
    """The smallest of two types that holds a vocabulary's ids."""
    return np.dtype(np.uint16 if max(ids) < 2**16 else np.uint32)


def _of_text_alone(tokenizer: Tokenizer) -> Tokenizer:
    # Not part of a tokenizer's file, so it is asked for whenever one comes into being.
    tokenizer.encode_special_tokens = True
    return tokenizer


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

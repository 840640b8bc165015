import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from train_lm.tokenizer import (
    END_OF_TEXT,
    bytes_per_token,
    encode,
    load_tokenizer,
    train_tokenizer,
)

# Text that spells the end of text is outside the promise: it becomes that token.
plain_text = st.text(max_size=60).filter(lambda text: END_OF_TEXT not in text)
TEXTS = ["the cat sat on the mat", "naïve café, 東京 and 🦉", "tabs\tand\nlines\r\n", ""]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 5, 300)


@settings(max_examples=60, deadline=None)
@given(text=plain_text)
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@settings(max_examples=60, deadline=None)
@given(text=plain_text)
def test_bytes_of_the_tokens_sum_to_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = encode(tokenizer, [text])
    assert bytes_per_token(tokenizer)[ids].sum() == len(text.encode())


def test_the_end_of_text_alone_costs_no_bytes(tokenizer: Tokenizer) -> None:
    sizes = bytes_per_token(tokenizer)
    assert sizes[tokenizer.token_to_id(END_OF_TEXT)] == 0
    assert (np.delete(sizes, tokenizer.token_to_id(END_OF_TEXT)) > 0).all()


def test_every_text_is_closed_by_the_end_of_text(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id(END_OF_TEXT)
    for ids in encode(tokenizer, TEXTS):
        assert ids[-1] == end
        assert end not in ids[:-1]


def test_the_same_texts_give_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, 280).to_str() == train_tokenizer(TEXTS, 280).to_str()


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 257"):
        train_tokenizer(TEXTS, 256)


def test_a_missing_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_saved_tokenizer_encodes_alike(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    reopened = load_tokenizer(tmp_path / "tokenizer.json")
    assert all(map(np.array_equal, encode(tokenizer, TEXTS), encode(reopened, TEXTS)))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from train_lm.tokenizer import (
    END_OF_TEXT,
    as_transformers,
    bytes_per_token,
    encode,
    load_tokenizer,
    train_tokenizer,
)
from train_lm.training_text import tokenizer_hash

ordinary_text = st.text(max_size=60).filter(lambda text: END_OF_TEXT not in text)
# Any text at all, that which spells the end of text among it.
any_text = st.lists(st.text(max_size=20) | st.just(END_OF_TEXT), max_size=5).map("".join)
TEXTS = ["the cat sat on the mat", "naïve café, 東京 and 🦉", "tabs\tand\nlines\r\n", ""]
FORGED = f"one{END_OF_TEXT}two {END_OF_TEXT}{END_OF_TEXT}\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 5, 300)


@settings(max_examples=60, deadline=None)
@given(text=any_text)
def test_any_text_survives_encoding_and_decoding(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@settings(max_examples=60, deadline=None)
@given(text=any_text)
def test_bytes_of_the_tokens_sum_to_the_bytes_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = encode(tokenizer, [text])
    assert bytes_per_token(tokenizer)[ids].sum() == len(text.encode())


def test_the_end_of_text_alone_costs_no_bytes(tokenizer: Tokenizer) -> None:
    sizes = bytes_per_token(tokenizer)
    assert sizes[tokenizer.token_to_id(END_OF_TEXT)] == 0
    assert (np.delete(sizes, tokenizer.token_to_id(END_OF_TEXT)) > 0).all()


def test_every_text_is_closed_by_the_end_of_text(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id(END_OF_TEXT)
    for ids in encode(tokenizer, [*TEXTS, FORGED]):
        assert ids[-1] == end
        assert end not in ids[:-1]


def test_a_tokenizer_learns_nothing_from_texts_that_spell_the_end_of_text() -> None:
    forged = train_tokenizer([*TEXTS, FORGED] * 5, 300)
    (ids,) = encode(forged, [FORGED])
    assert forged.decode(ids[:-1].tolist()) == FORGED
    assert bytes_per_token(forged)[ids].sum() == len(FORGED)
    assert [t for t in forged.get_vocab() if END_OF_TEXT in t] == [END_OF_TEXT]


@settings(max_examples=60, deadline=None)
@given(text=ordinary_text)
def test_ordinary_text_has_the_ids_that_it_has_where_special_tokens_are_looked_for(
    tokenizer: Tokenizer, text: str
) -> None:
    (ids,) = encode(tokenizer, [text])
    other = Tokenizer.from_str(tokenizer.to_str())
    assert not other.encode_special_tokens
    assert ids[:-1].tolist() == other.encode(text).ids


def test_transformers_is_told_the_same_tokenizer(tokenizer: Tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    as_transformers(tokenizer, 48).save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for text, ids in zip([*TEXTS, FORGED], encode(tokenizer, [*TEXTS, FORGED]), strict=True):
        assert saved(text)["input_ids"] == ids[:-1].tolist()
        assert saved.decode(ids[:-1], clean_up_tokenization_spaces=False) == text
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert (saved.bos_token_id, saved.eos_token_id, saved.pad_token_id) == (end, end, end)
    assert saved.model_max_length == 48
    assert tokenizer_hash(saved) == tokenizer_hash(as_transformers(tokenizer))


@pytest.mark.parametrize("size", [300, 2**16, 2**16 + 1, 70_000])
def test_the_ids_of_any_vocabulary_have_room(size: int) -> None:
    from tokenizers import models, pre_tokenizers

    words = {END_OF_TEXT: 0, **{f"w{i}": i for i in range(1, size)}}
    wide = Tokenizer(models.WordLevel(words, unk_token="w1"))
    wide.pre_tokenizer = pre_tokenizers.Whitespace()
    (ids,) = encode(wide, [f"w{size - 1} w2"])
    assert ids.tolist() == [size - 1, 2, 0]
    assert ids.dtype == (np.uint16 if size <= 2**16 else np.uint32)


def test_the_same_texts_give_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, 280).to_str() == train_tokenizer(TEXTS, 280).to_str()


@pytest.mark.parametrize("size", [256, -1, 2**20 + 1, 10**30])
def test_a_vocabulary_that_no_model_could_use_is_refused_at_once(size: int) -> None:
    with pytest.raises(ValueError, match=r"at least 257 .* and at most 1,048,576"):
        train_tokenizer(TEXTS, size)


def test_a_missing_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"tokenizer\.json.*rebuild"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_saved_tokenizer_encodes_alike(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    reopened = load_tokenizer(tmp_path / "tokenizer.json")
    texts = [*TEXTS, FORGED]
    assert all(map(np.array_equal, encode(tokenizer, texts), encode(reopened, texts)))
    assert reopened.encode(FORGED).ids == tokenizer.encode(FORGED).ids

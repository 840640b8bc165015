import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train_lm.windows import TokenStore, draw_least_read


def store_of(segments: list[list[int]], context: int) -> TokenStore:
    """A store whose documents have the given lengths; token i of the store is the number i."""
    lengths = [n for segment in segments for n in segment]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    segment_of = np.repeat(np.arange(len(segments)), [len(s) for s in segments])
    return TokenStore(np.arange(starts[-1], dtype=np.uint16), starts, segment_of, context)


segments = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(segments=segments, context=st.integers(2, 12))
def test_windows_of_a_long_segment_predict_it_in_order_and_never_leave_it(
    segments: list[list[int]], context: int
) -> None:
    if sum(map(sum, segments)) < context + 1:
        return
    store = store_of(segments, context)
    begin = document = 0
    for segment in segments:
        end = begin + sum(segment)
        own = store.windows_of(np.arange(document, document + len(segment)))
        if end - begin > context:
            n = (end - begin - 1) // context * context
            predicted = store.read(own)[:, 1:].ravel()
            assert np.array_equal(predicted, np.arange(begin + 1, begin + 1 + n))
        begin, document = end, document + len(segment)


@settings(max_examples=100, deadline=None)
@given(segments=segments, context=st.integers(2, 12))
def test_every_window_belongs_to_the_document_in_which_it_begins(
    segments: list[list[int]], context: int
) -> None:
    if sum(map(sum, segments)) < context + 1:
        return
    store = store_of(segments, context)
    n_documents = sum(map(len, segments))
    every = store.windows_of(np.arange(n_documents))
    assert np.array_equal(every, np.arange(len(store)))
    for document in range(n_documents):
        own = store.windows_of(np.array([document]))
        assert (store.document[own] == document).all()


def test_a_window_is_context_plus_one_consecutive_tokens() -> None:
    store = store_of([[9, 8]], 4)
    assert np.array_equal(store.read(np.array([1])), [[4, 5, 6, 7, 8]])


def test_windows_of_no_document_are_none() -> None:
    assert len(store_of([[9]], 4).windows_of(np.zeros(0, dtype=np.int64))) == 0


def test_a_corpus_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 9 tokens"):
        store_of([[5]], 8)


def test_a_truncated_token_file_is_refused() -> None:
    with pytest.raises(ValueError, match="truncated"):
        TokenStore(np.zeros(9, dtype=np.uint16), np.array([0, 10]), np.array([0]), 4)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 20), n=st.integers(0, 70), seed=st.integers(0, 9))
def test_everything_is_read_once_before_anything_is_read_again(
    size: int, n: int, seed: int
) -> None:
    times_read = np.zeros(30, dtype=np.int32)
    pool = np.arange(5, 5 + size)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [draw_least_read(pool, times_read, k, rng) for k in (n // 2, n - n // 2) if k] or [pool[:0]]
    )
    assert len(drawn) == n
    counts = times_read[pool]
    assert np.array_equal(counts, np.bincount(drawn, minlength=30)[pool])
    assert counts.max() - counts.min() <= 1
    assert times_read.sum() == n


def test_what_another_pool_has_read_comes_last() -> None:
    times_read = np.array([3, 0, 3, 0], dtype=np.int32)
    drawn = draw_least_read(np.arange(4), times_read, 2, np.random.default_rng(0))
    assert sorted(drawn) == [1, 3]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), n=st.integers(1, 70), seed=st.integers(0, 99))
def test_windows_are_the_first_of_a_shuffle_by_how_often_they_were_read(
    size: int, n: int, seed: int
) -> None:
    before = np.random.default_rng(seed).integers(0, 3, 40).astype(np.int32)
    pool, times_read = np.arange(7, 7 + size), before.copy()
    drawn = draw_least_read(pool, times_read, n, np.random.default_rng(seed))
    rng, expected = np.random.default_rng(seed), []
    while len(expected) < n:
        shuffled = rng.permutation(pool).tolist()
        chosen = sorted(shuffled, key=before.__getitem__)[: n - len(expected)]
        before[chosen] += 1
        expected += chosen
    assert drawn.tolist() == expected
    assert np.array_equal(times_read, before)


def test_the_same_generator_draws_the_same_windows() -> None:
    draws = [
        draw_least_read(np.arange(40), np.zeros(40, dtype=np.int32), 9, np.random.default_rng(3))
        for _ in range(2)
    ]
    assert np.array_equal(*draws)


def test_ids_of_more_than_16_bits_are_read_as_they_are() -> None:
    ids = np.array([0, 65_535, 65_536, 69_999, 2**32 - 1], dtype=np.uint32)
    store = TokenStore(ids, np.array([0, 5]), np.array([0]), context=4)
    read = store.read(np.array([0]))
    assert read.dtype == np.int64
    assert read.tolist() == [ids.tolist()]
